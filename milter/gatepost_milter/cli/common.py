"""What every `milterctl` command shares: the settings in force, failing in one line, output.

A command gets an `App` (`@click.pass_obj`). It ends well by returning, with findings by
`raise SystemExit(1)`, and badly by raising `Failure`, `ConfigError` or `StoreError`: `cli.main`
turns these into one line on stderr and the exit code of the manual.
"""

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from gatepost_policy import config
from gatepost_policy.text.escape import error_text, shown

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

    from gatepost_policy.config.settings import Settings

FINE, FINDINGS, USAGE, UNREACHABLE = 0, 1, 2, 3


DATABASE_ENDS = ("", "-wal", "-shm", "-journal", ".migrate")


class Failure(Exception):
    """A command cannot go on. The text is one line with the next step, `code` the exit code."""

    def __init__(self, text: str, code: int = FINDINGS) -> None:
        super().__init__(text)
        self.code = code


@dataclass
class App:
    """One run of `milterctl`, with the options given before the command."""

    config_option: Path | None = None
    store_option: str | None = None

    @cached_property
    def config_path(self) -> Path | None:
        """The configuration file in force, None for the built-in defaults."""
        return config.find(self.config_option, os.environ)

    @cached_property
    def settings(self) -> "Settings":
        """The settings in force. Raises ConfigError."""
        return config.load(self.config_path, store=self.store_option)

    @property
    def has_replica(self) -> bool:
        """True where reports are read from a replica (store.read_url)."""
        return self.store_option is None and bool(self.settings.store.read_url)

    @contextmanager
    def opened(
        self, *, ensure: bool = True, replica: bool = False, create: bool | None = None
    ) -> "Iterator[Engine]":
        """The store, opened and closed again; `ensure` and `create` as in `store.open_engine`.

        `replica`: the one to ask for reports, where one is configured. Raises StoreError.
        """
        from gatepost_policy import store

        if replica and self.has_replica:
            engine = store.open_url(config.read_url(self.settings))
        else:
            engine = store.open_engine(self.settings, ensure=ensure, create=create)
        try:
            yield engine
        finally:
            engine.dispose()

    @contextmanager
    def store(
        self, *, caught_up: bool = False, write: bool = False, replica: bool = False
    ) -> "Iterator[Connection]":
        """One transaction on the store, which only reads unless `write`.

        `caught_up`: with everything in it that was accepted before this moment (`catch_up`);
        `replica` as in `opened`. Raises StoreError.
        """
        from gatepost_policy import store

        with self.opened(replica=replica) as engine:
            if caught_up:
                catch_up(self, engine)
            with store.writing(engine) if write else store.reading(engine) as connection:
                yield connection

    def outside(self, output: Path) -> Path:
        """`output`, unless it is a file of gatepost's own: writing a report there would destroy the
        store. Raises Failure."""
        from gatepost_milter.doctor import ownership

        settings, real = self.settings, Path(os.path.realpath(output))
        whole = [config.journal_dir(settings), config.quarantine_dir(settings)]
        files = [] if self.config_path is None else [self.config_path]
        if (path := config.database_path(settings)) is not None:
            files += [path.with_name(path.name + end) for end in DATABASE_ENDS]
        state = Path(os.path.realpath(config.state_dir(settings)))
        if (
            any(real.is_relative_to(os.path.realpath(place)) for place in whole)
            or any(_is(real, file) for file in files)
            or (real.parent == state and real.name.startswith(ownership.OURS))
        ):
            raise Failure(f"{shown(str(output))}: is gatepost's own; name another file", USAGE)
        return output

    def close(self) -> None:
        """Give files that this run made in the state directory, as root, to the services' user."""
        # Without loaded settings this run has made no files.
        if "settings" in self.__dict__:
            from gatepost_milter.doctor import ownership

            path = config.database_path(self.settings)
            name = "" if path is None else path.name
            ownership.give_back(config.state_dir(self.settings), name)


def _is(real: Path, file: Path) -> bool:
    """True where `file` is the file `real`, also under another name (a link)."""
    try:
        return real.samefile(file)
    except OSError:
        return real == Path(os.path.realpath(file))


MARK_S = 3.0  # how long a report compares old mail with new traps before it goes on


def _mark(app: App, engine: "Engine") -> None:
    """Compare old mail with new traps, MARK_S at most; if that is not enough, say so on stderr."""
    from gatepost_policy.store import reading, revision

    with reading(engine) as connection:
        if not revision.old_mail_waits(connection):
            return  # mostly so; then `trap_marks` is not imported either, which takes time

    from gatepost_policy.ingest import trap_marks

    with working("old mail to new traps:") as advance:
        left = trap_marks.settle_soon(
            engine,
            app.settings,
            seconds=MARK_S,
            progress=lambda done, total: advance(f"{done} of {total}"),
        )
    if left:
        many = f"over {trap_marks.SOON}" if left == trap_marks.SOON + 1 else str(left)
        note(
            f"milterctl: {many} old messages to new traps are not counted as such yet; "
            "the recorder goes on with them, or the next report where none runs"
        )


def _ingested(app: App) -> bool:
    """True once all that was accepted up to now is in the store. Raises StoreError, OSError."""
    from gatepost_policy.journal import segments

    # With an empty journal nothing is waiting, and the recorder need not be imported.
    if not segments(config.journal_dir(app.settings)):
        return True
    from gatepost_policy import recorder

    return recorder.wait_until_ingested(app.settings)


def catch_up(app: App, engine: "Engine") -> None:
    """Bring the store up to date before it is read: records of the journal, and new traps.

    `engine` may be a replica's. Says on stderr where the recorder is behind. Raises StoreError,
    OSError.
    """
    from gatepost_policy.store import StoreError

    try:
        if not _ingested(app):
            note("milterctl: the recorder is behind; the newest messages may be missing")
        if app.has_replica:
            with app.opened() as primary:
                _mark(app, primary)
        else:
            _mark(app, engine)
    except StoreError as error:
        # A store that is busy, or has only a replica, can still be read.
        if not error.temporary:
            raise
        note(f"milterctl: {error}; until then old mail does not know of new traps")
    except OSError as error:
        # A file system that went read-only or has errors is when somebody looks.
        if error.errno not in (errno.EROFS, errno.EIO, errno.EPERM):
            raise
        note(f"milterctl: {error_text(error)}; the newest messages may be missing")


def note(text: str) -> None:
    """Print progress or a hint on stderr, so that stdout has data only."""
    print(text, file=sys.stderr)


@contextmanager
def working(what: str) -> Iterator[Callable[[object], None]]:
    """Show on stderr, on a terminal only, that work goes on; call the yielded function with the
    progress so far."""
    if not on_terminal(sys.stderr):
        yield lambda done: None
        return
    from rich.console import Console

    with Console(stderr=True, markup=False).status(what) as status:
        yield lambda done: status.update(f"{what} {done}")


def on_terminal(stream: TextIO) -> bool:
    """True where `stream` is a terminal."""
    try:
        return stream.isatty()
    except ValueError:  # closed
        return False
