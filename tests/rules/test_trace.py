"""Mail without a login: what its trace shows."""

from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from gatepost_policy.config.settings import Sender, Settings, Submission
from gatepost_policy.mail import address
from gatepost_policy.rules.trace import Trace, confirmed
from gatepost_policy.rules.whose_mail import (
    HANDED_IN,
    INBOUND,
    LOCAL,
    LOOPBACK,
    ON_TRUST,
    RELAYED,
    SECOND_PASS,
    SUBMITTED,
    Ownership,
)

HOME = Settings(
    submission=Submission(networks=(ip_network("127.0.0.0/8"), ip_network("192.168.7.0/24"))),
    sender=Sender(own_domains=("home.example",)),
)
HOST = "mx.home.example"
OURS = f" by {HOST} (Postfix) with ESMTPSA id 4OURS; x".encode()
STRANGER = (f" from a.example (a.example [198.51.100.9])\n\tby {HOST} (Postfix) with ESMTPS"
            " id 4FIRST; x").encode()  # fmt: skip
AMAVIS = (f" from localhost ([127.0.0.1])\n\tby localhost ({HOST} [127.0.0.1]) (amavisd-new,"
          " port 10024)\n\twith ESMTP id abc-12 for <b@c>; x").encode()  # fmt: skip
LMTP = f" from {HOST} ([127.0.0.1])\n\tby {HOST} with LMTP id AAAA; x".encode()
FETCHED = b" from pop.isp.example [198.51.100.2] by localhost with POP3 (fetchmail); x"


def way(
    *received: bytes, sender: str = "alice@home.example", client: str = "127.0.0.1",
    answered: Sequence[str] = (),
) -> Trace:  # fmt: skip
    known = frozenset(answered)
    return Trace(ip_address(client), HOST, address.parse(sender), received, known.__contains__)


@pytest.mark.parametrize("whose", [ON_TRUST, LOCAL, LOOPBACK, RELAYED])
@pytest.mark.parametrize(
    "received",
    [(OURS,), (STRANGER, OURS), (AMAVIS, OURS), (AMAVIS, LMTP, OURS)],
)
def test_an_id_that_was_answered_is_a_second_pass(
    whose: Ownership, received: tuple[bytes, ...]
) -> None:
    assert confirmed(whose, way(*received, answered=("4OURS",)), HOME) == SECOND_PASS
    assert confirmed(whose, way(*received), HOME) != SECOND_PASS


LAN_LMTP = LMTP.replace(b"127.0.0.1", b"192.168.20.5")
OWN_NAME = f" from pop.isp.example [198.51.100.2]\n\tby {HOST} with POP3 (fetchmail); x".encode()
NAME_ONLY = b" from pop.isp.example by localhost with IMAP4 via getmail; x"
PROVIDER = b" from evil.example (evil [203.0.113.9]) by mx.isp.example (Postfix) with ESMTP id 9; x"
INNER = b" from mx.isp.example (mx [10.1.1.1]) by store.isp.example with LMTP id 8; x"


@pytest.mark.parametrize("received", [
    (FETCHED, OURS), (OWN_NAME, OURS), (NAME_ONLY, OURS), (PROVIDER, OURS), (INNER, PROVIDER, OURS),
    (AMAVIS, FETCHED, OURS), (FETCHED, STRANGER, OURS),
])  # fmt: skip
@pytest.mark.parametrize("client", ["127.0.0.1", None])
def test_what_a_collector_fetched_proves_nothing(
    received: tuple[bytes, ...], client: str | None
) -> None:
    """Anybody can learn a queue id of ours, and write it into mail for a mailbox elsewhere."""
    asked = way(*received, answered=("4OURS",))
    if client is None:
        asked = replace(asked, address=None)
    for whose in (ON_TRUST, LOCAL, LOOPBACK):
        assert confirmed(whose, asked, HOME) != SECOND_PASS
    # A delivery agent of ours, named by an address of the LAN, does.
    near = way(LAN_LMTP, OURS, answered=("4OURS",))
    assert confirmed(LOOPBACK, near, HOME) == SECOND_PASS


