"""`milterctl db`: the store's schema and retention."""

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import click

from gatepost_milter.cli.common import USAGE, App, Failure, note, on_terminal, working
from gatepost_policy.text.escape import shown
from gatepost_policy.text.plural import plural
from gatepost_policy.text.times import timestamp

# What each figure of a purge counts; these texts are printed.
PURGED = {
    "recipients": "messages that lost their recipients",
    "addresses": "messages whose client is now a network",
    "rows": "messages that are now counts",
    "identities": "senders forgotten",
    "keys": "DKIM keys forgotten",
    "guesses": "addresses tried, and hosts that tried logins, forgotten",
    "partitions": "months of the store dropped whole",
}


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
    with app.opened(ensure=False, create=True) as engine:
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
@click.option("--dry-run", is_flag=True, help="Only count what would go; nothing changes.")
@click.pass_obj
def purge(app: App, clock_is_right: bool, dry_run: bool) -> None:
    """Forget what is older than [retention] says.

    The daemon does this by itself; bounded work at a time, so that it may run beside it. Where the
    clock is more than two days past the last purge (the newest message in a store that never was
    purged), it may be wrong: nothing is forgotten then without --clock-is-right.
    """
    from gatepost_policy import retention, store

    now = time.time()
    with app.opened() as engine:
        doubt = None if clock_is_right else retention.by_hand(engine, now)
        if doubt is not None:
            raise Failure(
                f"the clock says {timestamp(now)}, the store was last at {timestamp(doubt)}: "
                "nothing is forgotten; if the clock is right: milterctl db purge --clock-is-right"
            )
        if dry_run:
            with store.reading(engine) as connection:
                due = retention.due(connection, app.settings, now)
            note("milterctl: nothing was changed; without --dry-run this would go")
            for name, number in asdict(due).items():
                if name != "partitions":
                    print(f"{name}: {number:<10}{PURGED[name]}")
            return
        with working("forgetting") as advance:
            done = retention.purge(engine, app.settings, now, advance)
        retention.remember(engine, now, back=clock_is_right)
    for name, number in asdict(done).items():
        print(f"{name}: {number:<10}{PURGED[name]}")


@contextmanager
def _tidied() -> Iterator[None]:
    """TERM and HUP end the command like Control-C: its copy of the store, made aside, goes."""

    def end(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@command.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.pass_obj
def backup(app: App, file: Path) -> None:
    """Write all of a SQLite store into FILE, while the services run.

    The database, the journal that waits, and the quarantine; read back and checked before FILE
    gets its name. The configuration is not in it.
    """
    from gatepost_policy.recorder import backup as backups

    try:
        with _tidied(), working("copying"):
            contents = backups.make(app.settings, app.outside(file))
    except backups.BackupError as error:
        raise Failure(str(error)) from None
    except OSError as error:
        if error.filename is None or Path(error.filename).parent != file.parent:
            raise
        # It named a file of ours beside FILE, which nobody has asked for.
        raise Failure(f"{shown(str(file))}: {error.strerror}") from None
    print(f"{shown(str(file))}: {contents}; read back and checked")


@command.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--verify", is_flag=True, help="Only read FILE and check it.")
@click.pass_obj
def restore(app: App, file: Path, yes: bool, verify: bool) -> None:
    """Put a backup in the place of a SQLite store; the services may run.

    What the journal holds and the backup does not know yet is taken in afterwards. The old database
    is kept beside the new one. On a terminal it asks first; elsewhere it wants --yes.
    """
    from gatepost_policy import recorder
    from gatepost_policy.recorder import backup as backups
    from gatepost_policy.recorder import restoring

    try:
        if verify:
            print(f"{shown(str(file))}: {backups.verify(file)}; checked")
            return
        if not yes:
            if not on_terminal(sys.stdin):
                raise Failure("db restore: nobody can be asked here; to go on: --yes", USAGE)
            click.confirm("Replace the store by the backup?", abort=True, err=True)
        with _tidied(), working("restoring"):
            done = restoring.restore(app.settings, file)
    except backups.BackupError as error:
        raise Failure(str(error)) from None
    print(f"restored: {done.contents}")
    if done.kept is not None:
        held = "what SQLite could not read" if done.before is None else (
            f"{plural(done.before.messages, 'message')}, {plural(done.before.traps, 'trap')}"
        )  # fmt: skip
        print(f"the old store is kept: {shown(str(done.kept))} ({held})")
    if recorder.wait_until_ingested(app.settings, timeout=30.0):
        print("what the journal held is in the store")
    else:
        print("the recorder takes in what the journal holds; look at: milterctl check")
