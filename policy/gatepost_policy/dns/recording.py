"""DNS answers that were used, in the form that `--dns` and a capture's sidecar hold.

Pure. A name that was asked for TXT records only has their form as its value; a name that was asked
for others has an object of types.
"""

from collections.abc import Mapping
from typing import Any

Used = dict[tuple[str, str], Any]  # (name, type) -> the form of an `Answer`


def recorded(texts: Mapping[str, Any], used: Mapping[tuple[str, str], Any]) -> dict[str, Any]:
    """`texts` (name to the form of its TXT answer) and `used` as one mapping of names."""
    found: dict[str, dict[str, Any]] = {name: {"TXT": form} for name, form in texts.items()}
    for (name, kind), form in used.items():
        found.setdefault(name, {})[kind] = form
    return {
        name: forms["TXT"] if forms.keys() == {"TXT"} else forms for name, forms in found.items()
    }
