"""kill -9 at random moments: what the MTA was answered is in the store, exactly once.

$GATEPOST_CRASH_ROUNDS (10) rounds for each database; `make crash` runs 200.
"""

import os
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import sums
from crash_driver import CONNECTIONS, Books, Feeder, Milter, crash, journal_is_empty
from fix_store import new_server, settings_in
from gatepost_policy import recorder, store, traps
from gatepost_policy.config.settings import Settings
from gatepost_policy.store import migrate
from postgresql_server import Server

# A gate that writes down later what is answered now.
REPLY_FIRST = """
import sys, threading
from gatepost_milter.engine import daemon
from gatepost_milter.filter.gate import Gate
write = Gate.write_down
Gate.write_down = lambda *args: threading.Timer(0.2, write, args).start()
sys.exit(daemon.main())
"""
ROUNDS = int(os.environ.get("GATEPOST_CRASH_ROUNDS", "10"))
pytestmark = [pytest.mark.crash, pytest.mark.timeout(0)]


def prepare(settings: Settings) -> None:
    engine = store.open_engine(settings)
    with store.writing(engine) as connection:
        traps.add(connection, "trap@home.example", at=0)
    engine.dispose()


def compare(
    settings: Settings, books: Books, *, everything: bool = True
) -> tuple[set[str], set[str], set[str]]:
    """(lost, doubled, never sent) queue ids, after everything was ingested.

    With `everything` the sums are counted anew too, which takes longer with every round.
    """
    assert recorder.wait_until_ingested(settings, timeout=60)
    engine = store.open_engine(settings)
    try:
        with store.reading(engine) as connection:
            ids = connection.exec_driver_sql("SELECT queue_id FROM message").scalars().all()
            gaps = connection.exec_driver_sql("SELECT count(*) FROM journal_gap").scalar_one()
        if everything:
            sums.check(engine)
    finally:
        engine.dispose()
    assert gaps == 0
    seen = Counter(str(i) for i in ids)
    return (
        books.answered - set(seen),
        {i for i, n in seen.items() if n > 1},
        set(seen) - books.asked,
    )


def rounds(
    milter: Milter, settings: Settings, targets: tuple[str, ...], server: Server | None = None
) -> Iterator[tuple[str, Books]]:
    """One crash after the other on the same store; yields when the books can be compared."""
    books = Books()
    for number in range(ROUNDS):
        what = targets[number % len(targets)]
        milter.start()
        feeders = [Feeder(f"r{number}c{n}", milter.socket, books) for n in range(CONNECTIONS)]
        for feeder in feeders:
            feeder.start()
        if what == "server":
            assert server is not None
            before = len(books.answered)
            while len(books.answered) < before + random.randint(1, 200):
                pass
            server.kill()
            crash(milter, feeders, "recorder")
            server.start()
        else:
            crash(milter, feeders, what)
        for feeder in feeders:
            feeder.stop.set()
        for feeder in feeders:
            feeder.join()
        milter.stop()
        yield what, books


def run(
    milter: Milter, settings: Settings, targets: tuple[str, ...], server: Server | None
) -> None:
    try:
        told = 0
        books = None
        for number, (what, books) in enumerate(rounds(milter, settings, targets, server), 1):
            everything = number % 10 == 0 or number == ROUNDS
            lost, doubled, unknown = compare(settings, books, everything=everything)
            assert not (lost or doubled or unknown), (what, lost, doubled, unknown)
            assert journal_is_empty(milter.journal)
            if what in ("worker", "all"):
                assert books.cut > told, "no end of message was unanswered at the kill"
            told = books.cut
            if number % 10 == 0:
                print(f"{number} rounds: {len(books.answered)} answered", flush=True)
    finally:
        milter.end()
    assert books is not None
    print(f"{ROUNDS} rounds, {len(books.answered)} answered, {books.cut} cut, 0 lost, 0 doubled")


def test_sqlite_loses_nothing(settings: Settings, tmp_path: Path) -> None:
    prepare(settings)
    milter = Milter(tmp_path, f'[store]\nurl = "{settings.store.url}"\n')
    run(milter, settings, ("worker", "all", "parent", "recorder"), None)


@pytest.mark.postgresql
def test_postgresql_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    server = new_server()
    try:
        settings = settings_in(tmp_path, server.create("crash"))
        engine = store.open_engine(settings, ensure=False)
        migrate.upgrade(engine)
        engine.dispose()
        prepare(settings)
        milter = Milter(
            tmp_path,
            f'[store]\nurl = "{settings.store.url}"\njournal = "{settings.store.journal}"\n',
        )
        run(milter, settings, ("worker", "server", "all", "parent", "recorder"), server)
    finally:
        server.remove()


def test_it_would_see_a_reply_before_the_journal(settings: Settings, tmp_path: Path) -> None:
    """The counter-proof: with the write moved behind the reply the same comparison finds losses."""
    prepare(settings)
    milter = Milter(tmp_path, f'[store]\nurl = "{settings.store.url}"\n', prelude=REPLY_FIRST)
    try:
        for _, books in rounds(milter, settings, ("all",)):
            if compare(settings, books)[0]:
                return
    finally:
        milter.end()
    pytest.fail("nothing was lost although records are written after the reply")
