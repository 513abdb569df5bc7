"""Who guesses is told of; who mistypes is not, and no password is."""

import json
from collections.abc import Iterable
from datetime import UTC
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from gatepost_policy.config.settings import Submission
from gatepost_policy.importers import login_lines
from gatepost_policy.importers.clock import Clock
from gatepost_policy.importers.exim import Exim
from gatepost_policy.importers.guessing import DAY_S, SAME_S, WAIT_S, Guessing
from gatepost_policy.importers.login_lines import Login
from gatepost_policy.importers.name_shape import may_be_kept
from gatepost_policy.importers.postfix import Postfix
from gatepost_policy.mail import address

AT = 1_788_253_860.0
CLIENT = ip_address("203.0.113.1")
NAMES = ("aaron", "abby", "adam", "agnes", "alan", "albert", "alice", "amanda", "amy", "andrea")


def nobody(names: Iterable[str]) -> set[str]:
    return set()


def failed(guessing: Guessing, name: str, ip: str = "203.0.113.1", at: float = AT) -> None:
    guessing.login(at, Login(ip, name, False, "postfix"))


def told(guessing: Guessing, now: float | None = None, exist: Any = nobody) -> list[Any]:
    return [*guessing.take_refused(), *guessing.take_logins(exist, now)]


def names(records: list[Any]) -> list[str]:
    return sorted(r["address"] for r in records if r["kind"] == "guess")


@pytest.mark.parametrize(
    "text",
    [
        "UGFzc3dvcmQ6", "VXNlcm5hbWU6", "ugfzc3dvcmq6", "dGVzdA==", "cGFzc3dvcmQ", "c2VjcmV0MTIz",
        "correct horse", "p@ss w0rd", "Passw0rd", "hunter#2", "x7k2p9q1", "123456", "deadbeef1234",
        "strpfxlq", "a" * 65, "tRoub4dor", "\x00a", "\udce4a", "", "Zq9x8Yw7v6Uu5Tt4Ss3",
        "P@ssw0rd", "aGVsbG8", "x@y",
    ],
)  # fmt: skip
def test_what_may_be_a_password_is_no_name(text: str) -> None:
    assert not may_be_kept(text)
    guessing = Guessing()
    failed(guessing, text)
    failed(guessing, "aaron")
    failed(guessing, "abby")
    assert names(told(guessing)) == ["aaron", "abby"]


@pytest.mark.parametrize(
    "text",
    [
        "aaron", "Alice", "margaret", "catherine", "christopher", "McDonald", "jean-pierre",
        "o'brien", "info123", "first.last2024", "schwarz", "aaron@home.example", "müller",
        "Bob7", "R2D2", "bob@mail.home.example",
    ],
)  # fmt: skip
def test_names_are_names(text: str) -> None:
    assert may_be_kept(text)


POSTFIX = "2026-09-01T09:11:00+00:00 mx postfix/smtpd[9]: "
PEER = "unknown[203.0.113.1]"


@pytest.mark.parametrize(
    ("answer", "mined"),
    [
        ("550 5.1.1 <{}>: Recipient address rejected: User unknown in local recipient table", True),
        ("550 <{}>: Recipient address rejected: User unknown in virtual alias table", True),
        ("550 5.1.1 <{}>: Recipient address rejected: undeliverable address: no", True),
        ("450 4.1.1 <{}>: Recipient address rejected: User unknown in local table", False),
        ("554 5.7.1 <{}>: Relay access denied", False),
        ("550 5.7.1 <{}>: Recipient address rejected: User unknown of greylist", False),
        ("554 5.7.1 Service unavailable; Client host blocked using zen.example", False),
        ("550 5.1.0 <{}>: Sender address rejected: User unknown in local table", False),
    ],
)
def test_postfix_refusals_of_unknown_users(answer: str, mined: bool) -> None:
    to = "aaron@home.example"
    line = (
        f"{POSTFIX}NOQUEUE: reject: RCPT from {PEER}: {answer.format(to)}; from=<a@b.example>"
        f" to=<{to}> proto=ESMTP helo=<h>"
    )
    importer = Postfix()
    assert [*importer.lines([line], Clock(UTC, AT)), *importer.finish()]
    assert names(told(importer.guessing)) == ([to] if mined else [])


@pytest.mark.parametrize(
    ("answer", "mined"),
    [
        (": Unrouteable address", True),
        (": unknown user", True),
        (": 550 5.1.1 No such user here", True),
        (": relay not permitted", False),
        (": Sender verify failed", False),
        ("", False),
    ],
)
def test_exim_refusals_of_unknown_users(answer: str, mined: bool) -> None:
    for ident in ("", " U=x"):
        importer = Exim()
        line = (
            f"2026-09-01 09:11:00 H=h [203.0.113.1]{ident} F=<> rejected RCPT"
            f" <aaron@home.example>{answer}"
        )
        assert list(importer.lines([line], Clock(UTC, AT)))
        records = told(importer.guessing)
        assert names(records) == (["aaron@home.example"] if mined else [])
        assert all(record["what"] == "backscatter" for record in records)
        temporary = line.replace(" rejected", " temporarily rejected")
        list(importer.lines([temporary], Clock(UTC, AT)))
        assert told(importer.guessing) == []


