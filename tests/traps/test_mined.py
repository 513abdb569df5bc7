"""Traps that strangers propose: which addresses nobody has, and which only look like it."""

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from fix_cli import Run
from fix_store import AT, count, message
from gatepost_milter.cli import trap_mine
from gatepost_policy import ingest, recorder, retention, store, traps
from gatepost_policy.config.settings import Settings
from gatepost_policy.ingest import guesses, import_runs
from gatepost_policy.mail.decision import Action
from gatepost_policy.retention import person
from gatepost_policy.store import guess_tables
from gatepost_policy.traps import existing, mined

DAY = 86_400.0
HOME = "home.example"
NAMES = (
    "aaron abby adam agnes alan albert alice amanda amy andrea andrew angela ann anna anne anthony"
    " antonio arthur ashley barbara betty bob brenda brian carl carol charles cheryl chris cindy"
    " claire colin connor craig"
).split()


def guess(name: str, number: int = 0, what: str = "rcpt", **values: Any) -> dict[str, Any]:
    at = AT + number * 11_000
    prefix = f"203.0.113.{number * 37 % 89 + 1}/32"
    record = {
        "v": 1, "kind": "guess", "what": what, "at": at, "first": at, "address": name,
        "hits": 1, "hosts": [[prefix, at, at]],
    }  # fmt: skip
    return record | values


def walk(what: str = "rcpt") -> list[dict[str, Any]]:
    """34 names from 34 hosts, one every three hours."""
    ending = "" if what == "login" else f"@{HOME}"
    return [guess(f"{name}{ending}", n, what) for n, name in enumerate(NAMES)]


def tell(engine: Engine, settings: Settings, *records: Any) -> None:
    recorder.record_batch(engine, records, settings, AT)


def mine(engine: Engine, *own: str, **values: Any) -> mined.Mined:
    with store.reading(engine) as connection:
        return mined.candidates(connection, own or (HOME,), **values)


def kinds(found: mined.Mined) -> dict[str, str]:
    return {one.address: one.kind for one in found.candidates}


def imported(engine: Engine, *records: Any) -> int:
    def work(connection: Any) -> int:
        number = import_runs.begin(connection, "postfix", ["x"], AT)
        guesses.write_import(connection, records, AT, number)
        import_runs.end(connection, number, 1, AT, told=True)
        return number

    return store.persistently(engine, work)


@pytest.mark.parametrize("what", ["rcpt", "login"])
def test_a_walk_gives_its_names(any_settings: Settings, any_engine: Engine, what: str) -> None:
    tell(any_engine, any_settings, *walk(what))
    found = mine(any_engine)
    assert sorted(kinds(found)) == sorted(f"{name}@{HOME}" for name in NAMES)
    assert set(kinds(found).values()) == {"pristine"} and all(c.proposed for c in found.candidates)
    (one,) = found.walks
    assert (one.names, one.hosts) == (34, len({n * 37 % 89 for n in range(34)}))
    assert (one.first, one.last) == (f"aaron@{HOME}", f"craig@{HOME}")
    assert found.candidates[1].position == 2
    assert {c.source for c in found.candidates} == {f"mined:{what}"}
    assert len(mine(any_engine, since=AT + 30 * 11_000).candidates) == 4


