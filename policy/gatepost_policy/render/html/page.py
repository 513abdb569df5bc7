"""Put a report into HTML: the same templates for the saved page and the live one.

Everything a stranger sent is escaped twice over: control and bidi characters are made visible
(`shown`), and jinja2 escapes for HTML by default. The page loads nothing from anywhere.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape

from gatepost_policy.render.html import charts
from gatepost_policy.report.report import Report
from gatepost_policy.report.rhythm import number
from gatepost_policy.text.escape import shown
from gatepost_policy.text.plural import plural

Volume = list[tuple[int, str, int]]
Link = Callable[[str, str], str]


def environment() -> Environment:
    """jinja2 with our filters, escaping every template."""
    env = Environment(
        loader=PackageLoader("gatepost_policy.render.html"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters.update(FILTERS)
    return env


def _day(text: str | None) -> str:
    return "never" if not text else text[:10]


def _minute(text: str | None) -> str:
    return "never" if not text else text[:16].replace("T", " ")


def _shown(value: object) -> str:
    return "unknown" if value is None else shown(str(value))


def _sender(text: str | None) -> str:
    return "<>" if text == "" else _shown(text)


def _shade(result: str) -> str:
    return result if result in ("pass", "fail", "none") else "other"


def _gap(days: float | None) -> str:
    return "none yet" if days is None else plural(number(days), "day")


FILTERS: dict[str, Callable[..., str]] = {
    "day": _day,
    "minute": _minute,
    "shown": _shown,
    "sender": _sender,
    "shade": _shade,
    "gap": _gap,
    "capital": lambda text: shown(text[:1].upper() + text[1:]),
}


def title(query: Mapping[str, Any]) -> str:
    """What the report is about, in words."""
    for key, text in (
        ("sender", "Who is {}?"),
        ("host", "Who came from {}?"),
        ("trap", "Who mailed {}?"),
    ):
        if query.get(key):
            return text.format(shown(str(query[key])))
    return "Who keeps coming back?"


def context(report: Report, volume: Volume | None, link: Link | None) -> dict[str, Any]:
    """What the templates want to know. `volume`: messages by day and family, for the overview."""
    drawn: dict[str, dict[str, str] | None] = {}
    if report.marks and not report.overview:
        drawn["timeline"] = charts.timeline(report.marks)
    if report.marks and report.overview:
        drawn["results"] = charts.months(report.marks)
    if volume:
        drawn["volume"] = charts.volume(volume)
    return {
        "title": title(report.query),
        "report": report.json(),
        "charts": drawn,
        "link": link,
        "version": version("gatepost"),
        "made": datetime.now(UTC).isoformat(),
    }


def render(report: Report, volume: Volume | None = None) -> str:
    """The whole page as text."""
    return environment().get_template("page.html.j2").render(context(report, volume, None))