SASL = f"warning: {PEER}: SASL LOGIN authentication failed: "


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (f"{SASL}authentication failure, sasl_username=aaron", "aaron"),
        (f"{SASL}(reason unavailable), sasl_username=aaron@x.example", "aaron@x.example"),
        (f"{SASL}UGFzc3dvcmQ6", None),
        (f"{SASL}Connection lost to authentication server, sasl_username=aaron", None),
        (f"{SASL}a, sasl_username=b, sasl_username=aaron", None),
        (f"{SASL}no, sasl_username=a b", None),
    ],
)
def test_postfix_logins(text: str, name: str | None) -> None:
    found = login_lines.postfix(text)
    assert (found and found.name) == name
    assert found is None or found.ip == "203.0.113.1"


FAILED = "plain authenticator failed for"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (f"{FAILED} (u) [203.0.113.1]: 535 Incorrect authentication data (set_id=aaron)", "aaron"),
        (f"{FAILED} h (u) [203.0.113.1]:47 I=[192.0.2.1]:25: 535 no (set_id=aaron)", "aaron"),
        (f"{FAILED} (u) [203.0.113.1]: 435 Unable to authenticate at present (set_id=aaron)", None),
        (f"{FAILED} (x) [198.51.100.9]: 535 no (set_id=b)) [203.0.113.1]: 535 no (set_id=a)", None),
        (f"{FAILED} (u) [203.0.113.1]: 535 Incorrect authentication data", None),
    ],
)  # fmt: skip
def test_exim_logins(text: str, name: str | None) -> None:
    found = login_lines.exim(text)
    assert (found and found.name) == name
    assert found is None or found.ip == "203.0.113.1"


DOVECOT = "user=<aaron>, method=PLAIN, rip=203.0.113.1, lip=192.0.2.1, session=<x>"


@pytest.mark.parametrize(
    ("text", "success"),
    [
        (f"imap-login: Disconnected (auth failed, 1 attempts in 2 secs): {DOVECOT}", False),
        (f"imap-login: Login aborted: Connection closed (auth failed, 3 attempts in 15 secs)"
         f" (auth_failed): {DOVECOT}", False),
        (f"pop3-login: Login: {DOVECOT}", True),
        ("auth: passwd-file(aaron,203.0.113.1): unknown user (given password: secret)", False),
        ("auth-worker(12): sql(aaron,203.0.113.1,<abc>): Password mismatch", False),
        ("auth: pam(aaron,203.0.113.1): pam_authenticate() failed: Authentication failure", False),
        (f"imap-login: Disconnected (no auth attempts): {DOVECOT}", None),
        ("auth: sql(aaron,203.0.113.1): internal failure", None),
    ],
)  # fmt: skip
def test_dovecot_logins(text: str, success: bool | None) -> None:
    found = login_lines.dovecot("dovecot", text)
    assert (found and found.success) == success
    assert found is None or (found.name, found.ip) == ("aaron", "203.0.113.1")
    program, _, rest = text.partition(": ")
    assert login_lines.dovecot(program, rest) == found


def test_one_attempt_that_two_programs_tell_of_is_one() -> None:
    guessing = Guessing()
    for name in ("aaron", "abby"):
        guessing.login(AT, Login("203.0.113.1", name, False, "dovecot-auth"))
        guessing.login(AT + 1, Login("203.0.113.1", name, False, "postfix"))
        guessing.login(AT + 1 + SAME_S, Login("203.0.113.1", name, False, "dovecot-auth"))
    assert {r.get("hits", 2) for r in told(guessing)} == {2}


def test_a_host_is_told_of_with_its_second_name() -> None:
    guessing = Guessing()
    failed(guessing, "aaron")
    failed(guessing, "aaron", at=AT + 1)
    failed(guessing, "aaron", ip="203.0.113.2")
    assert told(guessing) == []
    failed(guessing, "abby", at=AT + 2)
    records = told(guessing)
    assert names(records) == ["aaron", "abby"]
    (groper,) = [r for r in records if r["kind"] == "groper"]
    assert (groper["prefix"], groper["attempts"], groper["names"]) == ("203.0.113.1/32", 3, 2)
    assert (groper["first"], groper["at"]) == (AT, AT + 2)
    failed(guessing, "adam", at=AT + 3)
    assert names(told(guessing)) == ["adam"]


@pytest.mark.parametrize("first", [True, False])
def test_who_logs_in_is_no_groper(first: bool) -> None:
    """The success may come before or behind; its address and its name are known to nobody."""
    guessing = Guessing()
    if first:
        guessing.succeeded(AT, "alice", "203.0.113.1/32")
    for name in ("alcie", "sunshine", "alice"):
        failed(guessing, name)
        failed(guessing, name, ip="203.0.113.9")
    if not first:
        guessing.succeeded(AT + 9, "alice", "203.0.113.1/32")
    records = told(guessing)
    # The other host never logged in: its names are told of, but for the one that exists.
    assert names(records) == ["alcie", "sunshine"]
    assert "203.0.113.1/32" not in json.dumps(records)
    assert "alice" not in repr(vars(guessing)["_good"])


