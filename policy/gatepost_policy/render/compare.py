"""Show two senders side by side: rows for the page, and text for a terminal."""

from typing import TextIO

from gatepost_policy.report.compare import Compared, Side
from gatepost_policy.report.standing import NAMES
from gatepost_policy.text.escape import shown
from gatepost_policy.text.times import timestamp

TRAPS_SHOWN = 20


def rows(found: Compared) -> list[tuple[str, tuple[str, str]]]:
    """[(name of the row, (cell of `found.a`, cell of `found.b`))]."""
    one, other = _cells(found.a), _cells(found.b)
    return [(name, (cell, other[name])) for name, cell in one.items()]


def write(found: Compared, to: TextIO) -> None:
    """Write the comparison as text, for a terminal or a file."""
    names = shown(found.a.name), shown(found.b.name)
    to.write(f"{names[0]} and {names[1]}\n")
    to.writelines(f"  {shown(line)}\n" for line in found.sentences)
    for name, cells in rows(found):
        to.write(f"\n{name}\n")
        to.writelines(f"  {who}: {shown(cell)}\n" for who, cell in zip(names, cells, strict=True))


def _cells(side: Side) -> dict[str, str]:
    report, summary = side.report, side.report.summary
    held = report.held
    return {
        "messages": str(summary.messages) + ("" if held is None else " (the newest; not all)"),
        "first seen": _day(summary.first_seen),
        "last seen": _day(summary.last_seen),
        "rhythm": "none" if report.rhythm is None else report.rhythm.sentence,
        "came over": ", ".join(f"{NAMES.get(f, f)} {n}" for f, n in summary.families.items())
        or "nothing known",
        "DKIM": ", ".join(f"{word} {n}" for word, n in summary.dkim.items()) or "none seen",
        "keys": ", ".join(f"{key.selector} of {key.domain}" for key in report.keys[:8]) or "none",
        "clients": str(report.hosts),
        "trap hits": str(summary.trap_hits),
        "order of traps": _some([trap for trap, _ in side.traps]),
        "standing": "no verdict" if report.standing is None else report.standing.sentence,
    }


def _some(traps: list[str]) -> str:
    """The first TRAPS_SHOWN of `traps`, and how many more."""
    more = len(traps) - TRAPS_SHOWN
    return (", ".join(traps[:TRAPS_SHOWN]) or "none") + (f" and {more} more" if more > 0 else "")


def _day(at: float | None) -> str:
    return "never" if at is None else timestamp(at)[:10]
