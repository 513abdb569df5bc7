"""An event in words and as JSON: what happened, and where to look.

Text that a sender chose is escaped. Only addresses of traps and names of senders are told.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from gatepost_policy.notify.notices import Event, Json, Notice
from gatepost_policy.report.rhythm import in_words
from gatepost_policy.text.escape import shown
from gatepost_policy.text.plural import plural
from gatepost_policy.text.times import timestamp

API = 1  # the version of the JSON: plus one when a key is removed or changes its meaning
TITLES = {
    "trap-hit": "trap hit",
    "sender-back": "known sender back",
    "own-user": "own user at a trap",
    "loss": "records lost",
    "probe-failed": "privacy test not clean",
    "digest": "the last day",
    "test": "test",
}


@dataclass(frozen=True, slots=True)
class Batch:
    """Events that are told together. `name`: the same for each try; `more`: how many events of it
    are not in `notices`; `missed`: how many earlier events were given up."""

    name: str
    notices: tuple[Notice, ...]
    more: int = 0
    missed: int = 0


def line(event: Event) -> str:
    """The event in one line."""
    data = event.data
    if event.kind in ("trap-hit", "sender-back"):
        return _hit(event)
    if event.kind == "own-user":
        days = ", ".join(f"{number} on {day}" for day, number in data["days"].items())
        mails = plural(event.number, "submission")
        return (
            f"OWN USERS: {mails} to a trap ({days}): an account may be stolen; "
            "the log has the queue id (event=own-user-trap)"
        )
    if event.kind == "loss":
        lost = plural(event.number, "record")
        return f"LOST: {lost}, {data['since']} to {data['until']}: look at milterctl check"
    if event.kind == "probe-failed":
        ways = shown(", ".join(data["ways"]))
        return f"PRIVACY TEST NOT CLEAN on {shown(event.who)}: {ways}"
    if event.kind == "digest":
        return f"{plural(event.number, 'message')} to traps since {data['tonight']['since']}"
    return "a test: nothing has happened"


def _hit(event: Event) -> str:
    data = event.data
    who = shown(event.who) + ("" if data["proven"] else " (claimed)")
    names = [shown(name) for name in data["traps"]]
    more = data["traps_total"] - len(names)
    to = ", ".join(names) + (f" and {more} more" if more > 0 else "")
    what = f"{plural(event.number, 'message')} to {to}"
    if event.kind == "sender-back":
        hits = plural(data["hits_before"], "hit")
        return f"{who} is back after {in_words(data['away_days'])} ({hits} before): {what}"
    before = data["hits_before"]
    known = f"{plural(before, 'hit')} before" if before else "no hit before that is known"
    return f"{who} hit a trap ({known}): {what}"


def link(event: Event, page: str) -> str | None:
    """The URL with more about the event; None where notify.page is not set."""
    if not page:
        return None
    if event.kind in ("trap-hit", "sender-back") and event.who != "unknown":
        return f"{page}/{event.data['kind']}/{quote(event.who, safe=':')}"
    return f"{page}/"


def subject(batch: Batch) -> str:
    """The events of a batch in a few words."""
    kinds = [TITLES[notice.event.kind] for notice in batch.notices]
    words = [
        kind if kinds.count(kind) == 1 else f"{kinds.count(kind)} x {kind}"
        for kind in dict.fromkeys(kinds)
    ]
    if len(batch.notices) == 1 and batch.notices[0].event.who:
        words = [f"{words[0]}: {shown(batch.notices[0].event.who)[:100]}"]
    return "gatepost: " + ", ".join(words)


def text(batch: Batch, page: str) -> str:
    """A batch as text for people, a paragraph for each event."""
    parts = []
    for notice in batch.notices:
        event = notice.event
        if event.kind == "digest":
            part = "\n".join(event.data["lines"])
        else:
            part = f"{timestamp(event.at)}  {line(event)}"
        where = link(event, page)
        parts.append(part if where is None else f"{part}\n  {where}")
    if batch.more:
        parts.append(f"And {plural(batch.more, 'more event')}: see milterctl report --tonight")
    if batch.missed:
        parts.append(f"Before that {plural(batch.missed, 'event')} could not be told this way.")
    return "\n\n".join(parts) + "\n"


def values(notice: Notice, page: str) -> Json:
    """One event as JSON."""
    event = notice.event
    return {
        "id": notice.id,
        "event": event.kind,
        "at": timestamp(event.at),
        "who": event.who or None,
        "number": event.number,
        "text": line(event),
        "link": link(event, page),
        "data": _plain(event.data),
    }


def _plain(data: Mapping[str, object]) -> Json:
    return {key: value for key, value in data.items() if key != "lines"}


def document(batch: Batch, page: str) -> bytes:
    """A batch as a JSON object, in ASCII."""
    told: Sequence[Json] = [values(notice, page) for notice in batch.notices]
    found = {
        "api": API,
        "batch": batch.name,
        "events": told,
        "more": batch.more,
        "missed": batch.missed,
    }
    return json.dumps(found).encode("ascii")
