"""Remove the wrapping that a container runtime, the journal or another syslog puts around a line.

The first lines of a log show its wrapping: what most of them have is removed from every line, layer
by layer (a docker log may hold the lines of a BusyBox syslog). What remains is a line as rsyslog,
Postfix or Exim write it. A log without a wrapping is not changed, and costs nothing here.

Understood: docker compose (in colours, too) and docker's `-t`, Kubernetes' CRI and
`kubectl logs --prefix`, JSON lines of collectors (`json_lines`), journalctl's short-full,
short-unix, verbose, json-pretty, json-seq and json-sse, Solaris' message ids, the facility words of
AIX, BusyBox, FreeBSD and syslog-ng, years beside the day, no host, macOS, multilog, svlogd,
metalog, Loki, what grep found, RFC 5424 without priority or octet-counted (RFC 6587 3.4.1).
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from functools import partial

from gatepost_policy.importers import json_lines

_ISO = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)"
_BSD = r"[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d"
_LEVEL = r"\w+[.:](?:emerg|alert|crit|err|error|warn|warning|notice|info|debug)"
# A layer is removed where at least this part of the first lines has it.
MOST = 0.6
MAX_LAYERS = 4
# A JSON object of more lines than this is not one of the journal's.
MAX_OBJECT_LINES = 200
# A line that comes in pieces is cut at this length.
MAX_JOINED = 1 << 16

Lines = Iterable[list[str]]


# What replaces a wrapping: a template for Match.expand, or a function of the match.
Replacement = str | Callable[[re.Match[str]], str]


def _substitute(pattern: str, replacement: Replacement) -> tuple[re.Pattern[str], Replacement]:
    return re.compile(pattern, re.S), replacement


def _dated(match: re.Match[str]) -> str:
    """A date with its year in ISO's form; the zone stays unknown."""
    month = (_MONTHS.find(match["month"]) + 3) // 3
    return f"{match['year']}-{month:02}-{int(match['day']):02} {match['time']} "


def _counted(match: re.Match[str]) -> str:
    """Unix seconds in ISO's form, UTC."""
    return f"{datetime.fromtimestamp(int(match[1]), UTC):%Y-%m-%dT%H:%M:%S}{match[2] or ''}Z "


def _named(match: re.Match[str]) -> str:
    """Time, host, program and process id of a line of RFC 5424, in the form of RFC 3164."""
    at, host, program, pid = match.groups()
    return f"{at} {host} {program}[{pid}]: " if pid.isdigit() else f"{at} {host} {program}: "


