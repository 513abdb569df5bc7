"""Connections that are slow, silent or greedy, against the server in this process."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from fix_store import settings_in
from from_table import from_table
from gatepost_policy.config.settings import Policy
from gatepost_policy.journal.record import Json
from gatepost_policy.lookup import KnownState
from gatepost_policy.monitoring.maillog import MailLog
from gatepost_policy.policyd import protocol, server, service
from gatepost_policy.policyd.service import Service
from policy_client import postfix_request

pytestmark = pytest.mark.slow

Talk = Callable[[server.Server, str], Awaitable[None]]


class Shelf:
    """A journal that keeps its records here."""

    def __init__(self) -> None:
        self.records: list[Json] = []

    def write(self, obj: Json) -> bool:
        self.records.append(obj)
        return True


def house(directory: Path, **policy: Any) -> tuple[Service, Shelf]:
    path = f"unix:{directory}/p"
    settings = settings_in(directory, policy=from_table(Policy, {"listen": path, **policy}))
    shelf = Shelf()
    return Service(settings, KnownState(settings), shelf, MailLog(settings.log)), shelf


def run(directory: Path, talk: Talk, **policy: Any) -> None:
    async def main() -> None:
        serving = server.Server(house(directory, **policy)[0])
        await serving.listen()
        sweeping = asyncio.create_task(serving.sweep())
        try:
            await asyncio.wait_for(talk(serving, f"{directory}/p"), 60)
        finally:
            sweeping.cancel()
            await serving.close()

    asyncio.run(main())


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "SWEEP_S", 0.02)
    monkeypatch.setattr(server, "PARTIAL_S", 0.3)


def test_a_request_that_never_ends(tmp_path: Path) -> None:
    """Drop by drop, so that the line is never silent: what counts is when the request began."""

    async def talk(serving: server.Server, path: str) -> None:
        reader, writer = await asyncio.open_unix_connection(path)
        closed = asyncio.create_task(reader.read())
        while not closed.done():
            writer.write(b"a")
            await asyncio.sleep(0.02)
        # A drop that was on its way makes it a reset.
        assert isinstance(closed.exception(), ConnectionError | None)
        writer.close()
        assert not serving.doors

    run(tmp_path, talk)


def test_silence_is_closed_and_talk_is_not(tmp_path: Path) -> None:
    async def talk(serving: server.Server, path: str) -> None:
        reader, writer = await asyncio.open_unix_connection(path)
        silent, _ = await asyncio.open_unix_connection(path)
        gone = asyncio.create_task(silent.read())
        asked = 0
        while not gone.done():
            writer.write(postfix_request("u@home.example"))
            assert await reader.readuntil(b"\n\n") == b"action=DUNNO\n\n"
            asked += 1
            await asyncio.sleep(0.1)
        assert asked > 5
        assert len(serving.doors) == 1
        writer.close()

    run(tmp_path, talk, idle=1)


def test_answers_that_nobody_reads(tmp_path: Path) -> None:
    """Back-pressure: a client that only writes is not read any more, and costs no memory."""

    async def talk(serving: server.Server, path: str) -> None:
        reader, writer = await asyncio.open_unix_connection(path)
        request = postfix_request("u@home.example")
        sent = 0
        try:
            while sent < 200_000:
                writer.write(request * 100)
                await asyncio.wait_for(writer.drain(), 1.0)
                sent += 100
        except TimeoutError:
            pass
        assert sent < 200_000, "everything was taken in"
        (door,) = serving.doors
        assert door._transport is not None
        assert door._transport.get_write_buffer_size() < 4_000_000
        assert await reader.readuntil(b"\n\n") == b"action=DUNNO\n\n"
        writer.transport.abort()

    run(tmp_path, talk)


def test_empty_lines_without_end(tmp_path: Path) -> None:
    """They ask nothing, but reading them is work."""

    async def talk(serving: server.Server, path: str) -> None:
        reader, writer = await asyncio.open_unix_connection(path)
        for number in range(150):  # some between requests are nothing
            writer.write(b"\n")
            if number % 50 == 0:
                writer.write(postfix_request("u@home.example"))
                assert await reader.readuntil(b"\n\n") == b"action=DUNNO\n\n"
        writer.write(b"\n" * 500)
        assert await reader.read() == b"action=DUNNO\n\n"
        writer.close()

    run(tmp_path, talk)


def test_who_never_stops_asking_waits_his_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between a few of his requests the others are answered, however much he sends at once."""

    async def talk(serving: server.Server, path: str) -> None:
        _, flood = await asyncio.open_unix_connection(path)
        reader, writer = await asyncio.open_unix_connection(path)
        answered = 0
        taken = serving.service.answer

        def counted(*args: Any, **more: Any) -> bytes:
            nonlocal answered
            answered += 1
            return taken(*args, **more)

        monkeypatch.setattr(serving.service, "answer", counted)
        flood.write(postfix_request("u@home.example") * 2_000)
        writer.write(postfix_request("u@home.example"))
        assert await reader.readuntil(b"\n\n") == b"action=DUNNO\n\n"
        assert answered < 1_000
        flood.transport.abort()
        writer.close()

    run(tmp_path, talk)


