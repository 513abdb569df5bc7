"""`milterctl sender`: show repeat senders and listings, list and forgive by hand."""

import json
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from gatepost_milter.cli import complete
from gatepost_milter.cli.common import USAGE, App, Failure, note
from gatepost_milter.cli.listed import write_csv
from gatepost_milter.cli.options import FORMAT, LIST_FORMAT

if TYPE_CHECKING:
    from gatepost_policy.mail.facts import Identity

say = note  # an option of this name hides it in the commands
# The columns of `sender list --format csv`, for listings and for repeat senders.
COLUMNS = (
    "list", "kind", "value", "since", "until", "state", "reason", "hits", "by_hand", "note",
    "first_seen", "last_seen", "messages", "trap_messages", "days",
)  # fmt: skip


def _identity(name: str) -> "Identity":
    from gatepost_policy import listings
    from gatepost_policy.text.escape import utf8

    try:
        return listings.identify(utf8(name))
    except ValueError as error:
        raise Failure(f"{name}: {error}", USAGE) from None


def _time(at: float | None) -> str | None:
    from gatepost_policy.text.times import timestamp

    return None if at is None else timestamp(at)


def _dump(value: object) -> None:
    json.dump(value, sys.stdout, indent=2)
    sys.stdout.write("\n")


@click.group("sender", short_help="Repeat senders and listings.")
def command() -> None:
    """Repeat senders and listings.

    A sender is an IP address, a prefix (2001:db8::/64), a domain that signs (DKIM d=) or a mail
    address. By itself gatepost punishes only what is proven: prefixes and signing domains.
    """


@command.command("list")
@click.option("--all", "past", is_flag=True, help="Past listings as well.")
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
def list_(app: App, past: bool, limit: int, form: str) -> None:
    """Listings in force, and repeat senders."""
    from gatepost_policy.listings import dossier
    from gatepost_policy.text.escape import shown
    from gatepost_policy.text.fitted import fitted
    from gatepost_policy.text.terminal import console, minute, plain, put, stacked, whole

    now = time.time()
    with app.store(caught_up=True, replica=True) as connection:
        listed = dossier.listings(connection, now, past=past, limit=limit)
        repeat = dossier.repeat_senders(connection, limit=limit)
    if form == "json":
        _dump({"listings": [x.json() for x in listed], "repeat": [x.json() for x in repeat]})
        return
    if form == "csv":
        blank = dict.fromkeys(COLUMNS)
        rows = [blank | {"list": "listed"} | x.json() for x in listed]
        rows += [blank | {"list": "repeat"} | x.json() for x in repeat]
        write_csv(COLUMNS, rows)
        return
    to = console(sys.stdout)
    table = plain("Listed", "Kind", "Since", "Until", "State", "Hits", "Reason", "Note", to=to)
    whole(table, to, "Since", "Until", "State", "Hits")
    watched = app.settings.sender.promotion != "enforce"
    for one in listed:
        # Without promotion = "enforce" such a network is not refused, so do not show it as listed.
        state = "watched" if one.kind == "promoted" and watched else one.state
        table.add_row(
            shown(one.value), one.kind, stacked(minute(one.since), to),
            stacked(minute(one.until), to), state,
            str(one.hits), one.reason, shown(one.note or ""),
        )  # fmt: skip
    if listed:
        put(to, fitted(table, to, "Listed"))
    else:
        click.echo("nobody is listed")
    if repeat:
        click.echo()
        table = plain(
            "Repeat sender", "Kind", "Messages", "To traps", "Days", "First", "Last",
            to=to, title="Repeat senders",
        )  # fmt: skip
        whole(table, to, "First", "Last", "Days")
        for sender in repeat:
            table.add_row(
                shown(sender.value), sender.kind, str(sender.messages),
                str(sender.trap_messages), str(sender.days),
                stacked(minute(sender.first_seen), to), stacked(minute(sender.last_seen), to),
            )  # fmt: skip
        put(to, fitted(table, to, "Repeat sender"))


