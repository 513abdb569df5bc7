"""Mail that came before its recipient became a trap, and what happens when it is none again."""

from array import array  # noqa: TC003
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from sqlalchemy import Connection, Engine

from fix_report import LEARNED, NEWSLETTER, REAL, SLOW, TRAP, Mail, seconds, told
from gatepost_policy import listings, recorder, store, traps
from gatepost_policy.config.settings import Settings
from gatepost_policy.ingest import out_of_date, trap_marks
from gatepost_policy.mail.decision import Reason
from gatepost_policy.report import count
from gatepost_policy.report.selection import Selection
from gatepost_policy.store import revision

pytestmark = pytest.mark.slow


def add(engine: Engine, *names: str) -> None:
    with store.writing(engine) as connection:
        for name in names:
            traps.add(connection, name, at=LEARNED)


def remove(engine: Engine, name: str) -> None:
    with store.writing(engine) as connection:
        traps.remove(connection, name, at=LEARNED + 1)


def put(engine: Engine, settings: Settings, *mails: Mail) -> None:
    recorder.record_batch(engine, [mail.json() for mail in mails], settings)


def hits(engine: Engine, settings: Settings, sender: str = "slow.example") -> int:
    """Trap hits as the sums have them, after making sure that the rows agree."""
    with store.reading(engine) as connection:
        sums = count.count(connection, Selection(sender=sender))
        rows = count.count(connection, Selection(sender=sender, since=-1e11))
    assert sums == rows
    return sums.summary.trap_hits


def identities(engine: Engine) -> dict[str, int]:
    with store.reading(engine) as connection:
        found = connection.exec_driver_sql("SELECT value, trap_messages FROM identity").all()
    return {value: number for value, number in found if number}


def test_trap_added_after_the_mail(any_engine: Engine, any_settings: Settings) -> None:
    put(any_engine, any_settings, *SLOW, *NEWSLETTER)
    assert hits(any_engine, any_settings) == 0
    add(any_engine, TRAP)
    assert trap_marks.settle(any_engine, any_settings) == 5
    assert trap_marks.settle(any_engine, any_settings) == 0
    assert hits(any_engine, any_settings) == 5
    assert identities(any_engine) == {
        "192.0.2.25/32": 3,
        "192.0.2.26/32": 1,
        "2001:db8:20a:202::/64": 1,
        "news@slow.example": 5,
        "slow.example": 5,
    }
    with store.reading(any_engine) as connection:
        repeat = connection.exec_driver_sql(
            "SELECT value FROM identity WHERE repeat ORDER BY value"
        ).scalars()
        assert set(repeat) == {"192.0.2.25/32", "news@slow.example", "slow.example"}