_MONTHS = "JanFebMarAprMayJunJulAugSepOctNovDec"
_MONTH = r"(?P<month>Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)"
_TIME = r"(?P<time>\d\d:\d\d:\d\d(?:\.\d+)?)"
_COLOUR = r"(?:\x1b\[[\d;]*m)"
_SAID = r"[^\s\[:]+(?:\[\d+\])?: "  # a program
_REWRITTEN = (
    _substitute(r"[\w.@-]+ +\| ", ""),  # docker compose: which container said it
    _substitute(rf"{_COLOUR}+[\w.@-]+ +\| *{_COLOUR}* ?", ""),
    _substitute(r"\[?pod/[\w./-]+\]? ", ""),  # kubectl logs --prefix
    # Loki's labels.
    _substitute(rf"{_ISO} \{{[^{{}}]*\}} (?={_BSD}|\d{{4}}-\d\d-\d\d[T ])", ""),
    # docker -t, around a line with a time of its own, and around one without.
    _substitute(rf"{_ISO} (?={_BSD}|\d{{4}}-\d\d-\d\d[T ]|<\d|\{{)", ""),
    _substitute(rf"({_ISO}) (?={json_lines.MTA_SAID})", r"\1 - "),
    _substitute(r"[A-Z][a-z]{2} (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)?) (?:UTC|GMT) ", r"\1Z "),
    _substitute(r"[A-Z][a-z]{2} (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)?) [A-Z]{2,5} ", r"\1 "),
    _substitute(rf"({_BSD} \S+ [^\s\[:]+(?:\[\d+\])?: )\[ID \d+ \w+\.\w+\] ", r"\1"),
    _substitute(rf"((?:<\d+>)?{_BSD} \S+ ){_LEVEL} ", r"\1"),
    _substitute(rf"((?:<\d+>)?{_BSD} )<\w+\.\w+> ", r"\1"),
    _substitute(rf"((?:<\d+>)?{_ISO} ){_LEVEL} (?=\S+ {_SAID})", r"\1"),
    _substitute(r"(\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d),(?=\d{1,9}\S* )", r"\1."),
    _substitute(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+[+-]\d{4})  (?=\S)", r"\1 "),
    _substitute(rf"(?:<\d+>)?{_MONTH} +(?P<day>\d{{1,2}}) (?P<year>\d{{4}}) {_TIME} ", _dated),
    _substitute(rf"(?:<\d+>)?{_MONTH} +(?P<day>\d{{1,2}}) {_TIME} (?P<year>\d{{4}}) ", _dated),
    # multilog and svlogd, with and without a time of theirs; metalog; cron's weekday.
    _substitute(rf"(?:@[0-9a-f]{{24}} |[\d-]+_[\d:.]+ )?{_LEVEL}: (?={_BSD})", ""),
    _substitute(rf"({_BSD}) \[([^\]\s]+)\] ", r"\1 - \2: "),
    _substitute(rf"[A-Z][a-z]{{2}} (?={_BSD})", ""),
    _substitute(rf"((?:<\d+>)?{_BSD})  (?=\S)", r"\1 "),
    _substitute(rf"(<\d+>) (?={_BSD})", r"\1"),
    # grep's file name or number.
    _substitute(rf"[^\s:{{]+:(?:\d+:)?(?=(?:<\d+>)?(?:{_BSD}|\d{{4}}-\d\d-\d\d[T ]))", ""),
    _substitute(rf"(\d{{10}})(\.\d{{1,9}})? (?=\S+ {_SAID})", _counted),
    _substitute(rf"((?:<\d+>)?{_BSD}) (?=(?:postfix/\S+|exim\d?)\[\d+\]: )", r"\1 - "),
    _substitute(
        rf"(?:\d{{1,6}} )?(?:<\d{{1,3}}>)?1 ({_ISO}) (\S+) (\S+) (\S+) \S+ "
        r"(?:-|(?:\[(?:[^\]\\]|\\.)*\])+) ?(?:\ufeff)?",
        _named,
    ),
)  # fmt: skip
_RFC5424 = re.compile(r"<\d{1,3}>1 ")
_OBJECT = re.compile(r"\s*\{\s*\Z")
_CRI = re.compile(rf"({_ISO}) (stdout|stderr) ([FP])(?:[\w:]*) ")
_NAMED = re.compile(json_lines.MTA_SAID)
_VERBOSE = re.compile(r"[A-Z][a-z]{2} (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)?) (\w+) \[s=\w+;")


def unwrapped(head: list[str]) -> Callable[[Lines], Lines] | None:
    """A function that removes the wrapping from the lines of this log; None where it has none.

    `head`: the first lines of the log. The function takes and gives the lines in lists.
    """
    steps: list[Callable[[Lines], Lines]] = []
    lines = [line for line in head if line.strip()]
    for _ in range(MAX_LAYERS):
        step = _layer(lines)
        if step is None:
            break
        # A new one, without the head's unfinished lines: these come again with the log.
        steps.append(_layer(lines) or step)
        lines = [line for block in step([lines]) for line in block]
    if not steps:
        return None

    def all_steps(blocks: Lines) -> Lines:
        for step in steps:
            blocks = step(blocks)
        return blocks

    return all_steps