def test_classes(any_settings: Settings, any_engine: Engine) -> None:
    live = message(1, to=(f"alice@{HOME}", f"carol@{HOME}"), at=AT + 9 * DAY)
    once = message(2, to=(f"bob@{HOME}",), at=AT - 9 * DAY)
    refused = message(3, to=(f"dave@{HOME}",), refused=(f"dave@{HOME}",))
    door = message(4, kind="rcpt", to=(f"erin@{HOME}",), sender="x@y.example")
    author = message(5, sender=f"frank@{HOME}", author=f"frank@{HOME}", to=(f"zoe@{HOME}",))
    forged = message(6, sender=f"grace@{HOME}", author=None, to=(f"dave@{HOME}",),
                     refused=(f"dave@{HOME}",), action=Action.REJECT)  # fmt: skip
    tell(any_engine, any_settings, live, once, refused, door, author, forged)
    tried = (
        "alice", "alcie", "alic", "carol", "carrol", "bob", "dave", "erin", "frank", "grace",
        "sales", "friends-request", "heidi", "trap", "gone", "o", "info@elsewhere.example",
    )  # fmt: skip
    tell(
        any_engine, any_settings,
        *(guess(n if "@" in n else f"{n}@{HOME}", k) for k, n in enumerate(tried[:-1])),
        guess(tried[-1], what="login"), guess("x@covered.example"), guess("y-1@wild.example"),
    )  # fmt: skip
    with store.writing(any_engine) as connection:
        for name in (f"trap@{HOME}", f"gone@{HOME}", "@covered.example", "y-*@wild.example"):
            traps.add(connection, name, at=AT)
        traps.remove(connection, f"gone@{HOME}", at=AT)
    found = mine(any_engine)
    assert kinds(found) == {
        f"alcie@{HOME}": "typo",
        f"alic@{HOME}": "typo",
        f"carrol@{HOME}": "typo",
        f"bob@{HOME}": "recycled",
        f"dave@{HOME}": "pristine",
        f"erin@{HOME}": "pristine",  # the policy service does not know who is refused behind it
        f"grace@{HOME}": "pristine",  # what was refused may name anybody
        f"sales@{HOME}": "role",
        f"friends-request@{HOME}": "role",
        f"heidi@{HOME}": "pristine",
        f"o@{HOME}": "pristine",
    }
    by_name = {one.address: one for one in found.candidates}
    assert by_name[f"alcie@{HOME}"].near == f"alice@{HOME}"
    assert by_name[f"bob@{HOME}"].accepted == AT - 9 * DAY
    assert (found.existing, found.traps, found.elsewhere) == (3, 4, 1)


