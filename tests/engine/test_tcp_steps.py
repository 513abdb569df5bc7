"""On TCP the milter answers DATA, on a unix socket nobody sends it (decision 0023); real daemon."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from daemons import Daemon
from fix_store import AT
from gatepost_milter.filter.context import Context
from gatepost_milter.filter.gate import Gate
from gatepost_milter.mta import client, conversation
from gatepost_milter.mta.envelope import Envelope
from gatepost_milter.protocol.constants import SMFIP_NODATA, SMFIP_NR_DATA, SMFIP_NR_HDR
from gatepost_milter.protocol.negotiation import Offer
from gatepost_policy import journal, lookup, store, traps
from gatepost_policy.config.settings import Milter, Settings, Store
from ports import free_port

pytestmark = pytest.mark.slow

CONFIG = """
[milter]
socket = "SOCKET"
workers = 1
[trap]
action = "ACTION"
[store]
url = "sqlite:///{dir}/gatepost.sqlite"
"""
TRAP, GOOD, NEVER = "trap@example.net", "user@example.net", "never@example.net"
# What each generation of MTAs offers: version 2 (the first seven steps), 4 (those of Sendmail
# 8.14, without the ones that take an answer away), 6 as Postfix today, and that without NODATA.
OFFERS = {
    "2": (2, 0x7F & ~SMFIP_NR_HDR),
    "4": (4, 0x3FF & ~SMFIP_NR_HDR),
    "6": (6, conversation.OFFERED_STEPS),
    "6, DATA always": (6, conversation.OFFERED_STEPS & ~SMFIP_NODATA),
}


@pytest.mark.parametrize("action", ["reject", "accept"])
@pytest.mark.parametrize(
    ("socket", "left_out"),
    [("unix:{}/m.sock", True), ("inet:8894@127.0.0.1", False), ("inet6:8894@[::1]", False)],
)
def test_who_is_asked_for_data(tmp_path: Path, socket: str, left_out: bool, action: Any) -> None:
    """And no MTA is ever asked for what it did not offer."""
    settings = Settings(
        milter=Milter(socket=socket.format(tmp_path)),
        store=Store(url=f"sqlite:///{tmp_path}/x.sqlite"),
    )
    settings = replace(settings, trap=replace(settings.trap, action=action))
    context = Context(Gate(settings))
    for offered in (steps for _, steps in OFFERS.values()):
        steps = context.agree(Offer(conversation.OFFERED_ACTIONS, offered)).steps
        assert not steps & ~offered
        assert bool(steps & SMFIP_NODATA) is (left_out and bool(offered & SMFIP_NODATA))
        assert not steps & SMFIP_NR_DATA


@pytest.fixture(
    scope="module",
    params=[("tcp", "reject"), ("tcp", "tempfail"), ("tcp", "accept"), ("unix", "reject")],
    ids=" ".join,
)
def daemon(
    milter_engine: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Daemon, str, str]]:
    """The daemon, its socket, and what it does with a trap."""
    kind, action = request.param
    home = tmp_path_factory.mktemp(kind)
    place = f"unix:{home}/m.sock" if kind == "unix" else f"inet:{free_port()}@127.0.0.1"
    settings = Settings(store=Store(url=f"sqlite:///{home}/gatepost.sqlite"))
    database = store.open_engine(settings)
    with store.writing(database) as connection:
        traps.add(connection, TRAP, at=AT)
        lookup.publish(connection, home, settings)
    database.dispose()
    config = CONFIG.replace("SOCKET", place).replace("ACTION", action)
    with Daemon(config, home=home) as daemon:
        yield daemon, place, action


def recorded(home: Path) -> list[dict[str, Any]]:
    found = [p for path in journal.segments(home / "journal") for p in journal.read(path, 0)]
    return [p.data for p in found if p.data is not None]


@pytest.mark.milter
@pytest.mark.parametrize("sends_data", [True, False], ids=["DATA", "no DATA"])
@pytest.mark.parametrize("offer", OFFERS)
def test_every_message_of_a_connection(
    daemon: tuple[Daemon, str, str], offer: str, sends_data: bool
) -> None:
    """Mail, a trap at RCPT, RSET after DATA, mail again: each answer at its place, no mix-up."""
    process, place, action = daemon
    before = len(recorded(process.home))
    version, steps = OFFERS[offer]
    answered: list[bool] = []

    def data(session: conversation.MilterSession) -> str | None:
        if not sends_data:
            return None
        answered.append(not session.steps & SMFIP_NODATA)
        return send_data(session)

    send_data = conversation.MilterSession.data
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(conversation.MilterSession, "data", data)
        with client.Session(
            place, Envelope(recipients=(GOOD,)), timeout=10, version=version, steps=steps
        ) as session:
            assert session.send(message(1)).action == "accept"
            session.mail(session.envelope)
            session.rcpt(NEVER)
            assert session.milter is not None
            assert session.milter.data() is None
            session.rset()
            session.rset()
            assert session.send(message(2)).action == "accept"
            mixed = session.send(message(3), Envelope(recipients=(TRAP, GOOD)))
            # What a refused RCPT has looked at is not the header of the message that follows.
            assert b"forged" in mixed.queued
            assert b"forged" not in mixed.message
            # libmilter takes no body and no end right after DATA.
            assert session.send(b"\r\nno header\r\n").action == "accept"
            assert session.send(b"").action == "accept"
            assert session.send(message(4)).action == "accept"
    asked = place.startswith("inet:") or not steps & SMFIP_NODATA
    assert answered == ([asked] * 7 if sends_data else [])
    first = {"reject": "5", "tempfail": "4", "accept": "2"}[action]
    assert [reply[0] for reply in mixed.replies] == [first, "2"]
    assert mixed.action == "accept"
    got = recorded(process.home)[before:]
    assert [r["message_id"] for r in got if r["kind"] == "message"] == [
        "<1@x.example>", "<2@x.example>", "<3@x.example>", None, None, "<4@x.example>",
    ]  # fmt: skip
    assert NEVER not in json.dumps(got)


def message(number: int) -> bytes:
    """With a result that claims to be ours."""
    forged = f"Authentication-Results: {Envelope().mta}; dkim=pass header.d=forged.example"
    return (
        f"{forged}\r\nFrom: a@x.example\r\nMessage-ID: <{number}@x.example>\r\n\r\nHello\r\n"
    ).encode()
