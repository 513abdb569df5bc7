"""What an Exim asks gatepost-policyd, and what it does while nobody answers."""

import base64
import binascii
import re
from collections.abc import Iterator

from gatepost_milter.doctor.exim_asked import ADDRESS, AGAIN, LOGIN, NAME, OWN, STRANGER
from gatepost_milter.doctor.exim_config import EximConfig
from gatepost_milter.doctor.exim_scrub import Session
from gatepost_milter.doctor.exim_scrub import expanded as expand
from gatepost_milter.doctor.finding import Finding
from gatepost_policy.text.times import UNITS

LONGEST_S = 60  # RFC 5321 4.5.3.2: a client waits five minutes, and more than one question is asked
_LATER = "451 4.3.0 Try again later"
_CALL = "${readsocket"
HEADER = (
    "From: Probe <probe@gatepost.invalid>\nMessage-ID: <probe@gatepost.invalid>\n"
    "In-Reply-To: <a@gatepost.invalid>\nList-Id: <l.gatepost.invalid>\nSubject: x\n"
)
# Attribute: what it must hold in the session that is made up; None: it may be empty.
SESSION: dict[str, str | None] = {
    "id": "", "client_address": ADDRESS, "client_name": NAME, "submission": "no",
    "sender": "", "helo": None, "client_port": "4711",
}  # fmt: skip
WHOLE = SESSION | {"from": "probe@", "message_id": "probe@", "size": None, "recipients": None}


def check(config: EximConfig) -> Iterator[Finding]:
    """Every finding, one for each kind."""
    found: dict[tuple[str, str], Finding] = {}
    for option in ("acl_smtp_rcpt", "acl_smtp_data"):
        for statement in config.reached(option):
            for _, value in statement.parts:
                parts = arguments(value)
                if len(parts) > 1 and parts[1].startswith("exim "):
                    for finding in (*_down(parts), *_told(config, parts[1])):
                        found.setdefault((finding.code, finding.problem), finding)
    yield from found.values()


def arguments(value: str) -> list[str]:
    """The arguments of the ${readsocket{...}...} in an ACL line, unexpanded; [] without one."""
    found: list[str] = []
    depth, start, at = 0, 0, value.find(_CALL)
    for n in range(at + len(_CALL), len(value)) if at >= 0 else ():
        if value[n - 1] == "\\" or value[n] not in "{}":
            continue
        if value[n] == "{":
            start = n + 1 if depth == 0 else start
            depth += 1
            continue
        depth -= 1
        if depth < 0:
            break
        if depth == 0:
            found.append(value[start:n])
    return found


def _down(parts: list[str]) -> Iterator[Finding]:
    """The answer that Exim takes where the socket gives none, and how long it waits for one."""
    answer = parts[4].strip() if len(parts) > 4 else "OK"
    problem, wanted = "", "OK"
    if re.match(r"5\d\d", answer):
        problem = "all mail is refused for good"
    elif answer.startswith(("DISCARD", "OK drop=")):
        problem = "mail is taken and thrown away"
    elif re.match(r"4\d\d", answer) and not re.match(r"4\d\d \S", answer):
        problem, wanted = "mail does not wait: a code without a text counts as OK", _LATER
    if problem:
        yield Finding("down-answer", "GATEPOST_DOWN",
                      f"while gatepost-policyd is down, {problem} ({answer})",
                      f"GATEPOST_DOWN = {wanted}")  # fmt: skip
    match = re.match(r"(\d+)([smhd]?)", parts[2]) if len(parts) > 2 else None
    if match and int(match[1]) * UNITS[match[2] or "s"] > LONGEST_S:
        yield Finding("policy-timeout", "conf/exim/gatepost-acl.conf, readsocket",
                      f"Exim waits {parts[2]} for each answer of gatepost-policyd, and clients "
                      "give up before", "{3s} there, or install conf/exim again")  # fmt: skip


def _told(config: EximConfig, question: str) -> Iterator[Finding]:
    """Does the question say what rules and records need, and of a submission nothing more?"""
    stranger = _read(config, STRANGER, question)
    stage = stranger.get("stage") if stranger is not None else None
    if stranger is not None and stage in ("rcpt", "data"):
        wanted = WHOLE if stage == "data" else SESSION
        lacking = [n for n, text in wanted.items() if not _holds(stranger.get(n), text)]
        marks = set(stranger.get("marks", "").split(","))
        if stage == "data" and not {"list", "reply"} <= marks:
            lacking.append("marks")
        if lacking:
            yield Finding("question", f"what Exim asks at {stage}",
                          f"gatepost-policyd is not told {', '.join(lacking)}", AGAIN)  # fmt: skip
    own = _read(config, OWN, question)
    if own is not None and any(LOGIN in text or NAME in text for text in own.values()):
        yield Finding("question", "what Exim asks about a submission",
                      "gatepost-policyd is told who handed the mail in", AGAIN)  # fmt: skip


def _holds(told: str | None, wanted: str | None) -> bool:
    return told is not None and (wanted is None or (bool(told) and wanted in told))


def _read(config: EximConfig, options: tuple[str, ...], question: str) -> dict[str, str] | None:
    """The attributes of a question as Exim sends it; None where Exim does not say."""
    if not config.called:
        return None
    answers = expand(config, Session(options, HEADER), [question.removesuffix("\\n")])
    if answers is None:
        return None
    found: dict[str, str] = {}
    for word in answers[0].split():
        name, _, text = word.partition("=")
        if name.startswith("b64."):
            try:
                text = base64.b64decode(text).decode("utf-8", "replace")
            except binascii.Error:
                continue
        found[name.removeprefix("b64.")] = text
    return found
