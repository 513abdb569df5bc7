"""The options that say where a trap comes from, shared by `trap add` and `trap import`."""

import time
from typing import Any

import click


def _published_at(context: click.Context, parameter: click.Parameter, value: str | None) -> Any:
    from gatepost_policy.text.times import moment

    if value is None:
        return None
    try:
        return moment(value, time.time())
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


SOURCE = click.option("--source", default="", metavar="TEXT", help="Where the trap comes from.")
NOTE = click.option("--note", default="", metavar="TEXT", help="Anything worth remembering.")
PUBLISHED = click.option(
    "--published", default="", metavar="WHERE", help="Where it was published, if it was."
)
WHEN = click.option(
    "--published-at", callback=_published_at, metavar="TIME", help="When: ISO 8601, or 30d."
)
