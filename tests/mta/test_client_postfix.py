"""The harness and a real Postfix give the same delivered header for the same message and edits.

What the harness plays was measured by hand; here both are asked again. The rows are odd messages,
the table of edits the harness is tested with, and random lists of edits from a fixed seed.
"""

import json
import random
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import mta_unpack
from daemons import Daemon
from fix_harness import Probe
from gatepost_milter.mta import client
from gatepost_milter.mta.envelope import Envelope
from gatepost_milter.mta.queue_file import POSTFIX_DROP
from mta_modes import BASE_CONFIG
from postfix_instance import HOST, LOGIN, PostfixInstance, Setup
from probe_edits import TABLE, TWO

pytestmark = [pytest.mark.postfix, pytest.mark.timeout(300)]

DELIVERY = (b"Return-Path:", b"X-Original-To:", b"Delivered-To:")
DATE = re.compile(rb"[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d \+0000(?: \(UTC\))?")
QUEUE_ID = re.compile(rb"\bid [0-9A-F]{8,14}\b")

MESSAGES = {
    "plain": b"Subject: x\n\nbody\n",
    "no header": b"\nbody\n",
    "no header, no empty line": b"body without a header\nmore: of it\n",
    "only a header": b"Subject: x\n",
    "odd spacing": b"A:\nB: \nC:  two\nD:\ttab\nE :x\nF:x \n\nb\n",
    "folding": b"A: one\n two\n\tthree\n\t\n four\nReceived: from a\n by b\n\nb\n",
    "starts with a fold": b" folded\nSubject: x\n\nb\n",
    "8-bit": b"A: \xe4\xc3\xb6\xff\nSubject: \x80\n\n\xff\n",
    "8-bit name": b"A: 1\nB\xe4: 2\nC: 3\n\nb\n",
    "no colon": b"A: 1\nnot a field\nC: 3\n\nb\n",
    "From_ line": b"From x Fri Nov 20 10:00:00 2026\nA: 1\n\nb\n",
    ">From_ line": b">From x Fri Nov 20 10:00:00 2026\nA: 1\n\nb\n",
    "long line": b"A: " + b"x" * 20_000 + b"\nB: 2\n\nb\n",
    "long field": b"A: 0\n" + b" y\n" * 21_000 + b"B: 2\n\nb\n",
    "case": b"RECEIVED: from a\nreceived: from b\nx-Mailer: c\n\nb\n",
    "repeated": b"X: 1\nX: 2\nx: 3\nY: 4\nX: 5\n\nb\n",
    "Bcc and others Postfix drops": b"Bcc: a\nContent-Length: 5\nReturn-Path: <x>\nA: 1\n\nb\n",
    "NUL": b"A: a\x00b\nB: 2\n\nb\x00c\n",
    "bare CR": b"A: a\rb\nB: 2\n\nb\rc\n",
}  # fmt: skip


def random_ops(seed: int) -> list[list[Any]]:
    """Some edits on fields that are there, and on some that are not."""
    pick = random.Random(seed)
    ops: list[list[Any]] = []
    for _ in range(pick.randint(1, 6)):
        name = pick.choice(["Received", "received", "Subject", "X-A", "X-B"])
        value = pick.choice(["", " v", " v\n\tw", "v", "\n\tby gate", " from x"])
        kind = pick.choice(["chg", "chg", "ins", "add"])
        if kind == "chg":
            ops.append(["chg", name, pick.randint(0, 4), value])
        elif kind == "ins":
            ops.append(["ins", name, pick.randint(0, 6), value or " v"])
        else:
            ops.append(["add", name, value or " v"])
    return ops


def rows() -> Iterator[tuple[str, bytes]]:
    yield from MESSAGES.items()

    def probed(ops: list[list[Any]], head: bytes = TWO) -> bytes:
        return head + b"X-Probe: " + json.dumps(ops).encode() + b"\n\nbody\n"

    for what, ops, _ in TABLE:
        yield what, probed(ops)
    for seed in range(60):
        yield f"random {seed}", probed(random_ops(seed), TWO + b"X-A: 1\nX-B: 2\nX-A: 3\n")


