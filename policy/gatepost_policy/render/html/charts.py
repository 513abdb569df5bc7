"""The report's charts: all selected messages over time, as SVG.

A chart is drawn in two widths, because text scaled down with its picture cannot be read on a phone:
the style sheet shows the one that fits. Nothing is told by colour alone: bars have patterns, marks
have the shapes of the terminal's time line, each has a `<title>`, and the figures are in a table
below. No text from a message is in a chart: labels are dates, families and results.
"""

from collections.abc import Callable, Mapping, Sequence

from markupsafe import Markup

from gatepost_policy.render.html import svg
from gatepost_policy.render.html.svg import FONT, Frame, Look, tag
from gatepost_policy.report import periods
from gatepost_policy.report.periods import Unit
from gatepost_policy.report.series import Bar, Series
from gatepost_policy.report.standing import Mark
from gatepost_policy.system.dataclass import dataclass
from gatepost_policy.text.plural import plural
from gatepost_policy.text.times import timestamp

# (from, to) in Unix seconds -> the URL of the page for that time.
Zoom = Callable[[float, float], str]

FAMILIES = {
    "ipv4": Look("IPv4", "v4", ""),
    "ipv6": Look("IPv6", "v6", "stripes"),
    "unix": Look("local", "none", "bars"),
    "unknown": Look("unknown", "other", "dots"),
}
RESULTS = {
    "pass": Look("DKIM pass", "pass", ""),
    "fail": Look("DKIM fail", "fail", "cross"),
    "other": Look("other DKIM result", "other", "stripes"),
    "none": Look("unsigned", "none", "dots"),
}
LOOKS = (*FAMILIES.values(), *RESULTS.values())


@dataclass(frozen=True, slots=True)
class Size:
    """One of the two drawings of a chart, in CSS pixels."""

    width: int
    bars: int
    labels: int  # on the axis of time
    left: int


SIZES = {"wide": Size(960, 64, 9, 62), "narrow": Size(350, 26, 3, 50)}
RIGHT = 8
MARK = 11  # pixels from one mark to the next: its width and a gap
MARKS_MAX = 300
LEVELS = 3  # marks that would touch are stacked, at most so many


@dataclass(frozen=True, slots=True)
class Chart:
    """One chart: two drawings, each with a note on its bars, and (sample, word) pairs of its
    legend. `label`: its description for screen readers."""

    title: str
    label: str
    wide: Markup
    narrow: Markup
    legend: tuple[tuple[Markup, str], ...]
    wide_note: str = ""
    narrow_note: str = ""


def result(word: str) -> str:
    """The key in RESULTS of a DKIM result."""
    return word if word in ("pass", "fail", "none") else "other"


def families(series: Series, zoom: Zoom | None) -> Chart:
    """Messages by family as bars; below them a diamond where a message went to a trap."""
    return _bars(series, "Messages by family", FAMILIES, lambda bar: bar.messages, zoom, traps=True)


def results(series: Series, zoom: Zoom | None) -> Chart:
    """Signatures by DKIM result, and unsigned messages, as bars."""

    def counted(bar: Bar) -> Mapping[str, int]:
        found: dict[str, int] = {}
        for word, count in bar.dkim.items():
            found[result(word)] = found.get(result(word), 0) + count
        return found

    return _bars(series, "DKIM results", RESULTS, counted, zoom)


def _bars(
    series: Series,
    title: str,
    looks: Mapping[str, Look],
    counted: Callable[[Bar], Mapping[str, int]],
    zoom: Zoom | None,
    *,
    traps: bool = False,
) -> Chart:
    drawn, used, notes = {}, set[str](), {}
    trapped = traps and any(slot.traps for slot in series.slots.values())
    for name, size in SIZES.items():
        bars = series.bars(size.bars)
        unit = series.unit(size.bars)
        used |= {key for bar in bars for key, count in counted(bar).items() if count}
        drawn[name] = _draw(bars, unit, looks, counted, zoom, size, title, trapped)
        notes[name] = f"Each bar is one {unit}."
        if not bars[-1].whole:
            notes[name] += f" The last, {periods.name(bars[-1].start, unit)}, is not over."
    legend = [(svg.swatch(look), look.word) for key, look in looks.items() if key in used]
    if trapped:
        legend.append((_sample(_diamond(7, 7)), "to a trap"))
    words = f"{title} by {series.unit(SIZES['wide'].bars)}"
    return Chart(
        title, words, drawn["wide"], drawn["narrow"], tuple(legend), notes["wide"], notes["narrow"]
    )


