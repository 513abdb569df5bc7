"""What Exim itself does to the header of one made-up message: the scrub's ACL, expanded by Exim.

`answer` gives what goes and what is added. `expanded` asks Exim for any text (`exim -bem`): nothing
is sent, and no socket is asked.
"""

import re
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gatepost_milter.doctor.exim_config import TIMEOUT, EximConfig, Statement

_ASKED = ("condition", "remove_header", "add_header")
_LINE = 400  # `exim -be` cuts longer lines; a backslash at the end joins them
_FALSE = ("", "0", "no", "false")  # of a condition (the Exim specification, "condition")
# What -bem has no option for is written into the text: the EHLO name, and what Exim makes of it.
_HELO = re.compile(r"\$(?:sender_helo_name\b|\{sender_helo_name\})")
_RCVHOST = re.compile(r"\$(?:sender_rcvhost\b|\{sender_rcvhost\})")
# Exim 4.100 refuses to calculate with an address that came from its command line.
_ADDRESS = re.compile(r"\$(?:sender_host_address\b|\{sender_host_address\})")
_DEFINED = re.compile(r"\bdef:sender_(?:helo_name|rcvhost)\b")


@dataclass(frozen=True, slots=True)
class Session:
    """One message as Exim is told of it: options of its command line, the header, and the names by
    which the client greets and is found in DNS."""

    options: tuple[str, ...]
    header: str
    helo: str = ""
    name: str = ""
    address: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """`removed`: names (lower-case) that the scrub takes; `added`: what it adds, as written there;
    `hop`: our own Received."""

    removed: frozenset[str]
    added: tuple[str, ...]
    hop: str

    def value(self, name: str) -> str:
        """What is added under this name, without the name; empty where nothing is."""
        found = [re.sub(r"(?m)^:(?:at_start|after_received|at_start_rfc|at_end):", "", text)
                 for text in self.added]  # fmt: skip
        return "\n".join(text.partition(":")[2].strip() for text in found
                         if text.lower().startswith(f"{name.lower()}:"))  # fmt: skip


def false(text: str) -> bool:
    """True where Exim takes this for a condition that does not hold."""
    return text.strip().lower() in _FALSE


def statements(config: EximConfig) -> tuple[Statement, ...]:
    """The statements of the ACL, in order, that remove fields of submissions."""
    for acl in config.acls.values():
        if sum(bool(s.values("remove_header")) for s in acl) > 1:
            reached = config.reached("acl_smtp_data") + config.reached("acl_smtp_rcpt")
            if acl[0] in reached:
                return acl
    return ()


def answer(config: EximConfig, session: Session) -> Answer | None:
    """What happens to this message; None where Exim does not say."""
    acl = statements(config)
    texts = [config.options.get("received_header_text", "")]
    counts = []
    for statement in acl:
        told = _in_full(statement)
        texts += (text for key in _ASKED for text in told[key])
        counts.append([len(told[key]) for key in _ASKED])
    if session.helo:
        texts = [_named(text, session) for text in texts]
    answers = expanded(config, session, texts)
    if answers is None:
        return None
    hop, *rest = answers
    removed: set[str] = set()
    added: list[str] = []
    for statement, (conditions, takes, adds) in zip(acl, counts, strict=True):
        holds = not any(false(text) for text in rest[:conditions])
        out, more = rest[conditions : conditions + takes], rest[conditions + takes :][:adds]
        rest = rest[conditions + takes + adds :]
        if holds and statement.verb == "accept" and set(statement.conditions) <= {"condition"}:
            break
        if holds:
            removed |= {name.strip().lower() for text in out for name in text.split(":")}
            added += more
    return Answer(frozenset(removed - {""}), tuple(added), hop)


def _in_full(statement: Statement) -> dict[str, list[str]]:
    """Conditions and changes of a statement, with what its own `set` modifiers set written out."""
    told: dict[str, list[str]] = {key: [] for key in _ASKED}
    values: dict[str, str] = {}
    variables = iter(statement.variables)
    for key, value in statement.parts:
        for variable, text in values.items():
            found = re.compile(rf"\$(?:{variable}\b|\{{{variable}\}})")
            value = found.sub(text.replace("\\", r"\\"), value)
        if key == "set":
            values[next(variables)] = value
        elif key in told:
            told[key].append(value)
    return told


def _named(text: str, session: Session) -> str:
    host = f"{session.name} ([{session.address}] helo={session.helo})"
    text = _DEFINED.sub("def:primary_hostname", text)
    return _HELO.sub(lambda _: session.helo, _RCVHOST.sub(lambda _: host, text))


def expanded(config: EximConfig, session: Session, texts: Sequence[str]) -> list[str] | None:
    """`texts` as this Exim expands them; None where it does not, or one of them fails."""
    if "-oMa" in session.options:
        client = session.options[session.options.index("-oMa") + 1].rpartition(".")[0]
        texts = [_ADDRESS.sub(client, text) for text in texts]
    told = "".join(_lines(f"<<{n}>>{text}<</{n}>>") for n, text in enumerate(texts))
    with tempfile.TemporaryDirectory(prefix="gatepost-exim-") as folder:
        Path(folder).chmod(0o755)  # Exim may read it as its own user
        message = Path(folder) / "message"
        message.write_text(session.header + "\nx\n")
        message.chmod(0o644)
        try:
            done = subprocess.run(
                [*config.called, *session.options, "-bem", message], input=told.encode(),
                capture_output=True, timeout=TIMEOUT, check=False,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired):
            return None
    out = done.stdout.decode(errors="replace")
    found = []
    for n in range(len(texts)):
        _, start, rest = out.partition(f"<<{n}>>")
        text, end, out = rest.partition(f"<</{n}>>")
        if not start or not end:
            return None
        found.append(text)
    return found


def _lines(text: str) -> str:
    """`text` as `exim -be` reads it from a pipe: short lines joined by backslashes. Blanks at the
    start of a line are skipped, so none may stand there."""
    out = []
    while text:
        at = min(_LINE, len(text))
        while 1 < at < len(text) and (text[at - 1] == "\\" or text[at].isspace()):
            at -= 1
        out.append(text[:at])
        text = text[at:]
    return "\\\n".join(out) + "\n"
