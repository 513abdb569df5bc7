"""The filters that narrow a report: read from text here, for commands and pages alike.

Pure. Each filter has one name everywhere: as an option (`--decision`), in a page's address
(`?decision=reject`), in the report's `query`.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from gatepost_policy.mail.address import parse
from gatepost_policy.mail.decision import Action, Reason
from gatepost_policy.mail.facts import Family, Source
from gatepost_policy.mail.index_key import clean
from gatepost_policy.mail.results import DMARC_RESULTS, RESULTS, SPF_RESULTS
from gatepost_policy.report.selection import Selection
from gatepost_policy.system.dataclass import dataclass
from gatepost_policy.text import times


@dataclass(frozen=True, slots=True)
class Filter:
    """One filter. `words`: all allowed values; empty where it takes another form of text."""

    name: str
    help: str
    words: tuple[str, ...] = ()


# In the order in which forms and manuals show them.
FILTERS = (
    Filter("since", "From this time on: ISO 8601, or 30d."),
    Filter("until", "Before this time."),
    Filter("family", "Only clients that came this way.", tuple(str(f) for f in Family)),
    Filter("dkim", "Only messages with such a signature; none: unsigned.", tuple(RESULTS)),
    Filter("spf", "Only where SPF of MAIL FROM said this.", tuple(SPF_RESULTS)),
    Filter("dmarc", "Only where DMARC said this.", tuple(DMARC_RESULTS)),
    Filter("decision", "Only what was decided so.", tuple(str(a) for a in Action)),
    Filter("reason", "Only for this reason.", tuple(str(r) for r in Reason)),
    Filter("trap", "Messages to this recipient."),
    Filter("source", "Only what was seen there.", tuple(str(s) for s in Source)),
)
NAMES = tuple(one.name for one in FILTERS)


def read(given: Mapping[str, str | None], now: float, chosen: Selection) -> Selection:
    """`chosen`, narrowed by the filters in `given` (name: text); empty and unknown: ignored.

    `now`: Unix seconds, for times such as `30d`. Raises ValueError, whose text names the filter and
    what it wants.
    """
    values: dict[str, Any] = {}
    for one in FILTERS:
        text = given.get(one.name)
        if not text:
            continue
        try:
            values[one.name] = _value(one, text, now)
        except ValueError as error:
            raise ValueError(f"{one.name}: {error}") from None
    return replace(chosen, **values)


def _value(one: Filter, text: str, now: float) -> Any:
    special: dict[str, Callable[[], Any]] = {
        "since": lambda: times.moment(text, now),
        "until": lambda: times.moment(text, now),
        "trap": lambda: parse(clean(text)),
        "family": lambda: Family(_word(one, text)),
    }
    return special.get(one.name, lambda: _word(one, text))()


def _word(one: Filter, text: str) -> str:
    """One of the filter's words. Raises ValueError."""
    word = text.strip().lower()
    if word not in one.words:
        raise ValueError(f"want one of {', '.join(one.words)}, got {clean(text)!r}")
    return word


def told(chosen: Selection) -> dict[str, str]:
    """The filters of `chosen`, {name: text}, for a link that keeps them."""
    query = chosen.query()
    return {name: str(query[name]) for name in NAMES if name in query}


def words(chosen: Selection, *, but: Iterable[str] = ()) -> str:
    """The filters without those named in `but`, for a heading: `dkim fail, since 2026-...`."""
    left_out = set(but)
    return ", ".join(f"{k} {v}" for k, v in told(chosen).items() if k not in left_out)
