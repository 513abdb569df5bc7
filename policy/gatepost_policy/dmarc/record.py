"""Read one DMARC policy record (RFC 9989 4.7, 4.8). Pure: TXT text in, `Record` out."""

import re
from dataclasses import dataclass

MAX_RECORD = 8192  # characters that are read
POLICIES = ("none", "quarantine", "reject")
# RFC 9989 4.8: v=DMARC1, in this case, is the first tag; a separator or the end follows.
_VERSION = re.compile(r"[vV][ \t]*=[ \t]*DMARC1[ \t]*(?:;|\Z)")
# The least that an address in rua= must have (RFC 3986, RFC 6068).
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[^\s,]+")


@dataclass(frozen=True, slots=True)
class Record:
    """What a domain's record says. `sp` and `np` are None where not given. `valid` is False where
    the record gives no policy.
    """

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

    RFC 9989 4.7: unknown tags and tags with an invalid value are ignored. 4.10.1: but where p=, sp=
    or np= is invalid, the policy is p=none if rua= has an address to report to, else the record is
    not `valid`.
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