def _draw(
    bars: Sequence[Bar],
    unit: Unit,
    looks: Mapping[str, Look],
    counted: Callable[[Bar], Mapping[str, int]],
    zoom: Zoom | None,
    size: Size,
    title: str,
    trapped: bool,
) -> Markup:
    frame = Frame(size.left, size.width - RIGHT, 10, 168, bars[0].start, bars[-1].end)
    most = max(sum(counted(bar).values()) for bar in bars)
    highest, step = svg.top_of(most)
    parts = svg.counts(frame, highest, step)
    row = frame.bottom + 32
    if trapped:
        parts.append(tag("text", "traps", x=frame.left - 7, y=row + 5, text_anchor="end"))
    for bar in bars:
        counts = counted(bar)
        if not any(counts.values()):
            continue
        left, right = frame.x(bar.start), frame.x(bar.end)
        gap = min(2.0, (right - left) * 0.15)
        base = frame.bottom
        shapes: list[Markup] = [tag("title", _said(bar, unit, looks, counts, trapped))]
        for key, look in looks.items():
            if not counts.get(key):
                continue
            height = max(1.0, counts[key] / highest * (frame.bottom - frame.top))
            base -= height
            shapes.append(
                tag(
                    "rect", x=left + gap / 2, y=base, width=max(1.0, right - left - gap),
                    height=height, fill=look.fill,
                    # The bar of an unfinished period is paler and has a dashed outline.
                    stroke=None if bar.whole else f"var(--{look.colour})",
                    stroke_dasharray=None if bar.whole else "3 2",
                    fill_opacity=None if bar.whole else ".45",
                )
            )  # fmt: skip
        if trapped and bar.traps:
            shapes.append(_diamond((left + right) / 2, row))
        parts.append(_link(zoom, bar.start, bar.end, shapes))
    bottom = frame.bottom + (60 if trapped else 26)
    parts += svg.dates(frame, bottom - 4, size.labels)
    return _svg(parts, size.width, bottom + 4, title, zoom)


def _said(
    bar: Bar, unit: Unit, looks: Mapping[str, Look], counts: Mapping[str, int], trapped: bool
) -> str:
    each = ", ".join(f"{look.word} {counts[key]}" for key, look in looks.items() if counts.get(key))
    text = f"{periods.name(bar.start, unit)}: {each}"
    if trapped and bar.traps:
        text += f"; {plural(bar.traps, 'message')} to a trap"
    return text if bar.whole else f"{text} (not over)"


def timeline(marks: Sequence[Mark], series: Series, zoom: Zoom | None) -> Chart | None:
    """Each message as its own mark; None for no marks and where they would overlap."""
    if not 0 < len(marks) <= MARKS_MAX:
        return None
    drawn = {}
    for name, size in SIZES.items():
        placed = _place(marks, series, size)
        if placed is None:
            return None
        drawn[name] = placed
    used = {result(mark.dkim) for mark in marks}
    legend = [(_sample(_shape(key, 7, 7)), RESULTS[key].word) for key in RESULTS if key in used]
    if any(mark.trap for mark in marks):
        legend.append((_sample(_diamond(7, 7)), "to a trap"))
    lanes = [key for key in FAMILIES if any(mark.family == key for mark in marks)]
    pictures = {
        name: _marks(drawn[name], marks, lanes, series, SIZES[name], zoom) for name in SIZES
    }
    label = "Each message by family, its shape by DKIM result"
    return Chart("Time line", label, pictures["wide"], pictures["narrow"], tuple(legend))


def _place(marks: Sequence[Mark], series: Series, size: Size) -> list[int] | None:
    """The level (0 to LEVELS - 1) of each mark, so that none touches another; None where any would.

    `marks`: oldest first.
    """
    frame = _time_frame(series, size, 1)
    ends: dict[tuple[str, int], float] = {}
    found = []
    for mark in marks:
        x = frame.x(mark.at)
        for level in range(LEVELS):
            if x - ends.get((mark.family, level), -1e9) >= MARK:
                break
        else:
            return None
        ends[mark.family, level] = x
        found.append(level)
    return found


