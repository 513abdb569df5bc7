"""`milterctl backtest`: try a changed configuration on the stored history."""

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gatepost_milter.cli.common import FINDINGS, App, catch_up
from gatepost_milter.cli.options import FORMAT, progress

if TYPE_CHECKING:
    from gatepost_policy.backtest import Result
    from gatepost_policy.backtest.simulate import Decided
    from gatepost_policy.config.settings import Settings


@click.command(
    "backtest", short_help="What a changed configuration would have decided differently."
)
@click.option(
    "--config",
    "new",
    type=click.Path(path_type=Path),
    metavar="NEW.toml",
    help="The configuration to try; else the one in force.",
)
@click.option("--since", metavar="TIME", help="Compare only from then on: ISO 8601, or 30d.")
@click.option("--limit", type=click.IntRange(min=0), metavar="N", default=20, show_default=True,
              help="Show so many senders and messages.")  # fmt: skip
@FORMAT
@click.pass_obj
def command(app: App, new: Path | None, since: str | None, limit: int, form: str) -> None:
    """What a configuration would have decided differently, over the stored history.

    Listings, shared clients and repeat senders are lived through again under the new rules.
    Nothing is written. Exit code 1 where anything differs.

    \b
    milterctl backtest --config stricter.toml --since 90d
    """
    from gatepost_policy import config
    from gatepost_policy.text.times import moment

    settings = app.settings if new is None else config.load(new)
    begin = None
    if since is not None:
        try:
            begin = moment(since, time.time())
        except ValueError as error:
            raise click.UsageError(f"--since: {error}.") from None
    result = _run(app, settings, begin)
    if form == "json":
        json.dump(result.json(limit), sys.stdout, indent=2)
        sys.stdout.write("\n")
    else:
        _print(result, limit)
    if result.changed:
        raise SystemExit(FINDINGS)


def _run(app: App, settings: "Settings", since: float | None) -> "Result":
    from gatepost_policy import backtest, store

    with app.opened(replica=True) as engine:
        catch_up(app, engine)
        with store.reading(engine) as connection:
            with progress("backtest", backtest.total(connection)) as advance:
                return backtest.run(connection, settings, since=since, progress=advance)


def _print(result: "Result", limit: int) -> None:
    from gatepost_policy.text.escape import shown
    from gatepost_policy.text.fitted import fitted
    from gatepost_policy.text.plural import plural
    from gatepost_policy.text.terminal import console, minute, plain, put

    number = plural(result.messages, "message")
    click.echo(f"{number}, {result.changed} would have been decided differently")
    if result.not_known:
        hits = plural(result.not_known, "trap hit")
        click.echo(
            f"{hits}: not known, recorded before SPF, signed addressees and header marks were"
        )
    if not result.changed:
        return
    to = console(sys.stdout)
    table = plain("Was", "Would be", "Messages", to=to)
    for (old, new), count in result.changes.most_common():
        table.add_row(_words(old), _words(new), str(count))
    put(to, table)
    table = plain("Sender", "Was", "Would be", "Messages", to=to, title="By sender")
    for (who, old, new), count in result.senders.most_common(limit):
        table.add_row(shown(who), _words(old), _words(new), str(count))
    put(to, fitted(table, to, "Sender"))
    columns = ("At", "Message", "Sender", "Client", "Was", "Would be")
    table = plain(*columns, to=to, title="Newest messages")
    for one in list(result.examples)[::-1][:limit]:
        table.add_row(
            minute(one.at),
            shown(one.queue_id or "-"),
            shown(f"<{one.sender}>"),
            shown(one.client or "-"),
            _words(one.old),
            _words(one.new),
        )
    put(to, fitted(table, to, "Message", "Sender", "Client"))


def _words(decided: "Decided") -> str:
    return f"{decided[0]} {decided[1]}"
