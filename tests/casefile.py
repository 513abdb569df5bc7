"""Golden cases: one mail transaction as text, and what gatepost must make of it.

    # What this case shows.
    [settings]           TOML; may be missing
    [session]            one `key: value` a line; see SESSION
    [message]            the message as the client sends it; LF here is CRLF on the wire
    [expected]           action (with its stage where that is not the end: `reject@rcpt`), reason,
                         then edits; rewritten by `pytest --update-cases`

Octets that are no text are written as `\\xHH`, in the session and in the message alike.
"""

import json
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from from_table import from_table
from gatepost_milter.mta.envelope import Envelope
from gatepost_policy.config.settings import Settings
from gatepost_policy.mail.decision import Decision, Edit

CASES = Path(__file__).parent / "cases"
AT = 1_700_000_000.0  # 2023-11-14 22:13:20 UTC: when every message arrives
QUEUE_ID = "4ABCDEF012"
NAMES = ("settings", "session", "message", "expected")
_OCTET = re.compile(rb"\\x([0-9a-fA-F]{2})")


@dataclass(slots=True)
class Case:
    """One file. `known` holds what the store knows: trap, listed, repeat, good."""

    path: Path
    title: str
    sections: dict[str, str]
    settings: Settings
    envelope: Envelope
    message: bytes
    expected: list[str]
    known: dict[str, list[str]] = field(default_factory=dict)
    dns: dict[str, object] = field(default_factory=dict)
    offer: str = ""  # what the MTA offers, where it is not Postfix
    extra: list[tuple[str, bytes]] = field(default_factory=list)  # fields Postfix would not pass

    @property
    def name(self) -> str:
        """The file's place below tests/cases, without its suffix."""
        return str(self.path.relative_to(CASES).with_suffix(""))


def raw(text: str) -> bytes:
    """`text` with its `\\xHH` as octets."""
    return _OCTET.sub(lambda m: bytes([int(m.group(1), 16)]), text.encode())


def read(path: Path) -> Case:
    """The case in `path`. Raises ValueError for a line that is none."""
    title, sections = _sections(path.read_text())
    options: dict[str, list[str]] = {}
    for line in sections["session"].splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        key, colon, value = line.partition(": ") if ": " in line else line.partition(":")
        if not colon:
            raise ValueError(f"{path}: not `key: value`: {line!r}")
        options.setdefault(key, []).append(value.strip())
    known = {key: options.pop(key, []) for key in ("trap", "listed", "repeat", "good")}
    dns: dict[str, object] = {}
    for line in options.pop("dns", []):
        name, _, value = line.partition(" = ")
        dns[name] = json.loads(value)
    offer = options.pop("offer", [""])[0]
    extra = [line.partition(" = ") for line in options.pop("field", [])]
    return Case(
        path=path,
        title=title,
        sections=sections,
        settings=from_table(Settings, tomllib.loads(sections["settings"])),
        envelope=_envelope(options),
        message=raw(sections["message"].replace("\n", "\r\n")),
        expected=sections["expected"].split("\n") if sections["expected"] else [],
        known=known,
        dns=dns,
        offer=offer,
        extra=[(raw(n.lstrip()).decode(), b" " + raw(v)) for n, _, v in extra],
    )


def _sections(text: str) -> tuple[str, dict[str, str]]:
    title = ""
    found: dict[str, str] = dict.fromkeys(NAMES, "")
    current = ""
    for line in text.split("\n"):
        if line[1:-1] in NAMES and line == f"[{line[1:-1]}]" and line[1:-1] != current:
            current = line[1:-1]
        elif not current:
            title += line.removeprefix("#").strip() + " "
        else:
            found[current] += line + "\n"
    # A blank line before the next section belongs to the layout, not to the message.
    return title.strip(), {
        name: (body.removesuffix("\n") if name == "message" else body.strip("\n"))
        for name, body in found.items()
    }


def _envelope(options: dict[str, list[str]]) -> Envelope:
    values: dict[str, object] = {"at": AT, "queue_id": QUEUE_ID}
    macros: dict[str, str | bytes | None] = {}
    for key, given in options.items():
        value = given[-1]
        if key.startswith("macro "):
            macros[key.removeprefix("macro ")] = None if value == "absent" else raw(value)
        elif key == "client":
            values["local"] = value == "sendmail"
            values["client"] = None if value in ("unix", "sendmail") else value
        elif key == "helo":
            values["helo"] = raw(value)
        elif key in ("recipient", "rejected"):
            values["recipients" if key == "recipient" else "rejected"] = tuple(given)
        elif key == "args":
            values["sender_args"] = tuple(value.split())
        elif key in ("port",):
            values[key] = int(value)
        elif key in ("name", "reverse"):
            values[{"name": "client_name", "reverse": "reverse_name"}[key]] = value
        elif key == "listener":
            values["daemon_name"] = value
        elif key in ("sender", "login", "tls", "mta", "version"):
            values[key] = value
        else:
            raise ValueError(f"unknown session key {key!r}")
    return Envelope(macros=macros, **values)  # type: ignore[arg-type]


def outcome(decision: Decision, edits: tuple[Edit, ...], stage: str) -> list[str]:
    """The lines of [expected] for what was decided, and answered at `stage` (`rcpt`, `end`)."""
    at = "" if stage == "end" else f"@{stage}"
    lines = [f"action: {decision.action}{at}", f"reason: {decision.reason}"]
    if decision.shadow:
        lines.append(f"shadow: {', '.join(decision.shadow)}")
    if decision.reply is not None:
        lines.append(f"reply: {decision.reply}")
    for recipient in decision.drop_recipients:
        lines.append(f"drop: {recipient}")
    return lines + [edit_line(e) for e in edits]


def edit_line(edit: Edit) -> str:
    """One edit as a line; the value as JSON, so that folds and blanks show."""
    value = "" if edit.op == "delete" else f" {json.dumps(edit.value, ensure_ascii=False)}"
    return f"{edit.op} {edit.name} {edit.index}{value}"


def update(case: Case, lines: list[str]) -> None:
    """Write `lines` as the new [expected]."""
    head, mark, _ = case.path.read_text().rpartition("[expected]\n")
    if not mark:
        head = case.path.read_text().rstrip("\n") + "\n"
    case.path.write_text(head + "[expected]\n" + "\n".join(lines) + "\n")


def everything() -> list[Case]:
    """All cases, by name."""
    return [read(path) for path in sorted(CASES.rglob("*.case"))]
