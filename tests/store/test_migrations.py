"""The schema: created, upgraded with data in it, the same as the models, never downgraded."""

import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from alembic import autogenerate
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine
from sqlalchemy.exc import IntegrityError

from fix_store import AT, count, message, settings_in, signature
from gatepost_policy import backtest, config, lookup, recorder, store
from gatepost_policy.config.settings import Settings
from gatepost_policy.listings import dossier
from gatepost_policy.lookup import KnownState
from gatepost_policy.store import migrate, partitions
from gatepost_policy.store.whole_schema import Base

pytestmark = pytest.mark.slow


def set_revision(engine: Engine, revision: str) -> None:
    with store.writing(engine) as connection:
        connection.exec_driver_sql(f"UPDATE alembic_version SET version_num = '{revision}'")


def test_models_and_migrations_agree(any_engine: Engine) -> None:
    """Drift: what autogenerate would still change, after the migrations ran."""
    if any_engine.dialect.name == "postgresql":
        partitions.prepare(any_engine, AT)  # months are no drift
    with any_engine.connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={
                "compare_type": True,
                "include_name": lambda name, kind, parents: not (kind == "table" and "_p2" in name),
            },
        )
        diff = autogenerate.compare_metadata(context, Base.metadata)
    assert diff == []


def test_a_forgotten_migration_would_be_seen(engine: Engine) -> None:
    """The counter-proof of the test above."""
    with store.writing(engine) as connection:
        connection.exec_driver_sql("ALTER TABLE trap RENAME COLUMN note TO remark")
    with pytest.raises(AssertionError):
        test_models_and_migrations_agree(engine)


def test_partial_indexes_have_the_declared_condition(any_engine: Engine) -> None:
    """Autogenerate does not compare it, and for PostgreSQL only the migrations say it."""
    declared = {
        str(index.name): index.dialect_options["sqlite"]["where"]
        for table in Base.metadata.tables.values()
        for index in table.indexes
    }
    query = (
        "SELECT indexname, indexdef FROM pg_indexes"
        if any_engine.dialect.name == "postgresql"
        else "SELECT name, sql FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL"
    )
    with store.reading(any_engine) as connection:
        made = {row[0]: str(row[1]) for row in connection.exec_driver_sql(query)}
    found = {
        name: re.sub(r"\(|\)|::\w+", "", made[name].partition(" WHERE ")[2]) or None
        for name in declared
    }
    assert found == {
        name: where if where is None else str(where) for name, where in declared.items()
    }
    assert len([where for where in found.values() if where]) == 7


def test_revisions_are_those_of_the_files() -> None:
    script = ScriptDirectory.from_config(migrate.alembic_config())
    files = [r.revision for r in script.walk_revisions()][::-1]
    assert tuple(files) == migrate.REVISIONS
    assert script.get_heads() == [migrate.HEAD]


RELEASED = migrate.REVISIONS


def released_data(revision: str) -> Path:
    """What a store of `revision` holds: a file of its own only where the tables changed."""
    files = sorted((Path(__file__).parents[1] / "schemas").glob("*.sql"))
    return [file for file in files if file.stem <= revision][-1]


@pytest.mark.parametrize("revision", RELEASED)
def test_up_from_every_release_with_data(any_settings: Settings, revision: str) -> None:
    """A store that release left behind, with its data, opens in this one and goes on working."""
    from alembic import command

    engine = store.open_engine(any_settings, ensure=False)
    with store.writing(engine) as connection:
        if any_settings.store.url.startswith("postgresql"):
            connection.exec_driver_sql("DROP SCHEMA public CASCADE")
            connection.exec_driver_sql("CREATE SCHEMA public")
        else:
            for (name,) in connection.exec_driver_sql(
                "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
            ).all():
                connection.exec_driver_sql(f'DROP TABLE "{name}"')
    with store.writing(engine) as connection:
        command.upgrade(migrate.alembic_config(connection), revision)
    partitions._made.clear()
    partitions.prepare(engine, AT)
    first = partitions.first_id(partitions.month_of(AT)) + 1
    data = released_data(revision).read_text()
    with store.writing(engine) as connection:
        for line in data.split(";\n"):
            if line.strip():
                sql = line.replace("FIRST_ID", str(first))
                if engine.dialect.name == "postgresql":
                    sql = sql.replace("/*0*/0", "false").replace("/*1*/1", "true")
                connection.exec_driver_sql(sql.replace("%", "%%"))
    before = count(engine, "message")
    assert migrate.upgrade(engine) == (revision, migrate.HEAD)
    assert migrate.current(engine) == migrate.HEAD
    assert count(engine, "message") == before
    _nothing_is_lost(engine, any_settings)
    told = [message(1, traps=("trap@home.example",), signatures=(signature(),))]
    assert recorder.record_batch(engine, told, any_settings) == 1
    assert count(engine, "identity", "kind = 'prefix' AND messages = 3") == 1
    engine.dispose()