def _layer(lines: list[str]) -> Callable[[Lines], Lines] | None:
    if not lines:
        return None
    # An event stream's data (json-sse), RFC 7464's separator, or an object over several lines.
    if lines[0].startswith(("\x1e", "data: {")) or any(_OBJECT.match(line) for line in lines[:3]):
        return _objects
    enough = max(1, int(len(lines) * MOST))
    if sum(map(_is_journal, lines)) >= enough:
        return _objects
    if sum(map(json_lines.is_wrapped, lines)) >= enough:
        return partial(json_lines.bare, {})
    if sum(bool(_CRI.match(line)) for line in lines) >= enough:
        return partial(_cri, {})
    if _VERBOSE.match(lines[0]):
        return _verbose
    # `syslog` reads lines of RFC 5424 itself.
    if sum(bool(_RFC5424.match(line)) for line in lines) >= enough and "exim" not in lines[0]:
        return None
    for pattern, replacement in _REWRITTEN:
        if sum(bool(pattern.match(line)) for line in lines) >= enough:
            return _rewriter(pattern, replacement)
    return None


def _is_journal(line: str) -> bool:
    return line.startswith("{") and '"__REALTIME_TIMESTAMP"' in line


def _rewriter(pattern: re.Pattern[str], replacement: Replacement) -> Callable[[Lines], Lines]:
    def rewrite(blocks: Lines) -> Iterator[list[str]]:
        for lines in blocks:
            out = []
            for line in lines:
                # match(), not sub(): a wrapping is only at the beginning of a line.
                found = pattern.match(line)
                if found is not None:
                    made = (
                        found.expand(replacement)
                        if isinstance(replacement, str)
                        else replacement(found)
                    )
                    line = made + line[found.end() :]
                out.append(line)
            yield out

    return rewrite


def _cri(begun: dict[str, str], blocks: Lines) -> Iterator[list[str]]:
    """Kubernetes' CRI: a long line comes in pieces, marked P, the last one F, in each stream.

    `begun`: unfinished lines, {stream: text}, kept between calls for a followed log.
    """
    for lines in blocks:
        out = []
        for line in lines:
            found = _CRI.match(line)
            if found is None:
                out.append(line)
                continue
            at, stream, mark = found.groups()
            text = begun.pop(stream, "") + line[found.end() :]
            if mark == "P":
                begun[stream] = text[:MAX_JOINED]
            else:
                out.append(f"{at} - {text}" if _NAMED.match(text) else text)
        yield out


def _verbose(blocks: Lines) -> Iterator[list[str]]:
    """`journalctl -o verbose`: a line with the time, then one line for each field."""
    entry: dict[str, str] = {}

    def told() -> list[str]:
        if not {"at", "SYSLOG_IDENTIFIER", "MESSAGE"} <= entry.keys():
            return []
        pid = entry.get("SYSLOG_PID") or entry.get("_PID") or ""
        said = f"{entry['SYSLOG_IDENTIFIER']}[{pid}]: {entry['MESSAGE']}"
        return [f"{entry['at']} {entry.get('_HOSTNAME') or '-'} {said}"]

    for lines in blocks:
        out = []
        for line in lines:
            found = _VERBOSE.match(line)
            if found is not None:
                out += told()
                entry = {"at": found[1] + ("Z" if found[2] in ("UTC", "GMT") else "")}
            elif line.startswith("    "):
                name, _, value = line.strip().partition("=")
                entry.setdefault(name, value)
        yield out
    yield told()


def _objects(blocks: Lines) -> Iterator[list[str]]:
    """Journal entries as JSON over several lines (json-pretty), or each on one line after a record
    separator or `data: `."""
    open_lines: list[str] = []
    for lines in blocks:
        out: list[str] = []
        for raw in lines:
            line = raw.lstrip("\x1e").removeprefix("data: ")  # RFC 7464 2.2
            if open_lines:
                open_lines.append(line)
                if line.strip() == "}" or len(open_lines) > MAX_OBJECT_LINES:
                    out.append(journal_line("\n".join(open_lines)))
                    open_lines = []
            elif _OBJECT.match(line):
                open_lines = [line]
            elif line.strip():
                out.append(journal_line(line))
        yield out
    if open_lines:
        yield [" ".join(open_lines)]


