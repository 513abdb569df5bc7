"""Read DKIM outcomes back from an Authentication-Results field (RFC 8601). Pure."""

from collections.abc import Sequence

import authres

from gatepost_policy.journal.record import Json
from gatepost_policy.mail.decision import Edit


def signatures(edits: Sequence[Edit]) -> list[Json]:
    """One object a DKIM result, from the Authentication-Results that `edits` insert."""
    out: list[Json] = []
    for edit in edits:
        if edit.op == "insert" and edit.name.lower() == "authentication-results":
            out.extend(_read(edit.value or ""))
    return out


def _read(value: str) -> list[Json]:
    text = " ".join(value.split())
    try:
        header = authres.AuthenticationResultsHeader.parse_value(text)
    except authres.AuthResError:
        return []
    return [
        {
            "domain": found.header_d,
            "selector": getattr(found, "header_s", None),
            "algorithm": getattr(found, "header_a", None),
            "result": found.result,
            "reason": found.reason,
        }
        for found in header.results
        if found.method == "dkim" and found.result != "none"
    ]
