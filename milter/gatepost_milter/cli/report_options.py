"""The options that narrow a report, for every command that lists messages.

`report.filters` defines what they accept. Names and help are repeated here, so that `--help` need
not import that; a test compares the two.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click

from gatepost_milter.cli import complete

if TYPE_CHECKING:
    from gatepost_policy.report.selection import Selection

# name, metavar, help
OPTIONS = (
    ("trap", "ADDRESS", "Messages to this recipient."),
    ("since", "TIME", "From this time on: ISO 8601, or 30d."),
    ("until", "TIME", "Before this time."),
    ("family", "FAMILY", "Only clients that came this way: ipv4, ipv6, unix, unknown."),
    ("dkim", "RESULT", "Only messages with such a signature: pass, fail, ...; none: unsigned."),
    ("spf", "RESULT", "Only where SPF of MAIL FROM said this."),
    ("dmarc", "RESULT", "Only where DMARC said this."),
    ("decision", "ACTION", "Only what was decided so: accept, reject, tempfail, discard."),
    ("reason", "REASON", "Only what was decided for this reason."),
    ("source", "SOURCE", "Only what was seen there: milter, policy, exim-log, postfix-log."),
)


COMPLETED = {"trap": complete.traps, "reason": complete.reasons}


def FILTERS(command: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator that adds all of OPTIONS; the command gets each by its name, as text or None."""
    for name, metavar, text in reversed(OPTIONS):
        how = COMPLETED.get(name)
        option = click.option(f"--{name}", metavar=metavar, help=text, shell_complete=how)
        command = option(command)
    return command


def narrowed(given: Mapping[str, str | None], now: float, chosen: "Selection") -> "Selection":
    """`chosen`, narrowed by the options. `now`: Unix seconds. Raises click.UsageError."""
    from gatepost_policy.report import filters

    try:
        return filters.read(given, now, chosen)
    except ValueError as error:
        raise click.UsageError(f"--{error}.") from None


def value(option: str, text: str | None, read: Callable[[str], Any]) -> Any:
    """An option's value as `read` takes it; its ValueError becomes a usage error."""
    if text is None:
        return None
    try:
        return read(text)
    except ValueError as error:
        raise click.UsageError(f"{option}: {error}.") from None
