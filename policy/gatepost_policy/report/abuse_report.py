"""Prepare an abuse report: what must be masked, the captured message, and the octets to send.

The command and the page both use this, so their reports are the same. The caller must show
`Evidence.remaining` first: what in the report could still name a trap.
"""

import json
import re
import time
import uuid
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from gatepost_policy import traps
from gatepost_policy.config.settings import Settings
from gatepost_policy.report import evidence
from gatepost_policy.report.evidence import Captured, Evidence, NoEvidence, Reporter
from gatepost_policy.report.masking import Masks
from gatepost_policy.report.report import Line, Report

FORMS = ("xarf", "arf")
SIDECAR_MAX = 16 * 1024 * 1024
_CONTACT = re.compile(r"[^\s@<>\x00-\x1f]{1,64}@[A-Za-z0-9.-]+\.[A-Za-z0-9-]+\Z", re.ASCII)


class NoReporter(ValueError):
    """There is no reporter: neither a contact nor an own domain is known."""


def reporter(settings: Settings, contact: str | None, org: str | None) -> Reporter:
    """The reporter: `contact`, else abuse@ the first own domain; `org`, else the contact's domain.
    Raises NoReporter, and ValueError for an invalid contact."""
    if not contact:
        own = settings.sender.own_domains
        if not own:
            raise NoReporter("say who reports: an address that is read")
        contact = f"abuse@{own[0]}"
    if not _CONTACT.match(contact):
        raise ValueError(f"want an address, got {contact!r}")
    return Reporter(org or contact.rpartition("@")[2], contact)


def gather(
    connection: Connection, report: Report, settings: Settings, say: Callable[[str], None]
) -> Evidence:
    """The evidence on the sender or host that `report` is about. `say` is called with a warning
    where a captured message cannot be read. Raises NoEvidence and masking.StillThere."""
    about = str(report.query.get("sender") or report.query.get("host") or "")
    if not about:
        raise NoEvidence("an abuse report is about a sender or a host: say whom")
    kept = _captured(settings, report, say)
    names, words = _names(connection, report, kept)
    return evidence.gather(report, about, Masks(names, words), kept)


def written(found: Evidence, by: Reporter, form: str, now: float) -> bytes:
    """The octets of the report; `form` is one of FORMS, `now` in Unix seconds."""
    if form == "xarf":
        told = evidence.xarf(found, by, now, str(uuid.uuid4()))
        return evidence.dumped(told).encode("ascii")
    return evidence.arf(found, by, now, version("gatepost"))


def _names(
    connection: Connection, report: Report, kept: Captured | None
) -> tuple[set[str], set[str]]:
    """(addresses to mask, words to mask: domains that are traps as a whole)."""
    newest = (evidence.newest(report),)
    names = evidence.recipients((*newest, *report.messages), report.traps)
    if kept is not None:
        names |= set(kept.recipients)
        names |= evidence.named_in(kept.data, names)
    domains = {f"@{name.rpartition('@')[2].strip('<> ').lower()}" for name in names}
    whole = {trap.key for trap in traps.listing(connection) if trap.kind != "exact"}
    words = {key.rpartition("@")[2].lstrip("*.") for key in whole}
    return names, {word for word in words if any(d.endswith(word) for d in domains)}


def _captured(settings: Settings, report: Report, say: Callable[[str], None]) -> Captured | None:
    """The newest message to a trap as received, where `trap.capture` kept it, else None."""
    directory = settings.trap.capture
    if not directory:
        return None
    line = evidence.newest(report)
    for sidecar in _sidecars(Path(directory), line.at):
        found = _read(sidecar, line, say)
        if found is not None:
            return found
    return None


def _sidecars(directory: Path, at: float) -> Iterator[Path]:
    """The sidecars with the second `at` in their names, or one second before or after."""
    for second in (0, -1, 1):
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(at + second))
        yield from sorted(directory.glob(f"{stamp}-*.json"))


def _read(sidecar: Path, line: Line, say: Callable[[str], None]) -> Captured | None:
    try:
        with sidecar.open("rb") as stream:
            data: dict[str, Any] = json.loads(stream.read(SIDECAR_MAX))
        if data["queue_id"] != line.queue_id or data["client"]["address"] != line.address:
            return None
        recipients = tuple(str(r["address"]) for r in data["envelope"]["recipients"])
        port = data["client"].get("port")
        message = sidecar.with_suffix(".eml").read_bytes()
        return Captured(message, port if isinstance(port, int) and port > 0 else None, recipients)
    except (OSError, ValueError, KeyError, TypeError) as error:
        say(f"{sidecar}: cannot be read ({type(error).__name__}); reported without it")
        return None