def test_names_that_exist_do_not_count() -> None:
    guessing = Guessing()
    for name in ("aaron", "alice", "alcie"):
        failed(guessing, name)
    assert told(guessing, exist=lambda names: {"alice", "alcie"} & set(names)) == []
    failed(guessing, "abby")
    records = told(guessing, exist=lambda names: {"alice", "alcie"} & set(names))
    assert names(records) == ["aaron", "abby"]


def test_a_walk_over_hosts_with_one_name_each_is_told_of() -> None:
    guessing = Guessing()
    for number, name in enumerate(NAMES):
        failed(guessing, name, f"203.0.113.{number * 7 % 90 + 1}", AT + number * 11_000)
    failed(guessing, "zoe", "198.51.100.1", AT - 5)
    failed(guessing, "aaa", "198.51.100.3", AT - 20 * DAY_S)
    records = told(guessing)
    assert names(records) == sorted(NAMES)
    assert "198.51.100.1" not in json.dumps(records)
    assert "198.51.100.3" not in json.dumps(records)


def test_single_names_without_order_are_nobodys_business() -> None:
    guessing = Guessing()
    for number, name in enumerate(reversed(NAMES)):
        failed(guessing, name, f"203.0.113.{number + 1}", AT + number * 11_000)
    assert told(guessing) == []


def test_live_an_attempt_waits_for_an_hour() -> None:
    guessing = Guessing()
    failed(guessing, "aaron")
    failed(guessing, "abby", at=AT + 60)
    assert told(guessing, AT + WAIT_S - 1) == []
    assert told(guessing, AT + WAIT_S + 1) == []  # one name so far
    assert names(told(guessing, AT + WAIT_S + 61)) == ["aaron", "abby"]
    assert told(guessing, AT + WAIT_S + 62) == []
    guessing.succeeded(AT + 2 * WAIT_S, "abby", "203.0.113.1/32")
    (void,) = told(guessing, AT + 2 * WAIT_S)
    assert (void["kind"], void["prefix"], void["address"]) == ("no-guess", "203.0.113.1/32", "abby")
    # A success is known for a day.
    failed(guessing, "adam", at=AT + DAY_S)
    failed(guessing, "alan", at=AT + DAY_S)
    assert told(guessing, AT + 3 * WAIT_S + DAY_S) == []
    for name in ("adam", "alan"):
        failed(guessing, name, at=AT + 2 * DAY_S)
    assert names(told(guessing, AT + 2 * DAY_S + WAIT_S)) == ["adam", "alan"]


def test_our_own_webmail_types_what_others_type() -> None:
    ours = Submission(
        networks=(ip_network("192.0.2.0/24"),), trusted_relays=(ip_network("198.51.100.1"),)
    )
    guessing = Guessing(ours)
    for ip in ("192.0.2.9", "198.51.100.1", "127.0.0.1"):
        failed(guessing, "aaron", ip)
        failed(guessing, "abby", ip)
        to = address.parse("aaron@home.example")
        guessing.refused(AT, to, ip_address(ip), bounce=False)
    assert told(guessing) == []
    guessing.refused(AT, address.parse("aaron@home.example"), CLIENT, bounce=False)
    assert names(told(guessing)) == ["aaron@home.example"]


def test_successes_are_read_from_each_log() -> None:
    """Two names that fail, and a success of the same host: nothing is told."""
    sasl = f"{POSTFIX}warning: {PEER}: SASL PLAIN authentication failed: no, sasl_username="
    lines = [f"{sasl}aaron", f"{sasl}abby"]
    importer = Postfix()
    list(importer.lines(lines, Clock(UTC, AT)))
    assert names(told(importer.guessing)) == ["aaron", "abby"]
    for line in (
        f"{POSTFIX}4ABCDE: client={PEER}, sasl_method=PLAIN, sasl_username=alice",
        f"2026-09-01T09:12:00+00:00 mx dovecot: imap-login: Login: {DOVECOT}",
    ):
        importer = Postfix()
        list(importer.lines([*lines, line], Clock(UTC, AT)))
        assert told(importer.guessing) == []
    exim = Exim()
    log = [
        f"2026-09-01 09:11:00 {FAILED} (u) [203.0.113.1]: 535 no (set_id={name})"
        for name in ("aaron", "abby")
    ]
    list(exim.lines(log, Clock(UTC, AT)))
    assert names(told(exim.guessing)) == ["aaron", "abby"]
    exim = Exim()
    arrival = "1QFOdo-0001zq-01 <= a@b.example H=(u) [203.0.113.1] P=esmtpsa A=plain:alice S=1"
    list(exim.lines([*log, f"2026-09-01 09:12:00 {arrival}"], Clock(UTC, AT)))
    assert told(exim.guessing) == []
