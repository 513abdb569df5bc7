"""What Exim itself makes of conf/exim: its own expansions, on made-up mail (`exim -bem`).

The other modules read the configuration's text; a macro that somebody has set anew may say
anything. So each `remove_header` of the scrub and the conditions before it, the question to
gatepost-policyd and our own Received are expanded by Exim for a few messages. Nothing is sent, and
no socket is asked.
"""

import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from gatepost_milter.doctor.exim_config import TIMEOUT, EximConfig, Statement
from gatepost_milter.doctor.finding import Finding
from gatepost_policy.config.settings import Settings

ADDRESS, INSIDE, LOGIN = "192.0.2.77", "192.168.77.5", "gate.post-77"
NAME = "ptr-77.gatepost.invalid"
# Without -oMai it would be the login of whoever runs this.
STRANGER = ("-oMa", f"{ADDRESS}.4711", "-oMs", NAME, "-oMr", "esmtps", "-oMi", "127.0.0.1.25",
            "-oMai", "")  # fmt: skip
OWN = (*STRANGER[:-1], LOGIN, "-oMaa", "plain")
_LINE = 400  # `exim -be` cuts longer lines; a backslash at the end joins them
_FALSE = ("", "0", "no", "false")  # of a condition (the Exim specification, "condition")
AGAIN = (
    "install conf/exim again: in gatepost-main.conf only GATEPOST_POLICY, GATEPOST_PORTS, "
    "GATEPOST_DOWN, GATEPOST_AUTHSERV and GATEPOST_MASK_HOST are yours"
)
# Fields that no scrub may take: without them mail is not mail, or lists and threads break.
STAY = ("To", "Subject", "Date", "Message-ID", "In-Reply-To", "References", "Content-Type",
        "Reply-To", "List-Unsubscribe", "X-Gatepost-Probe-Plain")  # fmt: skip
IDS = ("Message-ID", "In-Reply-To", "References")
TELL = {
    "the client's address": ("X-Gatepost-Probe-Address", f"on [{ADDRESS}]"),
    "the login": ("X-Gatepost-Probe-Login", f"by {LOGIN}."),
    "an address of the client's own network": ("X-Gatepost-Probe-Inside", f"({INSIDE})"),
    "the client's address next to letters": ("X-Gatepost-Probe-Glued", f"ip{ADDRESS}x"),
    "the login, written by a program": ("Comments", f"Authenticated sender is <{LOGIN}>"),
    "the login as an address": ("Sender", f"<{LOGIN}@gatepost.invalid>"),
}


@dataclass(frozen=True, slots=True)
class Session:
    """One message as Exim is told of it: options of its command line, and the header."""

    options: tuple[str, ...]
    header: str


@dataclass(frozen=True, slots=True)
class Answer:
    """`removed`: names (lower-case) that the scrub takes; `hop`: our own Received."""

    removed: frozenset[str]
    hop: str


def check(config: EximConfig, settings: Settings) -> Iterator[Finding]:
    """Every finding; none where Exim cannot be asked (`asked`)."""
    if not config.called or not _scrub(config):
        return
    keep = [glob.lower() for glob in settings.submission.keep]
    examples = (glob.replace("*", "Probe") for glob in settings.submission.remove)
    names = [n for n in examples if not any(fnmatchcase(n.lower(), k) for k in keep)]
    told = "".join(f"{name}: x\n" for name in (*STAY, *names)) + "From: probe@gatepost.invalid\n"
    told += "".join(f"{name}: {value}\n" for name, value in TELL.values())
    lowered = {name.lower() for name in names}
    own = _ask(config, Session(OWN, told))
    if own is not None:
        yield from _own_mail(own, names)
    stranger = _ask(config, Session(STRANGER, told))
    if stranger is not None and stranger.removed & lowered:
        yield _again("strangers-scrubbed", "strangers' mail is taken for our own users': it loses "
                     "its fields and its trace")  # fmt: skip
    signed = _ask(config, Session(OWN, f"{told}DKIM-Signature: v=1; d=other.example\n"))
    if signed is not None and signed.removed & lowered:
        yield _again("relayed", "mail that others signed and our users pass on loses its fields")
    yield from _forged(config)


