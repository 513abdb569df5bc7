"""SVG written by hand: elements, axes, and the patterns that tell bars apart without colour.

Every colour is a CSS variable of the page, so one drawing serves light, dark and paper. All text is
escaped. No script, nothing loaded: links and `<title>` are all a chart can do.
"""

from collections.abc import Callable, Sequence
from datetime import MAXYEAR, UTC, datetime

from markupsafe import Markup, escape

from gatepost_policy.report.periods import DAY, HOUR
from gatepost_policy.system.dataclass import dataclass

FONT = 13  # CSS pixels, where a drawing is shown at its full width; the page's text has 16
STEPS: tuple[float, ...] = (HOUR, 3 * HOUR, 6 * HOUR, 12 * HOUR, DAY, 2 * DAY, 7 * DAY, 14 * DAY)
MONTHS = (1, 2, 3, 6, 12, 24, 60, 120, 240, 1200, 6000, 24_000)
MONTH = 30.4 * DAY


def tag(name: str, *content: object, **attributes: object) -> Markup:
    """One element as markup; `content` that is not Markup is escaped.

    In an attribute's name `_` becomes a hyphen, and one at the end is cut off (`class_`). An
    attribute that is None is left out.
    """
    said = "".join(
        f' {_NAMES.get(key) or _name(key)}="{_text(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if not content:
        return Markup(f"<{name}{said}/>")
    inner = "".join(part if isinstance(part, Markup) else escape(part) for part in content)
    return Markup(f"<{name}{said}>{inner}</{name}>")


# Names of attributes as written: a chart has thousands of attributes and about twenty names.
_NAMES: dict[str, str] = {}


def _name(key: str) -> str:
    return _NAMES.setdefault(key, key.rstrip("_").replace("_", "-"))


def _text(value: object) -> str:
    if isinstance(value, float):
        # A tenth of a pixel is enough, and most of a page is numbers.
        return f"{value:.1f}".removesuffix(".0")
    return str(value) if isinstance(value, int) else str(escape(value))


@dataclass(frozen=True, slots=True)
class Look:
    """How one kind of value is drawn: its word in the legend, its colour's CSS variable (without
    `--`), and its pattern."""

    word: str
    colour: str
    pattern: str  # a key of PATTERNS; "" is a plain area

    @property
    def fill(self) -> str:
        """The value of SVG's attribute `fill`: the pattern, or the plain colour."""
        return f"url(#{self.pattern}-{self.colour})" if self.pattern else f"var(--{self.colour})"


PATTERNS = {
    # name: what is drawn on a tile of 6 by 6, over a pale ground of the same colour
    "stripes": "M-1,5 L5,-1 M1,7 L7,1",
    "cross": "M0,0 L6,6 M6,0 L0,6",
    "bars": "M0,3 L6,3",
    "dots": "M2,3 L4,3",
}


def definitions(looks: Sequence[Look]) -> Markup:
    """An invisible SVG that defines the patterns of `looks`; a page has it once."""
    drawn = [
        tag(
            "pattern",
            tag("rect", width=6, height=6, fill=f"var(--{look.colour})", fill_opacity=".22"),
            tag(
                "path", d=PATTERNS[look.pattern], stroke=f"var(--{look.colour})",
                stroke_width=1.6, fill="none",
            ),
            id=f"{look.pattern}-{look.colour}", width=6, height=6, patternUnits="userSpaceOnUse",
        )
        for look in looks
        if look.pattern
    ]  # fmt: skip
    return tag("svg", tag("defs", *drawn), class_="defs", width=0, height=0, aria_hidden="true")


def swatch(look: Look) -> Markup:
    """The sample of a legend: an area as the chart has it. It is SVG and no CSS background,
    because browsers do not print backgrounds."""
    area = tag(
        "rect", x=1, y=1, width=14, height=12, fill=look.fill, stroke=f"var(--{look.colour})"
    )
    return tag("svg", area, viewBox="0 0 16 14", width=16, height=14, aria_hidden="true")


@dataclass(frozen=True, slots=True)
class Frame:
    """Where a drawing has its plot, from (left, top) to (right, bottom) in CSS pixels, and which
    time it covers."""

    left: float
    right: float
    top: float
    bottom: float
    start: float  # Unix seconds
    end: float

    def x(self, at: float) -> float:
        """The horizontal position, in CSS pixels, of the time `at` (Unix seconds)."""
        span = max(1.0, self.end - self.start)
        return self.left + (at - self.start) / span * (self.right - self.left)


def top_of(most: int) -> tuple[int, int]:
    """(highest tick, step) of an axis in whole numbers that holds `most`, in at most four steps."""
    step, size = 1, 1
    while True:
        for factor in (1, 2, 5):
            step = factor * size
            if most <= 4 * step:
                return -(-max(1, most) // step) * step, step
        size *= 10


def counts(frame: Frame, highest: int, step: int) -> list[Markup]:
    """The lines and numbers of an axis of counts; `highest` and `step` as `top_of` gives them."""
    found = []
    height = frame.bottom - frame.top
    for number in range(0, highest + 1, step):
        y = frame.bottom - height * number / highest
        line = {"x1": frame.left, "x2": frame.right, "y1": y, "y2": y}
        found.append(tag("line", stroke="var(--faint)", **line))
        label = {"x": frame.left - 7, "y": y + FONT * 0.35, "text_anchor": "end"}
        found.append(tag("text", f"{number:,}".replace(",", "\u202f"), **label))
    return found


def dates(frame: Frame, y: float, most: int) -> list[Markup]:
    """The ticks of an axis of time and their labels, which have their baseline at `y`.

    `most`: about how many of them fit; the steps between them are chosen by it.
    """
    found = []
    for at, text in _ticks(frame.start, frame.end, most):
        x = frame.x(at)
        found.append(
            tag("line", x1=x, x2=x, y1=frame.bottom, y2=frame.bottom + 5, stroke="var(--quiet)")
        )
        half = len(text) * FONT * 0.29
        # A label at an edge is moved inwards, so that it is not cut off.
        x = min(max(x, half), frame.right - half)
        found.append(tag("text", text, x=x, y=y, text_anchor="middle"))
    return found


def _ticks(start: float, end: float, most: int) -> list[tuple[float, str]]:
    span = end - start
    for step in STEPS:
        if span / step <= most:
            form: Callable[[datetime], str] = _hour if step < DAY else _day
            first = -(-start // step) * step
            count = int((end - first) // step) + 1
            return [(at, form(_when(at))) for at in (first + n * step for n in range(count))]
    # The last step is longer than all years that `datetime` knows.
    months = next((n for n in MONTHS if span / n / MONTH <= most), MONTHS[-1])
    low = _when(start)
    number = -(-(low.year * 12 + low.month - 1) // months) * months
    found: list[tuple[float, str]] = []
    while True:
        year, month = divmod(number, 12)
        if year > MAXYEAR or (when := datetime(year, month + 1, 1, tzinfo=UTC)).timestamp() > end:
            return found
        if when.timestamp() >= start:
            found.append((when.timestamp(), f"{when:%Y}" if months >= 12 else f"{when:%Y-%m}"))
        number += months


def _when(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC)


def _hour(when: datetime) -> str:
    return f"{when:%m-%d %H:%M}"


def _day(when: datetime) -> str:
    return f"{when:%m-%d}"
