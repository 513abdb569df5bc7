"""The parts of one line of Exim's log. Pure: what a line looks like, not what it means."""

import re

from gatepost_policy.importers.clock import Clock

_ID = r"[0-9A-Za-z]{6}-(?:[0-9A-Za-z]{6}-[0-9A-Za-z]{2}|[0-9A-Za-z]{11}-[0-9A-Za-z]{4})"
LINE = re.compile(
    r"(\d{4}-\d\d-\d\d \d\d:\d\d):(\d\d(?:\.\d+)?)(?: ([+-]\d{4}))? "
    rf"(?:\[\d+\] )?(?:({_ID}) )?(.*)"
)
# The prefix of a syslog daemon or the journal; Exim's own time may follow or not.
PREFIX = re.compile(
    r"(?:(?:<\d+>)?(?:(?P<min>[A-Z][a-z]{2} +\d{1,2} \d\d:\d\d):(?P<sec>\d\d(?:\.\d+)?)"
    r"|(?P<iso>\d{4}-\d\d-\d\d[T ]\d\d:\d\d):(?P<isosec>\d\d(?:\.\d+)?)"
    r"(?P<zone>Z|[+-]\d\d:?\d\d)?) )?"
    r"(?:\S+ )?exim[\w-]*(?:\[(?P<pid>\d+)\])?: (?P<rest>.*)",
    re.S,
)
REST = re.compile(rf"(?:\[\d+\] )?(?:({_ID}) )?(.*)", re.S)
# A piece of an entry too long for syslog: "[2\3] " continues it, "[2/3] " is its next line.
SPLIT = re.compile(r"\[(\d{1,3})([\\/])(\d{1,3})\] (.*)", re.S)
TOPIC = re.compile(r' T="(?:[^"\\]|\\.)*"')
PRDR = re.compile(r"PRDR R=<([^<>]*)> (?:refusal|rejected|temporarily)")


def prefix_time(found: re.Match[str], clock: Clock) -> float | None:
    """The time (Unix seconds) in a match of PREFIX; None where it has none."""
    if found["min"]:
        return clock.syslog(found["min"], found["sec"])
    if found["iso"]:
        return clock.iso(found["iso"], found["isosec"], found["zone"])
    return None