def _nothing_is_lost(engine: Engine, settings: Settings) -> None:
    """Listings go on with their evidence; what the old rows cannot know is not known."""
    with store.reading(engine) as connection:
        entries = dossier.listings(connection, AT, past=True, limit=10, evidence=True)
        held = {e.value: ([p.trap for p in e.evidence], e.by_hand) for e in entries}
        again = backtest.run(connection, settings)
        lookup.publish(connection, config.state_dir(settings), settings, now=AT)
    assert held == {
        "192.0.2.7/32": (["trap@home.example"], False), "2001:db8:1:2::/64": ([], True),
    }  # fmt: skip
    # The milter's trap hit has no SPF, no addressees and no marks: not a hit with one witness only.
    assert (again.messages, again.changed, again.not_known) == (3, 0, 1)
    known = KnownState(settings).current()
    assert known.until("prefix", "2001:db8:1:2::/64") == 4_102_444_800
    assert known.until("prefix", "192.0.2.7/32") is None  # ended


def test_a_newer_schema_is_refused_with_advice(any_settings: Settings, any_engine: Engine) -> None:
    set_revision(any_engine, "9999")
    with pytest.raises(store.StoreError) as caught:
        store.open_engine(any_settings)
    text = str(caught.value)
    assert "has schema 9999, newer than this gatepost knows" in text
    assert text.endswith("install the gatepost that made it, or a later one")
    with pytest.raises(store.StoreError, match="newer"):
        migrate.upgrade(any_engine)


@pytest.mark.postgresql
@pytest.mark.parametrize("any_settings", ["postgresql"], indirect=True)
def test_a_server_is_upgraded_only_by_command(any_settings: Settings, any_engine: Engine) -> None:
    with store.writing(any_engine) as connection:
        connection.exec_driver_sql("DROP SCHEMA public CASCADE")
        connection.exec_driver_sql("CREATE SCHEMA public")
    with pytest.raises(store.StoreError, match="run: milterctl db upgrade"):
        store.open_engine(any_settings)
    assert migrate.upgrade(any_engine) == (None, migrate.HEAD)
    assert migrate.upgrade(any_engine) == (migrate.HEAD, migrate.HEAD)
    store.open_engine(any_settings).dispose()


def test_many_open_a_new_store_at_once(tmp_path: Path) -> None:
    """One creates it, the others wait: processes and threads."""
    settings = settings_in(tmp_path)
    script = (
        "from gatepost_policy import store; import sys\n"
        "e = store.open_url('sqlite:///' + sys.argv[1]); e.dispose()"
    )
    children = [
        subprocess.Popen([sys.executable, "-c", script, settings.store.url], stderr=subprocess.PIPE)
        for _ in range(3)
    ]
    errors: list[Exception] = []

    def open_one() -> None:
        try:
            store.open_engine(settings).dispose()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=open_one) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for child in children:
        assert child.wait(60) == 0, child.stderr.read() if child.stderr else ""
        if child.stderr:
            child.stderr.close()
    assert errors == []


def test_a_store_is_its_owners_alone(tmp_path: Path) -> None:
    settings = settings_in(tmp_path / "state")
    store.open_engine(settings).dispose()
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
    assert Path(settings.store.url).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("missing", ["{}/mistyped/state", "/no-such-place"])
def test_a_mistyped_path_is_no_new_store(tmp_path: Path, missing: str) -> None:
    directory = Path(missing.format(tmp_path))
    with pytest.raises(store.StoreError, match="No such file or directory"):
        store.open_engine(settings_in(directory))
    assert not directory.exists() and not (tmp_path / "mistyped").exists()


def test_the_default_place_is_made_with_all_above_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "not" / "yet"))
    store.open_engine(Settings()).dispose()
    assert (tmp_path / "not" / "yet" / "gatepost").stat().st_mode & 0o777 == 0o700


def test_constraints_have_names(any_engine: Engine) -> None:
    with pytest.raises(store.StoreError) as caught:
        with store.writing(any_engine) as connection:
            for _ in range(2):
                connection.exec_driver_sql(
                    "INSERT INTO revision (topic, number) VALUES ('traps', 1)"
                )
    assert isinstance(caught.value.__cause__, IntegrityError)


ADVICE = (
    ("not sqlite", b"no database at all " * 100, "is damaged or no SQLite file"),
    ("cut short", None, "is damaged"),
)


@pytest.mark.parametrize(("name", "content", "want"), ADVICE, ids=[a[0] for a in ADVICE])
def test_a_corrupt_store_is_one_clear_line(
    settings: Settings, name: str, content: bytes | None, want: str
) -> None:
    path = Path(settings.store.url)
    whole = path.read_bytes()
    path.write_bytes(content or whole[: len(whole) // 2])
    with pytest.raises(store.StoreError) as caught:
        engine = store.open_engine(settings)
        count(engine, "message")
    assert want in str(caught.value) and "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
