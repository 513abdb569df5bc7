"""Put a report into HTML: the same templates for the saved page and the live one.

Text from messages is made harmless in two steps: `shown` makes control and bidi characters
visible, and jinja2 escapes every value for HTML. The page loads nothing, from no host.
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
from gatepost_policy.report.rhythm import gap
from gatepost_policy.report.series import Series
from gatepost_policy.report.standing import NAMES
from gatepost_policy.report.summary import Held
from gatepost_policy.report.timeline import SYMBOLS
from gatepost_policy.report.tonight import away_in_words
from gatepost_policy.text.acts import NAMES as ACTS
from gatepost_policy.text.decided import by_log, decided
from gatepost_policy.text.escape import shown
from gatepost_policy.text.plural import plural
from gatepost_policy.text.times import timestamp

# (kind, value) -> URL of the page of that sender, host, name or trap.
Link = Callable[[str, str], str]

WHOLE_MAX = 28  # characters of a name that is kept whole: a phone's line has room for most
WHOLE = Markup('<span class="w">{}</span>')
HEADING_MAX = 20  # the same for a heading
DATE = re.compile(r"\d{4}-\d\d-\d\d(?:[ T]\d\d:\d\d(?::\d\d)?Z?)?")
BREAKS = re.compile(r"(?<=[@.:/_=+\-])")  # where a longer name may be broken


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


def _soft(value: object, whole: int = WHOLE_MAX) -> str:
    """A name as HTML: one of up to `whole` characters is broken only where a line is shorter, a
    longer one at BREAKS."""
    text = _shown(value)
    if len(text) <= whole:
        return Markup('<span class="name">{}</span>').format(text)
    return _breakable(text)


def _breakable(text: str) -> str:
    """A name with the places where it may be broken; a date in it is whole."""
    parts, done = Markup(), 0
    for date in DATE.finditer(text):
        parts += _broken(text[done : date.start()]) + WHOLE.format(date[0])
        done = date.end()
    return Markup('<span class="long">{}</span>').format(parts + _broken(text[done:]))


def _broken(text: str) -> Markup:
    return Markup("<wbr>").join(escape(part) for part in BREAKS.split(text))


def _sender(text: str | None) -> str:
    return "<>" if text == "" else _shown(text)


def _shade(result: str) -> str:
    return result if result in ("pass", "fail", "none") else "other"


def _symbol(result: str) -> str:
    """The terminal's sign for a DKIM result: not everybody can tell the colours apart."""
    return SYMBOLS[_shade(result)][0]


def _prose(text: str) -> Markup:
    """A sentence as HTML: a date in it is never broken."""
    return Markup(DATE.sub(lambda date: WHOLE.format(date[0]), str(escape(shown(text)))))


def _gap(days: float | None) -> str:
    return "none yet" if days is None else gap(days)


def _act(name: str) -> str:
    return ACTS.get(name, shown(name))


FILTERS: dict[str, Callable[..., str | bool]] = {
    "by_log": by_log,
    "decided": decided,
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
    "capital": lambda text: _prose(text[:1].upper() + text[1:]),
    "prose": _prose,
}


TITLES = {
    "sender": "Who is {}?",
    "host": "Who came from {}?",
    "name": "Who came from {}?",
    "trap": "Who mailed {}?",
}


def title(query: Mapping[str, Any]) -> str:
    """The page's title: what the report is about, in words. `query`: `Report.query`."""
    return _title(query, shown)


def _title(query: Mapping[str, Any], written: Callable[[str], str]) -> str:
    subject = _subject(query)
    if subject is None:
        return "Who keeps coming back?"
    return TITLES[subject].format(written(str(query[subject])))


def heading(query: Mapping[str, Any]) -> str:
    """The title as HTML, with the places where a long name may be broken."""
    # Markup is safe here: TITLES are our own words, and `_soft` escapes the name.
    return Markup(_title(query, lambda text: _soft(text, HEADING_MAX)))


def filters(query: Mapping[str, Any]) -> list[str]:
    """The selectors that narrow the report, in words; that of its subject is not among them."""
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
    """The selector that the report is about; a trap together with another one is a filter."""
    return next((key for key in TITLES if query.get(key)), None)


def window(report: Report, narrowed: list[str], made: float) -> str:
    """Which messages the page is about, and as of when (`made`, Unix seconds), in sentences.

    They are on the page because a printed page does not show its URL. `narrowed`: of `filters`.
    """
    count = plural(report.summary.messages, "message")
    as_of = f"As of {_minute(timestamp(made))} UTC."
    if report.held is not None:
        held = report.held
        count = plural(held.messages, "message")
        of = "" if held.of is None else f" of {held.of}"
        only = f", only messages {', '.join(narrowed)}" if narrowed else ""
        older = f", and {_older(held)} to a trap" if held.hits else ""
        return (
            f"Not all of it: the newest {count}{of}{only}, from {_at(held.since)} UTC on{older}. "
            "What is said here, first and last included, is true of these alone; milterctl report "
            f"counts all. {as_of}"
        )
    if not narrowed:
        return f"All that is known: {count}. {as_of}"
    return (
        f"Filtered: only messages {', '.join(narrowed)}. {count.capitalize()}; what is said here, "
        f"first and last included, is true of these alone. {as_of}"
    )


def _older(held: Held) -> str:
    """The older messages that were counted too, in words."""
    if not held.all_hits:
        return f"the newest {held.hits} of the older ones"
    return "one older" if held.hits == 1 else f"{held.hits} older ones"


def context(
    report: Report,
    series: Series | None,
    link: Link | None,
    zoom: Zoom | None,
    made: float,
    skipped: int = 0,
) -> dict[str, Any]:
    """The template variables of a report. `made`: as of when the report is, in Unix seconds;
    `skipped`: how many newer messages than those of the report were left out. `link` and `zoom`
    are None for a saved page: it has no other pages to link to."""
    told = report.json()
    for message, row in zip(report.messages, told["messages"], strict=True):
        row["id"] = message.id  # for the page's links; the JSON of a report does not have it
    if report.hit is not None:
        told["newest_trap_message"]["id"] = report.hit.id
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
    """The template variables of what is shown beside a report; None or [] where there is none."""
    many = hours is not None and sum(hours.counts.values()) > 1
    return {
        "hours": hours if many else None,
        "heat": heat.draw(hours) if many and hours is not None else None,
        "week": heat.table(hours) if many and hours is not None else [],
        "finders": finders,
        "groping": sentences(gropers) if gropers is not None and gropers.hosts else [],
    }


def _figures(series: Series, zoom: Zoom | None) -> list[dict[str, Any]]:
    """The charts' figures, a row for each period that has messages, newest first."""
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
    """The whole page as HTML text, as of `made` (Unix seconds); no charts without `series`."""
    template = environment().get_template("page.html.j2")
    told = context(report, series, None, None, made)
    return template.render(told, **beside(gropers=gropers))
