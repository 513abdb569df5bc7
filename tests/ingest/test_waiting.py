"""Sums that wait for a turn come to what one recorder counts, one record after the other."""

import json
import random
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import Engine

import sums as counted_anew
from fix_store import AT, count, message, signature
from gatepost_policy import ingest, store
from gatepost_policy.config.settings import Settings
from gatepost_policy.ingest import deltas, rows, trap_marks, waiting
from gatepost_policy.ingest.totals import write_sums
from gatepost_policy.journal.record import Json
from gatepost_policy.retention import purger

DAY = 86_400.0
TABLES = ("domain_day", "domain_host", "identity", "dkim_key")


def random_records(source: random.Random, size: int) -> list[Json]:
    """Mail of few senders over a few days: most of it shares its sums with other mail."""
    return [
        message(
            source.randrange(10_000),
            at=AT + source.randrange(5) * DAY + source.random(),
            client=source.choice(("192.0.2.7", "192.0.2.8", "2001:db8::7")),
            sender=source.choice(("a@big.example", "b@big.example", "c@small.example")),
            author=source.choice(("a@big.example", "x@other.example", None)),
            signatures=tuple(
                signature(source.choice(("big.example", "esp.example")), selector=s, key_bits=bits)
                for s, bits in source.sample((("s1", 1024), ("s1", 2048), ("s2", 2048)), 1)
                if source.random() < 0.7
            ),
            traps=("trap@home.example",) if source.random() < 0.1 else (),
        )
        for _ in range(size)
    ]


def batch_sums(records: Sequence[Json], learned: float) -> deltas.Sums:
    one = deltas.Sums()
    for record in records:
        row = rows.read(record, learned)
        one.add(row, row.keys()[1])
    return one


def tables(engine: Engine) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table of sums, but for `days`, which the order of days decides."""
    with store.reading(engine) as connection:
        found: dict[str, list[tuple[Any, ...]]] = {}
        for table in TABLES:
            got = connection.exec_driver_sql(f"SELECT * FROM {table}").mappings().all()
            keep = [{k: v for k, v in row.items() if k not in ("days", "changed", "previous_bits")}
                    for row in got]  # fmt: skip
            found[table] = sorted(tuple(map(str, row.values())) for row in keep)
        return found


@pytest.mark.parametrize("seed", range(4))
def test_sums_that_waited_are_the_same(
    any_engine: Engine, any_settings: Settings, seed: int
) -> None:
    """The property: written one batch after the other, or left to wait and counted together."""
    source = random.Random(seed)
    batches = [random_records(source, source.randrange(1, 20)) for _ in range(40)]
    with store.writing(any_engine) as connection:
        for number, batch in enumerate(batches):
            write_sums(connection, batch_sums(batch, AT + number), AT + number)
    want = tables(any_engine)
    with store.writing(any_engine) as connection:
        for table in TABLES:
            connection.exec_driver_sql(f"DELETE FROM {table}")
        for number, batch in enumerate(batches):
            sums = batch_sums(batch, AT + number)
            if source.random() < 0.3:
                waiting.add(connection, sums, AT + number)
            else:
                waiting.leave(connection, sums, AT + number)
    ingest.fold_all(any_engine, any_settings)
    assert count(any_engine, "waiting_sums") == 0
    assert tables(any_engine) == want


def test_text_and_back() -> None:
    sums = batch_sums(random_records(random.Random(7), 50), AT)
    assert waiting.load(waiting.dump(sums)) == sums


def test_sums_of_a_release_with_fewer_fields_are_read() -> None:
    whole = batch_sums([message(1, signatures=(signature(),))], AT)
    told = json.loads(waiting.dump(whole))
    place = told["days"]["fields"].index("spf_none")
    told["days"]["fields"].pop(place)
    for _, values in told["days"]["rows"]:
        values.pop(place)
    assert waiting.load(json.dumps(told)) == whole


def test_what_is_taken_out_while_its_sum_waits(any_engine: Engine, any_settings: Settings) -> None:
    """A message that is gone before it was counted leaves nothing, and no count below nought."""
    old = message(1, at=AT - 3 * DAY)
    with store.writing(any_engine) as connection:
        ingest.ingest(connection, [old], any_settings, AT)
        ids = connection.exec_driver_sql("SELECT id FROM message").scalars().all()
        for table in TABLES:
            connection.exec_driver_sql(f"DELETE FROM {table}")
        waiting.leave(connection, batch_sums([old], AT), AT)
        # As retention does it.
        ingest.fold(connection, any_settings, whole=True)
        purger.to_counts(connection, list(ids), AT)
    ingest.fold_all(any_engine, any_settings)
    assert count(any_engine, "domain_day") == count(any_engine, "domain_host") == 0
    assert count(any_engine, "identity", "messages = 1") == count(any_engine, "identity") > 0


@pytest.mark.postgresql
@pytest.mark.parametrize("any_settings", ["postgresql"], indirect=True)
def test_a_host_does_not_wait_for_anothers_turn(any_settings: Settings, any_engine: Engine) -> None:
    """One host is adding to the sums and takes its time: the other commits all the same."""
    first, second = [message(1)], [message(2)]
    with store.writing(any_engine) as slow:
        ingest.ingest(slow, first, any_settings, AT)

        def other() -> None:
            with store.writing(any_engine) as connection:
                # Without a turn to leave, this would wait for the sums of `first`.
                connection.exec_driver_sql("SET LOCAL lock_timeout = '2s'")
                ingest.ingest(connection, second, any_settings, AT)

        thread = threading.Thread(target=other)
        thread.start()
        thread.join(30)
        assert not thread.is_alive()
        assert count(any_engine, "message") == 1 == count(any_engine, "waiting_sums")
    ingest.fold_all(any_engine, any_settings)
    assert count(any_engine, "waiting_sums") == 0
    assert count(any_engine, "identity", "kind = 'prefix' AND messages = 2") == 1
    counted_anew.check(any_engine)


@pytest.mark.postgresql
@pytest.mark.parametrize("any_settings", ["postgresql"], indirect=True)
def test_a_host_without_work_does_not_wait_either(
    any_settings: Settings, any_engine: Engine
) -> None:
    """It would stand there, five times a second, as long as another one records much."""

    def idle() -> None:
        trap_marks.settle(any_engine, any_settings, seconds=0.5, patient=False)

    with store.writing(any_engine) as left:
        waiting.leave(left, deltas.Sums(), AT)
    with store.writing(any_engine) as busy:
        assert waiting.turn(busy, waiting.SUMS_TURN)
        thread = threading.Thread(target=idle, daemon=True)
        thread.start()
        thread.join(10.0)
        assert not thread.is_alive()
    assert count(any_engine, "waiting_sums") == 1
    idle()
    assert count(any_engine, "waiting_sums") == 0
