"""docs/store.md, PostgreSQL: a dump is put in the place of the database while mail flows."""

import subprocess
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine

import postgresql_server
from fix_store import count
from gatepost_policy.config.settings import Settings
from mail_flow import Flow

pytestmark = [
    pytest.mark.postgresql,
    pytest.mark.parametrize("any_settings", ["postgresql"], indirect=True),
]


def sql(server: postgresql_server.Server, text: str, database: str = "postgres") -> list[Any]:
    with psycopg.connect(server.conninfo(database), autocommit=True) as connection:
        cursor = connection.execute(text.encode())
        return cursor.fetchall() if cursor.description else []


@pytest.fixture
def swapped(any_engine: Engine, postgresql: postgresql_server.Server) -> Iterator[str]:
    """The name of the database, in whose place another one may stand at the end."""
    name = any_engine.url.database
    assert name is not None
    yield name
    for left in (f"{name}_new", f"{name}_before"):
        sql(postgresql, f"DROP DATABASE IF EXISTS {left} WITH (FORCE)")


def test_a_dump_takes_the_place_of_the_store(
    any_settings: Settings,
    any_engine: Engine,
    postgresql: postgresql_server.Server,
    swapped: str,
) -> None:
    flow = Flow(any_settings)
    try:
        flow.past(200)
        server, name = postgresql, swapped
        dump = server.directory / f"{name}.dump"
        where = ["--host", str(server.directory), "--username", "gatepost"]

        def run(program: str, *words: str) -> None:
            subprocess.run([server.bin / program, *where, *words], check=True, capture_output=True)

        with dump.open("wb") as file:
            subprocess.run(
                [server.bin / "pg_dump", *where, "--format=custom", name], check=True, stdout=file
            )
        flow.past(100)
        run("createdb", "--template=template0", f"{name}_new")
        run("pg_restore", "--exit-on-error", f"--dbname={name}_new", str(dump))
        in_dump = sql(server, "SELECT count(*) FROM message", f"{name}_new")[0][0]
        assert 0 < in_dump < flow.written
        # As the page says: nobody in, everybody out, and the names change.
        sql(server, f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS false")
        sql(
            server,
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'",
        )
        sql(server, f"ALTER DATABASE {name} RENAME TO {name}_before")
        sql(server, f"ALTER DATABASE {name}_new RENAME TO {name}")
        flow.past(100)
    finally:
        flow.end()
    any_engine.dispose()
    # The segment was still in the journal: what the dump did not know came in from there.
    assert count(any_engine, "message") == flow.written
    assert any("the database" in one or "store" in one for one in flow.said), "it was said"
