"""Make syslog lines of log lines that a collector wrote as JSON, one object per line. Pure.

Each collector has its own names for the same five things: the text, the program, its process id,
the host and the time. Understood: docker's json-file, Fluent Bit, Fluentd, Elastic (ECS), GELF,
Vector, syslog-ng's format-json, and rsyslog's jsonmesg and its templates. A text that begins with
a time is used as it is; else the line is put together from the five. An object that lacks them
stays as it is, and will not be understood.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

_TEXT = ("log", "message", "msg", "MESSAGE", "short_message", "rawmsg")
# The tag is before programname, because rsyslog cuts programname at a slash.
_PROGRAM = (
    "syslogtag", "SYSLOG_IDENTIFIER", "ident", "tag", "appname", "app_name", "app-name",
    "_application_name", "_program", "programname", "program", "PROGRAM", "process.name",
    "facility",
)  # fmt: skip
_PID = ("procid", "pid", "PID", "_PID", "_pid", "_process_id", "process.pid")
_HOST = ("hostname", "sysloghost", "HOST", "host.hostname", "host.name", "host")
_TIME = (
    "timereported", "ISODATE", "@timestamp", "timestamp", "time", "timegenerated", "DATE", "date"
)  # fmt: skip
_ISO = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?\Z")
_BSD = re.compile(r"[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d(?:\.\d+)?\Z")
_NUMBER = re.compile(r"\d{9,13}(?:\.\d+)?\Z")
_TIMED = re.compile(
    r"(?:<\d{1,3}>)?(?:1 )?(?:[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:|\d{4}-\d\d-\d\d[T ]\d\d:\d\d:)"
)
# The program of an MTA: Postfix's daemons may have any `syslog_name` before theirs.
MTA_SAID = (
    r"(?:(?:postfix|exim)\S*|\S+/(?:smtpd|postscreen|cleanup|qmgr|pickup|smtp|lmtp|local|virtual"
    r"|pipe|error|bounce))(?:\[\d+\])?: "
)
_NAMED = re.compile(MTA_SAID)
_MTA = re.compile(r"postfix|exim|opendkim|dovecot")
_PIECE_BYTES = 16_384  # docker cuts longer lines; only the last piece ends with a line feed
_MAX_JOINED = 1 << 16


def is_wrapped(line: str) -> bool:
    """True for a JSON object with a log line in it (not one of journalctl -o json)."""
    if not line.startswith("{") or '"__REALTIME_TIMESTAMP"' in line:
        return False
    return any(f'"{name}"' in line for name in _TEXT)


def bare(begun: dict[str, str], blocks: Iterable[list[str]]) -> Iterator[list[str]]:
    """The syslog lines of these objects.

    `begun`: docker's unfinished lines, {stream: text}, kept between calls for a followed log.
    """
    for lines in blocks:
        out = []
        for line in lines:
            data = _object(line)
            if data is None:
                out.append(line)
            elif (whole := _joined(data, begun)) is not None:
                out.append(_line(whole) or line)
        yield out


def _object(line: str) -> dict[str, Any] | None:
    try:
        data = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) else None


def _joined(data: dict[str, Any], begun: dict[str, str]) -> dict[str, Any] | None:
    """The object with its whole line; None where more pieces of it will follow."""
    stream, text = data.get("stream"), data.get("log")
    if not isinstance(stream, str) or not isinstance(text, str):
        return data
    before = begun.pop(stream, "")
    if not text.endswith("\n") and len(text.encode("utf-8", "replace")) >= _PIECE_BYTES:
        begun[stream] = (before + text)[:_MAX_JOINED]
        return None
    return {**data, "log": before + text} if before else data


def _line(data: dict[str, Any]) -> str | None:
    text = _first(data, _TEXT)
    if text is None:
        return None
    text = text.strip(" \n").replace("\n", " ")
    if _TIMED.match(text):
        return text
    at = _time(data)
    host = re.sub(r"\s", "-", _first(data, _HOST) or "-")
    if at is not None and _NAMED.match(text):
        return f"{at} {host} {text}"
    program = _program(data)
    if at is None or not program:
        return text
    pid = _first(data, _PID)
    if pid is not None and pid.isdigit() and "[" not in program:
        program += f"[{pid}]"
    return f"{at} {host} {program}: {text}"


def _program(data: Mapping[str, Any]) -> str:
    """The program's name: an MTA's, if any key has one; else the first key's, but no facility."""
    found = [name for one in _PROGRAM if (name := _first(data, (one,))) is not None]
    ours = [name for name in found if _MTA.match(name)]
    named = ours or [name for name in found if name != data.get("facility")]
    return re.sub(r"\s", "-", named[0].rstrip(": ")) if named else ""


def _first(data: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    """The value of the first of these keys that is a text or a number; `a.b` is b within a."""
    for name in names:
        outer, dot, inner = name.partition(".")
        found = data.get(name)
        if found is None and dot and isinstance(data.get(outer), dict):
            found = data[outer].get(inner)
        if isinstance(found, str) and found:
            return found
        if isinstance(found, int | float) and not isinstance(found, bool):
            return repr(found)
    return None


def _time(data: Mapping[str, Any]) -> str | None:
    for name in _TIME:
        found = _first(data, (name,))
        if found is None:
            continue
        if _ISO.match(found):
            return found.replace(",", ".")
        if _BSD.match(found):
            return found
        if _NUMBER.match(found):
            seconds = float(found)
            try:
                at = datetime.fromtimestamp(seconds / (1000 if seconds > 1e11 else 1), UTC)
            except (ValueError, OverflowError, OSError):
                continue
            return f"{at:%Y-%m-%dT%H:%M:%S.%f}Z"
    return None
