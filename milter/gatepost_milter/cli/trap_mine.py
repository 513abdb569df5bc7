"""`milterctl trap mine`: find new traps among addresses that were tried and do not exist."""

import csv
import json
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from gatepost_milter.cli import report_options
from gatepost_milter.cli.common import App, note
from gatepost_milter.cli.options import format_option

if TYPE_CHECKING:
    from collections.abc import Collection

    from sqlalchemy import Connection

    from gatepost_policy.traps.mined import Candidate, Mined, Walk

COLUMNS = (
    "address", "class", "kinds", "hits", "hosts", "days", "first_seen", "last_seen",
    "walk_position", "walk_names", "walk_hosts", "near", "accepted_until", "proposed",
)  # fmt: skip
# Most rows of the table: to lay out a hundred thousand took five times as long as to find them.
SHOWN = 2_000


@click.command("mine", short_help="Find new traps among addresses that strangers tried.")
@click.option("--since", metavar="TIME", help="Tried from this time on: ISO 8601, or 30d.")
@click.option("--domain", metavar="DOMAIN", help="The domain of logins without one.")
@click.option("--apply", "applied", is_flag=True, help="Make the pristine ones traps.")
@format_option("json", "csv", text="For people, programs, a spreadsheet.")
@click.pass_obj
def command(app: App, since: str | None, domain: str | None, applied: bool, form: str) -> None:
    """Find new traps among addresses that strangers tried and nobody has.

    Imports and `milterctl watch` have told of them: recipients that were refused as unknown (rcpt;
    backscatter where it was a bounce) and failed logins by name (login). Each has a class:
    pristine; typo, one edit away from an address that exists; recycled, had mail until a time that
    is named; role, a name of RFC 2142. Only pristine ones are proposed, and become traps with
    --apply, with the source mined:rcpt, mined:login or mined:backscatter. What exists, is a trap,
    or was one until somebody removed it, is left out.

    Logins without a domain belong to the only domain that is known to be ours, or to --domain. Look
    through the list first: an address that you are about to give to somebody is as unknown as the
    others.
    """
    from gatepost_policy import config
    from gatepost_policy.config import own_names
    from gatepost_policy.mail.address import canonical_domain
    from gatepost_policy.report import selection
    from gatepost_policy.traps import mined

    now = time.time()
    begin = report_options.narrowed({"since": since}, now, selection.Selection()).since
    own = set(app.settings.sender.own_domains)
    own |= set(own_names.read(config.state_dir(app.settings)).domains) if not own else set()
    with app.store(write=applied, caught_up=True) as connection:
        bare = canonical_domain(domain) if domain else None
        found = mined.candidates(connection, own, since=begin, domain=bare)
        added = _apply(connection, found.candidates, now) if applied else 0
        full = mined.full(connection)
    if form == "json":
        json.dump(_json(found, added if applied else None), sys.stdout, indent=2)
        sys.stdout.write("\n")
    elif form == "csv":
        writer = csv.writer(sys.stdout)
        writer.writerow(COLUMNS)
        for one in found.candidates:
            writer.writerow([_cell(value) for value in _flat(one).values()])
    else:
        _table(found, added, applied)
    if full:
        note("milterctl: there is no room for more addresses; see retention.guesses")


def _apply(connection: "Connection", found: "Collection[Candidate]", now: float) -> int:
    from gatepost_policy import traps
    from gatepost_policy.store import acts
    from gatepost_policy.system.people import who
    from gatepost_policy.text.plural import plural

    added = 0
    for one in found:
        if not one.proposed:
            continue
        why = f"tried by {plural(len(one.hosts), 'host')}, {_day(one.first)} to {_day(one.last)}"
        if traps.add(connection, one.address, at=now, source=one.source, note=why):
            acts.keep(connection, "trap", one.address, at=now, actor=who(), note=one.source)
            added += 1
    return added


def _day(at: float) -> str:
    from gatepost_policy.text.times import timestamp

    return timestamp(at)[:10]


