"""The trail: the address family and protocol by which each server before ours received the message.

Pure: Received fields in, hops out, never raises. All of it is a claim: anybody can write a Received
field. The newest one is written by the client that handed the message to us.

Limits: `MAX_HOPS` fields, `MAX_FIELD` octets of each; no address is kept.
"""

import re
from collections.abc import Sequence
from functools import lru_cache

from gatepost_policy.mail.facts import Family, TrailHop

MAX_HOPS = 10
MAX_FIELD = 1024
# RFC 5321 4.4: the client stands before "by", its protocol after "with". The blank before these
# words is tested by a look-behind: a search that begins with a literal is ten times as fast as one
# that begins with a class, and this runs for each Received field.
_BY = re.compile(rb"by(?:(?<=\sby)|(?<=\Aby))\s")
_WITH = re.compile(rb"with(?<=\swith)\s+([A-Za-z0-9-]{1,24})(?=[\s;(]|\Z)")
# The client's address stands in brackets, with some MTAs in parentheses; one after "=" is a HELO.
_CLIENT = re.compile(
    rb"[\[(](?<!=[\[(])(?:[Ii][Pp][Vv]6:)?([0-9A-Fa-f:.]{2,45})(?:%\w{1,16})?[\])]"
)
_V4 = re.compile(rb"(?:::ffff:)?\d{1,3}(?:\.\d{1,3}){3}", re.I)
# Looking a member up in its class costs as much as a call (enum defines __getattr__).
_IPV4, _IPV6 = Family.IPV4, Family.IPV6


def read(values: Sequence[bytes], ours: str | None = None) -> tuple[TrailHop, ...]:
    """The hops in `values`, the values of Received fields from top to bottom, so newest first.

    `ours` is the MTA's own name: some MTAs show us their own field on top, which is left out.
    """
    if values and ours and _is_by(values[0], ours):
        values = values[1:]
    return tuple([_hop(value[:MAX_FIELD]) for value in values[:MAX_HOPS]])


def _is_by(value: bytes, name: str) -> bool:
    found = _BY.search(value[:MAX_FIELD])
    if found is None:
        return False
    word = value[found.end() : found.end() + 256].split(None, 1)[:1]
    return bool(word) and word[0].rstrip(b";").lower() == name.lower().encode("utf-8", "replace")


def _hop(value: bytes) -> TrailHop:
    by = _BY.search(value)
    clients = _CLIENT.findall(value, 0, by.start() if by else len(value))
    # With Postfix a HELO may stand in brackets before the client: the last one is the client's.
    protocol = _WITH.search(value, by.start() if by else 0)
    return _made(
        _family(clients[-1]) if clients else None,
        protocol[1].decode("ascii") if protocol else None,
    )


_made = lru_cache(maxsize=1024)(TrailHop)  # there are few different ones: cached


def _family(address: bytes) -> Family | None:
    if _V4.fullmatch(address):
        return _IPV4
    return _IPV6 if address.count(b":") >= 2 else None
