"""An import that is taken back has never been: whatever came between, every table says so."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine

import sums
from fix_store import AT, count, message, signature, sqlite_in
from gatepost_policy import ingest, recorder, retention, store, traps
from gatepost_policy.config.settings import Settings
from gatepost_policy.ingest import import_undo, trap_marks
from gatepost_policy.journal.record import Json
from gatepost_policy.mail.facts import Source
from gatepost_policy.retention import person
from gatepost_policy.store.whole_schema import Base

pytestmark = pytest.mark.slow

DAY = 86_400.0
TRAP = "trap@home.example"
# What differs from one store to the next and says nothing of the mail.
BOOKS = {"revision", "listing_change", "waiting_sums", "import_run", "import_again"}


def told(number: int, **values: Any) -> Json:
    """A message of a log, `number` half days before AT: signed or not, by one of three."""
    who = ("sender.example", "other.example", "mail.sender.example")[number % 3]
    wanted: dict[str, Any] = {
        "at": AT - number * DAY / 2,
        "sender": f"news@{who}",
        "author": f"{'boss' if number % 2 else 'news'}@{who}",
        "client": f"192.0.2.{number % 4 + 1}",
        "to": (TRAP,) if number % 5 == 0 else ("user@home.example",),
        "signatures": (
            signature(who, selector=f"s{number % 2}", key_bits=1024 + number % 2 * 1024),
        )
        if number % 3
        else (),
        "source": Source.EXIM_LOG,
        "key": f"exim:{number}",
    }
    return message(number, **(wanted | values))


def submission(number: int) -> Json:
    """One submission of an imported log."""
    at = AT - number * DAY
    data = {"direction": "submission", "family": "ipv4", "action": "accept", "reason": "ours"}
    return {"v": 1, "kind": "count", "at": at, "key": f"exim:own:{number}", **data}


def imported(engine: Engine, where: Settings, records: list[Json], learned: float = AT) -> int:
    """Import these as `milterctl import` does; the import's number."""
    number = store.persistently(
        engine, lambda connection: ingest.import_runs.begin(connection, "exim", ["x"], AT)
    )
    recorder.record_batch(engine, records, where, learned, number)
    store.persistently(
        engine,
        lambda connection: ingest.import_runs.end(connection, number, 9, AT, told=True),
    )
    return number


def dump(engine: Engine, *without: str) -> dict[str, list[tuple[object, ...]]]:
    """Every table of the store, ids of messages told by what they are."""
    with store.reading(engine) as connection:
        sql = "SELECT id, queue_id FROM message"
        names: dict[Any, Any] = {row[0]: row[1] for row in connection.exec_driver_sql(sql)}
        out: dict[str, list[tuple[object, ...]]] = {}
        for table in Base.metadata.sorted_tables:
            if table.name in BOOKS:
                continue
            rows = connection.execute(table.select()).mappings().all()
            got = []
            for row in rows:
                values = dict(row)
                for key in ("days", *without):
                    values.pop(key, None)  # `days`: see the end of `same`
                if values.get("import_id") is not None:
                    values["import_id"] = "an import's"
                number = values.pop("id", None)
                if table.name == "message":
                    values["id"] = names[number]
                elif "message_id" in values:
                    values["message_id"] = names.get(values["message_id"])
                got.append(tuple(values.items()))
            out[table.name] = sorted(got, key=repr)
    return out


def same(one: Engine, other: Engine, *without: str) -> None:
    """Both stores say the same, and their sums what their rows say."""
    got, want = dump(one, *without), dump(other, *without)
    for table, rows in want.items():
        assert got[table] == rows, table
    sums.check(one)
    with store.reading(one) as connection:
        sql = (
            "SELECT i.days, count(DISTINCT CAST(m.at / 86400 AS int)) AS found, i.messages,"
            " count(*) AS rows FROM identity i JOIN message m ON m.prefix = i.value"
            " WHERE i.kind = 'prefix' AND m.direction = 'inbound'"
            " GROUP BY i.kind, i.value, i.days, i.messages"
        )
        for row in connection.exec_driver_sql(sql):
            # An identity learns of days between two that it knows only when it is counted anew.
            assert row.messages != row.rows or row.days <= row.found


Op = Callable[[Engine, Settings], object]


def live(number: int, **values: Any) -> Op:
    record = told(number, key=None, source=Source.MILTER, **values)
    record["queue_id"] = f"L{number}"
    return lambda engine, where: recorder.record_batch(engine, [record], where, AT)


def add_trap(name: str) -> Op:
    def work(engine: Engine, where: Settings) -> None:
        with store.writing(engine) as connection:
            traps.add(connection, name, at=AT + 1)
        trap_marks.settle(engine, where)

    return work


def purge(days: float) -> Op:
    return lambda engine, where: retention.purge(engine, where, AT + days * DAY)


def second(*numbers: int) -> Op:
    records = [told(n) for n in numbers] + [submission(n) for n in numbers]
    return lambda engine, where: imported(engine, where, records)


OPS: dict[str, Op] = {
    "live before": live(40),
    "live between": live(3, at=AT - 1.25 * DAY),
    "live after": live(1, at=AT + DAY),
    "live of nobody else": live(2, client="2001:db8::1", sender="", author=None),
    "second import": second(2, 3, 4, 50),
    "second import, no part in common": second(20, 21),
    "trap": add_trap(TRAP),
    "trap that sends": add_trap("news@other.example"),
    "purge of recipients": purge(40),
}


def run(engine: Engine, where: Settings, names: list[str]) -> None:
    for name in names:
        OPS[name](engine, where)


