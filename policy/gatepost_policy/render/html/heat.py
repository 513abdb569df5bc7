"""Messages by day of the week and hour as squares: more messages are a larger and darker square.
Each has a `<title>`, and the figures are in a table below."""

import math

from markupsafe import Markup

from gatepost_policy.render.html.svg import tag
from gatepost_policy.report.hours import DAYS, Hours
from gatepost_policy.text.plural import plural

LEVELS = 5
SIZES = {"wide": (26, 92), "narrow": (12, 34)}  # side of a field, room for the day's name


def draw(hours: Hours) -> dict[str, Markup]:
    """{`wide` or `narrow`: the picture in that width}."""
    return {name: _draw(hours, side, left) for name, (side, left) in SIZES.items()}


def level(count: int, most: int) -> int:
    """0 for no message, LEVELS for `most`; logarithmic, so that one shows beside thousands."""
    if not count:
        return 0
    return max(1, math.ceil(LEVELS * math.log1p(count) / math.log1p(most)))


def _draw(hours: Hours, side: int, left: int) -> Markup:
    most = max(hours.counts.values())
    parts: list[Markup] = []
    every = 3 if side > 20 else 6
    for hour in range(0, 24, every):
        x = left + hour * side + side / 2
        parts.append(tag("text", f"{hour:02}", x=x, y=14, text_anchor="middle", font_size=13))
    for day, name in enumerate(DAYS):
        y = 20 + day * side
        text = name if side > 20 else name[:2]
        size = {"font_size": 13 if side > 20 else 12}
        parts.append(tag("text", text, x=left - 6, y=y + side / 2 + 4, text_anchor="end", **size))
        for hour in range(24):
            count = hours.counts.get((day, hour), 0)
            if not count:
                continue
            step = level(count, most)
            width = side * (0.3 + 0.6 * step / LEVELS)
            said = f"{name} {hour:02}:00 to {hour + 1:02}:00, {plural(count, 'message')}"
            parts.append(
                tag(
                    "rect", tag("title", said), x=left + hour * side + (side - width) / 2,
                    y=y + (side - width) / 2, width=width, height=width, fill="var(--accent)",
                    fill_opacity=round(0.35 + 0.65 * step / LEVELS, 2),
                )
            )  # fmt: skip
    box = f"0 0 {left + 24 * side + 8} {26 + 7 * side}"
    label = f"Messages by day of the week and hour, UTC: {hours.sentence}"
    return tag("svg", *parts, viewBox=box, role="img", aria_label=label)


def table(hours: Hours) -> list[tuple[str, list[int]]]:
    """The figures: (day, 24 counts)."""
    return [
        (name, [hours.counts.get((day, hour), 0) for hour in range(24)])
        for day, name in enumerate(DAYS)
    ]
