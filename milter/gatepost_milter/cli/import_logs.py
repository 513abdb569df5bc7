"""`milterctl import`: back-fill the history from the logs of Exim and Postfix."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, tzinfo
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import click

from gatepost_milter.cli.common import FINDINGS, USAGE, App, Failure, note
from gatepost_milter.cli.import_guesses import ImportedGuesses
from gatepost_milter.cli.import_sink import DrySink, Importer, Sink
from gatepost_milter.cli.options import LIST_FORMAT, progress
from gatepost_policy.importers.clock import SLACK_S, Clock, Years, yearless
from gatepost_policy.importers.exim import Exim
from gatepost_policy.importers.log_file import LogFile
from gatepost_policy.importers.postfix import Postfix
from gatepost_policy.importers.syslog import is_export, read_export
from gatepost_policy.importers.wrapping import likely_reason, unwrapped
from gatepost_policy.journal.record import Seen
from gatepost_policy.text.escape import shown
from gatepost_policy.text.plural import plural

if TYPE_CHECKING:
    from sqlalchemy import Engine

# How far back an earlier import of a log without years is looked for.
LOOK_BACK_YEARS = 12
HEAD_LINES = 500

_FILES = click.argument("files", nargs=-1, required=True, metavar="FILE...")
_ZONE = click.option(
    "--zone", metavar="ZONE", help="Zone of times without one, such as UTC (the machine's)."
)
_VERBOSE = click.option(
    "--verbose", "-v", is_flag=True, help="Show lines that were not understood."
)
_YEAR = click.option(
    "--year",
    type=click.IntRange(1990, 2100),
    metavar="YEAR",
    help="Year of the first line, of logs whose lines have none.",
)
_DRY_RUN = click.option(
    "--dry-run", is_flag=True, help="Only count what would come; nothing changes."
)


@click.group(
    "import", short_help="Back-fill the history from MTA logs.", invoke_without_command=True
)
@click.option("--list", "listed", is_flag=True, help="Show the imports that are in the store.")
@click.option("--undo", "undone", type=int, metavar="ID", help="Take this import back.")
@click.option("--yes", is_flag=True, help="Do not ask before --undo.")
@LIST_FORMAT
@click.pass_context
def command(context: click.Context, listed: bool, undone: int | None, yes: bool, form: str) -> None:
    """Back-fill the history from MTA logs.

    FILE is a log, plain or packed (gzip, bzip2, xz), or - for standard input: a file of syslog, of
    the journal, of docker or of Kubernetes, told apart by itself. Rotated logs may be given in any
    order. Importing the same log again changes nothing. Authenticated and local mail
    is counted; its addresses are not kept.

    --undo takes an import back as if it had never been, an unfinished one too: its messages, and
    what they added to sums, senders and trap hits. What another import or the milter has told of as
    well stays. It refuses where retention has turned messages of it into numbers. On a terminal it
    asks first; elsewhere it wants --yes.
    """
    from gatepost_milter.cli import import_book

    if context.invoked_subcommand is not None:
        if listed or undone is not None:
            raise click.UsageError("--list and --undo go without exim or postfix")
        return
    if listed == (undone is not None):
        raise click.UsageError("want exim FILE..., postfix FILE..., --list or --undo ID")
    app: App = context.obj
    if undone is None:
        import_book.show(app, form)
    else:
        import_book.take_back(app, undone, yes, form)


@command.command("exim")
@_FILES
@_ZONE
@_YEAR
@_DRY_RUN
@_VERBOSE
@click.pass_obj
def exim(app: App, /, **given: Any) -> None:
    """Import Exim's main log (and reject log)."""
    _run(app, Exim(app.settings.submission), **given)


@command.command("postfix", short_help="Import Postfix's mail log.")
@_FILES
@_ZONE
@_YEAR
@_DRY_RUN
@_VERBOSE
@click.pass_obj
def postfix(app: App, /, **given: Any) -> None:
    """Import Postfix's mail log: syslog, ISO dates, RFC 5424, or journalctl -o export."""
    _run(app, Postfix(app.settings.submission), **given)


def _run(
    app: App,
    importer: Importer,
    files: tuple[str, ...],
    zone: str | None,
    year: int | None,
    dry_run: bool,
    verbose: bool,
) -> None:
    where = zone_named(zone)
    now = time.time()
    damaged = False
    nothing: list[str] = []
    with ExitStack() as stack:
        engine = stack.enter_context(app.opened())
        logs = [_opened(stack, path, where, now) for path in files]
        for log in logs:
            _settle_years(log, importer, engine, year, now)
        logs = _in_order(logs, importer)
        sink = (DrySink if dry_run else Sink)(engine, app.settings, now)
        number = sink.begin(importer, files)
        guessed = None
        if number is not None:
            guessed = ImportedGuesses(engine, importer.guessing, number, now)
        advance = stack.enter_context(progress("import", _size(logs), "octets"))
        for log in logs:
            try:
                before = importer.tally.understood
                lines = importer.tally.lines
                sink.take(_seen(importer, log, advance))
                if guessed is not None:
                    guessed.so_far()
                if importer.tally.lines > lines and importer.tally.understood == before:
                    nothing.append(_why(importer, log))
            except OSError as error:
                raise Failure(f"{shown(log.file.path)}: {error.strerror or error}") from None
            if log.file.damage:
                damaged = True
                note(f"{shown(log.file.path)}: damaged, read up to there: {log.file.damage}")
        sink.take(importer.finish())
        sink.close()
        if guessed is not None:
            guessed.finish()
        told = sink.told + (0 if guessed is None else guessed.told)
        sink.end(importer.tally.lines, told=told > 0)
    if dry_run:
        note("milterctl: nothing was changed; without --dry-run this would come")
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
    wrapped: list[str]  # the head as it stands in the file, before `unwrap`
    first: float | None = None


