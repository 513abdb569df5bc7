"""Whose mail it is: the same answer for the milter, the policy service and the importers."""

from ipaddress import ip_address, ip_network

import pytest

from gatepost_policy.config.settings import Submission
from gatepost_policy.mail.facts import Direction
from gatepost_policy.rules.whose_mail import (
    INBOUND,
    LOCAL,
    LOOPBACK,
    ON_TRUST,
    RELAYED,
    SECOND_HOP,
    SECOND_PASS,
    SUBMITTED,
    Ownership,
    suspected,
    whose_mail,
)

OURS = Submission(
    daemon_names=("ORIGINATING",),
    second_pass_names=("FILTERED",),
    networks=(ip_network("10.0.0.0/8"),),
    trusted_relays=(ip_network("10.9.0.0/16"),),
)
PROXY = Submission(own_received="proxy")


@pytest.mark.parametrize(
    ("client", "login", "listener", "want"),
    [
        ("192.0.2.1", None, "smtpd", INBOUND),
        ("192.0.2.1", "", "smtpd", INBOUND),
        ("192.0.2.1", None, None, INBOUND),
        ("192.0.2.1", None, "", INBOUND),
        ("192.0.2.1", "alice", "smtpd", SUBMITTED),
        ("192.0.2.1", None, "ORIGINATING", SUBMITTED),
        ("192.0.2.1", None, "originating", INBOUND),
        ("10.1.2.3", None, "smtpd", ON_TRUST),
        ("127.0.0.1", None, "smtpd", LOOPBACK),
        ("::1", None, None, LOOPBACK),
        ("127.0.0.1", None, "FILTERED", SECOND_PASS),
        ("127.0.0.1", "alice", "smtpd", SUBMITTED),
        ("10.9.2.3", None, "smtpd", RELAYED),
        ("10.9.2.3", "alice", "smtpd", SUBMITTED),
        (None, None, "smtpd", INBOUND),
        ("192.0.2.1", None, "HOP2", INBOUND),
    ],
)
def test_order(
    client: str | None, login: str | None, listener: str | None, want: Ownership
) -> None:
    """What is missing proves nothing; a relay within our networks is a relay."""
    address = ip_address(client) if client else None
    assert whose_mail(OURS, address=address, login=login, listener=listener) == want


def test_without_a_client() -> None:
    """sendmail(1) on this machine, unless a login says more."""
    assert whose_mail(OURS, address=None, local=True) == LOCAL
    assert whose_mail(OURS, address=None, local=True, login="alice") == SUBMITTED
    assert whose_mail(OURS, address=None, submitted=True) == SUBMITTED


def test_second_hop_needs_its_name_and_the_setting() -> None:
    """proxy_daemon_name counts only with own_received = proxy."""
    assert whose_mail(OURS, address=None, local=True, listener="HOP2") == LOCAL
    assert whose_mail(PROXY, address=None, local=True, listener="HOP2") == SECOND_HOP


@pytest.mark.parametrize(
    ("ours", "login", "listener", "want"),
    [
        (Submission(), None, "smtpd", Direction.INBOUND),
        (Submission(), "alice", None, Direction.SUBMISSION),
        (Submission(), None, "ORIGINATING", Direction.SUBMISSION),
        (OURS, None, None, Direction.SUBMISSION),
        (PROXY, None, None, Direction.SUBMISSION),
    ],
)
def test_suspicion(
    ours: Submission, login: str | None, listener: str | None, want: Direction
) -> None:
    """After a fault of our own whatever speaks for a submission makes it one."""
    assert suspected(ours, login=login, listener=listener).direction is want