@command.command()
@click.argument("name", metavar="SENDER", shell_complete=complete.senders)
@FORMAT
@click.pass_obj
def show(app: App, name: str, form: str) -> None:
    """One sender: what is known, its listings, and the evidence for them."""
    from gatepost_policy import listings
    from gatepost_policy.listings import dossier
    from gatepost_policy.text.escape import shown
    from gatepost_policy.text.fitted import fitted
    from gatepost_policy.text.plural import plural
    from gatepost_policy.text.terminal import console, minute, plain, put, stacked, whole
    from gatepost_policy.text.times import timestamp

    identity = _identity(name)
    with app.store(caught_up=True, replica=True) as connection:
        found = dossier.sender(connection, identity, time.time())
        above = listings.covering(connection, identity, time.time())
    if form == "json":
        _dump(found.json())
        return
    to = console(sys.stdout)
    click.echo(shown(identity.value))
    if not found.known and not found.listings and not above:
        click.echo("never seen, never listed")
    _say_covered(above)
    for one in found.known:
        kind = "proven" if one.proven else "claimed"
        first, last = minute(one.first_seen), minute(one.last_seen)
        click.echo(
            f"  {one.kind} ({kind}): "
            f"{plural(one.messages, 'message')} on {plural(one.days, 'day')}, "
            f"{one.trap_messages} to traps, "
            + (first if first == last else f"{first} to {last}")
            + (", repeat sender" if one.repeat else "")
        )
    for listing in found.listings:
        why = f"{listing.reason}, {shown(listing.note)}" if listing.note else listing.reason
        span = f"{minute(listing.since)} to {minute(listing.until)}"
        click.echo(f"  {listing.state}: {span}, {plural(listing.hits, 'hit')}, {why}")
        if listing.evidence:
            table = whole(plain("At", "Trap", "Message", "Sender", "Client", to=to), to, "At")
            for proof in listing.evidence:
                table.add_row(
                    stacked(timestamp(proof.at), to), shown(proof.trap),
                    shown(proof.queue_id or "-"),
                    shown(f"<{proof.sender or ''}>"), shown(proof.client or "-"),
                )  # fmt: skip
            put(to, fitted(table, to, "Trap", "Message", "Sender", "Client"))


@command.command()
@click.argument("name", metavar="SENDER", shell_complete=complete.senders)
@click.option("--for", "length", metavar="DURATION", help="How long; else sender.listing_first.")
@click.option("--note", default="", metavar="TEXT", help="Why.")
@click.option("--force", is_flag=True, help="Also what is ours, on never_list, or far too wide.")
@click.pass_obj
def punish(app: App, name: str, length: str | None, note: str, force: bool) -> None:
    """List a sender by hand. It holds in every process within two seconds.

    A domain means itself and what lies below it. Says what the listing would have hit in the last
    30 days.
    """
    from gatepost_policy import config, listings
    from gatepost_policy.config import own_names
    from gatepost_policy.config.settings import duration
    from gatepost_policy.store import acts
    from gatepost_policy.system.people import who
    from gatepost_policy.text.escape import shown, utf8
    from gatepost_policy.text.plural import plural

    identity = _identity(name)
    seconds = app.settings.sender.listing_first
    if length is not None:
        try:
            value: Any = duration(length)
        except ValueError as error:
            raise click.UsageError(f"--for: {error}.") from None
        seconds = max(1, int(value))
    own = own_names.read(config.state_dir(app.settings))
    why = listings.refusal(identity, app.settings, own)
    if why is not None and not force:
        raise Failure(f"{name}: {why}; --force lists it all the same", USAGE)
    now = time.time()
    with app.store(write=True) as connection:
        met = listings.would_have_hit(connection, identity, now)
        listings.punish(connection, identity, seconds=seconds, at=now, note=utf8(note))
        acts.keep(connection, "list", identity.value, at=now, actor=who(), note=utf8(note))
    below = " and below" if identity.kind == "dkim" else ""
    click.echo(f"{shown(identity.value)}{below} is listed until {_time(now + seconds)}")
    click.echo(f"it would have met {plural(met, 'message')} in the last 30 days")
    if not identity.proven:
        say("milterctl: an envelope sender can be forged: whoever writes this address is refused")
    if app.settings.sender.action == "shadow":
        say('milterctl: sender.action is "shadow": it is recorded and nothing is refused')


@command.command()
@click.argument("name", metavar="SENDER", shell_complete=complete.senders)
@click.option("--note", default="", metavar="TEXT", help="Why.")
@click.pass_obj
def forgive(app: App, name: str, note: str) -> None:
    """Lift the listings of a sender; its next hit is a first one again."""
    from gatepost_policy import listings
    from gatepost_policy.store import acts
    from gatepost_policy.system.people import who
    from gatepost_policy.text.escape import shown, utf8
    from gatepost_policy.text.plural import plural

    identity = _identity(name)
    with app.store(write=True) as connection:
        now = time.time()
        count = listings.forgive(connection, identity, at=now, note=utf8(note))
        if count:
            acts.keep(connection, "forgive", identity.value, at=now, actor=who(), note=utf8(note))
        above = listings.covering(connection, identity, time.time())
    click.echo(f"{shown(identity.value)}: {plural(count, 'listing')} lifted" if count else
               f"{shown(identity.value)} was not listed")  # fmt: skip
    _say_covered(above)


def _say_covered(above: list[tuple[str, float]]) -> None:
    """Print the (value, until) of listings that cover this sender, such as its network's."""
    from gatepost_policy.text.escape import shown

    for value, until in above:
        click.echo(f"  covered by the listing of {shown(value)}, until {_time(until)}")
