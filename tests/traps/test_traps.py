"""Traps: what can be one, imports, and which ones somebody seems to use."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Connection, Engine, update

from fix_store import AT, message
from gatepost_policy import ingest, store, traps
from gatepost_policy.config.settings import Settings
from gatepost_policy.store import revision
from gatepost_policy.store.tables import TrapRow
from gatepost_policy.traps import import_list

# what is typed, kind, key
NAMES = [
    ("trap@example.org", "exact", "trap@example.org"),
    (" <Trap@EXAMPLE.org.> ", "exact", "trap@example.org"),
    ("Trap+tag@Example.org", "exact", "trap@example.org"),
    ('"trap"@example.org', "exact", "trap@example.org"),
    ('"a b"@example.org', "exact", '"a b"@example.org'),
    ("büro@bücher.example", "exact", "büro@xn--bcher-kva.example"),
    ("@Old.Example.org", "domain", "@old.example.org"),
    ("@bücher.example", "domain", "@xn--bcher-kva.example"),
    ("Info-*@example.org", "pattern", "info-*@example.org"),
    ("*@*.old.example", "pattern", "*@*.old.example"),
    ("inf?@example.org", "pattern", "inf?@example.org"),
]
NO_TRAPS = [
    "", "word", "postmaster@example.org", "Abuse+x@example.org", "*@*", "*@*.org", "*@?rg",
    "@", "@a b", "a\x00b@example.org", "x" * 2000 + "@example.org", "a@", "@*.example.org",
]  # fmt: skip


@pytest.mark.parametrize(("text", "kind", "key"), NAMES)
def test_classify(text: str, kind: str, key: str) -> None:
    assert traps.classify(text) == (kind, key)


@pytest.mark.parametrize("text", NO_TRAPS)
def test_what_is_no_trap(text: str) -> None:
    with pytest.raises(ValueError, match="want|cannot"):
        traps.classify(text)


def test_an_import_takes_no_patterns() -> None:
    assert traps.classify("*a?@example.org", patterns=False) == ("exact", "*a?@example.org")


@pytest.fixture
def settings(any_settings: Settings) -> Settings:
    """On SQLite, and on PostgreSQL where that ring runs."""
    return any_settings


@pytest.fixture
def engine(any_engine: Engine) -> Engine:
    """The store of `settings`."""
    return any_engine


@pytest.fixture
def writing(engine: Engine) -> Iterator[Connection]:
    """A connection whose transactions may write, as `milterctl trap import` uses it."""
    with engine.connect() as bare:
        yield bare.execution_options(gatepost_writing=True)


def test_add_and_remove(writing: Connection) -> None:
    assert traps.add(writing, "Trap@Example.org", at=AT, source="us", note="n")
    assert not traps.add(writing, "trap+x@example.org", at=AT)
    assert revision.number(writing, "traps") == 1
    (found,) = traps.listing(writing)
    assert (found.key, found.raw, found.source) == ("trap@example.org", "Trap@Example.org", "us")
    assert traps.remove(writing, "TRAP@example.org", at=AT + 1)
    assert not traps.remove(writing, "TRAP@example.org", at=AT + 1)
    assert traps.listing(writing) == []
    assert traps.add(writing, "trap@example.org", at=AT + 2)
    assert traps.count(writing) == 1


LIST = b"""\xef\xbb\xbf# a list
first@example.org
second@example.org   # said twice
Second@EXAMPLE.org
@domain.example

no address here
abuse@example.org
\xff\xfe@example.org
odd#local@example.org
"""


def test_import_of_a_published_list(writing: Connection) -> None:
    got = traps.import_lines(writing, LIST.splitlines(keepends=True), at=AT, source="list")
    assert (got.added, got.known, got.invalid) == (4, 1, 3)
    assert [number for number, _, _ in got.refused] == [7, 8, 9]
    keys = [t.key for t in traps.listing(writing)]
    assert keys == [
        "@domain.example", "first@example.org", "odd#local@example.org", "second@example.org",
    ]  # fmt: skip
    again = traps.import_lines(writing, LIST.splitlines(keepends=True), at=AT)
    assert (again.added, again.known) == (0, 5)


def test_import_keeps_what_was_removed_by_hand(writing: Connection) -> None:
    traps.add(writing, "live@example.org", at=AT)
    traps.remove(writing, "live@example.org", at=AT + 1)
    writing.commit()
    traps.import_lines(writing, [b"live@example.org\n"], at=AT + 2)
    assert traps.count(writing) == 0


def test_import_appears_at_once_and_a_dead_one_never(
    writing: Connection, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_list, "BATCH_ROWS", 10)
    seen: list[int] = []

    def watch(octets: int) -> None:
        with store.reading(engine) as connection:
            seen.append(traps.count(connection))

    def lines(number: int, broken: bool = False) -> Iterator[bytes]:
        for n in range(number):
            yield b"t%d@example.org\n" % n
        if broken:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        traps.import_lines(writing, lines(25, broken=True), at=AT, progress=watch)
    writing.rollback()
    assert traps.count(writing) == 0
    writing.rollback()
    got = traps.import_lines(writing, lines(35), at=AT, progress=watch)
    assert (got.added, set(seen), traps.count(writing)) == (35, {0}, 35)


def test_one_import_at_a_time(writing: Connection, engine: Engine) -> None:
    def lines() -> Iterator[bytes]:
        with engine.connect() as other, pytest.raises(BlockingIOError):
            traps.import_lines(other, [b"b@example.org"], at=AT)
        yield b"a@example.org"

    assert traps.import_lines(writing, lines(), at=AT).added == 1


def test_check_finds_traps_in_use(engine: Engine, settings: Settings) -> None:
    with store.writing(engine) as connection:
        for name in ("live@sender.example", "quiet@home.example", "own@home.example"):
            traps.add(connection, name, at=AT)
        ingest.ingest(connection, [message(1, sender="Live@sender.example")], settings, AT)
        traps.seen_live(connection, ["own@home.example"], at=AT, how="login")
        found = {f.trap: f.how for f in traps.check(connection)}
    assert found == {"live@sender.example": "sender", "own@home.example": "login"}


def test_import_then_update_marks_rows_as_live(writing: Connection) -> None:
    """`generation` decides: a row of a later generation is no trap yet."""
    traps.import_lines(writing, [b"a@example.org"], at=AT)
    writing.execute(update(TrapRow).values(generation=TrapRow.generation + 1))
    assert traps.count(writing) == 0
    assert traps.add(writing, "a@example.org", at=AT)
    assert traps.count(writing) == 1
