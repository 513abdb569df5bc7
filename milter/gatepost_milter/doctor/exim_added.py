"""What Exim's routers, transports and ACLs add to a message, or remove, after the scrub."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from gatepost_milter.doctor.exim_config import EximConfig
from gatepost_milter.doctor.exim_order import written
from gatepost_milter.doctor.finding import Finding

_CLIENT = re.compile(
    r"\$\{?(?:[a-z0-9]+:)*(?:sender_(?:host_(?:address|name|port)|fullhost|rcvhost|helo_name|ident)"
    r"|authenticated_(?:id|sender)|originator_[ug]id|caller_[ug]id)\b"
)
# ${if def:authenticated_id{}{text}}: empty where the client has logged in.
_IF_NOT = re.compile(r"\$\{if\b(.*?)\{\s*\}\s*\{")
_IF_STRANGER = re.compile(r"\$\{if\s*!\s*def:authenticated_id\b")
_ADDS = re.compile(r"\bheaders?\s+add\b")
_TAKES_RECEIVED = re.compile(r"\bheaders?\s+remove\b.*\breceived\b", re.I)
_ASKS_LOGIN = re.compile(r"\$\{?authenticated_id\}?\s+is\s+\"\"")
_OPTION = re.compile(r"^\s*(headers_add|headers_remove)\s*=\s*(.*)$")
_INSTANCE = re.compile(r"^\s*([A-Za-z0-9_]+):\s*$")
_CONDITION = re.compile(r"^\s*condition\s*=.*authenticated_id")


def check(config: EximConfig) -> Iterator[Finding]:
    """Every finding."""
    yield from _filtered(config)
    for where, option, value, asked in _options(config.text):
        if option == "headers_add" and _CLIENT.search(value):
            if not (asked or _for_strangers(value)):
                yield Finding(
                    "headers-add", where,
                    f"{option} tells of whoever handed the mail in, behind the scrub",
                    f"{option} = ${{if GATEPOST_SUBMISSION {{}}{{{value}}}}}",
                )  # fmt: skip
        elif option == "headers_remove":
            names = [n.strip() for n in value.split(":")]
            rest = [n for n in names if n.lower() != "received"]
            if rest != names:
                yield Finding(
                    "headers-remove", where,
                    "headers_remove takes every Received away: nobody finds a loop, and where "
                    "other people's mail came from is lost",
                    f"headers_remove = {' : '.join(rest)}",
                )  # fmt: skip
    for option in ("acl_smtp_data", "acl_not_smtp"):
        for statement in config.reached(option):
            added = [v for v in statement.values("add_header") if _CLIENT.search(v)]
            added = [v for v in added if not _for_strangers(v)]
            if added and not statement.strangers_only:
                yield Finding(
                    "headers-add", f"{option} = {config.options[option]}",
                    f"{written(statement)} tells of whoever handed the mail in, behind the scrub",
                    f"!authenticated = *, above: add_header = {added[0]}",
                )  # fmt: skip


def _filtered(config: EximConfig) -> Iterator[Finding]:
    """The system filter sees each message before the routers do, and may add fields (Exim's filter
    specification, "headers add"); rewriting rules may put any text into addresses."""
    path = config.options.get("system_filter", "")
    try:
        text = Path(path).read_text(errors="replace") if path.startswith("/") else ""
    except OSError:
        text = ""  # `unread` says so
    for line in text.splitlines():
        plain = line.strip()
        if _ADDS.search(plain) and _CLIENT.search(plain) and not _ASKS_LOGIN.search(plain):
            yield Finding(
                "headers-add", f"system_filter = {path}",
                f"{plain[:120]} tells of whoever handed the mail in, behind the scrub",
                f'if $authenticated_id is "" then {plain} endif',
            )  # fmt: skip
        elif _TAKES_RECEIVED.search(plain):
            yield Finding(
                "headers-remove", f"system_filter = {path}",
                "every Received is taken away: nobody finds a loop, and where other people's mail "
                "came from is lost",
                f"sed -i '/{plain}/d' {path}",
            )  # fmt: skip
    parts = re.split(r"^begin rewrite\s*$", config.text, maxsplit=1, flags=re.M)
    for line in (
        re.split(r"^begin ", parts[1], maxsplit=1, flags=re.M)[0].splitlines() if parts[1:] else ()
    ):
        if _CLIENT.search(line):
            yield Finding(
                "rewrite", "begin rewrite",
                f"{line.strip()[:120]} writes the client or the login into addresses, behind the "
                "scrub", f"without this line: {line.strip()[:120]}",
            )  # fmt: skip


def unread(config: EximConfig) -> tuple[str, ...]:
    """What of this could not be read, each in a few words."""
    path = config.options.get("system_filter", "")
    return (f"system_filter = {path}",) if path and not os.access(path, os.R_OK) else ()


def _for_strangers(value: str) -> bool:
    """True where a text is empty after a login."""
    match = _IF_NOT.search(value)
    return bool(_IF_STRANGER.search(value) or (match and "authenticated_id" in match.group(1)))


def _options(text: str) -> Iterator[tuple[str, str, str, bool]]:
    """(place, option, value, asked) for each header option of routers and transports; `asked`: a
    condition of the same one tests authenticated_id."""
    for section in ("router", "transport"):
        parts = re.split(rf"^begin {section}s\s*$", text, maxsplit=1, flags=re.M)
        body = re.split(r"^begin ", parts[1], maxsplit=1, flags=re.M)[0] if parts[1:] else ""
        for name, lines in _instances(body):
            asked = any(_CONDITION.match(line) for line in lines)
            for line in lines:
                if match := _OPTION.match(line):
                    yield f"{section} {name}", match.group(1), match.group(2), asked


def _instances(body: str) -> Iterator[tuple[str, list[str]]]:
    """(name, lines) of each router or transport of a section."""
    name, lines = "", list[str]()
    for line in body.splitlines():
        if match := _INSTANCE.match(line):
            if name:
                yield name, lines
            name, lines = match.group(1), []
        else:
            lines.append(line)
    if name:
        yield name, lines
