"""Put a report into HTML: the same templates for the saved page and the live one.

Everything a stranger sent is escaped twice over: control and bidi characters are made visible
(`shown`), and jinja2 escapes for HTML by default. The page loads nothing from anywhere.
"""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup, escape

from gatepost_policy.render.gropers import sentences
from gatepost_policy.render.html import charts, heat, rows_hash, svg
from gatepost_policy.render.html.charts import Zoom
from gatepost_policy.report import periods
from gatepost_policy.report.by_trap import ByTrap
from gatepost_policy.report.gropers import Gropers
from gatepost_policy.report.hours import Hours
from gatepost_policy.report.report import Report
from gatepost_policy.report.rhythm import number
from gatepost_policy.report.series import Series
from gatepost_policy.report.standing import NAMES
from gatepost_policy.report.timeline import SYMBOLS
from gatepost_policy.report.tonight import away_in_words
from gatepost_policy.text.acts import NAMES as ACTS
from gatepost_policy.text.escape import shown
from gatepost_policy.text.plural import plural
from gatepost_policy.text.times import timestamp

Link = Callable[[str, str], str]

WHOLE_MAX = 28  # characters of a name that is never broken: it fits a phone's column
BREAKS = re.compile(r"(?<=[@.:/_=+\-])")  # where a longer one may be


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


def _at(at: float) -> str:
    return _minute(timestamp(at))


def _shown(value: object) -> str:
    return "unknown" if value is None else shown(str(value))


def _soft(value: object) -> str:
    """A name that is broken after a dot or an @ if it must be, and a short one not at all."""
    text = _shown(value)
    if len(text) <= WHOLE_MAX:
        return Markup('<span class="w">{}</span>').format(text)
    return _breakable(text)


def _breakable(text: str) -> str:
    """A name with the places where it may be broken."""
    parts = Markup("<wbr>").join(escape(part) for part in BREAKS.split(text))
    return Markup('<span class="long">{}</span>').format(parts)


def _sender(text: str | None) -> str:
    return "<>" if text == "" else _shown(text)


def _shade(result: str) -> str:
    return result if result in ("pass", "fail", "none") else "other"


def _symbol(result: str) -> str:
    """The terminal's sign for a result: colour alone tells nothing to many eyes."""
    return SYMBOLS[_shade(result)][0]


def _gap(days: float | None) -> str:
    return "none yet" if days is None else plural(number(days), "day")


def _act(name: str) -> str:
    return ACTS.get(name, shown(name))


FILTERS: dict[str, Callable[..., str]] = {
    "day": _day,
    "minute": _minute,
    "count": plural,
    "away": away_in_words,
    "at": _at,
    "shown": _shown,
    "soft": _soft,
    "sender": _sender,
    "shade": _shade,
    "symbol": _symbol,
    "gap": _gap,
    "act": _act,
    "family": lambda text: NAMES.get(text, shown(text)),
    "capital": lambda text: shown(text[:1].upper() + text[1:]),
}


TITLES = {
    "sender": "Who is {}?",
    "host": "Who came from {}?",
    "name": "Who came from {}?",
    "trap": "Who mailed {}?",
}


def title(query: Mapping[str, Any]) -> str:
    """What the report is about, in words."""
    return _title(query, shown)


def _title(query: Mapping[str, Any], written: Callable[[str], str]) -> str:
    subject = _subject(query)
    if subject is None:
        return "Who keeps coming back?"
    return TITLES[subject].format(written(str(query[subject])))


def heading(query: Mapping[str, Any]) -> str:
    """The same as HTML, with the places where a long name may be broken."""
    return Markup(_title(query, lambda text: _breakable(shown(text))))  # our words; it escapes


def filters(query: Mapping[str, Any]) -> list[str]:
    """What narrows the report beside whom it is about, in words."""
    words: dict[str, Callable[[str], str]] = {
        "since": lambda text: f"received from {_minute(text)} UTC on",
        "until": lambda text: f"received before {_minute(text)} UTC",
        "family": lambda text: f"over {NAMES.get(text, text)}",
        "dkim": lambda text: "unsigned" if text == "none" else f"with a DKIM {text}",
        "spf": lambda text: f"with SPF {text}",
        "dmarc": lambda text: f"with DMARC {text}",
        "decision": lambda text: f"decided {text}",
        "reason": lambda text: f"for the reason {text}",
        "trap": lambda text: f"to {shown(text)}",
        "source": lambda text: f"seen by {text}",
    }
    subject = _subject(query)
    return [words[key](str(query[key])) for key in words if query.get(key) and key != subject]


