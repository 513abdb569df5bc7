"""`milterctl replay`: put saved mail through the real milter and print what it decided."""

import json
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gatepost_milter import mailfiles, replay
from gatepost_milter.cli_common import FINDINGS, UNREACHABLE, USAGE, App, Failure, note
from gatepost_milter.harness import Envelope, Result
from gatepost_milter.journaltail import JournalTail
from gatepost_milter.privatemilter import PrivateMilter, StartError
from gatepost_milter.replayrequest import VERSION
from gatepost_milter.replayshow import Assumptions, Differences, print_json, print_plain
from gatepost_policy import config
from gatepost_policy.record import Json
from gatepost_policy.sockets import SocketAddress

if TYPE_CHECKING:
    from gatepost_policy.settings import Settings

# Below this a progress bar is more trouble than the wait.
MANY_FILES = 20


@click.command("replay", short_help="Put saved mail through the real milter.")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option("--milter", "socket", metavar="SOCKET", help="Use this milter; else a private one.")
@click.option("--client", metavar="IP", help="The client's address.")
@click.option("--helo", metavar="NAME", help="The client's HELO name.")
@click.option("--sender", metavar="ADDRESS", help="The envelope sender.")
@click.option(
    "--recipient",
    "recipients",
    metavar="ADDRESS",
    multiple=True,
    help="An envelope recipient; may be repeated.",
)
@click.option("--login", metavar="USER", help="Submit it as this authenticated user.")
@click.option(
    "--dns",
    "dns_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Answer DNS from this JSON object: name to TXT text, list, null or {error: ...}.",
)
@click.option("--at", type=float, metavar="UNIXTIME", help="The time of receipt.")
@click.option("--record", is_flag=True, help="Write what was seen to the history.")
@click.option(
    "--diff",
    "old",
    type=click.Path(path_type=Path),
    metavar="OLD.json",
    help="Print only what is decided differently from this earlier --format json output.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(("table", "json")),
    default="table",
    show_default=True,
    help="How to print it.",
)
@click.pass_obj
def command(
    app: App,
    paths: tuple[str, ...],
    socket: str | None,
    client: str | None,
    helo: str | None,
    sender: str | None,
    recipients: tuple[str, ...],
    login: str | None,
    dns_file: Path | None,
    at: float | None,
    record: bool,
    old: Path | None,
    form: str,
) -> None:
    """Put saved mail through the real milter and print facts, signatures, edits, decision.

    PATH is an .eml file, an mbox, a Maildir or any directory (every file below it), plain or
    gzipped. A sidecar X.json beside X.eml tells envelope, client, DNS and time. Without --milter
    a milter is started for the purpose, on what the configured store knows; what it would write
    is thrown away unless --record is given. What is not given is taken from the message (newest
    Received, Return-Path, Delivered-To), else assumed, and said so.
    """
    given = replay.Given(
        client=client,
        helo=helo,
        sender=None if sender is None else sender.strip("<>"),
        recipients=recipients,
        login=login,
        at=at,
        dns=_dns(dns_file),
        version=_version(app.settings),
    )
    if client is not None:
        _check_address(client)
    if socket is not None:
        _check_socket(socket)
        if record:
            raise Failure("--record: the milter at --milter records by itself", USAGE)
        if given.dns is not None or at is not None:
            note("--dns and --at reach only a private milter: the one at --milter ignores them")
    differences = Differences.read(old) if old else None
    show = print_json if form == "json" else print_plain
    assumptions = Assumptions()
    failed = 0
    with ExitStack() as stack:
        files = mailfiles.find(paths)
        run, keep = _player(stack, app.settings, socket, given, len(files), record)
        advance = _progress(stack, len(files))
        for outcome in _in_order(files, run, advance):
            failed += outcome.failed
            if outcome.failed:
                note(f"{replay_name(outcome)}: {outcome.json['error']}")
            assumptions.add(outcome)
            keep(outcome)
            if differences is None:
                show(outcome)
            else:
                differences.add(outcome.json)
        assumptions.tell()
    if differences is not None:
        differences.print(form)
    sys.stdout.flush()
    if failed or (differences is not None and differences.found):
        raise SystemExit(FINDINGS)


def replay_name(outcome: replay.Outcome) -> str:
    """The file's name for a line on stderr."""
    from gatepost_policy.shown import shown

    return shown(outcome.file)


def _dns(file: Path | None) -> dict[str, Any] | None:
    if file is None:
        return None
    try:
        answers = json.loads(file.read_bytes())
    except OSError as error:
        raise Failure(f"--dns {file}: {error.strerror or error}", USAGE) from None
    except ValueError as error:
        raise Failure(f"--dns {file}: no JSON: {error}", USAGE) from None
    if not isinstance(answers, dict):
        raise Failure(f"--dns {file}: want a JSON object, name to answer", USAGE)
    return answers


