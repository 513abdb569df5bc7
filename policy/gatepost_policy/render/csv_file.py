"""The messages of a report as CSV (RFC 4180), safe to open in a spreadsheet.

Senders choose most of these texts. A value that a spreadsheet would take for a formula gets an
apostrophe before it, and unprintable characters are escaped.
"""

import csv
import re
from collections.abc import Iterable, Sequence
from typing import TextIO

from gatepost_policy.report.report import Line, Report
from gatepost_policy.text.escape import shown
from gatepost_policy.text.times import timestamp

COLUMNS = (
    "at", "source", "queue_id", "direction", "family", "client_address", "client_name", "helo",
    "sender", "header_from", "recipients", "traps", "size", "message_id", "dkim", "action",
    "reason", "spf", "dmarc",
)  # fmt: skip
# What the common spreadsheets take for the start of a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "|", "%")
_NUMBER = re.compile(r"-?\d+(\.\d+)?\Z", re.ASCII)


def write(report: Report, to: TextIO) -> None:
    """Write a line of COLUMNS, then one line per message, newest first. Lines end with CRLF."""
    table(COLUMNS, (_values(line) for line in report.messages), to)


def table(columns: Sequence[str], rows: Iterable[Sequence[str | int | None]], to: TextIO) -> None:
    """Write a line of `columns`, then `rows`. Lines end with CRLF (RFC 4180 2)."""
    writer = csv.writer(to, lineterminator="\r\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([cell(value) for value in row])


def _values(line: Line) -> tuple[str | int | None, ...]:
    return (
        timestamp(line.at),
        line.source,
        line.queue_id,
        line.direction,
        line.family,
        line.address,
        line.client_name,
        line.helo,
        "<>" if line.sender == "" else line.sender,
        line.header_from,
        " ".join(address for address, _ in line.recipients),
        " ".join(address for address, trap in line.recipients if trap),
        line.size,
        line.message_id,
        " ".join(f"{s.domain or ''}={s.result}" for s in line.signatures),
        line.action,
        line.reason,
        None if line.spf is None else _result(line.spf.mail_from.domain, line.spf.mail_from.result),
        None if line.dmarc is None else _result(line.dmarc.domain, line.dmarc.result),
    )


def _result(domain: str | None, result: str) -> str:
    return f"{domain or ''}={result}"


def cell(value: str | int | None) -> str:
    """One value as text that no spreadsheet takes for a formula; '' for None."""
    if value is None:
        return ""
    text = shown(str(value))
    harmless = isinstance(value, int) or _NUMBER.match(text)
    return f"'{text}" if text.startswith(_FORMULA) and not harmless else text
