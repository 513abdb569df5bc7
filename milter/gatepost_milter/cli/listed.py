"""Lists as CSV (RFC 4180), with cells that a spreadsheet cannot take for formulas."""

import csv
import sys
from collections.abc import Iterable, Mapping
from typing import Any


def write_csv(columns: Iterable[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write `columns` as the first line, then one line for each row. None becomes an empty cell, a
    list its items with blanks between."""
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