def _subject(query: Mapping[str, Any]) -> str | None:
    """The selector that the report is about; a trap beside another one is a filter."""
    return next((key for key in TITLES if query.get(key)), None)


def window(report: Report, narrowed: list[str], made: float) -> str:
    """Which messages the page is about, and as of when: a page on paper has no address bar."""
    count = plural(report.summary.messages, "message")
    as_of = f"As of {_minute(timestamp(made))} UTC."
    if report.held is not None:
        of = "" if report.held.of is None else f" of {report.held.of}"
        only = f", only messages {', '.join(narrowed)}" if narrowed else ""
        return (
            f"Not all of it: the newest {count}{of}{only}, from {_at(report.held.since)} UTC on. "
            "What is said here, first and last included, is true of these alone; milterctl report "
            f"counts all. {as_of}"
        )
    if not narrowed:
        return f"All that is known: {count}. {as_of}"
    return (
        f"Filtered: only messages {', '.join(narrowed)}. {count.capitalize()}; what is said here, "
        f"first and last included, is true of these alone. {as_of}"
    )


def context(
    report: Report,
    series: Series | None,
    link: Link | None,
    zoom: Zoom | None,
    made: float,
    skipped: int = 0,
) -> dict[str, Any]:
    """What the templates want to know. `made`: as of when the report is, in Unix seconds;
    `skipped`: how many newer messages than those of the report were left out."""
    told = report.json()
    for message, row in zip(report.messages, told["messages"], strict=True):
        row["id"] = message.id  # the page links there; it is no part of the interface
    narrowed = filters(report.query)
    drawn: list[charts.Chart] = []
    if series is not None:
        line = None
        if len(report.marks) == report.summary.messages and not report.overview:
            line = charts.timeline(report.marks, series, zoom)
        drawn = [line] if line else [charts.families(series, zoom), charts.results(series, zoom)]
    return {
        "title": title(report.query),
        "heading": heading(report.query),
        "report": told,
        "acts": report.acts,
        "filters": narrowed,
        "window": window(report, narrowed, made),
        "charts": drawn,
        "definitions": svg.definitions(charts.LOOKS),
        "figures": [] if series is None else _figures(series, zoom),
        "link": link,
        "version": version("gatepost"),
        "rows_hash": rows_hash.of(report, made, skipped),
        "made": datetime.fromtimestamp(made, UTC).isoformat(),
    }


def beside(
    hours: Hours | None = None, finders: ByTrap | None = None, gropers: Gropers | None = None
) -> dict[str, Any]:
    """What the templates want to know of what stands beside a report."""
    many = hours is not None and sum(hours.counts.values()) > 1
    return {
        "hours": hours if many else None,
        "heat": heat.draw(hours) if many and hours is not None else None,
        "week": heat.table(hours) if many and hours is not None else [],
        "finders": finders,
        "groping": sentences(gropers) if gropers is not None and gropers.hosts else [],
    }


def _figures(series: Series, zoom: Zoom | None) -> list[dict[str, Any]]:
    """The charts' figures, a row for each period in which something came, newest first."""
    most = charts.SIZES["wide"].bars
    unit = series.unit(most)
    found = []
    for bar in reversed(series.bars(most)):
        if not bar.total:
            continue
        dkim = bar.dkim
        known = {word: dkim.get(word, 0) for word in ("pass", "fail", "none")}
        found.append(
            {
                "name": periods.name(bar.start, unit),
                "link": None if zoom is None else zoom(bar.start, bar.end),
                "whole": bar.whole,
                "messages": bar.total,
                "ipv4": bar.messages.get("ipv4", 0),
                "ipv6": bar.messages.get("ipv6", 0),
                "traps": bar.traps,
                "passed": known["pass"],
                "failed": known["fail"],
                "other": sum(dkim.values()) - sum(known.values()),
                "unsigned": known["none"],
            }
        )
    return found


def render(
    report: Report, series: Series | None, made: float, gropers: Gropers | None = None
) -> str:
    """The whole page as text, as of `made` (Unix seconds)."""
    template = environment().get_template("page.html.j2")
    told = context(report, series, None, None, made)
    return template.render(told, **beside(gropers=gropers))
