"""`milterctl replay`: put saved mail through the real milter and print what it decided."""

import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gatepost_milter.cli.common import (
    FINDINGS,
    UNREACHABLE,
    USAGE,
    App,
    Failure,
    note,
    on_terminal,
)
from gatepost_milter.cli.options import FORMAT, progress
from gatepost_milter.cli.replay_output import Assumptions, Differences, print_json, print_plain
from gatepost_milter.cli.replay_run import in_order, player
from gatepost_milter.replay import play, saved_envelope, saved_mail, sidecar
from gatepost_milter.replay.saved_envelope import VERSION
from gatepost_policy.system.socket_address import SocketAddress
from gatepost_policy.text.times import moment

if TYPE_CHECKING:
    from gatepost_policy.config.settings import Settings

# With fewer files no progress bar is shown.
MANY_FILES = 20


def _receipt(_context: click.Context, _option: click.Parameter, text: str | None) -> float | None:
    """`--at` as Unix seconds: a number of them, or a time as other commands take it."""
    if text is None:
        return None
    try:
        at = float(text)
    except ValueError:
        try:
            at = moment(text, time.time())
        except ValueError as error:
            raise click.BadParameter(f"{error}") from None
    if not sidecar.is_time(at):
        raise click.BadParameter(f"want a time of the years 1970 to 9999, got {text!r}")
    return at


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
    help="Answer DNS from this JSON object: name to TXT text, list, null, types or {error: ...}.",
)
@click.option(
    "--at",
    callback=_receipt,
    metavar="TIME",
    help="The time of receipt: Unix seconds, or a time such as 2026-04-28 or 30d.",
)
@click.option("--record", is_flag=True, help="Write what was seen to the history.")
@click.option(
    "--diff",
    "old",
    type=click.Path(path_type=Path),
    metavar="OLD.json",
    help="Print only what is decided differently from this earlier --format json output.",
)
@FORMAT
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
    given = saved_envelope.Given(
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
            note("--record: the milter at --milter records by itself")
        if given.dns is not None or at is not None:
            note("--dns and --at reach only a private milter: the one at --milter ignores them")
    differences = Differences.read(old) if old else None
    show = print_json if form == "json" else print_plain
    assumptions = Assumptions()
    failed = 0
    with ExitStack() as stack:
        files = saved_mail.find(paths)
        run, keep = player(stack, app.settings, socket, given, len(files), record)
        advance = _progress(stack, len(files), quiet=differences is not None)
        for outcome in in_order(files, run, advance):
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


def replay_name(outcome: play.Outcome) -> str:
    """The file's name for a line on stderr."""
    from gatepost_policy.text.escape import shown

    return shown(outcome.file)


def _dns(file: Path | None) -> dict[str, Any] | None:
    if file is None:
        return None
    from gatepost_milter.replay import dns_file as dnsfile

    try:
        return dnsfile.read(file)
    except OSError as error:
        raise Failure(f"--dns {file}: {error.strerror or error}", USAGE) from None
    except ValueError as error:
        raise Failure(f"--dns {file}: {error}", USAGE) from None


def _version(settings: "Settings") -> str:
    """The macro {v} to send; with submission.mta_token it begins with the token, as the milter
    expects."""
    token = settings.submission.mta_token
    return f"{token} 3.7.11" if token else VERSION


def _check_address(client: str) -> None:
    try:
        ip_address(client)
    except ValueError as error:
        raise Failure(f"--client: {error}", USAGE) from None


def _check_socket(socket: str) -> None:
    from gatepost_milter.mta.wire import ProtocolError, Wire

    try:
        address = SocketAddress.parse(socket)
    except ValueError as error:
        raise Failure(f"--milter {socket}: {error}", USAGE) from None
    try:
        Wire(address, 10.0).close()
    except ProtocolError as error:
        raise Failure(f"--milter {error}; is gatepost-milter running?", UNREACHABLE) from None


def _progress(stack: ExitStack, files: int, quiet: bool) -> Callable[[], None]:
    """A progress bar on stderr where there are many files and stderr is a terminal.

    None where the outcomes are printed to the terminal one by one; `quiet`: they are not printed.
    """
    if files < MANY_FILES or not on_terminal(sys.stderr):
        return lambda: None
    if on_terminal(sys.stdout) and not quiet:
        return lambda: None
    advance = stack.enter_context(progress("replay", files, "files"))
    return lambda: advance(1)
