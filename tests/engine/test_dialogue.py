"""The native engine's dialogue: hostile and odd conversations, without a socket."""

import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gatepost_milter.engine.dialogue import Dialogue
from gatepost_milter.filter.context import Context
from gatepost_milter.filter.gate import Gate
from gatepost_milter.protocol import constants as c
from gatepost_milter.protocol.packets import packet
from gatepost_policy.config.settings import Milter, Settings, Store

pytestmark = pytest.mark.slow

OFFER = packet(c.SMFIC_OPTNEG, struct.pack("!III", 6, 0x1FF, 0x1FFFFF))
OLD = packet(c.SMFIC_OPTNEG, struct.pack("!III", 2, 0x1F, 0x7F & ~0x40 | c.SMFIP_SKIP))
CONNECT = packet(c.SMFIC_CONNECT, b"mail.example.org\x004\x0f\xa0192.0.2.9\0")
HELO = packet(c.SMFIC_HELO, b"mail.example.org\0")
MAIL = packet(c.SMFIC_MAIL, b"<a@example.org>\0")
RCPT = packet(c.SMFIC_RCPT, b"<b@example.net>\0")
FIELD = packet(c.SMFIC_HEADER, b"From\0 a@example.org\0")
EOH = packet(c.SMFIC_EOH)
BODY = packet(c.SMFIC_BODY, b"x\r\n")
END = packet(c.SMFIC_BODYEOB)
ABORT, QUIT, NEXT = packet(c.SMFIC_ABORT), packet(c.SMFIC_QUIT), packet(c.SMFIC_QUIT_NC)
MESSAGE = MAIL + RCPT + FIELD + BODY + END
WHOLE = OFFER + CONNECT + HELO + MESSAGE


@pytest.fixture
def context(tmp_path: Path) -> Iterator[Context]:
    """A worker's context; what it would journal is in `context.records`."""
    gate = Gate(
        Settings(
            milter=Milter(socket=f"unix:{tmp_path}/m.sock"),
            store=Store(url=f"sqlite:///{tmp_path}/x.sqlite", submission="full"),
        )
    )
    records: list[dict[str, Any]] = []

    def keep(entry: dict[str, Any]) -> bool:
        records.append(entry)
        return True

    gate.journal.write = keep  # type: ignore[method-assign, assignment]
    gate.log.descriptor = -1
    made = Context(gate)
    made.records = records  # type: ignore[attr-defined]
    yield made


def say(context: Context, *pieces: bytes) -> tuple[Dialogue, bytes]:
    """A dialogue that was fed with `pieces`, and all it said."""
    dialogue = Dialogue(context)
    out = b""
    for piece in pieces:
        out += dialogue.feed(piece)
        while dialogue.blocked:
            dialogue.work()
            out += dialogue.feed(b"")
        if dialogue.over:
            break
    return dialogue, out


def answers(out: bytes) -> str:
    """The commands of the answers, one letter each."""
    found = ""
    while out:
        size = struct.unpack_from("!I", out)[0]
        found += chr(out[4])
        out = out[4 + size :]
    return found


def test_a_whole_conversation(context: Context) -> None:
    """Negotiation, one edit, one answer; nothing where nobody waits."""
    dialogue, out = say(context, WHOLE)
    assert answers(out) == "Oic"
    assert not dialogue.over
    dialogue.close()
    assert not context.open and not context.busy


@pytest.mark.parametrize(
    ("octets", "want", "over"),
    [
        (CONNECT, "", True),  # nothing goes without a negotiation
        (MAIL, "", True),
        (BODY, "", True),
        (FIELD, "", True),
        (QUIT, "", True),
        (OFFER + OFFER, "O", False),  # a second one is passed over
        (OFFER + CONNECT + END, "O", False),  # out of order: passed over, as by libmilter
        (OFFER + CONNECT + RCPT, "O", False),
        (OFFER + CONNECT + BODY, "O", False),
        (OFFER + CONNECT + MAIL + END, "O", False),
        (OFFER + CONNECT + MAIL + MESSAGE, "Oic", False),  # the first one is over
        (WHOLE + MESSAGE, "Oicic", False),
        (WHOLE + ABORT + ABORT + MESSAGE, "Oicic", False),
        (WHOLE + NEXT + CONNECT + HELO + MESSAGE, "Oicic", False),
        (WHOLE + packet(c.SMFIC_UNKNOWN, b"XYZZY\0"), "Oicc", False),
        (WHOLE + QUIT + MESSAGE, "Oic", True),
        (WHOLE + packet(0x5A), "Oic", True),
        (WHOLE + packet(c.SMFIC_MAIL), "Oic", True),
        (WHOLE + packet(c.SMFIC_MAIL, b"no end"), "Oic", True),
        (OFFER + packet(c.SMFIC_CONNECT, b"x"), "O", True),
        (OFFER + CONNECT + packet(c.SMFIC_MACRO, b"Z") + MESSAGE, "Oic", False),
        (OFFER + CONNECT + packet(c.SMFIC_MACRO, b"Ci\0") + MESSAGE, "Oic", False),
        (OFFER + CONNECT + packet(c.SMFIC_MACRO), "O", True),
        (packet(c.SMFIC_OPTNEG, b"\0\0\0\6"), "", True),
        (packet(c.SMFIC_OPTNEG, struct.pack("!III", 1, 1, 1)), "", True),
        (WHOLE + b"\0\0\0\0M", "Oic", True),
    ],
)
def test_order(context: Context, octets: bytes, want: str, over: bool) -> None:
    """Each conversation, whole and octet by octet: what it is answered, and whether it ends."""
    for pieces in ((octets,), tuple(bytes([o]) for o in octets)):
        dialogue, out = say(context, *pieces)
        assert (answers(out), dialogue.over) == (want, over)
        dialogue.close()
    assert not context.open and not context.busy


