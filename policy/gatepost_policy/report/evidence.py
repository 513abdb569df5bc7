"""An abuse report on one sender: XARF v4 (JSON) and ARF (RFC 5965), with every recipient masked.

Pure. Times, the report's id and the captured message are arguments. `Evidence.remaining` names what
could still reveal a trap; the caller must show it before the report is sent.

Limits: one report is about one client, that of the newest message to a trap. XARF requires the
client's port with `protocol: smtp`; where the port is not known the protocol is `other`, and the
description says SMTP.
"""

import base64
import hashlib
import json
import re
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from email.message import EmailMessage
from email.mime.base import MIMEBase
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from email.utils import format_datetime
from typing import Any

from gatepost_policy.mail.address import is_within
from gatepost_policy.mail.decision import Reason
from gatepost_policy.report import masking
from gatepost_policy.report.masking import Masks
from gatepost_policy.report.report import Line, Report
from gatepost_policy.report.standing import movement
from gatepost_policy.system.dataclass import dataclass
from gatepost_policy.text.plural import plural
from gatepost_policy.text.times import timestamp

XARF_VERSION = "4.2.0"
DESCRIPTION_MAX = 1_000  # XARF: description
EVIDENCE_MAX = 5_242_880  # XARF: size of one evidence
_MAIL = re.compile(r"[^\s@<>]{1,64}@[A-Za-z0-9.-]+\.[A-Za-z0-9-]+\Z", re.ASCII)
Json = dict[str, Any]


class NoEvidence(Exception):
    """There is nothing to report. The text says why."""


@dataclass(frozen=True, slots=True)
class Reporter:
    """The organisation that reports, and a mailbox of it that is read."""

    organisation: str
    contact: str

    @property
    def domain(self) -> str:
        """The contact's domain."""
        return self.contact.rpartition("@")[2]


@dataclass(frozen=True, slots=True)
class Captured:
    """A message as received, its client's port (None: not known), and its recipients."""

    data: bytes
    port: int | None
    recipients: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Evidence:
    """The content of a report, already masked. `message`: the captured one, None where none is."""

    about: str
    line: Line
    history: str
    sender: str | None
    message: bytes | None
    port: int | None
    remaining: tuple[str, ...]
    domain: str | None  # the signing domain that is proven, if it is within the one asked about


def newest(report: Report) -> Line:
    """The newest message to a trap whose client is known. Raises NoEvidence."""
    if report.hit is None:
        raise NoEvidence("no message to a trap by a client that is still known: nothing to report")
    return report.hit


def gather(report: Report, about: str, masks: Masks, captured: Captured | None) -> Evidence:
    """The evidence on the sender that `report` is about. Raises NoEvidence, masking.StillThere."""
    line = newest(report)
    data = None if captured is None else masking.message(captured.data, masks)
    sender = None if not line.sender else masks.text(line.sender)
    domain = _proven(line, about)
    history = _history(report, line)
    if domain is None and report.query.get("sender"):
        history += f" Nothing proves that {about} has sent the newest one."
    history = masks.text(history)
    masks.check(history)
    return Evidence(
        about=masks.text(about),
        line=line,
        history=history,
        sender=sender,
        message=data,
        port=None if captured is None else captured.port,
        remaining=tuple(masking.remaining(data, line.sender)),
        domain=domain,
    )


def _proven(line: Line, about: str) -> str | None:
    """The proven signing domain within `about`, if the decision blamed it (reason trap). A domain
    that is only claimed, or whose signed mail another client sent to the trap, may be innocent."""
    if line.reason != Reason.TRAP:
        return None
    asked = about.rpartition("@")[2].lower()
    signers = (s.domain for s in line.signatures if s.proven and s.domain)
    return next((domain for domain in signers if is_within(domain, asked)), None)


def _history(report: Report, line: Line) -> str:
    """The history in sentences: how often, since when, in which rhythm. With days but no times of
    day, except for the newest message."""
    summary = report.summary
    first, last = (timestamp(t or 0.0)[:10] for t in (summary.first_seen, summary.last_seen))
    traps = plural(summary.trap_hits, "delivery") if summary.trap_hits == 1 else (
        f"{summary.trap_hits} deliveries"
    )  # fmt: skip
    said = [f"{plural(summary.messages, 'message')} from {first} to {last}, {traps} to spamtraps."]
    if report.rhythm is not None:
        said.append(f"Rhythm: {report.rhythm.sentence}.")
    moved = movement(report.spans)
    if moved:
        said.append(f"The sender {moved}.")
    results = ", ".join(f"{word} {n}" for word, n in summary.dkim.items())
    if results:
        said.append(f"DKIM: {results}.")
    said.append(f"The newest one came from {line.address} by SMTP at {timestamp(line.at)}.")
    return " ".join(said)