def _why(importer: Importer, log: _Log) -> str:
    """One line about a log of which no line was understood."""
    wanted = "exim" if isinstance(importer, Exim) else "postfix"
    return f"{shown(log.file.path)}: {likely_reason(log.start, log.head, wanted)}"


def zone_named(name: str | None) -> tzinfo | None:
    """The zone that `--zone` names; None: the machine's own. Raises Failure."""
    if name is None:
        return None
    # A small machine may have no zone database; UTC needs none.
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
        # No line of a log is later than the file's last change.
        clock = Clock(zone, now if file.modified is None else file.modified)
        head = wrapped = file.head(HEAD_LINES)
        unwrap = unwrapped(head)
        if unwrap is not None:
            head = [line for block in unwrap([head]) for line in block]
        return _Log(file, clock, head, file.start(), unwrap, wrapped)
    except OSError as error:
        raise Failure(f"{shown(path)}: {error.strerror or error}") from None


def _settle_years(
    log: _Log, importer: Importer, engine: "Engine", year: int | None, now: float
) -> None:
    """Set the year of the first line, for a log whose lines have none; print it if it is a guess.

    In this order: --year, the day in the file's name, the time in the gzip header, the year that an
    earlier import of the same log used, else the latest that is not in the future. Not the file's
    own time: a copy with another one would be stored a second time.
    """
    if not yearless(log.head):
        return
    log.file.keep_aside()
    years = Years()
    for lines in _bare(log, lambda count: None):
        years.take(lines)
    log.file.again()
    log.unwrap = unwrapped(log.wrapped)  # a new one: the old one still holds an unfinished line
    end = log.file.named_date() or log.file.packed_at()
    begin = year if year is not None else years.begin(end) if end is not None else None
    if begin is None:
        begin = _imported_before(log, importer, engine, years, now)
    if begin is None and (begin := years.begin(now + SLACK_S)) is not None:
        to = f" to {begin + years.turns}" if years.turns > 0 else ""
        note(f"{shown(log.file.path)}: no year in its lines; taken {begin}{to} (--year YEAR)")
    log.clock.begin = begin
    log.clock.rewind()


def _imported_before(
    log: _Log, importer: Importer, engine: "Engine", years: Years, now: float
) -> int | None:
    """The year that an earlier import used for this log, by keys in the store; None if none is."""
    from gatepost_policy.ingest import known_keys

    latest = years.begin(now + SLACK_S)
    if latest is None:
        return None
    keys: dict[str, int] = {}
    for begin in range(latest, latest - LOOK_BACK_YEARS, -1):
        fresh = type(importer)(importer.ours)
        clock = Clock(log.clock.zone, log.clock.reference, begin)
        for seen in (*fresh.lines(log.head, clock), *fresh.finish()):
            if seen.key is not None:
                keys.setdefault(seen.key, begin)
    with engine.connect() as connection:
        found = [keys[key] for key in known_keys(connection, keys)]
    return max(set(found), key=found.count) if found else None


def _in_order(logs: list[_Log], importer: Importer) -> list[_Log]:
    """The logs, oldest first: the lines of one message may stand in two rotated files."""
    for log in logs:
        log.first = importer.first_time(log.head, log.clock)
        log.clock.rewind()
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

    if is_export(log.head):

        def blocks() -> Iterator[bytes]:
            for block in log.file.blocks():
                told()
                yield block

        yield from importer.entries(read_export(blocks()))
        return
    for lines in _bare(log, advance):
        yield from importer.lines(lines, log.clock)


def _bare(log: _Log, advance: Callable[[int], None]) -> Iterable[list[str]]:
    """The log's lines, unwrapped; `advance` gets the number of octets read since its last call."""
    before = 0

    def blocks() -> Iterator[list[str]]:
        nonlocal before
        for lines in log.file.lines():
            position = log.file.position
            advance(position - before)
            before = position
            yield lines

    return blocks() if log.unwrap is None else log.unwrap(blocks())


def _size(logs: list[_Log]) -> int | None:
    """Octets of all logs; None where one is standard input, whose size is not known."""
    sizes = [log.file.size for log in logs]
    return None if None in sizes else sum(size for size in sizes if size is not None)


def _summary(importer: Importer, sink: Sink, verbose: bool) -> None:
    tally = importer.tally
    kinds = ", ".join(f"{name} {count}" for name, count in sorted(tally.kinds.items()))
    known = sink.told - sink.new
    only = f", {sink.counted} of them only counted" if sink.counted else ""
    print(
        f"{plural(tally.lines, 'line')}: {sink.new} new{only}, {known} known already"
        + (f" ({kinds})" if kinds else "")
    )
    count = tally.kinds["unparsed"]
    if count and verbose:
        for line in tally.samples:
            note(f"not understood: {shown(line)}")
        if count > len(tally.samples):
            note(f"not understood: {count - len(tally.samples)} more")
    elif count:
        was = "line was" if count == 1 else "lines were"
        note(f"{count} {was} not understood; --verbose shows them")
