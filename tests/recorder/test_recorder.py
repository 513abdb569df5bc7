"""Every journal record counts exactly once in the store, on SQLite and on PostgreSQL."""

import json
import threading
import time
from pathlib import Path

import pytest
from sqlalchemy import Engine

from fix_store import AT, count, journal_of, message, settings_in, signature
from gatepost_policy import config, journal, lookup, recorder, store
from gatepost_policy.config.settings import Settings
from gatepost_policy.ingest import deltas, rows
from gatepost_policy.journal import record
from gatepost_policy.lookup import snapshot
from gatepost_policy.mail.dkim_reason import Why
from gatepost_policy.mail.facts import Direction
from gatepost_policy.recorder import Recorder, intake

pytestmark = pytest.mark.slow


def writer(settings: Settings) -> journal.Writer:
    return journal.Writer(journal_of(settings), max_bytes=1 << 30, sync="process")


def ingest_all(settings: Settings) -> Recorder:
    """Become the recorder, take everything, and stay it."""
    r = Recorder(settings)
    assert r.lock()
    while r.ingest_once():
        pass
    return r


def test_a_message_is_in_every_table(any_settings: Settings, any_engine: Engine) -> None:
    w = writer(any_settings)
    w.write(
        message(
            1,
            to=("a@home.example", "b@home.example"),
            traps=("trap@home.example",),
            signatures=(
                signature(addressed="trap"),  # the second witness
                signature("other.example", crypto="fail", result="fail", reason=Why.BODY_HASH),
            ),
        )
    )
    ingest_all(any_settings).close()
    want = {
        "message": 1,
        "recipient": 3,
        "signature": 2,
        "message_domain": 2,  # the address (sender and From), and other.example
        "domain_day": 3,  # two domains, and everything
        "domain_host": 3,
        "identity": 5,
        "dkim_key": 1,  # a key that proved nothing is nobody's key
        "listing": 1,
        "evidence": 1,
    }
    assert {table: count(any_engine, table) for table in want} == want
    with store.reading(any_engine) as connection:
        day = connection.exec_driver_sql(
            "SELECT messages, trap_messages, trap_hits, dkim_pass, dkim_fail, dkim_none"
            " FROM domain_day WHERE reversed = 'example.sender.'"
        ).one()
    assert tuple(day) == (1, 1, 1, 1, 1, 0)


def test_batches_segments_and_restarts(
    any_settings: Settings, any_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "BATCH_RECORDS", 7)
    monkeypatch.setattr("gatepost_policy.journal.writer.SEGMENT_BYTES", 3_000)
    w = writer(any_settings)
    for n in range(20):
        w.write(message(n))
    r = ingest_all(any_settings)
    for n in range(20, 40):
        w.write(message(n))
    r.ingest_once()
    r.close()
    w.close()
    ingest_all(any_settings).close()
    assert count(any_engine, "message") == 40
    assert count(any_engine, "identity", "messages <> 40") == 0
    assert journal.segments(journal_of(any_settings)) == []
    assert count(any_engine, "journal_mark") == 0