def _version(settings: "Settings") -> str:
    """What Postfix calls itself: with own_received = "mta" by the token the milter looks for."""
    token = settings.submission.mta_token
    return f"{token} 3.7.11" if token else VERSION


def _check_address(client: str) -> None:
    try:
        ip_address(client)
    except ValueError as error:
        raise Failure(f"--client: {error}", USAGE) from None


def _check_socket(socket: str) -> None:
    from gatepost_milter.wire import ProtocolError, Wire

    try:
        address = SocketAddress.parse(socket)
    except ValueError as error:
        raise Failure(f"--milter {socket}: {error}", USAGE) from None
    try:
        Wire(address, 10.0).close()
    except ProtocolError as error:
        raise Failure(f"--milter {error}; is gatepost-milter running?", UNREACHABLE) from None


Run = Callable[[mailfiles.Item], replay.Outcome]
Keep = Callable[[replay.Outcome], None]


def _player(
    stack: ExitStack,
    settings: "Settings",
    socket: str | None,
    given: replay.Given,
    files: int,
    record: bool,
) -> tuple[Run, Keep]:
    """How to run one message, and what to do with its outcome."""
    if socket is not None:
        tail = JournalTail(config.journal_dir(settings), from_now=True)

        def find(result: Result, envelope: Envelope) -> Json | None:
            try:
                return tail.find(result, envelope)
            except OSError:
                return None  # not ours to read: Authentication-Results tells what it can

        return lambda item: replay.run(item, given, socket, find), _drop
    workers = 1 if files == 1 else min(4, os.cpu_count() or 1)
    try:
        own = stack.enter_context(PrivateMilter(settings, workers))
    except StartError as error:
        raise Failure(f"cannot start a milter for the replay: {error}", UNREACHABLE) from None
    tail = JournalTail(own.journal)
    keep = _recording(stack, settings) if record else _drop
    return lambda item: replay.run(item, given, own.socket, tail.find, spool=own.directory), keep


def _drop(outcome: replay.Outcome) -> None:
    """Without --record nothing is kept."""


def _recording(stack: ExitStack, settings: "Settings") -> Keep:
    """Write what the private milter saw to the real journal, as that milter would have."""
    from gatepost_policy import journal
    from gatepost_policy import record as records

    writer = journal.Writer(
        config.journal_dir(settings),
        max_bytes=settings.store.journal_max_bytes,
        sync=settings.store.sync,
    )
    stack.callback(writer.close)

    def keep(outcome: replay.Outcome) -> None:
        if outcome.record is None:
            return
        obj = outcome.record
        if obj["direction"] != "inbound" and settings.store.submission == "counts":
            seen = records.read_seen(obj)
            obj = records.count(seen.facts, seen.decision)
        if not writer.write(obj):
            raise Failure(f"{config.journal_dir(settings)}: cannot write the journal", UNREACHABLE)

    return keep


def _progress(stack: ExitStack, files: int) -> Callable[[], None]:
    """A progress bar on stderr where many files are played for a person."""
    if files < MANY_FILES or not sys.stderr.isatty():
        return lambda: None
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    progress = stack.enter_context(
        Progress(
            "replay", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            console=Console(stderr=True), transient=True,
        )  # fmt: skip
    )
    task = progress.add_task("replay", total=files)
    return lambda: progress.advance(task)


def _in_order(
    files: list[str], run: Run, advance: Callable[[], None]
) -> Iterator[replay.Outcome]:
    """Play several files at once and hand out what came of them in the files' order."""
    threads = max(2, min(8, 2 * (os.cpu_count() or 1)))
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[list[replay.Outcome]]] = deque()
        try:
            for file in files:
                waiting.append(pool.submit(_file, file, run))
                # Bounded: a directory of 100 000 files never waits in memory.
                if len(waiting) >= 4 * threads:
                    yield from waiting.popleft().result()
                    advance()
            while waiting:
                yield from waiting.popleft().result()
                advance()
        finally:
            for future in waiting:
                future.cancel()


# One large message at a time: each is in memory several times while it is edited.
LARGE_BYTES = 4 * 1024 * 1024
_large = threading.Lock()


def _file(file: str, run: Run) -> list[replay.Outcome]:
    outcomes = []
    for item in mailfiles.read(file):
        with _large if len(item.data) > LARGE_BYTES else nullcontext():
            # Without the message itself: a large mbox must not stay in memory.
            outcomes.append(replace(run(item), result=None))
    return outcomes