@pytest.fixture(scope="module")
def probe() -> Iterator[Probe]:
    """The probe milter on a unix socket that the postfix user may connect to."""
    home = Path(tempfile.mkdtemp(prefix="gatepost-probe-"))
    home.chmod(0o755)
    running = Probe(home, "leadspc")
    (home / "probe.sock").chmod(0o666)
    yield running
    running.stop()
    shutil.rmtree(home)


@pytest.fixture(scope="module")
def daemon(milter_engine: str) -> Iterator[Daemon]:
    with Daemon(BASE_CONFIG) as running:
        yield running


@pytest.fixture(scope="module")
def postfix(
    postfix_programs: mta_unpack.Programs, probe: Probe, daemon: Daemon
) -> Iterator[PostfixInstance]:
    setup = Setup(
        main={"smtpd_milters": probe.socket},
        submission={"smtpd_milters": daemon.socket},
    )
    with PostfixInstance(postfix_programs, setup) as running:
        yield running


def version(postfix: PostfixInstance) -> str:
    return postfix.command("postconf", "-hx", "mail_version").decode().strip()


def header(message: bytes) -> bytes:
    """The header as both sides can agree on it: without delivery's fields, ids and dates."""
    lines = message.replace(b"\r\n", b"\n").partition(b"\n\n")[0].split(b"\n")
    text = b"\n".join(x for x in lines if not x.startswith(DELIVERY))
    text = text.rstrip(b"\n")  # of a message that is only a header
    return QUEUE_ID.sub(b"id Q", DATE.sub(b"DATE", text))


def play(milter: str, message: bytes, envelope: Envelope) -> client.Result:
    """The harness with what this Postfix does before any milter: both are left out by default, so
    that a saved message replays as it is (message_drop_headers, cleanup_replace_stray_cr_lf)."""
    stray = re.sub(rb"\r(?!\n)", b" ", message)
    with client.Session(milter, envelope, drop=POSTFIX_DROP) as session:
        return session.send(stray)


ROWS = list(rows())


@pytest.mark.parametrize("name, message", ROWS, ids=[name for name, _ in ROWS])
def test_same_header(name: str, message: bytes, postfix: PostfixInstance, probe: Probe) -> None:
    sent = postfix.inbound().send(message, "x@example.org", ["bob@local.test"])
    assert sent.code == 250, (name, sent, postfix.log_text())
    (delivered,) = postfix.collect()
    played = play(probe.socket, message, Envelope(
        client="127.0.0.1", helo="client.example", sender="x@example.org",
        recipients=("bob@local.test",), mta=HOST, version=f"Postfix {version(postfix)}",
    ))  # fmt: skip
    assert played.action == "accept", played
    assert header(played.message) == header(delivered), name


@pytest.mark.parametrize("name", MESSAGES)
def test_same_header_of_a_submission(name: str, postfix: PostfixInstance, daemon: Daemon) -> None:
    """The same through gatepost itself: what `replay` shows is what Postfix would deliver."""
    message = MESSAGES[name]
    sent = postfix.submission().send(message, "alice@local.test", ["bob@local.test"])
    played = play(f"inet:{daemon.port}@127.0.0.1", message, Envelope(
        client="127.0.0.1", helo="client.example", sender="alice@local.test", login=LOGIN,
        recipients=("bob@local.test",), mta=HOST, version=f"Postfix {version(postfix)}",
    ))  # fmt: skip
    assert (sent.code == 250) is (played.action == "accept"), (sent, played)
    if sent.code == 250:
        (delivered,) = postfix.collect()
        assert header(played.message) == header(delivered), name
    else:
        assert sent.final[:9] == played.reply[:9]
