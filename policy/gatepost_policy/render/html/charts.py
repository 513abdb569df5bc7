"""Draw the report's charts as SVG that takes its colours from the page's style sheet.

matplotlib draws; each colour is a placeholder that becomes a CSS variable, so one drawing serves
light and dark. A chart comes in two widths, because text that is scaled down with its picture
cannot be read on a phone: the style sheet shows the one that fits.

No text from a message gets into a chart: labels are dates, families and results, all ours.
"""

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from gatepost_policy.report.standing import Mark

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Placeholder -> CSS variable. The values only have to be unlikely and different.
INK, FAINT, PASS, FAIL, OTHER, NONE, TRAP, V4, V6 = (
    "#0a0b01", "#0a0b02", "#0a0b03", "#0a0b04", "#0a0b05", "#0a0b06", "#0a0b07", "#0a0b08",
    "#0a0b09",
)  # fmt: skip
VARIABLES = {
    INK: "ink", FAINT: "faint", PASS: "pass", FAIL: "fail", OTHER: "other", NONE: "none",
    TRAP: "trap", V4: "v4", V6: "v6",
}  # fmt: skip
WIDTHS = {"wide": 9.6, "narrow": 3.5}  # inches at 100 to the inch
LANES = ("ipv4", "ipv6", "unix", "unknown")
LANE_NAMES = {"ipv4": "IPv4", "ipv6": "IPv6", "unix": "local", "unknown": "unknown"}
SHAPES = {"ipv4": "o", "ipv6": "s", "unix": "^", "unknown": "D"}
DAY = 86400
SINGLE_MARKS_MAX = 300  # above this, single messages blur: count them by month


def colour(result: str) -> str:
    """The colour of a DKIM result: good, bad, none, or in between."""
    return {"pass": PASS, "fail": FAIL, "none": NONE}.get(result, OTHER)


def timeline(marks: Sequence[Mark]) -> dict[str, str]:
    """Every message of a sender on a time line: a lane and a shape by family, coloured by DKIM."""
    if len(marks) > SINGLE_MARKS_MAX:
        return months(marks)
    return {name: _timeline(marks, width) for name, width in WIDTHS.items()}


def _timeline(marks: Sequence[Mark], width: float) -> str:
    lanes = [lane for lane in LANES if any(m.family == lane for m in marks)]
    figure, axes = _figure(width, 0.75 + 0.55 * max(1, len(lanes)))
    for mark in marks:
        x, y = [mark.at / DAY], [-lanes.index(mark.family)]
        if mark.trap:
            axes.plot(x, y, "o", ms=15, mfc="none", mec=TRAP, mew=1.6)
        axes.plot(x, y, SHAPES[mark.family], ms=8, color=colour(mark.dkim))
    axes.xaxis_date()
    axes.set_yticks([-n for n in range(len(lanes))], [LANE_NAMES[lane] for lane in lanes])
    axes.set_ylim(-len(lanes) + 0.4, 0.6)
    axes.grid(axis="y", color=FAINT, lw=0.8)
    _dates(axes, width)
    axes.margins(x=0.06)
    return _svg(figure)


def months(marks: Sequence[Mark]) -> dict[str, str]:
    """Messages a month, stacked by DKIM result."""
    counts: dict[str, Counter[datetime]] = {}
    for mark in marks:
        when = _date(mark.at)
        month = datetime(when.year, when.month, 1, tzinfo=UTC)
        counts.setdefault(mark.dkim, Counter())[month] += 1
    return {name: _bars(counts, width) for name, width in WIDTHS.items()}


def _bars(counts: Mapping[str, Counter[datetime]], width: float) -> str:
    figure, axes = _figure(width, 2.2)
    base: Counter[datetime] = Counter()
    for result in sorted(counts):
        months = sorted(counts[result])
        axes.bar(
            [m.timestamp() / DAY for m in months],
            [counts[result][m] for m in months],
            bottom=[base[m] for m in months],
            width=25,
            color=colour(result),
        )
        base.update(counts[result])
    axes.xaxis_date()
    _counts(axes)
    _dates(axes, width)
    return _svg(figure)


def volume(rows: Sequence[tuple[int, str, int]]) -> dict[str, str]:
    """Messages a day by family, stacked; `rows` are (days since 1970, family, messages)."""
    return {name: _volume(rows, width) for name, width in WIDTHS.items()}


def _volume(rows: Sequence[tuple[int, str, int]], width: float) -> str:
    figure, axes = _figure(width, 2.2)
    base: Counter[int] = Counter()
    first = min((day for day, _, _ in rows), default=0)
    last = max((day for day, _, _ in rows), default=0)
    # A bar under a pixel cannot be seen: over long times each stands for a week.
    step = 7 if last - first > 120 else 1
    for family, shade in (("ipv4", V4), ("ipv6", V6), ("unknown", OTHER), ("unix", NONE)):
        counts: Counter[int] = Counter()
        for day, name, count in rows:
            if name == family:
                counts[day // step * step] += count
        if not counts:
            continue
        days = sorted(counts)
        axes.bar(
            [float(d) for d in days],
            [counts[d] for d in days],
            bottom=[base[d] for d in days],
            width=step * 0.85,
            color=shade,
        )
        base.update(counts)
    axes.xaxis_date()
    _counts(axes)
    _dates(axes, width)
    return _svg(figure)


def _date(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC)


def _figure(width: float, height: float) -> "tuple[Figure, Axes]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)
    axes.tick_params(colors=INK, length=0, labelsize=9.5)
    # The y axis ends on the x axis: its lowest label must not meet the first date.
    axes.tick_params(axis="x", pad=9)
    return figure, axes


def _dates(axes: "Axes", width: float) -> None:
    """Few and whole dates: `2011-02` rather than a crowd of days."""
    from matplotlib.dates import AutoDateFormatter, AutoDateLocator

    make: Any = AutoDateLocator  # matplotlib leaves these two untyped
    locator = make(minticks=2, maxticks=4 if width < 5 else 9, tz=UTC)
    make = AutoDateFormatter
    form = make(locator, tz=UTC)
    form.scaled.update({365.0: "%Y", 30.0: "%Y-%m", 1.0: "%m-%d", 1 / 24: "%d. %H:%M"})
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(form)


def _counts(axes: "Axes") -> None:
    """Messages are counted in whole numbers."""
    from matplotlib.ticker import MaxNLocator

    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=4))
    axes.grid(axis="y", color=FAINT, lw=0.8)


def _svg(figure: "Figure") -> str:
    """The figure as an <svg> element without XML prologue, colours as CSS variables."""
    import matplotlib as mpl

    out = io.StringIO()
    # Text stays text: it can be searched, read aloud, and takes the page's font.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "gatepost"}):
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    for placeholder, name in VARIABLES.items():
        text = text.replace(placeholder, f"var(--{name})")
    return text