def test_interrupted_before_its_end(
    any_engine: Engine, any_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The marks are set, a batch at a time; what is left to do must not be forgotten with it."""

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    put(any_engine, any_settings, *SLOW)
    add(any_engine, TRAP)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(trap_marks, "_remember", killed)
        trap_marks.settle(any_engine, any_settings)
    assert trap_marks.settle(any_engine, any_settings) == 0
    with store.reading(any_engine) as connection:
        assert ("sender", "news@slow.example") in listings.repeating(connection)


def test_mail_imported_after_the_trap(any_engine: Engine, any_settings: Settings) -> None:
    add(any_engine, TRAP)
    trap_marks.settle(any_engine, any_settings)
    put(any_engine, any_settings, *SLOW)
    assert trap_marks.settle(any_engine, any_settings) == 5
    assert hits(any_engine, any_settings) == 5


def test_mail_imported_meanwhile(
    any_engine: Engine, any_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look for mail to mark and the end of a `settle`: left to the next one."""
    look = out_of_date.ids

    def then_more(connection: Connection) -> "array[int]":
        found = look(connection)
        with ThreadPoolExecutor(1) as other:
            other.submit(put, any_engine, any_settings, *SLOW[1:]).result()
        return found

    add(any_engine, TRAP)
    put(any_engine, any_settings, SLOW[0])
    with monkeypatch.context() as patched:
        patched.setattr(out_of_date, "ids", then_more)
        assert trap_marks.settle(any_engine, any_settings) == 1
    assert trap_marks.settle(any_engine, any_settings) == 4
    assert trap_marks.settle(any_engine, any_settings) == 0


def test_nobody_is_listed_for_the_past(any_engine: Engine, any_settings: Settings) -> None:
    put(any_engine, any_settings, *SLOW)
    add(any_engine, TRAP)
    trap_marks.settle(any_engine, any_settings)
    with store.reading(any_engine) as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM listing").scalar_one() == 0


def test_removed_trap_takes_its_marks_along(any_engine: Engine, any_settings: Settings) -> None:
    """A slip of the pen (a real address made a trap) leaves nothing behind."""
    put(any_engine, any_settings, *NEWSLETTER)
    add(any_engine, REAL)
    assert trap_marks.settle(any_engine, any_settings) == 7
    assert hits(any_engine, any_settings, "paper.example") == 7
    remove(any_engine, REAL)
    assert trap_marks.settle(any_engine, any_settings) == 7
    assert hits(any_engine, any_settings, "paper.example") == 0
    assert identities(any_engine) == {}


def test_hit_on_what_was_a_trap_stays(any_engine: Engine, any_settings: Settings) -> None:
    later = Mail("2026-01-01T00:00:00", traps=(TRAP,))
    assert seconds(later.at) > LEARNED
    add(any_engine, TRAP)
    put(any_engine, any_settings, later, *SLOW)
    trap_marks.settle(any_engine, any_settings)
    assert hits(any_engine, any_settings) == 6
    remove(any_engine, TRAP)
    trap_marks.settle(any_engine, any_settings)
    assert hits(any_engine, any_settings) == 1
    assert told(any_engine, any_settings, sender="slow.example").messages[0].trapped


def test_hit_before_the_trap_came_back_stays(engine: Engine, settings: Settings) -> None:
    """A trap, hit, removed, set again (so that it is younger than the hit), removed again."""
    put(engine, settings, replace(SLOW[0], traps=(TRAP,), reason=Reason.TRAP), SLOW[1])
    add(engine, TRAP)
    trap_marks.settle(engine, settings)
    assert hits(engine, settings) == 2
    remove(engine, TRAP)
    trap_marks.settle(engine, settings)
    assert hits(engine, settings) == 1


@pytest.mark.parametrize(
    ("trap", "want"),
    [
        ("@old.example", 2),
        ("info-*@old.example", 1),
        ("*@*.old.example", 1),
        ("inf?-1@old.example", 1),
        ("Info-1+tag@OLD.example.", 1),
        ("@example", 0),
        ("i%@old.example", 0),
        ("i_fo-1@old.example", 0),
    ],
)
def test_domains_and_patterns(engine: Engine, settings: Settings, trap: str, want: int) -> None:
    put(
        engine,
        settings,
        replace(SLOW[0], to=("Info-1@old.example", "x@sub.old.example", "postmaster@old.example")),
        replace(SLOW[1], to=("anna@old.example",)),
    )
    add(engine, trap)
    trap_marks.settle(engine, settings)
    assert hits(engine, settings) == want


def test_message_with_two_traps_counts_once_as_message(
    any_engine: Engine, any_settings: Settings
) -> None:
    put(any_engine, any_settings, replace(SLOW[0], to=(TRAP, "b@example.net"), traps=(TRAP,)))
    add(any_engine, TRAP, "b@example.net")
    assert trap_marks.settle(any_engine, any_settings) == 1
    assert hits(any_engine, any_settings) == 2
    assert identities(any_engine)["slow.example"] == 1


def test_many_old_hits_are_marked_in_steps(engine: Engine, settings: Settings) -> None:
    """Each call does a bounded piece, says how far it is, and the next one goes on from there."""
    put(engine, settings, *SLOW)
    add(engine, TRAP)
    told: list[tuple[int, int]] = []

    def step() -> int:
        return trap_marks.settle(
            engine, settings, seconds=0.0, batch=1, progress=lambda *far: told.append(far)
        )

    whole = len(SLOW)
    assert [step() for _ in range(whole)] == [1] * whole
    assert told == [(n + 1, whole) for n in range(whole)]
    assert step() == 0
    assert hits(engine, settings) == whole


def test_what_is_left_is_looked_for_once(
    any_engine: Engine, any_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A million old hits are thousands of steps, and each look reads the whole table."""
    put(any_engine, any_settings, *SLOW)
    add(any_engine, TRAP)
    looks: list[int] = []
    look = out_of_date.ids

    def counted(connection: Connection, most: int | None = None) -> "array[int]":
        looks.append(1)
        return look(connection, most)

    def left() -> int:
        with store.reading(any_engine) as connection:
            return revision.number(connection, trap_marks.LEFT)

    monkeypatch.setattr(out_of_date, "ids", counted)
    seen = []
    while trap_marks.settle(any_engine, any_settings, seconds=0.0, batch=1):
        seen.append(left())
    assert seen == [*reversed(range(len(SLOW)))]
    # Once at first, and once again at the end, for mail that was recorded meanwhile.
    assert len(looks) == 2
    assert hits(any_engine, any_settings) == len(SLOW)


def test_a_trap_that_comes_in_the_middle_is_looked_for(
    any_engine: Engine, any_settings: Settings
) -> None:
    put(any_engine, any_settings, *SLOW, *NEWSLETTER)
    add(any_engine, TRAP)
    assert trap_marks.settle(any_engine, any_settings, seconds=0.0, batch=1) == 1
    add(any_engine, REAL)
    remove(any_engine, TRAP)
    trap_marks.settle(any_engine, any_settings)
    assert hits(any_engine, any_settings) == 0
    assert hits(any_engine, any_settings, "paper.example") == len(NEWSLETTER)


def test_a_report_leaves_many_to_the_recorder(
    engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trap_marks, "SOON", 2)
    put(engine, settings, *SLOW)
    add(engine, TRAP)
    there = recorder.Recorder(settings)
    assert there.lock()
    assert trap_marks.settle_soon(engine, settings, seconds=9.0) == 3, "over two, it is not counted"
    assert hits(engine, settings) == 0
    assert trap_marks.settle(engine, settings, seconds=0.0, batch=1) == 1
    assert trap_marks.settle_soon(engine, settings, seconds=9.0) == 4
    assert hits(engine, settings) == 1
    assert trap_marks.settle(engine, settings, seconds=0.0, batch=2) == 2
    assert trap_marks.settle_soon(engine, settings, seconds=9.0) == 0, "few are done at once"
    there.close()
    assert hits(engine, settings) == len(SLOW)
    remove(engine, TRAP)
    # Nobody else would do it.
    assert trap_marks.settle_soon(engine, settings, seconds=9.0) == 0
    assert hits(engine, settings) == 0
