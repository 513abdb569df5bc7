"""Whose a refusal was is known when its session ends: nothing of a user is ever told or saved.

`logs` is a model of smtpd's own lines: processes that have one session after another, at the same
time as others do, with users, strangers, and strangers who guess a password.
"""

import json
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from gatepost_policy.importers import open_state, postfix_sessions
from gatepost_policy.importers.clock import Clock
from gatepost_policy.importers.common import to_json
from gatepost_policy.importers.postfix import Postfix
from gatepost_policy.mail.facts import Direction

AT = 1_764_000_000.0
USER, STRANGER = "198.51.100.", "203.0.113."
CLOCK = Clock(UTC, AT + 1e6)


@dataclass(frozen=True)
class Session:
    kind: str  # user, stranger, guesser
    acts: str  # "r": a refused recipient, "m": an accepted message


ACTS = st.text("rrm", min_size=1, max_size=3)
SESSIONS = st.builds(Session, st.sampled_from(["user", "stranger", "guesser"]), ACTS)
# One list for each process; the numbers say whose line comes next, and whether time goes on.
PROCESSES = st.lists(st.lists(SESSIONS, max_size=3), min_size=1, max_size=3)
ORDER = st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=60)


def spoken(process: int, number: int, session: Session, service: str) -> list[str]:
    """What the session logs. Its client is like no other."""
    ip = f"{USER if session.kind == 'user' else STRANGER}{process * 10 + number}"
    peer, who = f"c[{ip}]", f"s{process}{number}"
    own = ", sasl_method=PLAIN, sasl_username=canary" if session.kind == "user" else ""
    login = {"user": " auth=1", "guesser": " auth=0/1", "stranger": ""}[session.kind]
    pid = f"{service}/smtpd[{process + 1}]"
    out = [f"{pid}: connect from {peer}"]
    if session.kind == "guesser":
        out.append(
            f"{pid}: warning: {peer}: SASL PLAIN authentication failed: no, sasl_username=canary"
        )
    for n, act in enumerate(session.acts):
        envelope = f"from=<{who}{n}@x.example>"
        if act == "r":
            out.append(
                f"{pid}: NOQUEUE: reject: RCPT from {peer}: 550 5.1.1 <t{who}{n}@h.example>:"
                f" Recipient address rejected: User unknown; {envelope} to=<t{who}{n}@h.example>"
                f" proto=ESMTP helo=<h.{ip}>"
            )
        else:
            name = f"B{process}{number}{n}".translate(str.maketrans("0123456789", "BCDFGHJKLM"))
            name = f"{name}zzzzzzzz"
            out += [
                f"{pid}: {name}: client={peer}{own}",
                f"postfix/qmgr[9]: {name}: {envelope}, size=9, nrcpt=1 (queue active)",
                f"postfix/lmtp[8]: {name}: to=<u@h.example>, relay=l[192.0.2.1]:24, status=sent",
                f"postfix/qmgr[9]: {name}: removed",
            ]
    out.append(f"{pid}: disconnect from {peer} ehlo=1{login} mail=1 rcpt=0/1 commands=2/3")
    return out


def logs(
    processes: list[list[Session]], order: list[tuple[int, bool]], service: str = "postfix"
) -> list[str]:
    """The lines of these processes, interleaved."""
    queues = [
        [line for n, one in enumerate(sessions) for line in spoken(p, n, one, service)]
        for p, sessions in enumerate(processes)
    ]
    out: list[str] = []
    at = AT
    turns = iter(order)
    while any(queues):
        which, later = next(turns, (0, False))
        queue = [queue for queue in queues if queue][which % sum(map(bool, queues))]
        at += later
        stamp = datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S+00:00")
        out.append(f"{stamp} mx {queue.pop(0)}")
    return out


def wanted(processes: list[list[Session]]) -> tuple[Counter[str], int]:
    """The senders of strangers, and how many messages and refusals are users'."""
    outside: Counter[str] = Counter()
    ours = 0
    for p, sessions in enumerate(processes):
        for n, one in enumerate(sessions):
            if one.kind == "user":
                ours += len(one.acts)
            else:
                outside.update(f"s{p}{n}{i}@x.example" for i in range(len(one.acts)))
    return outside, ours


class Store:
    """What was recorded; a key is recorded once."""

    def __init__(self) -> None:
        self.outside: Counter[str] = Counter()
        self.ours = 0
        self.text = ""
        self._keys: set[str] = set()

    def take(self, found: Any) -> None:
        for seen in found:
            if seen.key in self._keys:
                continue
            self._keys.add(seen.key)
            self.text += json.dumps(to_json(seen))
            if seen.facts.direction is Direction.INBOUND:
                assert str(seen.facts.client.address).startswith(STRANGER)
                self.outside[seen.facts.sender.raw] += 1
            else:
                self.ours += 1

    def guesses(self, importer: Postfix) -> None:
        self.text += json.dumps(list(importer.guessing.take_refused()))

    def check(self) -> None:
        assert USER not in self.text and "canary" not in self.text