def journal_line(text: str) -> str:
    """A journal entry in JSON as a syslog line; any other text unchanged, on one line."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return text.replace("\n", " ")
    if not isinstance(data, dict):
        return text.replace("\n", " ")
    stamp, message = data.get("__REALTIME_TIMESTAMP"), data.get("MESSAGE")
    program = data.get("SYSLOG_IDENTIFIER")
    if isinstance(message, list) and all(isinstance(b, int) and 0 <= b < 256 for b in message):
        message = bytes(message).decode("utf-8", "surrogateescape")
    if not (isinstance(stamp, str) and stamp.isdecimal() and len(stamp) <= 18):
        return text.replace("\n", " ")
    if not isinstance(message, str) or not isinstance(program, str):
        return text.replace("\n", " ")
    try:
        at = datetime.fromtimestamp(int(stamp) / 1e6, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    except (ValueError, OverflowError, OSError):
        return text.replace("\n", " ")
    pid = data.get("SYSLOG_PID") or data.get("_PID") or ""
    host = data.get("_HOSTNAME") or "-"
    return f"{at} {host} {program}[{pid}]: {message}".replace("\n", " ")


def likely_reason(start: bytes, lines: list[str], wanted: str) -> str:
    """Why no line of a log was understood, guessed from its beginning: one line, to be printed.

    `start`: its first octets; `wanted`: the MTA whose log was expected, exim or postfix.
    """
    for magic, name, command in _PACKED:
        if start.startswith(magic):
            return f"packed with {name}: {command} | milterctl import {wanted} -"
    if start.startswith(b"LPKSHHRH"):
        return f"a file of the journal: journalctl -o export | milterctl import {wanted} -"
    other = "postfix" if wanted == "exim" else "exim"
    looks = _EXIM if other == "exim" else _POSTFIX
    if any(looks.search(line) for line in lines):
        return f"this looks like a log of {other.title()}: milterctl import {other}"
    if b"\0" in start:
        return "this is no text"
    return f"no line of it is {wanted.title()}'s; --verbose shows the first"


def looks_like(lines: Iterable[str]) -> str | None:
    """The MTA whose log these lines are: "exim" or "postfix"; None where no line shows it."""
    for line in lines:
        # First where the line begins: behind that a client may have written the other's words.
        if _EXIM.match(line) or _EXIM_REFUSED.match(line):
            return "exim"
        if _POSTFIX.search(line):
            return "postfix"
        if _EXIM.search(line):
            return "exim"
    return None


# Any `syslog_name` may stand before the daemon's name.
_POSTFIX = re.compile(
    r"(?:\bpostfix\S*/[\w-]+|\S/(?:smtpd|postscreen|cleanup|qmgr|pickup))(?:\[\d+\])?: "
)
_EXIM = re.compile(
    r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\S*(?: [+-]\d{4})? (?:\[\d+\] )?\w+-\w+-\w+ (?:<=|=>|Completed)"
)
_EXIM_REFUSED = re.compile(
    r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\S*(?: [+-]\d{4})? (?:\[\d+\] )?(?:\w+-\w+-\w+ )?H=\S"
    r"|(?:\S+ ){1,4}exim[\w-]*(?:\[\d+\])?: "
)
_PACKED = (
    (b"\x28\xb5\x2f\xfd", "zstd", "zstd -dc FILE"),
    (b"\x04\x22\x4d\x18", "lz4", "lz4 -dc FILE"),
    (b"PK\x03\x04", "zip", "unzip -p FILE"),
    (b"7z\xbc\xaf\x27\x1c", "7-Zip", "7z x -so FILE"),
    (b"\x1f\x9d", "compress", "zcat FILE"),
)
