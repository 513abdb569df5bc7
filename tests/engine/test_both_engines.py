"""Both engines are played the same conversations: the same answers, the same records.

Left out, because there the native engine is more lenient on purpose (`engine.dialogue`): text that
is not UTF-8, a body in the end-of-message packet, SMFIC_QUIT_NC, packets over 64 kB, and what comes
before a negotiation.
"""

import random
import re
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from daemons import ENGINES, Daemon
from gatepost_milter.protocol import constants as c
from gatepost_milter.protocol.packets import packet
from gatepost_policy import journal

pytestmark = [pytest.mark.milter, pytest.mark.one_engine, pytest.mark.slow]

CONFIG = """
[milter]
engine = "ENGINE"
socket = "unix:{dir}/m.sock"
workers = 1
[store]
url = "sqlite:///{dir}/gatepost.sqlite"
submission = "full"
"""
ROUNDS = 90
NR = c.NO_REPLIES
OFFERS = [(6, 0x1FF, 0x1FFFFF), (6, 0x1FF, 0x1FFFFF & ~c.SMFIP_NODATA), (4, 0x3F, 0x3FF & ~NR),
          (2, 0x1F, 0x7F & ~NR), (6, 0x8, 0x1FFFFF)]  # fmt: skip
PIECES = {
    "connect": packet(c.SMFIC_CONNECT, b"mail.example.org\x004\x0f\xa0192.0.2.9\0"),
    "helo": packet(c.SMFIC_HELO, b"mail.example.org\0"),
    "login": packet(c.SMFIC_MACRO, b"M{auth_authen}\0alice\0i\x004ABC\0"),
    "macros": packet(c.SMFIC_MACRO, b"Cj\0mx.example.net\0{daemon_name}\0smtpd\0v\0Postfix 3.7\0"),
    "mail": packet(c.SMFIC_MAIL, b"<a@example.org>\0SIZE=1\0"),
    "null": packet(c.SMFIC_MAIL, b"<>\0"),
    "rcpt": packet(c.SMFIC_RCPT, b"<b@example.net>\0"),
    "data": packet(c.SMFIC_DATA),
    "from": packet(c.SMFIC_HEADER, b"From\0 a@example.org\0"),
    "forged": packet(c.SMFIC_HEADER, b"Authentication-Results\0 mx.example.net; dkim=pass\0"),
    "mailer": packet(c.SMFIC_HEADER, b"X-Mailer\0 x\n\ty\0"),
    "eoh": packet(c.SMFIC_EOH),
    "body": packet(c.SMFIC_BODY, b"Hello\r\n" * 50),
    "end": packet(c.SMFIC_BODYEOB),
    "abort": packet(c.SMFIC_ABORT),
    "unknown": packet(c.SMFIC_UNKNOWN, b"XYZZY\0"),
    "strange": packet(0x5A),
}
TIME = re.compile(rb"\w{3}, \d+ \w{3} \d{4} [\d:]{8}")  # the two are not asked at once
START = ["macros", "connect", "helo"]
MESSAGE = ["mail", "rcpt", "from", "forged", "mailer", "eoh", "body", "end"]


@pytest.fixture(scope="module", params=OFFERS, ids=lambda o: f"{o[0]}-{o[1]:x}-{o[2]:x}")
def offer(request: pytest.FixtureRequest) -> bytes:
    """What the MTA offers. libmilter keeps for all connections of a process which steps one of them
    left out, so each offer has a process of its own."""
    return packet(c.SMFIC_OPTNEG, struct.pack("!III", *request.param))


@pytest.fixture(scope="module")
def daemons(offer: bytes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Daemon]]:
    """One on each engine."""
    running = []
    try:
        for engine in ENGINES:
            home = tmp_path_factory.mktemp(engine)
            running.append(Daemon(CONFIG.replace("ENGINE", engine), home=home))
        yield running
    finally:
        for daemon in running:
            daemon.stop()


def conversation(rng: random.Random, offer: bytes) -> list[bytes]:
    """Negotiation, some messages, each with pieces left out, doubled, moved or strange; QUIT."""
    words = list(START)
    for _ in range(rng.randint(1, 3)):
        message = [*(["login"] if rng.random() < 0.2 else []), *MESSAGE]
        if rng.random() < 0.2:
            message[message.index("mail")] = "null"
        for _ in range(rng.choice([0, 0, 1, 2, 4])):
            at = rng.randrange(len(message))
            what = rng.choice(["out", "double", "move", "other"])
            if what == "out":
                del message[at]
            elif what == "double":
                message.insert(at, message[at])
            elif what == "move":
                message.insert(rng.randrange(len(message)), message.pop(at))
            else:
                message.insert(at, rng.choice(sorted(PIECES)))
            if not message:
                break
        words += message
    return [offer, *(PIECES[word] for word in words), packet(c.SMFIC_QUIT)]


def play(daemon: Daemon, pieces: list[bytes]) -> bytes:
    """All that is answered until the connection ends."""
    out = b""
    with socket.socket(socket.AF_UNIX) as mta:
        mta.settimeout(60)
        mta.connect(str(daemon.home / "m.sock"))
        with suppress(ConnectionError):  # it had ended the conversation
            for piece in pieces:
                mta.sendall(piece)
        with suppress(ConnectionError):
            while data := mta.recv(65536):
                out += data
    return out


def answers(out: bytes) -> list[bytes]:
    """The packets of `out`. SKIP is the native engine's own: it stands for CONTINUE."""
    found = []
    while out:
        size = struct.unpack_from("!I", out)[0]
        one, out = out[4 : 4 + size], out[4 + size :]
        found.append(b"c" if one == b"s" else TIME.sub(b"", one))
    return found


def records(daemon: Daemon) -> list[dict[str, Any]]:
    """What is in the journal, without times."""
    found = []
    for path in journal.segments(daemon.home / "journal"):
        for piece in journal.read(path, 0):
            if piece.data is not None:
                found.append({k: v for k, v in piece.data.items() if k not in ("at", "instance")})
    return found


@pytest.mark.parametrize("cut", ["whole", "packets", "octets"])
def test_the_same(daemons: list[Daemon], offer: bytes, cut: str) -> None:
    """Answers and records agree, conversation by conversation."""
    rng = random.Random(cut)
    seen = [len(records(daemon)) for daemon in daemons]
    for number in range(ROUNDS if cut == "whole" else ROUNDS // 6):
        pieces = conversation(rng, offer)
        if cut == "whole":
            pieces = [b"".join(pieces)]
        elif cut == "octets":
            pieces = [bytes([octet]) for octet in b"".join(pieces)]
        got = [answers(play(daemon, pieces)) for daemon in daemons]
        assert got[0] == got[1], (number, pieces)
        now = [records(daemon) for daemon in daemons]
        assert now[0][seen[0] :] == now[1][seen[1] :], (number, pieces)
        seen = [len(found) for found in now]


def test_it_would_see_a_difference(daemons: list[Daemon], offer: bytes) -> None:
    """The comparison fires: another sender is another record, another field another answer."""
    words = [offer, *(PIECES[word] for word in START + MESSAGE), packet(c.SMFIC_QUIT)]
    seen = [len(records(daemon)) for daemon in daemons]
    other = [PIECES["null"] if w == PIECES["mail"] else w for w in words]
    got = [answers(play(d, x)) for d, x in zip(daemons, (words, other), strict=True)]
    now = [records(daemon)[n:] for daemon, n in zip(daemons, seen, strict=True)]
    assert now[0] != now[1]
    assert len(got[0]) > 1