@pytest.mark.slow
@given(PROCESSES, ORDER, st.sampled_from(["postfix", "mx1-postfix", "postfix/own"]))
@examples(max_examples=300, deadline=None)
def test_an_import_knows_whose_each_refusal_was(
    processes: list[list[Session]], order: list[tuple[int, bool]], service: str
) -> None:
    importer, store = Postfix(), Store()
    store.take(importer.lines(logs(processes, order, service), CLOCK))
    store.take(importer.finish())
    store.guesses(importer)
    assert (store.outside, store.ours) == wanted(processes)
    store.check()


@pytest.mark.slow
@given(PROCESSES, ORDER, st.integers(0, 200))
@examples(max_examples=300, deadline=None)
def test_a_log_that_ends_anywhere_tells_of_no_user(
    processes: list[list[Session]], order: list[tuple[int, bool]], end: int
) -> None:
    """The service has shown before that it takes logins."""
    first = logs([[Session("user", "m")]], [])
    lines = [line.replace("smtpd[1]", "smtpd[77]") for line in first]
    lines += logs(processes, order)[:end]
    importer, store = Postfix(), Store()
    store.take(importer.lines(lines, CLOCK))
    store.take(importer.finish())
    store.guesses(importer)
    assert store.outside <= wanted(processes)[0]
    store.check()


@pytest.mark.slow
@given(PROCESSES, ORDER, st.lists(st.integers(0, 8), min_size=1, max_size=40))
@examples(max_examples=300, deadline=None)
def test_a_follower_that_is_killed_loses_and_doubles_nothing(
    processes: list[list[Session]], order: list[tuple[int, bool]], steps: list[int]
) -> None:
    """Each step reads so many lines and saves what may be saved; 0 is a kill."""
    lines = logs(processes, order)
    store = Store()
    importer, at = Postfix(), 0
    saved: tuple[int, str] | None = None
    coming: tuple[int, int, str] | None = None
    for step in [*steps, len(lines)]:
        if not step:
            importer, at, coming = Postfix(), 0, None
            if saved is not None:
                at = saved[0]
                open_state.load(importer, json.loads(saved[1]), CLOCK)
            continue
        store.take(importer.lines(lines[at : at + step], CLOCK))
        store.guesses(importer)
        at = min(at + step, len(lines))
        sessions = importer.refusals.sessions
        if coming is not None and sessions.settled(coming[0]):
            saved, coming = coming[1:], None
        if coming is None:
            coming = sessions.mark(), at, json.dumps(open_state.dump(importer))
            assert USER not in coming[2] and "canary" not in coming[2]
    store.take(importer.lines(lines[at:], CLOCK))
    store.guesses(importer)
    assert (store.outside, store.ours) == wanted(processes)
    store.check()


def stamped(*lines: str) -> list[str]:
    return [f"2025-11-24T16:00:0{n % 10}+00:00 mx {line}" for n, line in enumerate(lines)]


REFUSED = (
    "postfix/smtpd[1]: NOQUEUE: reject: RCPT from c[{0}]: 554 5.7.1 <x@y.example>: Relay access"
    " denied; from=<a@b.example> to=<x@y.example> proto=ESMTP helo=<h>"
)
KNOWN = (
    "postfix/smtpd[7]: connect from c[192.0.2.1]",
    "postfix/smtpd[7]: 4F3D00ABC: client=c[192.0.2.1], sasl_method=PLAIN, sasl_username=canary",
    "postfix/smtpd[7]: disconnect from c[192.0.2.1] ehlo=1 auth=1 mail=1 rcpt=1 commands=4",
)


def read(*lines: str) -> tuple[list[str], int, Postfix]:
    importer = Postfix()
    found = [*importer.lines(stamped(*lines), CLOCK), *importer.finish()]
    inbound = [s for s in found if s.facts.direction is Direction.INBOUND]
    return [str(s.facts.client.address) for s in inbound], len(found) - len(inbound), importer


@pytest.mark.parametrize(
    ("counts", "ours"),
    [
        (" ehlo=1 auth=1 mail=1 rcpt=0/1 quit=1 commands=4/5", True),
        (" ehlo=2 starttls=1 auth=1/3 mail=1 rcpt=0/1 commands=5/8", True),
        (" auth=12 commands=12", True),
        (" ehlo=1 auth=0/1 mail=1 rcpt=0/1 commands=2/4", False),
        (" ehlo=1 xauth=1 mail=1 rcpt=0/1 commands=2/4", False),
        (" ehlo=1 mail=1 rcpt=0/1 commands=2/3", False),
    ],
)
def test_the_end_of_a_session_counts_logins(counts: str, ours: bool) -> None:
    ip = "198.51.100.7"
    told, counted, _ = read(
        *KNOWN, REFUSED.format(ip), f"postfix/smtpd[1]: disconnect from c[{ip}]{counts}"
    )
    assert (told, counted) == (([], 1) if ours else ([ip], 0))


