"""Words for the shell's completion: traps, senders, reasons. Never fails, never makes a store.

An error message in the middle of a command line would only disturb, so there are none.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from sqlalchemy import Connection

MOST = 50


def traps(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """The traps that begin with `incomplete`."""

    def read(connection: "Connection") -> list[str]:
        from gatepost_policy import traps

        # `match` finds the text anywhere in a name, so more rows are read than are needed.
        found = traps.listing(connection, match=incomplete, limit=20 * MOST)
        return [trap.key for trap in found]

    return _from_store(context, read, incomplete)


def senders(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """The listed and the repeat senders that begin with `incomplete`."""

    def read(connection: "Connection") -> list[str]:
        import time

        from gatepost_policy.listings import dossier

        listed = dossier.listings(connection, time.time(), limit=20 * MOST)
        repeat = dossier.repeat_senders(connection, limit=20 * MOST)
        return list(dict.fromkeys([*(e.value for e in listed), *(r.value for r in repeat)]))

    return _from_store(context, read, incomplete)


def reasons(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """The reasons of decisions that begin with `incomplete`."""
    from gatepost_policy.mail.decision import Reason

    return [reason for reason in map(str, Reason) if reason.startswith(incomplete)]


def _from_store(
    context: click.Context, read: Callable[["Connection"], list[str]], incomplete: str
) -> list[str]:
    from gatepost_milter.cli.common import App
    from gatepost_policy import config, store
    from gatepost_policy.text.escape import shown

    # During completion click does not call the group, so its options are read here.
    said: dict[str, Any] = context.find_root().params
    with suppress(Exception):  # on any error there are no words to complete
        app = App(said.get("config_file"), said.get("store"))
        path = config.database_path(app.settings)
        if path is not None and not path.exists():
            return []
        with app.opened(ensure=False) as engine, store.reading(engine) as connection:
            found = read(connection)
        # Leave out names with characters that must be escaped on a terminal.
        return [n for n in found if n.startswith(incomplete) and shown(n) == n][:MOST]
    return []