def test_an_old_mta_gets_its_answers(context: Context) -> None:
    """Without SMFIP_NR_* each step is answered; SKIP ends a submission's body."""
    login = packet(c.SMFIC_MACRO, b"M{auth_authen}\0alice\0")
    start = OLD + CONNECT + HELO
    dialogue, out = say(context, start + MAIL + RCPT + FIELD + EOH + BODY + BODY + END)
    assert answers(out) == "O" + "cc" + "cc" + "c" + "c" + "cc" + "ic"
    dialogue.close()
    dialogue, out = say(context, start + login + MAIL + RCPT + FIELD + EOH + BODY + END)
    assert answers(out) == "Occccccsy"  # unscrubbed it may not go: no leading space
    dialogue.close()


def test_macros(context: Context) -> None:
    """One letter with or without braces; the newest stage counts; an earlier one forgets later
    ones; what is not UTF-8 was sent all the same."""
    dialogue, _ = say(context, OFFER, packet(c.SMFIC_MACRO, b"C{j}\0mx\0v\0one\0v\0two\0"), CONNECT)
    assert [dialogue.macro(n) for n in ("j", "v", "i", "{daemon_name}")] == [
        "mx",
        "one",
        None,
        None,
    ]
    say_more = dialogue.feed
    say_more(packet(c.SMFIC_MACRO, b"M{auth_authen}\0al\xffice\0j\0other\0i\0\0") + MAIL)
    assert dialogue.macro("{auth_authen}") == "\ufffd"
    assert dialogue.macro("j") == "other"
    assert dialogue.macro("i") is None
    say_more(packet(c.SMFIC_MACRO, b"R{i}\x004ABC\0") + RCPT)
    assert dialogue.macro("i") == "4ABC"
    say_more(packet(c.SMFIC_MACRO, b"Mx\0y\0") + MAIL)
    assert dialogue.macro("i") is None
    assert dialogue.macro("{auth_authen}") is None
    dialogue.close()


PIECES = [OFFER, OLD, CONNECT, HELO, MAIL, RCPT, FIELD, EOH, BODY, END, ABORT, NEXT,
          packet(c.SMFIC_MACRO, b"M{auth_authen}\0alice\0"), packet(c.SMFIC_DATA),
          packet(c.SMFIC_UNKNOWN, b"X\0")]  # fmt: skip


@given(
    st.lists(st.sampled_from(PIECES), max_size=30),
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=4),
    st.booleans(),
)
@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_hostile(
    context: Context, pieces: list[bytes], changes: list[tuple[int, int]], negotiated: bool
) -> None:
    """Any conversation, octets changed at will: never an exception, nothing left behind, and as
    many records as messages were answered."""
    octets = bytearray((OFFER if negotiated else b"") + b"".join(pieces))
    for place, octet in changes:
        if octets:
            octets[place % len(octets)] = octet
    context.records.clear()  # type: ignore[attr-defined]
    dialogue, _ = say(context, bytes(octets))
    dialogue.close()
    assert not context.open and not context.busy
    assert all(not r.get("failed") for r in context.records)  # type: ignore[attr-defined]


def test_a_bug_of_ours_ends_in_the_stance(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception inside the gate is the session's to handle; the MTA gets an answer."""

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("broken on purpose")

    monkeypatch.setattr(Gate, "finish", broken)
    dialogue, out = say(context, WHOLE)
    assert answers(out) == "Oc"
    dialogue.close()


def test_native_needs_no_pymilter() -> None:
    """All of the service but the libmilter engine comes in without it."""
    code = (
        "import sys\n"
        "sys.modules['milter'] = sys.modules['Milter'] = None\n"
        "import gatepost_milter.engine.daemon, gatepost_milter.engine.native\n"
        "from gatepost_milter.engine import engines\n"
        "engines.load('native')\n"
        "try:\n"
        "    engines.load('libmilter')\n"
        "except engines.ConfigError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pymilter is not installed" in done.stdout
