"""Whom a signed To and Cc name, and whether the message came to them here. Pure.

Only what the signature covers counts (RFC 6376 5.4.2: a field named once in h= is the lowest one):
a To that was added above it proves nothing. The answer is one word for each signature:

* `trap`: a trap, and nobody else here;  `both`: a trap and somebody real here;
* `recipient`: somebody who got it here;  `others`: other people only;  `nobody`: no address.
"""

import re
from collections.abc import Callable, Iterable

from gatepost_policy.mail.address import Address, parse
from gatepost_policy.mail.facts import Recipient

# Enough to see who is meant; a message with more names is not personal mail.
ADDRESSES_MAX = 100
# A To may be as long as a header: each of these expressions reads any text only once.
_IN_WORD = r"[^\s<>(),:;\"\\@\[\]]"
_WORD = rf"{_IN_WORD}++"
# RFC 5322 3.4.1: a local part may be quoted, and names the same mailbox.
_ADDRESS = re.compile(rf"(?:(?<!{_IN_WORD}){_WORD}|\"(?>(?:[^\"\\]|\\.){{1,64}})\")@{_WORD}", re.S)
# Names in quotes and comments; `kept` is a local part in quotes, or a quote that never ends.
_COMMENT = re.compile(r"\"(?>(?:[^\"\\]|\\.|\\\Z)*)(?:\"(?!@)|(?P<kept>\"|\Z))|\([^()]*+\)", re.S)


def _without_comments(text: str) -> str:
    """`text` without display names and comments: an address in one of them is not counted."""
    return _COMMENT.sub(lambda m: " " if m["kept"] is None else m.group(), text)


def addresses(values: Iterable[bytes]) -> tuple[str, ...]:
    """The addresses in the values of To and Cc fields, at most ADDRESSES_MAX."""
    found: list[str] = []
    for value in values:
        text = value.decode("utf-8", "surrogateescape")
        if '"' in text or "(" in text:
            text = _without_comments(text)
        found += _ADDRESS.findall(text)
        if len(found) > ADDRESSES_MAX:
            break
    return tuple(found[:ADDRESSES_MAX])


def addressed(
    signed: tuple[str, ...],
    recipients: Iterable[Recipient],
    is_trap: Callable[[Address], bool] | None = None,
) -> str:
    """The word for a signature whose To and Cc name `signed`. `is_trap` None: there is no trap.

    An address in a recipient's domain that is no trap counts as a real one beside a trap, also
    where the message came to the trap alone: a client may send each recipient a separate copy.
    """
    if not signed:
        return "nobody"
    here = {r.address.trap_key for r in recipients}
    sites = {key.rpartition("@")[2] for key in here}
    trap = real = site = False
    for text in signed:
        address = parse(text)
        if is_trap is not None and is_trap(address):
            trap = True
        elif address.trap_key in here:
            real = True
        elif address.domain in sites:
            site = True
    if trap:
        return "both" if real or site else "trap"
    return "recipient" if real else "others"
