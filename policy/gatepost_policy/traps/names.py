"""What can be a trap, and how it is written: an address, a domain, a pattern. Pure.

* `exact` (`spam@example.org`): matched by `Address.trap_key`;
* `domain` (`@example.org`): every address of it, but none of its subdomains;
* `pattern` (`info-*@example.org`, `*@*.old.example`): `*` and `?` as in a shell.

postmaster@ and abuse@ cannot be traps (RFC 5321 4.5.1, RFC 2142).
"""

import re

from gatepost_policy.mail import address
from gatepost_policy.mail.address import OPEN

MAX_NAME = 320
# A plain address, as in published lists: no quotes, no tag, ASCII. All others go through `parse`.
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_PLAIN = re.compile(rf"[A-Za-z0-9!#$%&'*/=?^_`{{|}}~.-]+@(?:{_LABEL}\.)*{_LABEL}\Z")
_NOT_ONE = re.compile(r"[\s,;:<>()\"\\]")
_LITERAL_DOMAIN = re.compile(r"(?:[*?.]|\*\.)*[^*?.@]+\.[^*?.@]+\Z")


def classify(name: str, *, patterns: bool = True) -> tuple[str, str]:
    """(kind, key) of a trap as it is written. Raises ValueError saying what was wanted."""
    name = name.strip()
    if name.startswith("<") and name.endswith(">"):
        name = name[1:-1]
    # RFC 5321 4.5.3.1: 64 octets of local part, 255 of domain; nothing longer ever gets mail.
    if len(name) > MAX_NAME:
        raise ValueError(f"want at most {MAX_NAME} characters")
    if _PLAIN.match(name) and not (patterns and ("*" in name or "?" in name)):
        key = name.lower()
        if key.partition("@")[0] in OPEN:
            raise ValueError("postmaster@ and abuse@ are always open and cannot be traps")
        return "exact", key
    if "@" not in name:
        raise ValueError("want an address, @domain or a pattern such as info-*@example.org")
    if name.lower().startswith("mailto:"):
        raise ValueError("want the address alone, without mailto:")
    # Without quotes, an address with one of these can never match (RFC 5321 4.1.2).
    if not name.startswith('"') and (_NOT_ONE.search(name) or name.count("@") > 1):
        raise ValueError("want one address: one @, and no blanks, commas, colons or brackets")
    if name.startswith("@"):
        domain = address.canonical_domain(name[1:])
        if not domain or not _can_get_mail(domain):
            raise ValueError("want a domain after the @")
        return "domain", "@" + domain
    if patterns and not name.startswith('"') and ("*" in name or "?" in name):
        local, _, domain = name.rpartition("@")
        domain = domain.rstrip(".").lower()
        # `*@*` would make every recipient a trap: at least two labels must be without `*` and `?`.
        if not local or not _LITERAL_DOMAIN.match(domain):
            raise ValueError("want a pattern whose domain names at least two labels")
        return "pattern", f"{local.lower()}@{domain}"
    parsed = address.parse(name)
    # Text copied from a web page may hold blanks of no width, which are not printable.
    if not parsed.local or not parsed.domain or not name.isprintable():
        raise ValueError("want an address, @domain or a pattern such as info-*@example.org")
    if not _can_get_mail(parsed.domain):
        raise ValueError(f"no mail can come to a domain {parsed.domain}")
    if parsed.trap_key.partition("@")[0] in OPEN:
        raise ValueError("postmaster@ and abuse@ are always open and cannot be traps")
    return "exact", parsed.trap_key


def _can_get_mail(domain: str) -> bool:
    """True for what DNS can have, and for an address literal (RFC 5321 4.1.3)."""
    return address.can_be_domain(domain) or (domain.startswith("[") and domain.endswith("]"))
