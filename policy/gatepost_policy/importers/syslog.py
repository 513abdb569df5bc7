"""Read log lines as a syslog daemon, rsyslog, Postfix itself or the journal writes them.

Understood: `Nov 20 10:00:00 host prog[1]: text` (RFC 3164, also with a priority in front),
`2026-11-20T10:00:00.123456+01:00 host prog[1]: text`, RFC 5424, and the journal's export format
(`journalctl -o export`: key=value blocks, binary fields included) and JSON (`-o json`). Pure; any
other line gives None.
"""

import json
import re
import struct
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import NamedTuple

from gatepost_policy.importers.clock import Clock

_OLD = re.compile(
    r"(?:<\d{1,3}>)?([A-Z][a-z]{2} +\d{1,2} \d\d:\d\d):(\d\d(?:\.\d+)?) (\S+) "
    r"([^\s\[:]+)(?:\[(\d+)\])?: (.*)",
    re.S,
)
_ISO = re.compile(
    r"(?:<\d{1,3}>)?(\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d):(\d\d(?:\.\d+)?)([Zz]|[+-]\d\d:?\d\d)? (\S+) "
    r"([^\s\[:]+)(?:\[(\d+)\])?: (.*)",
    re.S,
)
# RFC 5424 6: PRI VERSION SP TIMESTAMP SP HOST SP APP SP PROCID SP MSGID SP SD [SP MSG]
_RFC5424 = re.compile(
    r"<\d{1,3}>1 (\d{4}-\d\d-\d\dT\d\d:\d\d):(\d\d(?:\.\d+)?)(Z|[+-]\d\d:\d\d) (\S+) (\S+) (\S+) "
    r"\S+ (?:-|(?:\[(?:[^\]\\]|\\.)*\])+) ?(?:\ufeff)?(.*)",
    re.S,
)
_FIELDS = frozenset(
    (
        b"__REALTIME_TIMESTAMP", b"_HOSTNAME", b"SYSLOG_IDENTIFIER", b"SYSLOG_PID", b"_PID",
        b"MESSAGE",
    )
)  # fmt: skip
# rsyslog's $RepeatedMsgReduction: the line before came this often again. It counts as once.
_AGAIN = re.compile(r"message repeated \d+ times: \[ ?(.*)\]\Z", re.S)
# A larger binary field is no log message.
MAX_FIELD_BYTES = 1 << 20


class Entry(NamedTuple):
    """One log entry. `at`: Unix seconds; `pid`: text, "" where there is none."""

    at: float
    host: str
    program: str
    pid: str
    text: str


def read_line(line: str, clock: Clock) -> Entry | None:
    """The entry in one line of text; None where it has another form, or no valid time."""
    match = _OLD.match(line)
    if match:
        minute, seconds, host, program, pid, text = match.groups()
        at = clock.syslog(minute, seconds)
    elif match := _ISO.match(line):
        minute, seconds, zone, host, program, pid, text = match.groups()
        at = clock.iso(minute, seconds, zone)
    elif match := _RFC5424.match(line):
        minute, seconds, zone, host, program, pid, text = match.groups()
        at = clock.iso(minute, seconds, zone)
    elif line.startswith("{"):
        return _json(line)
    else:
        return None
    if text.startswith("message repeated ") and (again := _AGAIN.match(text)):
        text = again.group(1)
    return None if at is None else Entry(at, host, program, pid or "", text)


def as_line(entry: Entry) -> str:
    """The entry as one line of text, in the form that `wrapping.journal_line` gives it."""
    at = datetime.fromtimestamp(entry.at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    host, program, pid, text = entry[1:]
    return f"{at} {host or '-'} {program}[{pid}]: {text}".replace("\n", " ")


def _json(line: str) -> Entry | None:
    try:
        data = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(data, dict):
        return None
    fields = {
        name.encode(): value.encode("utf-8", "surrogateescape")
        for name, value in data.items()
        if isinstance(value, str)
    }
    message = data.get("MESSAGE")
    if isinstance(message, list) and all(isinstance(b, int) and 0 <= b < 256 for b in message):
        fields[b"MESSAGE"] = bytes(message)  # journalctl's form of a text that is not UTF-8
    return _entry(fields)


def is_export(head: list[str]) -> bool:
    """True where a file starts as `journalctl -o export` does."""
    return bool(head) and head[0].startswith(("__CURSOR=", "__REALTIME_TIMESTAMP="))


def export_time(line: str) -> float | None:
    """Unix seconds where this is the line of an export that has an entry's time, else None."""
    name, _, value = line.partition("=")
    if name != "__REALTIME_TIMESTAMP" or not value.isdecimal() or not value.isascii():
        return None
    return int(value[:18]) / 1e6


def first_time(lines: list[str], clock: Clock) -> float | None:
    """Unix seconds of the first of these lines that has a time, else None."""
    for line in lines:
        entry = read_line(line, clock)
        at = export_time(line) if entry is None else entry.at
        if at is not None:
            return at
    return None


def read_export(blocks: Iterable[bytes]) -> Iterator[Entry | None]:
    """The entries of an export stream; None for one without time, program or message."""
    fields: dict[bytes, bytes] = {}
    data, at = b"", 0
    source = iter(blocks)
    while True:
        end = data.find(b"\n", at)
        if end < 0:
            more = next(source, None)
            if more is None:
                break
            data, at = data[at:] + more, 0
            continue
        line = data[at:end]
        name, equals, value = line.partition(b"=")
        if equals:
            if name in _FIELDS:
                fields[name] = value
            at = end + 1
        elif not line:
            if fields:
                yield _entry(fields)
            fields, at = {}, end + 1
        else:
            # A binary field: its name, a line feed, 64 bits of size, the data, a line feed.
            while len(data) < end + 9 and (more := next(source, None)) is not None:
                data += more
            if len(data) < end + 9:
                break
            (size,) = struct.unpack_from("<Q", data, end + 1)
            if size > MAX_FIELD_BYTES:
                at = end + 1  # not a binary field after all: go on with the next line
                continue
            while len(data) < end + 9 + size and (more := next(source, None)) is not None:
                data += more
            if line in _FIELDS:
                fields[line] = data[end + 9 : end + 9 + size]
            at = end + 9 + size + 1
    if fields:
        yield _entry(fields)


def _entry(fields: dict[bytes, bytes]) -> Entry | None:
    stamp = fields.get(b"__REALTIME_TIMESTAMP", b"")
    program, message = fields.get(b"SYSLOG_IDENTIFIER"), fields.get(b"MESSAGE")
    if not stamp.isdigit() or len(stamp) > 18 or program is None or message is None:
        return None
    pid = fields.get(b"SYSLOG_PID") or fields.get(b"_PID") or b""
    return Entry(
        int(stamp) / 1e6,
        _text(fields.get(b"_HOSTNAME", b"")),
        _text(program),
        _text(pid),
        _text(message),
    )


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")