@pytest.mark.parametrize(
    "end",
    [(), ("postfix/smtpd[1]: connect from d[192.0.2.9]",)],
    ids=["the log ends", "another session begins"],
)
def test_without_an_end_it_is_known_from_what_the_service_showed(end: tuple[str, ...]) -> None:
    """Where users log in, an unknown one is left out; where nobody does, it is a stranger's."""
    ip = "198.51.100.7"
    told, counted, importer = read(*KNOWN, REFUSED.format(ip), *end)
    assert (told, counted) == ([], 0) and importer.tally.kinds["unfinished"] == 2
    told, counted, _ = read(*KNOWN[::2][1:], REFUSED.format(ip), *end)
    assert (told, counted) == ([], 0), "a login that only the end of a session shows"
    told, counted, _ = read(REFUSED.format(ip), *end)
    assert (told, counted) == ([ip], 0)
    told, counted, _ = read(*KNOWN, REFUSED.format("192.0.2.1"), *end)
    assert (told, counted) == ([], 1), "an address that has logged in before"


def test_the_end_of_another_clients_session_tells_nothing() -> None:
    """Lines were lost, or two machines with one name write to one log."""
    end = "postfix/smtpd[1]: disconnect from c[203.0.113.9] ehlo=1{0} mail=1 rcpt=0/1 commands=2/3"
    for counts in ("", " auth=1"):
        lines = (REFUSED.format("198.51.100.7"), end.format(counts))
        assert read(*KNOWN, *lines)[:2] == ([], 0)
    assert read(*lines[:1], end.format(""))[:2] == (["198.51.100.7"], 0)


def test_a_postfix_that_counts_no_commands() -> None:
    """Before 3.0: what is known of the address decides."""
    old = [line.partition(" ehlo=")[0] for line in KNOWN]
    end = "postfix/smtpd[1]: disconnect from c[{0}]"
    for ip, want in (("198.51.100.7", ["198.51.100.7"]), ("192.0.2.1", [])):
        assert read(*old, REFUSED.format(ip), end.format(ip))[0] == want


def test_what_a_proxy_logged_in_is_not_known_by_counts() -> None:
    """XCLIENT LOGIN is no AUTH command."""
    proxied = [
        line.replace("PLAIN", "XCLIENT").replace(" auth=1", " xclient=0/1") for line in KNOWN
    ]
    end = "postfix/smtpd[1]: disconnect from c[198.51.100.7] ehlo=2{0} mail=1 rcpt=0/1 commands=3/5"
    for counts, want in ((" xclient=0/1", []), ("", ["198.51.100.7"])):
        assert read(*proxied, REFUSED.format("198.51.100.7"), end.format(counts))[0] == want


def test_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postfix_sessions, "MAX_HELD", 3)
    importer = Postfix()
    lines = stamped(
        *(REFUSED.format(f"203.0.113.{n}").replace("[1]", f"[{n + 1}]") for n in range(9))
    )
    assert len(list(importer.lines(lines, CLOCK))) == 6
    assert len(list(importer.finish())) == 3
    late = lines[0].replace("24T16", "25T16")
    importer = Postfix()
    assert len(list(importer.lines([*lines[:2], late], CLOCK))) == 2


def test_processes_without_a_number_are_told_apart_by_the_client() -> None:
    lines = [
        *KNOWN, REFUSED.format("198.51.100.7"), REFUSED.format("203.0.113.7"),
        "postfix/smtpd[1]: disconnect from c[203.0.113.7] ehlo=1 mail=1 rcpt=0/1 commands=2/3",
        "postfix/smtpd[1]: disconnect from c[198.51.100.7] ehlo=1 auth=1 rcpt=0/1 commands=2/3",
    ]  # fmt: skip
    told, counted, _ = read(*(line.replace("[1]", "").replace("[7]", "") for line in lines))
    assert (told, counted) == (["203.0.113.7"], 1)


def test_a_user_is_never_mined() -> None:
    """Nor where the first recipient was accepted, so that the message's line has the login."""
    refused = REFUSED.format("192.0.2.1").replace("554 5.7.1 <x@y.example>: Relay access denied",
        "550 5.1.1 <x@y.example>: Recipient address rejected: User unknown")  # fmt: skip
    for word in ("NOQUEUE", "4F3D00ABC"):
        lines = [*KNOWN[:2], refused.replace("NOQUEUE", word).replace("[1]", "[7]"), KNOWN[2]]
        assert not list(read(*lines)[2].guessing.take_refused())
        lines = [line.replace(", sasl_method=PLAIN, sasl_username=canary", "") for line in lines]
        lines[-1] = lines[-1].replace(" auth=1", "")
        assert list(read(*lines)[2].guessing.take_refused()), "the counter-proof"


def test_a_header_check_whose_message_began_before_the_log() -> None:
    check = (
        "postfix/cleanup[2]: 4F3D00ABD: reject: header Subject: x from c[198.51.100.7];"
        " from=<a@b.example> to=<x@y.example> proto=ESMTP helo=<h>: 5.7.1 no"
    )
    assert read(check)[0] == ["198.51.100.7"]
    assert read(*KNOWN, check)[0] == []