@pytest.mark.parametrize(
    ("before", "names"),
    [
        (["live before", "trap that sends"], ["live between", "live after", "trap"]),
        ([], ["trap", "live after", "second import", "purge of recipients"]),
    ],
)
def test_taken_back_is_never_been(
    any_settings: Settings, any_engine: Engine, tmp_path: Path, migrated: Path,
    before: list[str], names: list[str],
) -> None:  # fmt: skip
    other_settings, other = beside(tmp_path / "other", migrated)
    records = [told(n) for n in range(12)] + [submission(n) for n in range(3)]
    run(any_engine, any_settings, before)
    number = imported(any_engine, any_settings, records)
    assert count(any_engine, "message") == 12 + ("live before" in before)
    run(any_engine, any_settings, names)
    ingest.undo(any_engine, any_settings, number)
    run(other, other_settings, [*before, *names])
    same(any_engine, other)
    assert count(any_engine, "import_touched") == 0
    other.dispose()


def beside(directory: Path, migrated: Path) -> tuple[Settings, Engine]:
    directory.mkdir(parents=True)
    where = sqlite_in(directory, migrated)
    return where, store.open_engine(where)


@given(st.lists(st.sampled_from(sorted(OPS)), max_size=5, unique=True), st.data())
@settings(max_examples=3, phases=(Phase.generate,))  # shrinking takes minutes
def test_whatever_comes_between(
    tmp_path_factory: pytest.TempPathFactory, migrated: Path, names: list[str], data: st.DataObject
) -> None:
    place = tmp_path_factory.mktemp("undo")
    where, engine = beside(place / "a", migrated)
    other_where, other = beside(place / "b", migrated)
    cut = data.draw(st.integers(0, len(names)))
    numbers = data.draw(st.lists(st.integers(0, 60), min_size=1, max_size=12, unique=True))
    run(engine, where, names[:cut])
    number = imported(engine, where, [told(n) for n in numbers] + [submission(1)])
    run(engine, where, names[cut:])
    ingest.undo(engine, where, number)
    run(other, other_where, names)
    same(engine, other)
    engine.dispose()
    other.dispose()
    shutil.rmtree(place)


def test_the_comparison_sees_what_stays(settings: Settings, engine: Engine, tmp_path: Path,
                                        migrated: Path) -> None:  # fmt: skip
    """The counter-proof: one message that is left is seen."""
    _, other = beside(tmp_path / "other", migrated)
    imported(engine, settings, [told(1)])
    with pytest.raises(AssertionError):
        same(engine, other)
    other.dispose()


def test_half_an_import_goes_as_well(any_settings: Settings, any_engine: Engine) -> None:
    """Killed after its first batch it has no end; what it brought can be taken back."""
    empty = dump(any_engine)
    number = store.persistently(
        any_engine, lambda connection: ingest.import_runs.begin(connection, "exim", ["x"], AT)
    )
    recorder.record_batch(any_engine, [told(n) for n in range(5)], any_settings, AT, number)
    with store.reading(any_engine) as connection:
        (found,) = ingest.import_runs.runs(connection)
    assert (found.ended, found.messages) == (None, 5)
    ingest.undo(any_engine, any_settings, number)
    assert dump(any_engine) == empty
    # Were it not dead, it would notice with its next batch, and leave nothing.
    with pytest.raises(ingest.import_runs.ImportGoneError):
        recorder.record_batch(any_engine, [told(9)], any_settings, AT, number)
    assert dump(any_engine) == empty


def test_taking_back_that_is_stopped_goes_on(
    any_settings: Settings, any_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    OPS["live before"](any_engine, any_settings)
    want = dump(any_engine)
    number = imported(any_engine, any_settings, [told(n) for n in range(9)] + [submission(1)])
    monkeypatch.setattr(import_undo, "BATCH", 3)

    def stop(done: int) -> None:
        raise KeyboardInterrupt

    for _ in range(5):
        try:
            ingest.undo(any_engine, any_settings, number, stop)
        except KeyboardInterrupt:
            sums.check(any_engine)
    with store.reading(any_engine) as connection:
        assert ingest.import_runs.runs(connection) == []
    assert dump(any_engine) == want


def test_what_cannot_be_exact_is_refused(any_settings: Settings, any_engine: Engine) -> None:
    number = imported(any_engine, any_settings, [told(1), told(2)])
    with pytest.raises(ingest.CannotUndoError, match="no such import"):
        ingest.undo(any_engine, any_settings, number + 1)
    person.erase(any_engine, any_settings, "news@other.example", AT)
    with pytest.raises(ingest.CannotUndoError, match="an erase went through 1 "):
        ingest.undo(any_engine, any_settings, number)
    before = dump(any_engine)
    OPS["live after"](any_engine, any_settings)  # the same client, once more
    second_number = imported(any_engine, any_settings, [told(5)], AT + 1)
    purge(100)(any_engine, any_settings)
    again = imported(any_engine, any_settings, [told(9)], AT + 100 * DAY)
    assert before != dump(any_engine)
    # The client of 5 is a network now, and 9 keeps an address in it remembered.
    with pytest.raises(ingest.CannotUndoError, match=r"192\.0\.2\.2/32, which came from one"):
        ingest.undo(any_engine, any_settings, second_number)
    purge(400)(any_engine, any_settings)
    with pytest.raises(ingest.CannotUndoError, match="retention has turned 1 of its messages"):
        ingest.undo(any_engine, any_settings, second_number)
    ingest.undo(any_engine, any_settings, again)
    sums.check(any_engine)


def test_a_number_is_never_given_again(settings: Settings, engine: Engine) -> None:
    first = imported(engine, settings, [told(1)])
    ingest.undo(engine, settings, first)
    assert imported(engine, settings, [told(1)]) > first