def test_the_id_counts_near_the_top_and_by_our_own_host() -> None:
    deep = way(FETCHED, FETCHED, FETCHED, OURS, answered=("4OURS",))
    assert confirmed(ON_TRUST, deep, HOME) == HANDED_IN
    theirs = way(OURS.replace(HOST.encode(), b"mx.other.example"), answered=("4OURS",))
    assert confirmed(RELAYED, theirs, HOME) != SECOND_PASS
    upper = way(OURS.replace(HOST.encode(), HOST.upper().encode()), answered=("4OURS",))
    assert confirmed(RELAYED, upper, HOME) == SECOND_PASS


@pytest.mark.parametrize(
    ("received", "want"),
    [
        ((), True),
        ((OURS,), True),
        ((AMAVIS, OURS), True),
        ((b" from [203.0.113.7] (x [203.0.113.7]) by webmail.home.example with HTTP; x",), True),
        ((b" from [203.0.113.7] by webmail.elsewhere.example with HTTP; x",), False),
        ((b" from p.lan (p.lan [192.168.7.9]) by nas.home.example with ESMTP; x",), True),
        ((b" from p.lan (p.lan [192.168.8.9]) by nas.home.example with ESMTP; x",), False),
        ((b" (from alice@localhost) by nas (8.17/Submit) id x; x",), True),
        ((b" from alice by nas.home.example with local (Exim 4.96) id x; x",), True),
        ((b" from vmail by nas.home.example with local (Exim 4.96) id x; x", STRANGER), False),
        ((b" (qmail 7 invoked by uid 1000); x",), True),
        ((STRANGER,), False),
        ((LMTP, STRANGER), False),
        ((FETCHED, STRANGER), False),
        ((AMAVIS, STRANGER), False),
        ((b" from mail.example by localhost; x",), False),
        ((b" from [IPv6:::1] (localhost [IPv6:::1]) by x with ESMTP; x",), True),
    ],
)
def test_where_it_begins(received: tuple[bytes, ...], want: bool) -> None:
    got = confirmed(ON_TRUST, way(*received), HOME)
    assert got.direction is (ON_TRUST if want else INBOUND).direction
    assert got.unknown_client is not want and not got.open
    assert (confirmed(LOCAL, way(*received), HOME) == HANDED_IN) is not want


@pytest.mark.parametrize(
    ("sender", "want"),
    [("", True), ("alice@home.example", True), ("root@mx.home.example", True),
     ("x@sub.home.example", True), ("x@elsewhere.example", False), ("x@mx.example", False)],
)  # fmt: skip
def test_whose_sender(sender: str, want: bool) -> None:
    """Empty, an own domain or our own host; where no own domain is known, anybody."""
    got = confirmed(ON_TRUST, way(sender=sender), HOME)
    assert (got == HANDED_IN) is not want
    nowhere = replace(HOME, sender=Sender())
    assert confirmed(ON_TRUST, way(sender=sender), nowhere) == SUBMITTED
    # sendmail(1) is this machine, whatever name it takes.
    assert confirmed(LOCAL, way(sender=sender), HOME).direction is LOCAL.direction


def test_a_submission_proxy_on_this_machine() -> None:
    proxied = f" from laptop ([203.0.113.7]) by {HOST} with ESMTPSA id x; x".encode()
    assert confirmed(LOOPBACK, way(proxied), HOME) == SUBMITTED
    assert confirmed(LOOPBACK, way(STRANGER, proxied), HOME) == INBOUND
    assert confirmed(LOOPBACK, way(proxied.replace(b"SA", b"S")), HOME) == INBOUND
    assert confirmed(LOOPBACK, way(), HOME) == INBOUND


def test_a_relay_stays_one() -> None:
    got = confirmed(RELAYED, way(STRANGER, client="192.0.2.1"), HOME)
    assert got.trusted_relay and not got.open and not got.unknown_client