def _flat(one: "Candidate") -> dict[str, Any]:
    from gatepost_policy.text.times import timestamp

    values = (
        one.address, one.kind, list(one.kinds), one.hits, len(one.hosts), one.days,
        timestamp(one.first), timestamp(one.last), one.position,
        one.walk and one.walk.names, one.walk and one.walk.hosts, one.near,
        None if one.accepted is None else timestamp(one.accepted), one.proposed,
    )  # fmt: skip
    return dict(zip(COLUMNS, values, strict=True))


def _cell(value: Any) -> str:
    from gatepost_policy.render import csv_file

    return csv_file.cell(" ".join(value) if isinstance(value, list) else value)


def _walk(one: "Walk") -> dict[str, Any]:
    from gatepost_policy.text.times import timestamp

    return {
        "kind": one.kind,
        "names": one.names,
        "hosts": one.hosts,
        "first": one.first,
        "last": one.last,
        "first_seen": timestamp(one.since),
        "last_seen": timestamp(one.until),
        "sentence": one.sentence,
    }


def _json(found: "Mined", added: int | None) -> dict[str, Any]:
    from gatepost_policy.text.times import timestamp

    known = found.known_since
    return {
        "candidates": [{**_flat(one), "prefixes": sorted(one.hosts)} for one in found.candidates],
        "walks": [_walk(one) for one in found.walks],
        "left_out": {
            "existing": found.existing,
            "traps": found.traps,
            "elsewhere": found.elsewhere,
        },
        "accepted_mail_known_since": None if known is None else timestamp(known),
        "applied": added,
    }


def _table(found: "Mined", added: int, applied: bool) -> None:
    from gatepost_policy.text.escape import shown
    from gatepost_policy.text.fitted import fitted
    from gatepost_policy.text.plural import plural
    from gatepost_policy.text.terminal import console, plain, put, whole
    from gatepost_policy.text.times import timestamp

    for walk in found.walks:
        click.echo(shown(f"{walk.kind}: {walk.sentence}"))
    if found.candidates:
        to = console(sys.stdout)
        names = ("Address", "Class", "Tried as", "Hits", "Hosts", "Days", "Last", "Walk")
        table = plain(*names, to=to)
        whole(table, to, "Class", "Hits", "Hosts", "Days", "Last")
        for one in found.candidates[:SHOWN]:
            why = {"typo": f" of {one.near}", "recycled": f", mail until {_day(one.accepted or 0)}"}
            table.add_row(
                shown(one.address),
                shown(f"{one.kind}{why.get(one.kind, '')}"),
                ", ".join(one.kinds),
                str(one.hits),
                str(len(one.hosts)),
                str(one.days),
                _day(one.last),
                "" if one.walk is None else f"{one.position} of {one.walk.names}",
            )
        put(to, fitted(table, to, "Address", "Class"))
        if (more := len(found.candidates) - SHOWN) > 0:
            click.echo(f"... and {more} more: --format csv has them all")
    pristine = [one for one in found.candidates if one.kind == "pristine"]
    proposed = sum(one.proposed for one in pristine)
    said = f"{plural(len(found.candidates), 'candidate')}, {len(pristine)} of them pristine"
    if applied:
        click.echo(f"{said}; {plural(added, 'new trap')}")
    else:
        click.echo(f"{said}; {proposed} would become traps with --apply")
    if len(pristine) > proposed:
        note(
            f"milterctl: {plural(len(pristine) - proposed, 'login')} without a domain; which one is"
            " it? (--domain DOMAIN, or sender.own_domains)"
        )
    out = {
        "exist": found.existing,
        "are traps, or were": found.traps,
        "are in no domain of ours": found.elsewhere,
    }
    if any(out.values()):
        click.echo("left out: " + ", ".join(f"{n} {what}" for what, n in out.items() if n))
    if found.known_since is not None:
        note(
            "milterctl: accepted mail is known as far as it was learned of since"
            f" {timestamp(found.known_since)} (retention.recipients)"
        )
