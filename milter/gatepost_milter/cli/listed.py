"""Lists for a spreadsheet: CSV (RFC 4180), safe to open."""

import csv
import sys
from collections.abc import Iterable, Mapping
from typing import Any


def write_csv(columns: Iterable[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """One line a row under a line of names; what is not known is empty, a list has blanks."""
    from gatepost_policy.render import csv_file

    names = tuple(columns)
    writer = csv.writer(sys.stdout, lineterminator="\r\n")
    writer.writerow(names)
    for row in rows:
        writer.writerow([csv_file.cell(_text(row[name])) for name in names])


def _text(value: Any) -> str | int | None:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return " ".join(str(one) for one in value)
    return value if value is None or isinstance(value, str | int) else str(value)
