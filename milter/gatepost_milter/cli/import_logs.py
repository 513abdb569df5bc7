"""`milterctl import`: back-fill the history from the logs of Exim and Postfix."""

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, tzinfo
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import click

from gatepost_milter.cli.common import FINDINGS, USAGE, App, Failure, note
from gatepost_milter.cli.options import progress
from gatepost_policy.importers.clock import Clock
from gatepost_policy.importers.common import to_json
from gatepost_policy.importers.exim import Exim
from gatepost_policy.importers.log_file import LogFile
from gatepost_policy.importers.postfix import Postfix
from gatepost_policy.importers.syslog import is_export, read_export
from gatepost_policy.importers.wrapping import likely_reason, unwrapped
from gatepost_policy.journal.record import Json, Seen
from gatepost_policy.text.escape import shown
from gatepost_policy.text.plural import plural

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from gatepost_policy.config.settings import Settings

BATCH = 5_000

Importer = Exim | Postfix

_FILES = click.argument("files", nargs=-1, required=True, metavar="FILE...")
_ZONE = click.option(
    "--zone", metavar="ZONE", help="Zone of times without one, such as UTC (the machine's)."
)
_VERBOSE = click.option(
    "--verbose", "-v", is_flag=True, help="Show lines that were not understood."
)


@click.group("import", short_help="Back-fill the history from MTA logs.")
def command() -> None:
    """Back-fill the history from MTA logs.

    FILE is a log, plain or packed (gzip, bzip2, xz), or - for standard input: a file of syslog, of
    the journal, of docker or of Kubernetes, told apart by itself. Rotated logs may be given in any
    order. Importing the same log again changes nothing. Authenticated and local mail
    is counted; its addresses are not kept.
    """


@command.command("exim")
@_FILES
@_ZONE
@_VERBOSE
@click.pass_obj
def exim(app: App, files: tuple[str, ...], zone: str | None, verbose: bool) -> None:
    """Import Exim's main log (and reject log)."""
    _run(app, Exim(app.settings.submission), files, zone, verbose)


@command.command("postfix", short_help="Import Postfix's mail log.")
@_FILES
@_ZONE
@_VERBOSE
@click.pass_obj
def postfix(app: App, files: tuple[str, ...], zone: str | None, verbose: bool) -> None:
    """Import Postfix's mail log: syslog, ISO dates, RFC 5424, or journalctl -o export."""
    _run(app, Postfix(app.settings.submission), files, zone, verbose)


def _run(
    app: App, importer: Importer, files: tuple[str, ...], zone: str | None, verbose: bool
) -> None:
    where = _zone(zone)
    now = time.time()
    damaged = False
    nothing: list[str] = []
    with ExitStack() as stack:
        logs = _in_order([_opened(stack, path, where, now) for path in files], importer)
        engine = stack.enter_context(app.opened())
        sink = _Sink(engine, app.settings, now)
        advance = stack.enter_context(progress("import", _size(logs), "octets"))
        for log in logs:
            try:
                before = importer.tally.understood
                lines = importer.tally.lines
                sink.take(_seen(importer, log, advance))
                if importer.tally.lines > lines and importer.tally.understood == before:
                    nothing.append(_why(importer, log))
            except OSError as error:
                raise Failure(f"{shown(log.file.path)}: {error.strerror or error}") from None
            if log.file.damage:
                damaged = True
                note(f"{shown(log.file.path)}: damaged, read up to there: {log.file.damage}")
        sink.take(importer.finish())
        sink.close()
    _summary(importer, sink, verbose)
    for line in nothing:
        note(line)
    if damaged or nothing:
        raise SystemExit(FINDINGS)


@dataclass
class _Log:
    file: LogFile
    clock: Clock
    head: list[str]
    start: bytes
    unwrap: Callable[[Iterable[list[str]]], Iterable[list[str]]] | None
    first: float | None = None


def _why(importer: Importer, log: _Log) -> str:
    """One line about a log of which no line was understood."""
    wanted = "exim" if isinstance(importer, Exim) else "postfix"
    return f"{shown(log.file.path)}: {likely_reason(log.start, log.head, wanted)}"