def test_many_logins_are_one_statement(
    any_settings: Settings, any_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A walk tries ten thousand names: what exists of them is found as by one statement each."""
    for n, to in enumerate((f"bob@{HOME}", f"alice@{HOME}", "alice@other.example", "al@x.example")):
        tell(any_engine, any_settings, message(n, to=(to,), at=AT + n * DAY))
    names = [*NAMES, "al", "alice@home.example", "nobody"]
    found = []
    for many in (1_000, 0):
        monkeypatch.setattr(existing, "MANY", many)
        with store.reading(any_engine) as connection:
            found.append(existing.had_mail(connection, names))
    last = {"bob": AT, f"alice@{HOME}": AT + DAY, "alice": AT + 2 * DAY, "al": AT + 3 * DAY}
    assert found == [last, last]


def test_logins_without_a_domain(any_settings: Settings, any_engine: Engine) -> None:
    tell(any_engine, any_settings, message(1, to=(f"alice@{HOME}",), at=AT + 9 * DAY))
    tell(any_engine, any_settings, *(guess(n, what="login") for n in ("alice", "alcie", "heidi")))
    found = mine(any_engine, "one.example", "two.example")
    assert kinds(found) == {"alcie": "typo", "heidi": "pristine"} and found.existing == 1
    assert not any(one.proposed for one in found.candidates)
    assert kinds(mine(any_engine)) == {f"alcie@{HOME}": "typo", f"heidi@{HOME}": "pristine"}
    assert kinds(mine(any_engine, "a.example", "b.example", domain=HOME)) == kinds(mine(any_engine))


def test_one_edit() -> None:
    for a, b in (("amy", "any"), ("amy", "am"), ("am", "amy"), ("alice", "alcie"), ("ab", "ba")):
        assert existing.one_edit(a, b) and existing.one_edit(b, a)
    for a, b in (("amy", "amy"), ("amy", "anny"), ("abc", "cba"), ("alice", "alciee"), ("", "ab")):
        assert not existing.one_edit(a, b) and not existing.one_edit(b, a)


def test_sources_are_added_up(any_settings: Settings, any_engine: Engine) -> None:
    """The same log twice is one; logs of different times are two; an import goes alone."""
    name = f"heidi@{HOME}"
    first = imported(any_engine, guess(name, hits=3), guess(name, 1, hits=2))
    (one,) = mine(any_engine).candidates
    assert (one.hits, len(one.hosts), one.first, one.last) == (5, 2, AT, AT + 11_000)
    imported(any_engine, guess(name, hits=3), guess(name, 1, hits=2))
    assert mine(any_engine).candidates[0].hits == 5
    tell(any_engine, any_settings, guess(name, 9, hits=4))
    (one,) = mine(any_engine).candidates
    assert (one.hits, len(one.hosts), one.last) == (9, 3, AT + 99_000)
    # Lines that are followed come in order: what is read again is nothing new.
    tell(any_engine, any_settings, guess(name, 9, hits=4), guess(name, 8))
    assert mine(any_engine).candidates[0].hits == 9
    assert ingest.undo(any_engine, any_settings, first).guesses == 1
    assert mine(any_engine).candidates[0].hits == 9


def dump(engine: Engine) -> list[Any]:
    with store.reading(engine) as connection:
        return [
            sorted(tuple(row) for row in connection.exec_driver_sql(f"SELECT * FROM {table}"))
            for table in ("mined", "groper")
        ]


def groper(number: int = 0, **values: Any) -> dict[str, Any]:
    at = AT + number
    prefix = f"203.0.113.{number + 1}/32"
    record = {"v": 1, "kind": "groper", "at": at, "first": at, "prefix": prefix, "attempts": 3}
    return record | {"names": 2} | values


def test_undone_is_never_been(any_settings: Settings, any_engine: Engine) -> None:
    tell(any_engine, any_settings, guess(f"heidi@{HOME}", 5), groper())
    imported(any_engine, guess(f"heidi@{HOME}", 7), guess("heidi", what="login"), groper())
    before = dump(any_engine)
    number = imported(any_engine, *walk(), guess(f"heidi@{HOME}", 6), groper(), groper(1))
    with store.reading(any_engine) as connection:
        runs = {run.id: run.guesses for run in import_runs.runs(connection)}
    assert runs[number] == 37 and dump(any_engine) != before
    assert ingest.undo(any_engine, any_settings, number).guesses == 37
    assert dump(any_engine) == before
    with pytest.raises(import_runs.ImportGoneError):
        store.persistently(any_engine, lambda c: guesses.write_import(c, [groper()], AT, number))
    assert dump(any_engine) == before


def test_there_is_an_end(
    any_settings: Settings, any_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guesses, "MAX_ROWS", 10)
    monkeypatch.setattr(mined, "MAX_ROWS", 10)
    with store.writing(any_engine) as connection:
        assert not mined.full(connection)
        assert guesses.write(connection, walk(), AT) == 24
        assert guesses.write(connection, [*walk(), groper()], AT) == 24
        assert mined.full(connection)
    assert count(any_engine, "mined") == 10 and count(any_engine, "groper") == 1
    many = [[f"203.0.113.{n}/32", AT, AT] for n in range(40)]
    tell(any_engine, any_settings, guess(f"aaron@{HOME}", 50, hosts=many))
    with store.reading(any_engine) as connection:
        row = connection.exec_driver_sql(
            f"SELECT hosts FROM mined WHERE address = 'aaron@{HOME}'"
        ).scalar_one()
    assert len(json.loads(row)) == guesses.MAX_HOSTS == 16
    assert guess_tables.MAX_ROWS == 1_000_000


def test_who_turns_out_to_be_a_user_is_forgotten(
    any_settings: Settings, any_engine: Engine
) -> None:
    tell(any_engine, any_settings, guess("heidi", 0, "login"), guess("ivan", 0, "login"), groper())
    tell(any_engine, any_settings, guess("ivan", 1, "login"), guess("judy", 1, "login"))
    tell(
        any_engine, any_settings,
        {"v": 1, "kind": "no-guess", "at": AT, "prefix": "203.0.113.1/32", "address": "judy"},
    )  # fmt: skip
    assert count(any_engine, "groper") == 0
    with store.reading(any_engine) as connection:
        rows = connection.exec_driver_sql("SELECT address, hosts FROM mined").all()
    assert [row[0] for row in rows] == ["ivan"] and "203.0.113.1/32" not in rows[0][1]


def test_retention_and_a_person(any_settings: Settings, any_engine: Engine) -> None:
    bob = f"bob@{HOME}"
    tell(any_engine, any_settings, message(1, to=(bob,), at=AT - DAY), guess(bob), guess("bob"))
    tell(any_engine, any_settings, guess("eve", what="login"), groper())
    exported = person.export(any_engine, any_settings, bob)
    assert [row["address"] for row in exported["guesses"]] == ["bob", bob]
    retention.purge(any_engine, any_settings, AT + 40 * DAY)
    assert count(any_engine, "recipient") == 0
    # It had mail, which is forgotten; that it had is not.
    (found,) = [one for one in mine(any_engine).candidates if one.address == bob]
    assert (found.kind, found.accepted) == ("recycled", AT - DAY)
    assert person.would_erase(any_engine, any_settings, bob).guesses == 3
    assert person.erase(any_engine, any_settings, bob, AT).guesses == 3
    assert list(kinds(mine(any_engine))) == [f"eve@{HOME}"]
    assert retention.purge(any_engine, any_settings, AT + 366 * DAY).guesses == 2
    assert count(any_engine, "mined") == count(any_engine, "groper") == 0


LINE = (
    "2026-09-{day:02}T09:{minute:02}:00+00:00 mx postfix/smtpd[9]: NOQUEUE: reject: RCPT from"
    " unknown[203.0.113.{host}]: 550 5.1.1 <{name}@home.example>: Recipient address rejected: User"
    " unknown in virtual mailbox table; from=<a@forged.example> to=<{name}@home.example>"
    " proto=ESMTP helo=<h>\n"
)
LOGIN = (
    "2026-09-{day:02}T09:{minute:02}:00+00:00 mx postfix/smtpd[9]: warning: unknown"
    "[203.0.113.{host}]: SASL LOGIN authentication failed: UGFzc3dvcmQ6, sasl_username={name}\n"
)


@pytest.mark.parametrize("line", [LINE, LOGIN])
def test_from_a_log_to_traps(
    run: Run, engine: Engine, tmp_path: Path, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "mail.log"
    told = [
        line.format(name=name, host=n + 1, day=n // 5 + 1, minute=n % 60)
        for n, name in enumerate(NAMES)
    ]
    secret = LOGIN.format(name="UGFzc3dvcmQ6", host=77, day=1, minute=1)
    log.write_text("".join([*told, secret, secret.replace("77", "78")]))
    code, out = run("import", "postfix", str(log), "--zone", "UTC")
    assert code == 0, out
    code, out = run("trap", "mine", "--domain", HOME, "--format", "json")
    found = json.loads(out[out.index("{") : out.rindex("}") + 1])
    assert len(found["candidates"]) == 34 and found["applied"] is None
    (one,) = found["walks"]
    assert (one["names"], one["hosts"]) == (34, 34)
    assert run("trap", "list")[1] == "no traps\n"
    monkeypatch.setattr(trap_mine, "SHOWN", 30)
    out = run("trap", "mine", "--domain", HOME)[1]
    assert "... and 4 more" in out and NAMES[29] in out and f"{NAMES[30]}@" not in out
    code, out = run("trap", "mine", "--domain", HOME, "--apply")
    assert code == 0 and "34 new traps" in out
    code, out = run("trap", "mine", "--domain", HOME, "--apply", "--format", "csv")
    assert len([line for line in out.splitlines() if line.endswith(",True")]) == 0
    with store.reading(engine) as connection:
        sources = {trap.source for trap in traps.listing(connection)}
    assert sources == {"mined:rcpt" if line is LINE else "mined:login"}
    code, out = run("import", "--undo", "1", "--yes")
    assert code == 0, out
    assert count(engine, "mined") == count(engine, "groper") == count(engine, "message") == 0
    assert len([line for line in run("trap", "list")[1].splitlines() if HOME in line]) == 34
    everything = b"".join(path.read_bytes() for path in tmp_path.rglob("*sqlite*"))
    assert b"UGFzc3dvcmQ6" not in everything and b"ugfzc3dvcmq6" not in everything
    assert b"craig@home.example" in everything, "the counter-proof"