def _time_frame(series: Series, size: Size, lanes: int) -> Frame:
    height = lanes * (LEVELS * MARK + 8)
    # Room at both ends, so that the first and the last mark are drawn whole.
    room = (series.end - series.start) * 0.02 or 43_200.0
    return Frame(
        size.left, size.width - RIGHT, 6, 6 + height, series.start - room, series.end + room
    )


def _marks(
    levels: Sequence[int],
    marks: Sequence[Mark],
    lanes: Sequence[str],
    series: Series,
    size: Size,
    zoom: Zoom | None,
) -> Markup:
    frame = _time_frame(series, size, len(lanes))
    parts: list[Markup] = []
    trapped = any(mark.trap for mark in marks)
    row = frame.bottom + 16
    lines = {lane: frame.top + (n + 1) * (LEVELS * MARK + 8) - 10 for n, lane in enumerate(lanes)}
    for lane, y in lines.items():
        line = {"x1": frame.left, "x2": frame.right, "y1": y, "y2": y}
        parts.append(tag("line", stroke="var(--faint)", **line))
        label = {"x": frame.left - 7, "y": y + 5, "text_anchor": "end"}
        parts.append(tag("text", FAMILIES[lane].word, **label))
    if trapped:
        parts.append(tag("text", "traps", x=frame.left - 7, y=row + 5, text_anchor="end"))
    for mark, level in zip(marks, levels, strict=True):
        x, key = frame.x(mark.at), result(mark.dkim)
        word = RESULTS[key].word if key != "other" else f"DKIM {mark.dkim}"
        text = f"{timestamp(mark.at)[:16].replace('T', ' ')}: {FAMILIES[mark.family].word}, {word}"
        shapes = [
            tag("title", text + (", to a trap" if mark.trap else "")),
            _shape(key, x, lines[mark.family] - level * MARK),
        ]
        if mark.trap:
            shapes.append(_diamond(x, row))
        day = periods.begin(mark.at, Unit.DAY)
        parts.append(_link(zoom, day, day + periods.DAY, shapes))
    bottom = frame.bottom + (44 if trapped else 24)
    parts += svg.dates(frame, bottom - 2, size.labels)
    return _svg(parts, size.width, bottom + 6, "Time line", zoom)


def _shape(key: str, x: float, y: float) -> Markup:
    """The terminal's ● × ○ △, drawn."""
    colour = f"var(--{RESULTS[key].colour})"
    match key:
        case "pass":
            return tag("circle", cx=x, cy=y, r=4.5, fill=colour)
        case "fail":
            d = f"M{x - 4:.1f},{y - 4:.1f} l8,8 m0,-8 l-8,8"
            return tag("path", d=d, stroke=colour, stroke_width=2.4, fill="none")
        case "none":
            return tag(
                "circle", cx=x, cy=y, r=4, stroke=colour, stroke_width=1.8, fill="var(--paper)"
            )
        case _:
            d = f"M{x:.1f},{y - 5:.1f} l5,9 h-10 z"
            return tag("path", d=d, stroke=colour, stroke_width=1.8, fill="var(--paper)")


def _diamond(x: float, y: float) -> Markup:
    return tag("path", d=f"M{x:.1f},{y - 6:.1f} l6,6 l-6,6 l-6,-6 z", fill="var(--trap)")


def _sample(shape: Markup) -> Markup:
    return tag("svg", shape, viewBox="0 0 14 14", width=14, height=14, aria_hidden="true")


def _link(zoom: Zoom | None, start: float, end: float, shapes: Sequence[Markup]) -> Markup:
    """The shapes as one link, or a group. Skipped by the Tab key: the table has the same links."""
    if zoom is None:
        return tag("g", *shapes)
    return tag("a", *shapes, href=zoom(start, end), tabindex="-1")


def _svg(
    parts: Sequence[Markup], width: float, height: float, label: str, zoom: Zoom | None
) -> Markup:
    return tag(
        "svg", *parts, viewBox=f"0 0 {width:.0f} {height:.0f}", role="group" if zoom else "img",
        aria_label=label, font_size=FONT, fill="var(--ink)",
    )  # fmt: skip