def test_a_bug_is_dunno_and_loud(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("canary@secret.example")

    async def talk(serving: server.Server, path: str) -> None:
        monkeypatch.setattr(serving.service, "facts", broken)
        reader, writer = await asyncio.open_unix_connection(path)
        for _ in range(3):
            writer.write(postfix_request("u@home.example"))
            assert await reader.readuntil(b"\n\n") == b"action=DUNNO\n\n"
        writer.close()

    run(tmp_path, talk)
    said = capfd.readouterr().err
    assert said.count("event=internal-error") == 3 and "RuntimeError" in said
    assert "canary" not in said


def test_signatures_wait_within_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten to a message, PENDING_MAX messages, ten minutes; the oldest goes first."""
    monkeypatch.setattr(service, "PENDING_MAX", 50)
    desk, shelf = house(tmp_path)

    def ask(line: str) -> None:
        (request,) = protocol.Reader(4096).feed(line.encode() + b"\n")
        facts = desk.facts(request)
        if facts is not None:
            desk.answer(request, facts, desk.known.lookup(facts))

    for number in range(100):
        for _ in range(15):
            ask(f"exim stage=dkim id={number} status=pass domain=a.example")
    assert len(desk._pending) == 50
    for number in (99, 0):
        ask(f"exim stage=data id={number} client_address=192.0.2.1 recipients=u@home.example")
    kept, lost = shelf.records
    assert (len(kept["signatures"]), len(lost["signatures"])) == (10, 0)
    monkeypatch.setattr(service, "PENDING_S", 0.0)
    desk.tick()
    assert not desk._pending


VERDICTS = [("", "accept"), ("accept", "accept"), ("reject", "reject"), ("tempfail", "tempfail"),
            ("discard", "discard"), ("nonsense", "accept")]  # fmt: skip


@pytest.mark.parametrize(("verdict", "want"), VERDICTS)
def test_what_exim_has_decided_is_recorded(tmp_path: Path, verdict: str, want: str) -> None:
    desk, shelf = house(tmp_path)
    line = "exim stage=data id=1 client_address=192.0.2.1 recipients=u@home.example "
    line += f"verdict={verdict}\n"
    (request,) = protocol.Reader(4096).feed(line.encode())
    facts = desk.facts(request)
    assert facts is not None
    assert desk.answer(request, facts, desk.known.lookup(facts)) == b"OK\n"
    assert [(r["action"], r["reason"]) for r in shelf.records] == [(want, "no-bad-signal")]


def test_only_what_is_decided_is_recorded(tmp_path: Path) -> None:
    desk, shelf = house(tmp_path)
    (request,) = protocol.Reader(4096).feed(postfix_request("u@home.example"))
    facts = desk.facts(request)
    assert facts is not None
    assert desk.answer(request, facts, desk.known.lookup(facts)) == b"action=DUNNO\n\n"
    assert shelf.records == []


def test_a_disk_that_is_waited_for_holds_nobody_else_up(tmp_path: Path) -> None:
    """`store.sync = "power"`: while one record is on its way to the disk, others are answered."""
    path = f"unix:{tmp_path}/p"
    settings = settings_in(
        tmp_path,
        policy=from_table(Policy, {"listen": path}),
        store={"sync": "power"},
    )
    disk = threading.Event()

    class Slow(Shelf):
        def write(self, obj: Json) -> bool:
            return disk.wait(30) and super().write(obj)

    shelf = Slow()
    desk = Service(settings, KnownState(settings), shelf, MailLog(settings.log))
    report = b"exim stage=data id=1 client_address=192.0.2.1 recipients=u@home.example\n"

    async def main() -> None:
        serving = server.Server(desk)
        await serving.listen()
        reader, writer = await asyncio.open_unix_connection(f"{tmp_path}/p")
        other, asking = await asyncio.open_unix_connection(f"{tmp_path}/p")
        writer.write(report + report)
        asking.write(postfix_request("u@home.example"))
        assert await asyncio.wait_for(other.readuntil(b"\n\n"), 30) == b"action=DUNNO\n\n"
        assert shelf.records == []
        disk.set()
        assert await asyncio.wait_for(reader.readexactly(6), 30) == b"OK\nOK\n"
        assert len(shelf.records) == 2
        for end in (writer, asking):
            end.close()
        await serving.close()

    asyncio.run(main())


def test_a_state_directory_that_cannot_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    config = tmp_path / "gatepost.toml"
    config.write_text(f'store.url = "sqlite:///{tmp_path}/file/deep/gatepost.sqlite"\n')
    with pytest.raises(SystemExit) as end:
        server.main(["--config", str(config)])
    assert end.value.code == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert "state directory" in line and "store.url" in line
