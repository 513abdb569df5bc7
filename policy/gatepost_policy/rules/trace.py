"""Whose mail it is where there was no login: what its Received fields show. Pure.

From one address come both mail that begins there (webmail, a printer, a script) and mail that
others wrote (a list manager, a Sieve rule, a POP collector, a content filter). They are told apart
like this:

* second pass: one of the top Received fields is `by` this host with a queue id that gatepost has
  answered. Only the id is proof, because a field without it can be forged. From this host itself no
  field above it may name a client from elsewhere: anybody can learn an id and write it into mail
  for a mailbox that a POP collector empties here;
* it begins here: the newest hop that names a client is a user handing mail to one of our own
  servers (RFC 3848: ESMTPSA; webmail: HTTP), or no hop names a client but ours, and the envelope
  sender is one of ours or empty;
* everything else was handed in: its Received fields stay, nobody is listed for it, and its sender
  is not known.

A forged field can at worst lead to a scrub, or, from a client that we trust, to one extra record.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network

from gatepost_policy.config.settings import Settings
from gatepost_policy.mail import received
from gatepost_policy.mail.address import Address, is_within
from gatepost_policy.mail.client_address import Ip, IpNetwork, parse, unmapped, within
from gatepost_policy.mail.facts import Direction
from gatepost_policy.rules.whose_mail import HANDED_IN, SECOND_PASS, SUBMITTED, Ownership

TOP = 3  # amavis puts a Received of its own above ours, a delivery agent another one
_SMTP = re.compile(r"(?:UTF8)?(?:E?SMTP|LMTP)S?A?\Z", re.I)  # RFC 3848, RFC 6531 4.3
MAX_HOPS = 100  # a message with more of them is in a mail loop
# A delivery agent of ours may be named by this host's address in the LAN (RFC 1918, RFC 6598,
# RFC 3927, RFC 4193, RFC 4291).
_PRIVATE: tuple[IpNetwork, ...] = tuple(
    ip_network(text)
    for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10",
                 "169.254.0.0/16", "fc00::/7", "fe80::/10")
)  # fmt: skip
# Looking a member up in its class costs as much as a call (enum defines __getattr__).
_INBOUND = Direction.INBOUND


@dataclass(frozen=True, slots=True)
class Trace:
    """What is known of a message's way. `received`: the values of its Received fields, top to
    bottom. `host`: our own name ({j}). `answered`: whether gatepost has answered for a queue id."""

    address: Ip | None
    host: str | None
    sender: Address
    received: Sequence[bytes]
    answered: Callable[[str], bool]


def confirmed(whose: Ownership, trace: Trace, settings: Settings) -> Ownership:
    """The final answer for `whose` (an `open` one), after the Received fields were read."""
    hops = [received.read(value) for value in trace.received[:MAX_HOPS]]
    around = whose.trusted_relay or not _from_here(trace)
    if _answered_before(hops[:TOP], trace, settings, around=around):
        return SECOND_PASS
    if whose.trusted_relay:
        return replace(whose, open=False)
    if whose.direction is _INBOUND:
        # Dovecot's submission service on this host passes mail on only for users who have logged
        # in.
        proxied = bool(hops) and hops[0].submitted and _by(hops[0], trace.host)
        return SUBMITTED if proxied else replace(whose, open=False)
    if not _begins_here(hops, trace, settings):
        return HANDED_IN
    if whose.direction is Direction.SUBMISSION and not own_sender(
        trace.sender, trace.host, settings
    ):
        return HANDED_IN
    return replace(whose, open=False)


def stayed_here(trace: Trace, settings: Settings) -> bool:
    """True where a second pass comes from this host, and was nowhere else since the first."""
    hops = [received.read(value) for value in trace.received[:TOP]]
    return _from_here(trace) and _answered_before(hops, trace, settings, around=False)


def _from_here(trace: Trace) -> bool:
    return trace.address is None or trace.address.is_loopback


def _answered_before(
    top: Sequence[received.Hop], trace: Trace, settings: Settings, *, around: bool
) -> bool:
    """`around`: it may have been elsewhere in between."""
    for hop in top:
        written_by_us = _by(hop, trace.host) and hop.queue_id is not None
        if written_by_us and trace.answered(hop.queue_id or ""):
            return True
        # A collector may call itself by our name, but it speaks no SMTP.
        ours = written_by_us and _SMTP.match(hop.protocol or "")
        if not (around or ours or _names_ours(hop, trace, settings, _PRIVATE)):
            return False
    return False


def own_sender(sender: Address, host: str | None, settings: Settings) -> bool:
    """True where the envelope sender is empty, or of one of our own domains or of our own `host`.
    Where no own domain is configured, every sender counts as ours.
    """
    own = settings.sender.own_domains
    return sender.null or not own or _own_name(sender.domain, host, settings)


def _begins_here(hops: Sequence[received.Hop], trace: Trace, settings: Settings) -> bool:
    for hop in hops:
        # A process on a mail server ("local") may be a user's program or pass others' mail on.
        local = (hop.protocol or "").lower() == "local"
        if hop.submitted and not local and hop.by and _own_name(hop.by, trace.host, settings):
            return True
        if not local and not _names_ours(hop, trace, settings):
            return False
    return True


def _names_ours(
    hop: received.Hop, trace: Trace, settings: Settings, also: tuple[IpNetwork, ...] = ()
) -> bool:
    """True where the hop names no client, or only this host and clients in our networks or in
    those of `also`."""
    addresses = [parse(text) for what, text in hop.tells if what == "client address"]
    if addresses:
        return all(
            a is not None and (_ours(a, trace, settings) or within(unmapped(a), also))
            for a in addresses
        )
    names = [text for what, text in hop.tells if what == "name the client gave or has"]
    return all(_is_literal_of_ours(n, trace, settings) or _own_name(n, trace.host, settings)
               or n.lower().startswith("localhost") for n in names)  # fmt: skip


def _ours(address: Ip, trace: Trace, settings: Settings) -> bool:
    address = unmapped(address)
    return (
        address.is_loopback
        or address == trace.address
        or within(address, settings.submission.networks)
    )


def _is_literal_of_ours(name: str, trace: Trace, settings: Settings) -> bool:
    try:
        return _ours(ip_address(name.strip("[]")), trace, settings)
    except ValueError:
        return False


def _by(hop: received.Hop, host: str | None) -> bool:
    return bool(host and hop.by and hop.by.lower() == host.lower())


def _own_name(name: str, ours: str | None, settings: Settings) -> bool:
    """True for our own host and for names in our own domains; where none is configured, for names
    beside our own host's."""
    low = name.lower().rstrip(".")
    host = (ours or "").lower().rstrip(".")
    if host and low == host:
        return True
    own = settings.sender.own_domains
    if own:
        return any(is_within(low, domain) for domain in own)
    parent = host.partition(".")[2]
    return "." in parent and is_within(low, parent)
