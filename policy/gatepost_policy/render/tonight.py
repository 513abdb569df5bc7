"""Lay out the last hours (`report.tonight`) for people: a line for each thing, the worst first."""

from collections.abc import Iterator

from gatepost_policy.report.tonight import Hitter, Tonight, away_in_words
from gatepost_policy.text.escape import shown
from gatepost_policy.text.plural import plural
from gatepost_policy.text.terminal import minute

SHOWN = 10
TRAPS_SHOWN = 3
LABEL = 11
_CHANGES = {"new": "listed", "over": "no longer", "ends": "ends soon"}


def lines(found: Tonight, most: int | None = SHOWN) -> list[str]:
    """The text, line by line without line ends. `most`: how many things of a kind; None: all."""
    out = [f"Since {minute(found.since)} UTC", *_alarms(found)]
    out += _few("back", [_back(hitter) for hitter in found.back], most)
    told = {id(hitter) for hitter in found.back}
    hitters = [_hit(hitter) for hitter in found.hitters if id(hitter) not in told]
    if not found.hits:
        out.append(_row("traps", "nobody hit one"))
    out += _few("traps", hitters, most)
    if found.cut:
        out.append(_row("", f"of {found.hits} messages to traps only the newest were looked at"))
    for change, label in _CHANGES.items():
        mine = [listing for listing in found.listings if listing.change == change]
        words = [
            f"{shown(x.value)} until {minute(x.until)} ({shown(x.reason)})"
            if change != "over"
            else f"{shown(x.value)} since {minute(x.until)} ({shown(x.reason)})"
            for x in mine
        ]
        out += _few(label, words, most)
    if not found.listings:
        out.append(_row("listings", "none began, none ended, none ends within a day"))
    out.append(_row("lost", "no loss is known" if not found.lost else _lost(found)))
    out += [_row("probe", words) for words in _probe(found)]
    return out


def _alarms(found: Tonight) -> Iterator[str]:
    if found.own_users:
        days = ", ".join(f"{number} on {day}" for day, number in found.days.items())
        mails = plural(found.own_users, "submission")
        yield _row("OWN USERS", f"{mails} to a trap ({days}): an account may be stolen")
    else:
        yield _row("own users", "none of them wrote to a trap")


def _lost(found: Tonight) -> str:
    return f"{plural(found.lost, 'record')}: look at the log and at milterctl check"


def _probe(found: Tonight) -> Iterator[str]:
    probe = found.probe
    if probe is None:
        yield "not known: no test is recorded (milterctl privacy test --record)"
        return
    bad = [way for way, clean in probe.clean.items() if not clean]
    word = f"NOT CLEAN: {shown(', '.join(bad))}" if bad else "clean"
    if not probe.clean:
        word = "not known: no way was tried"
    if found.probe_stale:
        word = f"not known for this time: the last privacy test says {word}"
    yield f"{word}, on {minute(probe.at)}"


def _back(hitter: Hitter) -> str:
    hits = plural(hitter.known, "hit")
    return f"{_name(hitter)} is back {away_in_words(hitter)} ({hits} before): {_what(hitter)}"


def _hit(hitter: Hitter) -> str:
    known = (
        "no hit before that is known"
        if not hitter.known
        else f"{plural(hitter.known, 'hit')} before"
    )
    return f"{_name(hitter)} ({known}): {_what(hitter)}"


def _name(hitter: Hitter) -> str:
    return shown(hitter.who) + ("" if hitter.proven else " (claimed)")


def _what(hitter: Hitter) -> str:
    names = [shown(name) for name in hitter.traps[:TRAPS_SHOWN]]
    more = len(hitter.traps) - len(names)
    return f"{plural(hitter.messages, 'message')} to {', '.join(names)}" + (
        f" and {more} more" if more else ""
    )


def _few(label: str, words: list[str], most: int | None) -> list[str]:
    given = words if most is None else words[:most]
    out = [_row(label if not at else "", text) for at, text in enumerate(given)]
    if len(given) < len(words):
        out.append(_row("", f"and {len(words) - len(given)} more"))
    return out


def _row(label: str, text: str) -> str:
    return f"  {label:<{LABEL}}{text}"