def test_a_storm_of_hits_is_many_small_steps(
    any_settings: Settings, any_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each hit is judged by what came before it, which takes time: other hosts wait meanwhile."""
    monkeypatch.setattr(intake, "BATCH_RECORDS", 3 * intake.HIT_RECORDS)
    w = writer(any_settings)
    w.write({"v": 1, "kind": "message", "recipients": [7]})  # none, and not looked at any further
    for n in range(20):
        w.write(message(n))
    for n in range(20, 30):
        w.write(message(n, to=(), traps=("trap@home.example",)))
    r = Recorder(any_settings)
    assert r.lock()
    steps = []
    while r.step():
        steps.append(r._took)
    assert steps == [23, 3, 3]
    assert count(any_engine, "message") == 30
    assert count(any_engine, "trap_hit") == 10
    r.close()


def test_submissions_are_counted_and_nothing_else(
    any_settings: Settings, any_engine: Engine
) -> None:
    w = writer(any_settings)
    counted = {
        "v": 1, "kind": "count", "at": AT, "direction": "submission", "family": "ipv4",
        "action": "accept", "reason": "scrubbed",
    }  # fmt: skip
    for n in range(3):
        w.write({**counted, "at": AT + n})
    ingest_all(any_settings).close()
    assert count(any_engine, "message") == 0
    assert count(any_engine, "submission_count", "messages = 3") == 1


def test_a_gap_is_kept(any_settings: Settings, any_engine: Engine) -> None:
    writer(any_settings).write(record.gap(AT, AT + 5, 17))
    ingest_all(any_settings).close()
    assert count(any_engine, "journal_gap", "lost = 17") == 1


def test_a_torn_end_is_dropped_once_its_writer_is_gone(
    any_settings: Settings, any_engine: Engine
) -> None:
    w = writer(any_settings)
    w.write(message(1))
    (segment,) = journal.segments(journal_of(any_settings))
    with segment.open("ab") as file:
        file.write(journal.frame(message(2))[:-3])
    r = ingest_all(any_settings)
    assert segment.exists(), "its writer may still be at it"
    w.close()
    r.ingest_once()
    assert not segment.exists()
    assert count(any_engine, "message") == 1
    assert not config.quarantine_dir(any_settings).exists()


def test_damage_goes_to_quarantine(any_settings: Settings, any_engine: Engine) -> None:
    directory = journal_of(any_settings)
    directory.mkdir(parents=True)
    broken = bytearray(journal.frame(message(2)))
    broken[-1] ^= 0xFF
    (directory / f"{'ab' * 16}.seg").write_bytes(
        journal.frame(message(1)) + broken + journal.frame(message(3)) + b"rubbish at the end"
    )
    ingest_all(any_settings).close()
    assert count(any_engine, "message") == 2
    kept = sorted(p.read_bytes() for p in config.quarantine_dir(any_settings).iterdir())
    assert kept == sorted([bytes(broken), b"rubbish at the end"])


# What no release writes, but a bug or a newer one might: (name, change).
REFUSED = (
    ("no kind", {"kind": None}),
    ("a kind of tomorrow", {"kind": "postcard"}),
    ("no time", {"at": "yesterday"}),
    ("not a number", {"at": float("nan")}),
    ("a day no integer holds", {"at": 1e300}),
    ("a client that is none", {"client": {"address": "192.0.2", "port": 1}}),
    ("recipients of a wrong shape", {"recipients": ["a@home.example"]}),
    ("an action that is no text", {"action": {"accept": 1}}),
)


@pytest.mark.parametrize(("name", "change"), REFUSED, ids=[name for name, _ in REFUSED])
def test_one_record_nobody_can_store_stops_no_other(
    any_settings: Settings, any_engine: Engine, name: str, change: record.Json
) -> None:
    w = writer(any_settings)
    for n in range(9):
        w.write({**message(n), **change} if n == 4 else message(n))
    r = ingest_all(any_settings)
    assert count(any_engine, "message") == 8
    assert count(any_engine, "identity", "messages <> 8") == 0
    (kept,) = config.quarantine_dir(any_settings).iterdir()
    assert json.loads(kept.read_text())["record"]["queue_id"] == "Q4"
    r.close()
    ingest_all(any_settings).close()
    assert count(any_engine, "message") == 8, "the watermark has passed it"


def test_texts_no_database_takes_are_spelled_out(
    any_settings: Settings, any_engine: Engine
) -> None:
    bad = "a\0b\udc80\N{SNOWMAN}@sender.example"
    w = writer(any_settings)
    w.write(message(1, sender=bad, author=bad, to=(bad,), signatures=(signature("x\0.example"),)))
    w.write(message(2, sender="x" * 5000 + "@" + "y" * 5000, key="k" * 5000))
    ingest_all(any_settings).close()
    assert not config.quarantine_dir(any_settings).exists()
    with store.reading(any_engine) as connection:
        got = connection.exec_driver_sql("SELECT sender FROM message ORDER BY at").scalars().all()
    assert got[0] == "a\\x00b\\udc80\N{SNOWMAN}@sender.example"
    assert len(got[1]) == 998, "a stranger's text is bounded"


def test_only_one_recorder(settings: Settings) -> None:
    first, second = Recorder(settings), Recorder(settings)
    assert first.lock()
    assert not second.lock()
    first.close()
    assert second.lock()
    second.close()


def test_the_recorder_moves_to_who_is_left(any_settings: Settings, any_engine: Engine) -> None:
    w = writer(any_settings)
    stops = [threading.Event(), threading.Event()]
    threads = [threading.Thread(target=Recorder(any_settings).run, args=(stop,)) for stop in stops]
    threads[0].start()
    w.write(message(1))
    wait_for(lambda: count(any_engine, "message") == 1)
    threads[1].start()
    stops[0].set()
    threads[0].join()
    w.write(message(2))
    wait_for(lambda: count(any_engine, "message") == 2)
    stops[1].set()
    threads[1].join()


def wait_for(what: object, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not what():  # type: ignore[operator]
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def test_two_recorders_of_one_journal_never_count_twice(
    any_settings: Settings, any_engine: Engine
) -> None:
    """Should the lock ever fail (a journal on a network disk): the watermark decides."""
    w = writer(any_settings)
    for n in range(30):
        w.write(message(n))
    first, second = Recorder(any_settings), Recorder(any_settings)
    assert first.lock()
    second._intake = intake.Intake(any_settings, first._taking().host, lambda level, text: None)
    for r in (first, second):
        r._taking().read_marks(r.engine(), journal.segments(r.directory))
    assert first.ingest_once() == 30
    with pytest.raises(store.StoreError, match="another recorder"):
        second.ingest_once()
    assert second.ingest_once() == 0
    assert count(any_engine, "message") == 30
    first.close()
    second.close()


def test_waiting_ingests_where_nobody_records(any_settings: Settings, any_engine: Engine) -> None:
    w = writer(any_settings)
    w.write(message(1))
    assert recorder.wait_until_ingested(any_settings)
    assert count(any_engine, "message") == 1


def test_waiting_says_when_the_recorder_is_behind(settings: Settings, engine: Engine) -> None:
    w = writer(settings)
    w.write(message(1))
    holder = Recorder(settings)
    assert holder.lock()
    assert not recorder.wait_until_ingested(settings, timeout=0.1)
    while holder.ingest_once():
        pass
    assert recorder.wait_until_ingested(settings, timeout=0.1)
    holder.close()


def test_importing_twice_changes_nothing(any_settings: Settings, any_engine: Engine) -> None:
    days = 86_400
    told = [
        message(n, at=AT + n * 40 * days, key=f"log:{n}", traps=("trap@home.example",))
        for n in range(5)
    ]
    assert recorder.record_batch(any_engine, told, any_settings) == 5
    assert recorder.record_batch(any_engine, [*told, told[0]], any_settings) == 0
    assert recorder.record_batch(any_engine, [told[1], *told], any_settings) == 0
    assert count(any_engine, "message") == 5
    assert count(any_engine, "identity", "messages = 5 AND trap_messages = 5 AND days = 5") == 4
    with pytest.raises(ValueError, match="not a record"):
        recorder.record_batch(any_engine, [{**told[0], "recipients": None}], any_settings)


def test_days_are_counted_in_any_order(any_settings: Settings, any_engine: Engine) -> None:
    day = 86_400
    # Newest first, in batches; the days between are not counted (see ingest), the others are.
    for batch in ([20, 21], [10], [30, 5], [5, 5, 30]):
        told = [message(n, at=AT + n * day) for n in batch]
        recorder.record_batch(any_engine, told, any_settings)
    assert count(any_engine, "identity", "days = 5 AND messages = 8") == 4


def test_a_day_is_a_day_in_utc(any_settings: Settings, any_engine: Engine) -> None:
    """Morning and evening of one day, and the next morning, told one by one: two days."""
    midnight = AT - AT % 86_400
    for n, hour in enumerate((1, 9, 15, 23, 26, 34)):
        told = [message(n, at=midnight + hour * 3600)]
        recorder.record_batch(any_engine, told, any_settings)
    assert count(any_engine, "identity", "days = 2 AND messages = 6") == 4
    assert count(any_engine, "domain_day", "reversed = ''") == 2


def test_a_trap_hit_is_published_before_the_next_look(
    settings: Settings, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The poke: with an hour between two looks, a listing is there all the same."""
    monkeypatch.setattr("gatepost_policy.recorder.recorder.LOOK_S", 3600.0)
    stop = threading.Event()
    r = Recorder(settings)
    assert r.lock()
    thread = threading.Thread(target=r.run, args=(stop,))
    thread.start()
    state = lookup.KnownState(settings)
    wait_for(lambda: (config.state_dir(settings) / snapshot.NOW_FILE).exists())
    writer(settings).write(message(1, at=time.time(), traps=("trap@home.example",)))
    wait_for(lambda: state.current().until("prefix", "192.0.2.7/32"))
    stop.set()
    thread.join()


@pytest.mark.parametrize("what", ["text", "shut"])
def test_a_store_that_cannot_be_opened_leaves_the_journal_alone(tmp_path: Path, what: str) -> None:
    settings = settings_in(tmp_path)
    path = tmp_path / "gatepost.sqlite"
    path.write_text("this is no database\n" * 100) if what == "text" else path.mkdir()
    w = writer(settings)
    w.write(message(1))
    said: list[str] = []
    r, stop = Recorder(settings, lambda level, text: said.append(text)), threading.Event()
    thread = threading.Thread(target=r.run, args=(stop,))
    thread.start()
    wait_for(lambda: said)
    path.unlink() if what == "text" else path.rmdir()
    wait_for(lambda: path.exists() and _messages(settings) == 1)
    stop.set()
    thread.join()
    assert "gatepost.sqlite" in said[0] and "\n" not in said[0]
    assert len(said) == 1, "one line, not one every try"


def _messages(settings: Settings) -> int:
    engine = store.open_engine(settings)
    try:
        return count(engine, "message")
    finally:
        engine.dispose()


def test_rows_are_counted_as_facts_are() -> None:
    """`deltas.Sums` and `facts.Facts.identities` name the same identities."""
    cases = [
        message(1, signatures=(signature(), signature(), signature("other.example"))),
        message(2, sender="", author=None, client="2001:db8::1"),
        message(3, sender="root", author="a@b.example", client=None),
        message(4, signatures=(signature(flags=("testing-key",)), signature(key_bits=512))),
        message(5, signatures=(signature(body_limit=5, unsigned_bytes=3),)),
        message(6, direction=Direction.SUBMISSION),
    ]
    for data in cases:
        sums = deltas.Sums()
        row = rows.read(data, AT)
        sums.add(row, row.keys()[1])
        want = {(str(i.kind), i.value) for i in record.read_seen(data).facts.identities()}
        assert set(sums.identities) == want
