"""Submitted mail through a real Postfix in each mode: nothing of the client in what is delivered.

The counter-proof stands beside each proof: without gatepost the same search finds the client.
"""

from collections.abc import Iterator

import pytest

import mta_modes
import mta_unpack
from canary import Canaries
from gatepost_policy.scrub import audit
from mta_modes import COLUMNS, MODES, Case, Stack
from postfix_instance import LOGIN, PostfixInstance, Setup

pytestmark = [pytest.mark.postfix, pytest.mark.timeout(300)]


@pytest.fixture(scope="module", params=(*MODES, "hide"))
def running(
    milter_engine: str,
    request: pytest.FixtureRequest,
    postfix_programs: mta_unpack.Programs,
    shown: list[str],
) -> Iterator[tuple[str, Stack]]:
    """One mode; `hide` is mta with smtpd_hide_client_session, where this Postfix has it."""
    if request.param == "hide" and not has(postfix_programs, "smtpd_hide_client_session"):
        reason = "this Postfix has no smtpd_hide_client_session (3.10 and later have)"
        if f"== mode hide   : {reason}" not in shown:
            shown.append(f"== mode hide   : {reason}")
        pytest.skip(reason)
    with mta_modes.stack(postfix_programs, request.param) as stack:
        yield request.param, stack


@pytest.fixture(scope="module")
def bare(postfix_programs: mta_unpack.Programs) -> Iterator[Stack]:
    with mta_modes.plain(postfix_programs) as stack:
        yield stack


def has(programs: mta_unpack.Programs, parameter: str) -> bool:
    """True where postconf knows the parameter."""
    with PostfixInstance(programs, Setup(), run=False) as made:
        return f"\n{parameter} =".encode() in made.command("postconf", "-d")


def leaking(data: bytes) -> list[str]:
    """Leaks the finder sees, without hints."""
    return [f"{f.name}: {f.tells}" for f in audit.find(data) if f.weight is audit.Weight.LEAK]


def header(data: bytes) -> bytes:
    return data.partition(b"\n\n")[0]


def received(data: bytes) -> list[bytes]:
    return [f.value for f in audit.fields(data) if f.name.lower() == "received"]


def test_matrix(running: tuple[str, Stack], shown: list[str]) -> None:
    mode, stack = running
    row = []
    for case in COLUMNS:
        canaries, delivered = mta_modes.submit(stack.postfix, case)
        for data in delivered:
            assert canaries.found(data) == (), (mode, case.name, data.decode(errors="replace"))
            assert leaking(data) == [], (mode, case.name, data.decode(errors="replace"))
        if case.name != "bounce":
            # Loop detection counts Received: the client's two are still two, plus our own hops.
            hops = 3 if mode != "proxy" else 4
            assert len(received(delivered[0])) == hops, delivered[0].decode(errors="replace")
        if case.name == "v4":
            text = header(delivered[0]).decode(errors="replace")
            shown += [f"-- mode {mode}, delivered header:", *("   " + x for x in text.split("\n"))]
        row.append(f"{case.name} clean")
    shown.append(f"== mode {mode:7}: " + ", ".join(row))


@pytest.mark.parametrize("case", COLUMNS, ids=lambda case: case.name)
def test_counter_proof(bare: Stack, case: Case) -> None:
    canaries, delivered = mta_modes.submit(bare.postfix, case)
    for data in delivered:
        got = canaries.found(data)
        # A port stands in no Received of Postfix; the others all do.
        assert set(got) >= {"address", "host name", "EHLO", "login"}, (case.name, got)
        if case.name != "bounce":
            assert leaking(data)


def test_direct_client(running: tuple[str, Stack], bare: Stack) -> None:
    """No XCLIENT: a client that really connects from an address of its own."""
    mode, stack = running
    for postfix, clean in ((stack.postfix, True), (bare.postfix, False)):
        client = postfix.submission(source="127.83.17.29", helo="laptop-4711.example")
        probe = Canaries("127.83.17.29", "no-such-ptr.example", "laptop-4711.example", LOGIN, 0)
        sent = client.send(mta_modes.message(probe), "alice@local.test", ["bob@local.test"])
        assert sent.code == 250, (mode, sent)
        (data,) = postfix.collect()
        got = Canaries(probe.address, probe.name, probe.helo, LOGIN, sent.port).found(data)
        assert (got == ()) is clean, data.decode(errors="replace")


def test_inbound_is_left_alone(running: tuple[str, Stack]) -> None:
    """Four Received and X-Mailer, byte for byte, in odd folding and 8-bit."""
    _, stack = running
    original = (
        b"Received: from a.example (a.example [192.0.2.1])\n\tby b.example with ESMTPSA id 1;\n"
        b" Fri, 20 Nov 2026 09:00:00 +0100\n"
        b"Received:from  c by d ;Fri, 20 Nov 2026 08:00:00 +0000\n"
        b"received: (qmail 1 invoked by uid 0); 20 Nov 2026 07:00:00 -0000\n"
        b"RECEIVED: \xe9 from [10.0.0.1]\n\t\t by e; Fri, 20 Nov 2026 06:00:00 +0000\n"
        b"X-Mailer: Stranger 1\nX-Originating-IP: [10.0.0.1]\nSubject: in\n\nhello\n"
    )
    sent = stack.postfix.inbound().send(original, "x@example.net", ["bob@local.test"])
    assert sent.code == 250, sent
    (data,) = stack.postfix.collect()
    # Authentication-Results may stand in between; nothing of the original has changed.
    assert original in data, data.decode(errors="replace")


def test_attached_message_is_untouched(running: tuple[str, Stack]) -> None:
    _, stack = running
    inner = (
        b"Received: from laptop ([192.168.1.2]) by mx.local.test (Postfix) with ESMTPSA id 9\n"
        b"\tfor <x@y>; Fri, 20 Nov 2026 09:00:00 +0000\nX-Mailer: Inner 1\nSubject: in\n\ntext\n"
    )
    outer = (
        b"From: alice@local.test\nTo: bob@local.test\nSubject: fwd\nX-Mailer: Outer 1\n"
        b'MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary="b1"\n\n'
        b"--b1\nContent-Type: message/rfc822\n\n" + inner + b"\n--b1--\n"
    )
    sent = stack.postfix.submission().send(outer, "alice@local.test", ["bob@local.test"])
    assert sent.code == 250, sent
    (data,) = stack.postfix.collect()
    assert inner in data
    assert b"Outer 1" not in data


def test_refused_in_the_session(running: tuple[str, Stack]) -> None:
    """Unknown user: 550 at RCPT, while another recipient of the same message is taken."""
    mode, stack = running
    client = stack.postfix.submission()
    sent = client.send(b"Subject: x\n\nx\n", "alice@local.test",
                       ["nobody1@local.test", "bob@local.test"])  # fmt: skip
    if mode != "proxy":  # there the recipe's second hop has no user table to ask
        assert sent.rcpt["nobody1@local.test"].startswith("550"), sent
    assert sent.code == 250, sent
    stack.postfix.settle()
    stack.postfix.collect()
