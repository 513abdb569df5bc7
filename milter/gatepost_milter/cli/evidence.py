"""`milterctl report --format xarf|arf`: an abuse report with every recipient masked."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gatepost_milter.cli.common import FINDINGS, USAGE, App, Failure, note
from gatepost_policy.system.dataclass import dataclass

if TYPE_CHECKING:
    from gatepost_policy.report.evidence import Reporter
    from gatepost_policy.report.report import Report

FORMS = ("xarf", "arf")


@dataclass(frozen=True, slots=True)
class Asking:
    """The options of the command line. `form`: one of FORMS; `now`: Unix seconds."""

    form: str
    now: float
    org: str | None
    contact: str | None


def write(app: App, report: "Report", asking: Asking, output: Path | None) -> None:
    """Write the abuse report to `output` (None or "-": stdout), after a warning on stderr about
    what in it could still name a trap. Raises Failure, UsageError, StoreError."""
    from gatepost_policy.report import abuse_report
    from gatepost_policy.report.evidence import NoEvidence
    from gatepost_policy.report.masking import StillThere

    by = _reporter(app, asking)
    if not (report.query.get("sender") or report.query.get("host")):
        raise click.UsageError(f"--format {asking.form}: say whom it is about: a sender or a host.")
    try:
        with app.store(replica=True) as connection:
            found = abuse_report.gather(
                connection, report, app.settings, lambda words: note(f"milterctl: {words}")
            )
    except NoEvidence as error:
        raise Failure(str(error), FINDINGS) from None
    except StillThere as error:
        raise Failure(f"{error}: nothing is written", FINDINGS) from None
    note("milterctl: before you send it: recipients are masked; what could still name a trap:")
    for words in found.remaining:
        note(f"  {words}")
    data = abuse_report.written(found, by, asking.form, asking.now)
    if output is None or str(output) == "-":
        sys.stdout.buffer.write(data)
        return
    try:
        output.write_bytes(data)
    except OSError as error:
        raise Failure(f"{output}: cannot be written: {error.strerror}", USAGE) from None


def _reporter(app: App, asking: Asking) -> "Reporter":
    from gatepost_policy.report import abuse_report

    try:
        return abuse_report.reporter(app.settings, asking.contact, asking.org)
    except abuse_report.NoReporter:
        raise click.UsageError(
            "Say who reports: --contact ADDRESS, or set sender.own_domains (abuse@ there)."
        ) from None
    except ValueError as error:
        raise click.UsageError(f"--contact: {error}.") from None