def xarf(found: Evidence, reporter: Reporter, at: float, report_id: str) -> Json:
    """A XARF v4 report, messaging/spam. `at` in Unix seconds, `report_id` a UUID."""
    line = found.line
    who = {
        "org": reporter.organisation[:200],
        "contact": reporter.contact,
        "domain": reporter.domain,
    }
    out: Json = {
        "xarf_version": XARF_VERSION,
        "report_id": report_id,
        "timestamp": timestamp(line.at),
        "reporter": who,
        "sender": dict(who),
        "source_identifier": _address(line),
        "category": "messaging",
        "type": "spam",
        "evidence_source": "spamtrap",
        "description": found.history[:DESCRIPTION_MAX],
        "tags": ["gatepost:spamtrap"],
        "protocol": "other",
        "evidence": [_item("text/plain", "history of this sender", found.history.encode())],
    }
    if found.port is not None and found.sender and _MAIL.match(found.sender):
        out |= {"protocol": "smtp", "source_port": found.port, "smtp_from": found.sender}
    if found.message is not None and len(found.message) <= EVIDENCE_MAX:
        words = "the message as it came, every recipient masked"
        out["evidence"].append(_item("message/rfc822", words, found.message))
    return out


def _item(kind: str, words: str, data: bytes) -> Json:
    return {
        "content_type": kind,
        "description": words,
        "payload": base64.b64encode(data).decode("ascii"),
        "hash": f"sha256:{hashlib.sha256(data).hexdigest()}",
        "size": len(data),
    }


def _address(line: Line) -> str:
    return (line.address or "").partition("/")[0]


def arf(found: Evidence, reporter: Reporter, at: float, version: str) -> bytes:
    """An ARF message (RFC 5965) without To, which the operator adds. `at`: now, Unix seconds."""
    line = found.line
    out = MIMEMultipart("report")
    out.set_param("report-type", "feedback-report")
    out["From"] = f"{_plain(reporter.organisation)} <{reporter.contact}>"
    out["Subject"] = f"Abuse report: mail to spamtraps from {_address(line)}"
    out["Date"] = format_datetime(datetime.fromtimestamp(at, UTC))
    lost = "" if found.message is not None else (
        "\n\nThe message itself was not kept; what is known of its header is attached."
    )  # fmt: skip
    text = f"{found.about}\n\n{found.history}{lost}\n\nRecipients are masked.\n"
    out.attach(MIMEText(text, "plain", "utf-8"))
    out.attach(_feedback(found, version))
    out.attach(_third(found))
    return out.as_bytes(policy=EmailMessage().policy.clone(linesep="\r\n"))


def _feedback(found: Evidence, version: str) -> MIMEBase:
    """The feedback report (RFC 5965 3.1, 3.2); Reported-Domain only where it is proven."""
    line = found.line
    fields = [
        ("Feedback-Type", "abuse"),
        ("User-Agent", f"gatepost/{version}"),
        ("Version", "1"),
        ("Arrival-Date", format_datetime(datetime.fromtimestamp(line.at, UTC))),
        ("Source-IP", _address(line)),
    ]
    if found.domain is not None:
        fields.append(("Reported-Domain", _plain(found.domain)))
    if found.sender is not None:
        fields.append(("Original-Mail-From", f"<{_plain(found.sender)}>"))
    part = MIMEBase("message", "feedback-report")
    part.set_payload("".join(f"{name}: {value}\r\n" for name, value in fields))
    return part


def _third(found: Evidence) -> MIMEBase:
    """The third part: the message (RFC 5965 2 d), or what is known of its header."""
    if found.message is not None:
        part = MIMEBase("message", "rfc822")
        part.set_payload(found.message.decode("ascii"))
        return part
    known = [("Return-Path", f"<{_plain(found.sender or '')}>")]
    part = MIMEBase("text", "rfc822-headers")
    part.set_payload("".join(f"{name}: {value}\r\n" for name, value in known))
    return part


def _plain(text: str) -> str:
    """`text` fit for a header field: one line, other characters than printable ASCII as `?`."""
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in text)


def recipients(lines: Sequence[Line], more: Collection[str] = ()) -> set[str]:
    """All addresses that must be masked: the recipients of `lines`, and `more`."""
    return {address for line in lines for address, _ in line.recipients} | set(more)


def named_in(data: bytes, known: Collection[str]) -> set[str]:
    """Other addresses in the domains of `known` that stand in a saved message as plain text: one
    message may name several of our users.
    """
    domains = {re.escape(text.rpartition("@")[2].strip("<> ")) for text in known if "@" in text}
    if not domains:
        return set()
    found = re.compile(rf"[\w.!#$%&'*+/=?^`{{|}}~-]+@(?:{'|'.join(sorted(domains))})", re.I)
    return set(found.findall(data.decode("utf-8", "replace")))


def dumped(value: Json) -> str:
    """A XARF report as text."""
    return json.dumps(value, indent=2) + "\n"
