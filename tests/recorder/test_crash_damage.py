"""kill -9 with damage thrown in: a bit flipped in a random abandoned segment each round.

Every sound record is in the store, once; every damaged one in quarantine, with one line.
$GATEPOST_CRASH_ROUNDS (10) rounds for each database; `make crash` runs 200.
"""

import os
import random
import signal
from collections import Counter
from pathlib import Path

import pytest

from crash_driver import CONNECTIONS, Books, Feeder, Milter, until
from fix_store import new_server, settings_in
from gatepost_policy import config, journal, recorder, store, traps
from gatepost_policy.config.settings import Settings
from gatepost_policy.store import migrate

ROUNDS = int(os.environ.get("GATEPOST_CRASH_ROUNDS", "10"))
pytestmark = [pytest.mark.crash, pytest.mark.timeout(0)]


def prepare(settings: Settings) -> None:
    engine = store.open_engine(settings, ensure=False)
    migrate.upgrade(engine)
    with store.writing(engine) as connection:
        traps.add(connection, "trap@home.example", at=0)
    engine.dispose()


def waiting(settings: Settings, milter: Milter) -> list[tuple[Path, journal.Piece]]:
    """The records of abandoned segments that are not in the store yet."""
    engine = store.open_engine(settings)
    with store.reading(engine) as connection:
        rows = connection.exec_driver_sql('SELECT segment, "offset" FROM journal_mark').all()
    engine.dispose()
    marks = {str(name): int(offset) for name, offset in rows}
    found: list[tuple[Path, journal.Piece]] = []
    for path in journal.segments(milter.journal):
        if journal.abandoned(path):
            found += [(path, p) for p in journal.read(path, marks.get(path.name, 0)) if p.data]
    return found


def flip(path: Path, piece: journal.Piece) -> str:
    """One bit anywhere in the record, its head included; whose record it was."""
    assert piece.data is not None
    at = random.randrange(piece.start, piece.end)
    with path.open("r+b") as file:
        file.seek(at)
        (octet,) = file.read(1)
        file.seek(at)
        file.write(bytes([octet ^ (1 << random.randrange(8))]))
    return str(piece.data["queue_id"])


def strike(milter: Milter, books: Books) -> None:
    """kill -9 of everything, while records wait: the recorder was stopped before."""
    until(lambda: milter.recorder() is not None)
    stopped = milter.recorder()
    assert stopped is not None
    os.kill(stopped, signal.SIGSTOP)
    seen = len(books.answered)
    until(lambda: len(books.answered) > seen + random.randint(10, 60))
    milter.kill("all")


def one_round(
    number: int, milter: Milter, settings: Settings, books: Books, damaged: set[str]
) -> None:
    """Mail, kill -9, a flipped bit, a restart, and everything taken in."""
    milter.start()
    feeders = [Feeder(f"r{number}c{n}", milter.socket, books) for n in range(CONNECTIONS)]
    for feeder in feeders:
        feeder.start()
    strike(milter, books)
    for feeder in feeders:
        feeder.stop.set()
    for feeder in feeders:
        feeder.join()
    until(lambda: not milter.processes())
    hurt = flip(*random.choice(waiting(settings, milter)))
    damaged.add(hurt)
    milter.start()
    until(lambda: not journal.segments(milter.journal))
    milter.stop()


def run(milter: Milter, settings: Settings) -> None:
    books, damaged = Books(), set[str]()
    try:
        for number in range(ROUNDS):
            one_round(number, milter, settings, books, damaged)
        assert recorder.wait_until_ingested(settings, timeout=60)
    finally:
        milter.end()
    engine = store.open_engine(settings)
    with store.reading(engine) as connection:
        ids = connection.exec_driver_sql("SELECT queue_id FROM message").scalars().all()
    engine.dispose()
    seen = Counter(str(i) for i in ids)
    assert books.answered - set(seen) <= damaged, "a sound record is lost"
    assert not damaged & set(seen), "a damaged record was believed"
    assert not {i for i, n in seen.items() if n > 1}
    assert not set(seen) - books.asked
    kept = list(config.quarantine_dir(settings).iterdir())
    said = [
        line
        for log in milter.home.glob("log*")
        for line in log.read_text().splitlines()
        if "was put into" in line
    ]
    assert len(kept) == len(said) == len(damaged) == ROUNDS
    print(f"{ROUNDS} rounds, {len(books.answered)} answered, {len(damaged)} damaged, 0 lost")


def test_sqlite(settings: Settings, tmp_path: Path) -> None:
    prepare(settings)
    run(Milter(tmp_path, f'[store]\nurl = "{settings.store.url}"\n'), settings)


@pytest.mark.postgresql
def test_postgresql(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    server = new_server()
    try:
        settings = settings_in(tmp_path, server.create("damage"))
        prepare(settings)
        lines = f'[store]\nurl = "{settings.store.url}"\njournal = "{settings.store.journal}"\n'
        run(Milter(tmp_path, lines), settings)
    finally:
        server.remove()
