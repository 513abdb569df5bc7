"""`milterctl db`: the store's schema and retention."""

import time
from dataclasses import asdict
from pathlib import Path

import click

from gatepost_milter.cli.common import App, Failure, working
from gatepost_policy.text.times import timestamp


@click.group()
def command() -> None:
    """The store's schema and retention."""


@command.command()
@click.pass_obj
def upgrade(app: App) -> None:
    """Bring the schema to what this gatepost wants.

    A SQLite store is upgraded when it is first opened, too; a database server only by this
    command. Take a backup first: there is no way back.
    """
    from gatepost_policy import config
    from gatepost_policy.store import migrate

    path = config.database_path(app.settings)
    if path is not None:
        _directory(path)
    with app.opened(ensure=False) as engine:
        before, now = migrate.upgrade(engine)
    print(
        f"schema {now}: nothing to do" if before == now else f"schema {before or 'none'} -> {now}"
    )


def _directory(path: Path) -> None:
    from gatepost_policy.store.migrate import make_directory

    try:
        make_directory(path.parent)
    except OSError as error:
        raise Failure(f"{path.parent}: cannot be made: {error.strerror}", 3) from None


@command.command()
@click.pass_obj
def current(app: App) -> None:
    """Print the schema's revision."""
    from gatepost_policy import config
    from gatepost_policy.store import migrate

    path = config.database_path(app.settings)
    if path is not None and not path.exists():
        print("none")
        return
    with app.opened(ensure=False) as engine:
        print(migrate.current(engine) or "none")


@command.command()
@click.pass_obj
def check(app: App) -> None:
    """Look whether the store is whole and its schema the right one.

    Reads every page of a SQLite file. Exit code 1 with findings.
    """
    from gatepost_policy import store
    from gatepost_policy.store import check as store_check

    with app.opened(ensure=False) as engine:
        findings = store_check.findings(engine)
    for line in findings:
        print(line)
    if findings:
        raise SystemExit(1)
    print(f"{store.name(engine)}: fine")


@command.command()
@click.option(
    "--clock-is-right",
    is_flag=True,
    help="Forget although the clock is far past what the store knows.",
)
@click.pass_obj
def purge(app: App, clock_is_right: bool) -> None:
    """Forget what is older than [retention] says.

    The daemon does this by itself; bounded work at a time, so that it may run beside it. Where the
    clock is more than two days past the last purge (the newest message in a store that never was
    purged), it may be wrong: nothing is forgotten then without --clock-is-right.
    """
    from gatepost_policy import retention

    now = time.time()
    with app.opened() as engine:
        doubt = None if clock_is_right else retention.by_hand(engine, now)
        if doubt is not None:
            raise Failure(
                f"the clock says {timestamp(now)}, the store was last at {timestamp(doubt)}: "
                "nothing is forgotten; if the clock is right: milterctl db purge --clock-is-right"
            )
        with working("forgetting") as advance:
            done = retention.purge(engine, app.settings, now, advance)
        retention.remember(engine, now, back=clock_is_right)
    for name, number in asdict(done).items():
        print(f"{name}: {number}")