def _again(code: str, problem: str, option: str = "acl_smtp_data") -> Finding:
    return Finding(code, f"{option}, as Exim expands it", problem, AGAIN)


def _own_mail(answer: Answer, names: Sequence[str]) -> Iterator[Finding]:
    """What becomes of a submission that has every field of the list, and the client elsewhere."""
    if left := [n for n in names if n.lower() not in answer.removed]:
        yield _again("remove-header", f"the scrub leaves {', '.join(left[:8])}")
    elif known := [w for w, (name, _) in TELL.items() if name.lower() not in answer.removed]:
        yield _again("unknown-fields", f"a field stays where it has {known[0]}")
    # GATEPOST_MASK_HOST takes ids out and puts them in again.
    if gone := [n for n in STAY if n.lower() in answer.removed and n not in IDS]:
        yield _again("removes-more", f"the scrub takes {', '.join(gone)} out of submitted mail")
    if any(word in answer.hop for word in (ADDRESS, LOGIN, NAME)):
        yield _again("received-header", "our own hop names the client of a submission",
                     "received_header_text")  # fmt: skip


def _forged(config: EximConfig) -> Iterator[Finding]:
    """Results that a stranger wrote in the name that Exim writes its own in."""
    match = re.search(r"\$\{authresults\s*\{([^{}]*)\}", config.text)
    name = expanded(config, Session(STRANGER, ""), [match.group(1)]) if match else None
    if not name:
        return
    told = f"Authentication-Results: {name[0]}; dkim=pass header.d=bank.example\nSubject: x\n"
    for statement in config.reached("acl_smtp_data"):
        removed = [v.strip().lower() for v in statement.values("remove_header")]
        if removed != ["authentication-results"]:
            continue
        answers = expanded(config, Session(STRANGER, told), statement.values("condition"))
        if answers is not None and any(text.strip().lower() in _FALSE for text in answers):
            yield _again("forged-results", f"Authentication-Results of {name[0]} that a stranger "
                         "wrote stay, beside Exim's own")  # fmt: skip


def asked(config: EximConfig) -> bool:
    """True where Exim expands what it is asked here."""
    return bool(config.called) and _ask(config, Session(OWN, "Subject: x\n")) is not None


def _scrub(config: EximConfig) -> tuple[Statement, ...]:
    """The statements of the ACL, in order, that remove fields of submissions."""
    for acl in config.acls.values():
        if sum(bool(s.values("remove_header")) for s in acl) > 1:
            reached = config.reached("acl_smtp_data") + config.reached("acl_smtp_rcpt")
            if acl[0] in reached:
                return acl
    return ()


def _ask(config: EximConfig, session: Session) -> Answer | None:
    """What happens to this message; None where Exim does not say."""
    acl = _scrub(config)
    texts = [config.options.get("received_header_text", "")]
    for statement in acl:
        texts += (*statement.values("condition"), *statement.values("remove_header"))
    answers = expanded(config, session, texts)
    if answers is None:
        return None
    hop, *rest = answers
    removed: set[str] = set()
    for statement in acl:
        count = len(statement.values("condition"))
        holds = all(text.strip().lower() not in _FALSE for text in rest[:count])
        told = rest[count : count + len(statement.values("remove_header"))]
        rest = rest[count + len(told) :]
        if holds and statement.verb == "accept" and set(statement.conditions) <= {"condition"}:
            break
        if holds:
            removed |= {name.strip().lower() for text in told for name in text.split(":")}
    return Answer(frozenset(removed - {""}), hop)


def expanded(config: EximConfig, session: Session, texts: Sequence[str]) -> list[str] | None:
    """`texts` as this Exim expands them; None where it does not, or one of them fails."""
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
