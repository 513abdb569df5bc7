"""`milterctl trap`: manage the traps, addresses that nobody was ever given."""

import json
import sys
import time
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gatepost_milter.cli import complete, trap_import, trap_mine
from gatepost_milter.cli.common import FINDINGS, USAGE, App, Failure, note
from gatepost_milter.cli.listed import write_csv
from gatepost_milter.cli.options import LIST_FORMAT
from gatepost_milter.cli.trap_options import NOTE, PUBLISHED, SOURCE, WHEN

if TYPE_CHECKING:
    from gatepost_policy.traps import InUse, Trap


def _time(at: float | None) -> str | None:
    from gatepost_policy.text.times import timestamp

    return None if at is None else timestamp(at)


def _dump(rows: list[dict[str, Any]]) -> None:
    json.dump(rows, sys.stdout, indent=2)
    sys.stdout.write("\n")


say = note  # an option of this name hides it in the commands


@click.group("trap", short_help="The traps: addresses that nobody was ever given.")
def command() -> None:
    """The traps: addresses that nobody was ever given.

    A trap is an address, a domain (@old.example.org) or a pattern ('info-*@example.org').
    Changes hold in every running process within two seconds.
    """


command.add_command(trap_import.command)
command.add_command(trap_mine.command)


@command.command()
@click.argument("names", nargs=-1, required=True, metavar="ADDRESS...")
@SOURCE
@NOTE
@PUBLISHED
@WHEN
@click.option("--force", is_flag=True, help="Also an address that is in use.")
@click.pass_obj
def add(
    app: App,
    names: tuple[str, ...],
    source: str,
    note: str,
    published: str,
    published_at: float | None,
    force: bool,
) -> None:
    """Make addresses traps. One that was a trap already is fine.

    An address that is in use (mail to it was accepted in the last 30 days, or it was a sender) is
    refused without --force: whoever writes to it would be listed.
    """
    from gatepost_policy import traps
    from gatepost_policy.store import acts
    from gatepost_policy.system.people import who
    from gatepost_policy.text.escape import shown, utf8

    with app.store(write=True) as connection:
        for name in names:
            try:
                used = None if force else traps.in_use(connection, utf8(name), now=time.time())
                if used is not None:
                    raise Failure(f"{shown(name)}: {_in_use(used)}", USAGE)
                new = traps.add(
                    connection,
                    utf8(name),
                    at=time.time(),
                    source=utf8(source),
                    note=utf8(note),
                    published=utf8(published),
                    published_at=published_at,
                )
                if new:
                    key, why = traps.classify(utf8(name))[1], utf8(note)
                    acts.keep(connection, "trap", key, at=time.time(), actor=who(), note=why)
            except ValueError as error:
                raise Failure(f"{name}: {error}", USAGE) from None
            click.echo(f"{shown(name)} {'is a trap' if new else 'was a trap already'}")


@command.command(short_help="Make addresses ordinary again.")
@click.argument(
    "names", nargs=-1, required=True, metavar="ADDRESS...", shell_complete=complete.traps
)
@click.option(
    "--mistake", is_flag=True, help="They never were traps: take their hits and listings back."
)
@click.pass_obj
def remove(app: App, names: tuple[str, ...], mistake: bool) -> None:
    """Make addresses ordinary again; what they have seen stays in the history.

    With --mistake their hits are none: the listings that rest on them alone go, and so do the marks
    of those who became repeat senders by them.
    """
    from gatepost_policy import traps
    from gatepost_policy.ingest import trap_marks
    from gatepost_policy.store import acts
    from gatepost_policy.system.people import who
    from gatepost_policy.text.escape import shown, utf8
    from gatepost_policy.text.plural import plural

    with app.store(write=True) as connection:
        for name in names:
            try:
                was = traps.remove(connection, utf8(name), at=time.time())
                if was:
                    key = traps.classify(utf8(name))[1]
                    acts.keep(connection, "untrap", key, at=time.time(), actor=who())
            except ValueError as error:
                raise Failure(f"{name}: {error}", USAGE) from None
            click.echo(f"{shown(name)} {'is no trap any more' if was else 'was no trap'}")
    if mistake:
        with app.opened() as engine:
            for name in names:
                count = trap_marks.take_back(engine, app.settings, utf8(name))
                click.echo(f"{shown(name)}: {plural(count, 'hit')} taken back")


def _in_use(used: "InUse") -> str:
    """Why an address should not be a trap: the mail that shows its use, in words."""
    from gatepost_policy.text.plural import plural

    said = []
    if used.accepted:
        said.append(
            f"{plural(used.accepted, 'message')} of {plural(used.senders, 'sender')} to it "
            "in the last 30 days would have been trap hits"
        )
    if used.wrote:
        said.append(f"{plural(used.wrote, 'message')} named it as the sender")
    return f"in use: {'; '.join(said)}; --force makes it a trap all the same"


