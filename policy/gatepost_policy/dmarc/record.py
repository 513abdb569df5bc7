"""Read one DMARC policy record (RFC 9989 4.7, 4.8). Pure: TXT text in, `Record` or None out."""

import re
from dataclasses import dataclass

MAX_RECORD = 8192  # characters that are read
POLICIES = ("none", "quarantine", "reject")
# RFC 9989 4.8: v=DMARC1, in this case, is the first tag; a separator or the end follows.
_VERSION = re.compile(r"v[ \t]*=[ \t]*DMARC1[ \t]*(?:;|\Z)")
# What must at least be right of an address in rua= (RFC 3986, RFC 6068).
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[^\s,]+")


@dataclass(frozen=True, slots=True)
class Record:
    """What a domain's record says. `valid` is False where no policy can be taken from it."""

    p: str = "none"
    sp: str | None = None
    np: str | None = None
    psd: str = "u"  # y: a public suffix, n: an organisation's own, u: not said
    strict_dkim: bool = False
    strict_spf: bool = False
    valid: bool = True


def is_record(text: str) -> bool:
    """True for a TXT record that is DMARC's."""
    return _VERSION.match(text) is not None


def parse(text: str) -> Record:
    """The record in `text`, for which `is_record` is true.

    RFC 9989 4.7: unknown tags are ignored, and so are tags with a value that is none; 4.10.1: but
    a policy that cannot be read is p=none where somebody can be told about it, else there is none.
    """
    tags: dict[str, str] = {}
    for part in text[:MAX_RECORD].split(";")[1:]:
        name, equals, value = part.partition("=")
        if equals:
            # RFC 6376 3.2 forbids a tag twice; the first one is read.
            tags.setdefault(name.strip(" \t").lower(), value.strip(" \t").lower())
    psd = tags.get("psd", "u")
    policies = {name: tags.get(name) for name in ("p", "sp", "np")}
    broken = any(value is not None and value not in POLICIES for value in policies.values())
    if broken:
        policies = dict.fromkeys(policies)
    return Record(
        p=policies["p"] or "none",
        sp=policies["sp"],
        np=policies["np"],
        psd=psd if psd in ("y", "n") else "u",
        strict_dkim=tags.get("adkim") == "s",
        strict_spf=tags.get("aspf") == "s",
        valid=not broken or any(_URI.fullmatch(u.strip()) for u in tags.get("rua", "").split(",")),
    )
