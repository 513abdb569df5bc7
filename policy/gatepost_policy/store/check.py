"""Check the store for damage (`milterctl db check`). Reads all of it, which takes long."""

from sqlalchemy import Engine, inspect

from gatepost_policy.store import engine as store
from gatepost_policy.store import migrate
from gatepost_policy.store.whole_schema import Base

PROBLEMS_MAX = 20


def findings(engine: Engine) -> list[str]:
    """One line for each problem, with the next step; none where all is well. Raises StoreError."""
    name = store.name(engine)
    revision = migrate.current(engine)
    if revision is None:
        return [f"{name}: has no gatepost schema; run: milterctl db upgrade"]
    if revision not in migrate.REVISIONS:
        return [
            f"{name}: has schema {revision}, newer than this gatepost knows ({migrate.HEAD}); "
            "install the gatepost that made it, or a later one"
        ]
    if revision != migrate.HEAD:
        return [f"{name}: has schema {revision}, wanted {migrate.HEAD}; run: milterctl db upgrade"]
    found: list[str] = []
    with store.reading(engine) as connection:
        if engine.dialect.name == "sqlite":
            for (line,) in connection.exec_driver_sql(f"PRAGMA integrity_check({PROBLEMS_MAX})"):
                if line != "ok":
                    found.append(f"{name}: {line}; restore it, or move it away and start anew")
            for table, *_ in connection.exec_driver_sql("PRAGMA foreign_key_check"):
                found.append(f"{name}: table {table} names a row that is not there")
        look = inspect(connection)
        for table in Base.metadata.sorted_tables:
            if not look.has_table(table.name):
                found.append(f"{name}: table {table.name} is missing; restore the store")
                continue
            has = {column["name"] for column in look.get_columns(table.name)}
            for column in table.columns:
                if column.name not in has:
                    found.append(f"{name}: column {table.name}.{column.name} is missing")
    return found[:PROBLEMS_MAX]
