"""`milterctl export`: the current listings for packet filters, MTAs and name servers."""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gatepost_milter.cli.common import App, Failure, note

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from gatepost_policy.listings.dossier import Entry

FORMATS = (
    "plain", "json", "nft", "pf", "postfix-cidr", "postscreen", "rbldnsd",
    "rpz", "dnset", "rspamd",
)  # fmt: skip


@click.command("export", short_help="Write the current listings for other programs.")
@click.argument("form", type=click.Choice(FORMATS), metavar="FORMAT")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write there, at one moment, instead of to standard output.",
)
@click.option("--gropers", is_flag=True, help="Hosts that try logins instead of the listings.")
@click.pass_obj
def command(app: App, form: str, output: Path | None, gropers: bool) -> None:
    """Write the current listings for other programs, each with its end and its evidence.

    FORMAT is plain, json, nft, pf, postfix-cidr, postscreen or rbldnsd for clients; rpz, dnset or
    rspamd for signing domains. What would shut us out, such as one of our own networks, is left
    out and named on standard error.

    With --gropers: the hosts that tried logins within the last `sender.listing_max`, for as long
    after their last attempt.

    \b
    milterctl export nft -o /etc/gatepost/listed.nft
    nft -f /etc/gatepost/listed.nft
    milterctl export rbldnsd -o /var/lib/rbldns/gatepost  # ZONE:combined:gatepost
    """
    if output is not None:
        app.outside(output)
    from gatepost_policy import config, exporters, recorder
    from gatepost_policy.config import own_names
    from gatepost_policy.listings import dossier
    from gatepost_policy.text.escape import shown

    now = time.time()
    recorder.wait_until_ingested(app.settings)
    with app.store(replica=True) as connection:
        if gropers:
            entries = _gropers(connection, app.settings.sender.listing_max, now)
        else:
            entries = dossier.listings(connection, now, limit=None, evidence=True)
    own = own_names.read(config.state_dir(app.settings))
    found = exporters.sort_out(entries, app.settings, own)
    if form == "json":
        lines = iter([json.dumps(_json(entries, now), indent=2)])
    elif form in exporters.DOMAIN_FORMATS:
        lines = exporters.DOMAIN_FORMATS[form](found.domains, now, app.settings)
    else:
        lines = exporters.FORMATS[form](found.prefixes, now, app.settings)
    _out(lines, output)
    for one in found.left_out:
        note(f"milterctl: {shown(one.value)} is not exported: {one.why}")


def _gropers(connection: "Connection", seconds: float, now: float) -> "list[Entry]":
    """Hosts that tried logins since `now - seconds`, in the form of listings."""
    from gatepost_policy.listings.dossier import Entry
    from gatepost_policy.report import gropers

    return [
        Entry(
            "prefix", one.prefix, one.first, one.last + seconds, "active", "tries-logins",
            one.attempts, False, None,
        )
        for one in gropers.read(connection, now - seconds).hosts
    ]  # fmt: skip


def _json(entries: "list[Entry]", now: float) -> object:
    from gatepost_policy.text.times import timestamp

    return {"at": timestamp(now), "listings": [entry.json() for entry in entries]}


def _out(lines: Iterator[str], output: Path | None) -> None:
    from gatepost_policy import exporters

    if output is None or str(output) == "-":
        for line in lines:
            sys.stdout.write(line.encode("ascii", "backslashreplace").decode() + "\n")
        return
    try:
        exporters.write(output, lines)
    except OSError as error:
        raise Failure(f"{output}: cannot be written: {error.strerror}") from None