@command.command("list")
@click.option("--match", default="", metavar="TEXT", help="Only those that contain this.")
@click.option("--source", metavar="TEXT", help="Only those from this source.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="At most so many.")
@LIST_FORMAT
@click.pass_obj
def list_(app: App, match: str, source: str | None, limit: int | None, form: str) -> None:
    """List the traps."""
    from gatepost_policy import traps
    from gatepost_policy.text.escape import shown
    from gatepost_policy.text.fitted import fitted
    from gatepost_policy.text.terminal import console, plain, put, whole

    with app.store() as connection:
        found = traps.listing(connection, match=match, source=source, limit=limit)
    if form != "table":
        rows = [_row(trap) for trap in found]
        _dump(rows) if form == "json" else write_csv(_names(traps.Trap), rows)
        return
    if not found:
        click.echo("no such trap" if match or source else "no traps")
        return
    to = console(sys.stdout)
    table = plain("Trap", "Kind", "Added", "Source", "Published", "Note", to=to)
    whole(table, to, "Kind", "Added")
    for trap in found:
        # The key, not the text that was typed: mail is compared with the key (no +tag, one case).
        table.add_row(
            shown(trap.key),
            trap.kind,
            (_time(trap.added) or "")[:10],
            shown(trap.source),
            shown(trap.published) + (f" {(_time(trap.published_at) or '')[:10]}").rstrip(),
            shown(trap.note),
        )
    put(to, fitted(table, to, "Trap"))


HIT = ("at", "message_id", "trap", "sender", "client", "action", "reason", "source")


def _names(kind: type) -> list[str]:
    return [field.name for field in fields(kind)]


def _row(trap: "Trap") -> dict[str, Any]:
    row = asdict(trap)
    for name in ("published_at", "added", "live_at"):
        row[name] = _time(row[name])
    for name in ("source", "note", "published", "live_as"):
        row[name] = row[name] or None
    return row


@command.command(short_help="Find traps that somebody seems to use.")
@LIST_FORMAT
@click.pass_obj
def check(app: App, form: str) -> None:
    """Find traps that somebody seems to use: seen as a sender or as a login.

    Exit code 1 where there is one. An envelope sender may be forged; a login is proof.
    """
    from gatepost_policy import traps
    from gatepost_policy.text.escape import shown
    from gatepost_policy.text.fitted import fitted
    from gatepost_policy.text.plural import plural
    from gatepost_policy.text.terminal import console, plain, put, stacked, whole

    with app.store() as connection:
        found = traps.check(connection)
        total = traps.count(connection)
    if form != "table":
        rows = [asdict(f) | {"at": _time(f.at)} for f in found]
        _dump(rows) if form == "json" else write_csv(_names(traps.Finding), rows)
    elif found:
        to = console(sys.stdout)
        table = plain("Trap", "Seen as", "Last", "Messages", "Next step", to=to)
        whole(table, to, "Last", "Messages")
        for finding in found:
            table.add_row(
                shown(finding.trap),
                finding.how,
                stacked(_time(finding.at) or "", to),
                "" if finding.messages is None else str(finding.messages),
                f"milterctl trap remove {shown(finding.trap)}",
            )
        put(to, fitted(table, to, "Trap", "Next step"))
    else:
        click.echo(f"{plural(total, 'trap')}, none of them in use")
    if found:
        raise SystemExit(FINDINGS)


@command.command()
@click.argument("name", required=False, metavar="[ADDRESS]", shell_complete=complete.traps)
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    metavar="N",
    default=100,
    show_default=True,
    help="At most so many.",
)
@LIST_FORMAT
@click.pass_obj
def hits(app: App, name: str | None, limit: int, form: str) -> None:
    """The newest messages to traps, or to one trap."""
    from gatepost_policy import traps
    from gatepost_policy.text.decided import decided
    from gatepost_policy.text.escape import shown, utf8
    from gatepost_policy.text.fitted import fitted
    from gatepost_policy.text.terminal import console, plain, put, stacked, whole

    with app.store(caught_up=True) as connection:
        try:
            found = traps.hits(connection, None if name is None else utf8(name), limit=limit)
        except ValueError as error:
            raise Failure(f"{name}: {error}", USAGE) from None
    if form != "table":
        rows = [asdict(h) | {"at": _time(h.at)} for h in found]
        _dump(rows) if form == "json" else write_csv(HIT, rows)
        return
    if not found:
        click.echo("no message to a trap" if name is None else "no message to this trap")
        return
    to = console(sys.stdout)
    table = plain("At", "Trap", "Sender", "Client", "Decision", to=to)
    whole(table, to, "At")
    for hit in found:
        table.add_row(
            stacked(_time(hit.at) or "", to),
            shown(hit.trap),
            shown(f"<{hit.sender or ''}>"),
            shown(hit.client or "-"),
            shown(decided(hit.action, hit.reason, hit.source)),
        )
    put(to, fitted(table, to, "Trap", "Sender", "Client"))


@command.command("export", short_help="Write Postfix tables for traps without a mailbox.")
@click.argument("form", type=click.Choice(("postfix",)), metavar="postfix")
@click.option(
    "-d",
    "--directory",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    default=Path(),
    metavar="DIR",
    help="Where the tables go; else the current directory.",
)
@click.pass_obj
def export(app: App, form: str, directory: Path) -> None:
    """Write two Postfix tables, so that mail for traps without a mailbox comes in whole.

    gatepost_trap_recipients makes the addresses known, gatepost_trap_transport throws away what
    the milter lets through.
    """
    from gatepost_policy import exporters, traps
    from gatepost_policy.exporters import postfix

    with app.store() as connection:
        found = traps.listing(connection)
    tables = {
        "gatepost_trap_recipients": postfix.recipient_lines(found),
        "gatepost_trap_transport": postfix.transport_lines(found),
    }
    for name, lines in tables.items():
        try:
            exporters.write(directory / name, lines)
        except OSError as error:
            raise Failure(f"{directory / name}: cannot be written: {error.strerror}") from None
    place = directory.resolve()
    click.echo(f"local_recipient_maps = $local_recipient_maps texthash:{place}/{list(tables)[0]}")
    click.echo(f"transport_maps = texthash:{place}/{list(tables)[1]}")
    left = sum(1 for trap in found if not postfix.usable(trap))
    if left:
        say(f"milterctl: {left} patterns and quoted addresses cannot stand in a table")
