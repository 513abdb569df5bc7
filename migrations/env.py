"""How Alembic reaches the store: on the connection that `migrate.upgrade` hands over.

For developers (`alembic revision --autogenerate`, `alembic check`) without one: on the database
that $GATEPOST_STORE names as an SQLAlchemy URL.
"""

import os
import re

from alembic import context
from sqlalchemy import Connection

from gatepost_policy import store
from gatepost_policy.store.whole_schema import Base


def include_name(name: str | None, kind: str, parents: object) -> bool:
    """A month's partition is made by the recorder, not by a migration."""
    return not (kind == "table" and name is not None and re.search(r"_p\d{6}$", name))


def run(connection: Connection) -> None:
    """Run the migrations inside the caller's transaction."""
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_as_batch=True,  # SQLite alters a table by copying it
        compare_type=True,
        include_name=include_name,
    )
    context.run_migrations()


given = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    engine = store.open_url(os.environ["GATEPOST_STORE"], ensure=False)
    with store.writing(engine) as opened:
        run(opened)
    engine.dispose()