def _zone(name: str | None) -> tzinfo | None:
    if name is None:
        return None
    # A bare machine may have no zone database; UTC needs none.
    if name.upper() in ("UTC", "GMT", "Z"):
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        wanted = "want one such as UTC or Europe/Berlin"
        raise Failure(f"--zone {shown(name)}: no such time zone; {wanted}", USAGE) from None


def _opened(stack: ExitStack, path: str, zone: tzinfo | None, now: float) -> _Log:
    try:
        file = LogFile(path)
        stack.callback(file.close)
        # A line without a year is not later than its file.
        clock = Clock(zone, now if file.modified is None else file.modified)
        head = file.head()
        unwrap = unwrapped(head)
        if unwrap is not None:
            head = [line for block in unwrap([head]) for line in block]
        return _Log(file, clock, head, file.start(), unwrap)
    except OSError as error:
        raise Failure(f"{shown(path)}: {error.strerror or error}") from None


def _in_order(logs: list[_Log], importer: Importer) -> list[_Log]:
    """Oldest first: the lines of a message may stand in two rotated files."""
    for log in logs:
        log.first = importer.first_time(log.head, log.clock)
    dated = [log.first for log in logs if log.first is not None]
    latest = max(dated, default=0.0)
    return sorted(logs, key=lambda log: latest if log.first is None else log.first)


def _seen(importer: Importer, log: _Log, advance: Callable[[int], None]) -> Iterator[Seen]:
    before = 0

    def told() -> None:
        nonlocal before
        position = log.file.position
        advance(position - before)
        before = position

    if isinstance(importer, Postfix) and is_export(log.head):

        def blocks() -> Iterator[bytes]:
            for block in log.file.blocks():
                told()
                yield block

        yield from importer.entries(read_export(blocks()))
        return

    def blocks_of_lines() -> Iterator[list[str]]:
        for lines in log.file.lines():
            told()
            yield lines

    bare = blocks_of_lines() if log.unwrap is None else log.unwrap(blocks_of_lines())
    for lines in bare:
        yield from importer.lines(lines, log.clock)
    told()


class _Sink:
    """Gathers what was seen and writes it in batches, in a thread: the disk and the parser need
    not wait for each other."""

    def __init__(self, engine: "Engine", settings: "Settings", learned: float) -> None:
        self.new = 0
        self.told = 0
        self._engine, self._settings, self._learned = engine, settings, learned
        self._batch: list[Json] = []
        self._writing: Future[int] | None = None
        self._pool = ThreadPoolExecutor(1)

    def take(self, seen: Iterable[Seen]) -> None:
        """Write these, a batch at a time. Raises StoreError."""
        for one in seen:
            self._batch.append(to_json(one))
            if len(self._batch) >= BATCH:
                self._hand_over()

    def close(self) -> None:
        """Write what is left, and wait until all is written."""
        self._hand_over()
        self._wait()
        self._pool.shutdown()

    def _hand_over(self) -> None:
        from gatepost_policy.recorder import record_batch

        self._wait()
        batch, self._batch = self._batch, []
        if batch:
            self.told += len(batch)
            self._writing = self._pool.submit(
                record_batch, self._engine, batch, self._settings, self._learned
            )

    def _wait(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            self.new += writing.result()


def _size(logs: list[_Log]) -> int | None:
    """Octets of all logs; None where one is standard input: nobody knows how much is to come."""
    sizes = [log.file.size for log in logs]
    return None if None in sizes else sum(size for size in sizes if size is not None)


def _summary(importer: Importer, sink: _Sink, verbose: bool) -> None:
    tally = importer.tally
    kinds = ", ".join(f"{name} {count}" for name, count in sorted(tally.kinds.items()))
    known = sink.told - sink.new
    print(
        f"{plural(tally.lines, 'line')}: {sink.new} new, {known} known already"
        + (f" ({kinds})" if kinds else "")
    )
    if tally.kinds["unparsed"] and verbose:
        for line in tally.samples:
            note(f"not understood: {shown(line)}")
        more = tally.kinds["unparsed"] - len(tally.samples)
        if more > 0:
            note(f"not understood: {more} more")
    elif tally.kinds["unparsed"]:
        count = tally.kinds["unparsed"]
        was = "line was" if count == 1 else "lines were"
        note(f"{count} {was} not understood; --verbose shows them")
