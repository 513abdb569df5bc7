"""`milterctl report --format xarf|arf`: an abuse report with every recipient masked."""

import json
import re
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gatepost_milter.cli.common import FINDINGS, USAGE, App, Failure, note

if TYPE_CHECKING:
    from gatepost_policy.report.evidence import Captured, Reporter
    from gatepost_policy.report.report import Line, Report

FORMS = ("xarf", "arf")
SIDECAR_MAX = 16 * 1024 * 1024
_CONTACT = re.compile(r"[^\s@<>\x00-\x1f]{1,64}@[A-Za-z0-9.-]+\.[A-Za-z0-9-]+\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class Asking:
    """What the command line says. `now` in Unix seconds."""

    form: str
    now: float
    org: str | None
    contact: str | None


def write(app: App, report: "Report", asking: Asking, output: Path | None) -> None:
    """Write the abuse report, after a word on stderr about what it could still tell."""
    from gatepost_policy.report import evidence
    from gatepost_policy.report.masking import Masks, StillThere

    reporter = _reporter(app, asking)
    about = str(report.query.get("sender") or report.query.get("host") or "")
    if not about:
        raise click.UsageError(f"--format {asking.form}: say whom it is about: a sender or a host.")
    try:
        kept = _captured(app, report)
        names, words = _names(app, report, kept)
        found = evidence.gather(report, about, Masks(names, words), kept)
    except evidence.NoEvidence as error:
        raise Failure(str(error), FINDINGS) from None
    except StillThere as error:
        raise Failure(f"{error}: nothing is written", FINDINGS) from None
    note("milterctl: before you send it: recipients are masked; what could still name a trap:")
    for words_ in found.remaining:
        note(f"  {words_}")
    if asking.form == "xarf":
        told = evidence.xarf(found, reporter, asking.now, str(uuid.uuid4()))
        data = evidence.dumped(told).encode("ascii")
    else:
        data = evidence.arf(found, reporter, asking.now, version("gatepost"))
    if output is None or str(output) == "-":
        sys.stdout.buffer.write(data)
        return
    try:
        output.write_bytes(data)
    except OSError as error:
        raise Failure(f"{output}: cannot be written: {error.strerror}", USAGE) from None


def _reporter(app: App, asking: Asking) -> "Reporter":
    from gatepost_policy.report.evidence import Reporter

    contact = asking.contact
    if contact is None:
        own = app.settings.sender.own_domains
        if not own:
            raise click.UsageError(
                "Say who reports: --contact ADDRESS, or set sender.own_domains (abuse@ there)."
            )
        contact = f"abuse@{own[0]}"
    if not _CONTACT.match(contact):
        raise click.UsageError(f"--contact: want an address, got {contact!r}.")
    return Reporter(asking.org or contact.rpartition("@")[2], contact)


def _names(app: App, report: "Report", kept: "Captured | None") -> tuple[set[str], set[str]]:
    """(addresses to be masked, words to be masked: whole domains that are traps)."""
    from gatepost_policy import traps
    from gatepost_policy.report import evidence

    names = evidence.recipients(report.messages, report.traps)
    if kept is not None:
        names |= set(kept.recipients)
        names |= evidence.named_in(kept.data, names)
    domains = {f"@{name.rpartition('@')[2].strip('<> ').lower()}" for name in names}
    with app.store(replica=True) as connection:
        whole = {trap.key for trap in traps.listing(connection) if trap.kind != "exact"}
    words = {key.rpartition("@")[2].lstrip("*.") for key in whole}
    return names, {word for word in words if any(d.endswith(word) for d in domains)}


def _captured(app: App, report: "Report") -> "Captured | None":
    """The newest message to a trap as it came, where `trap.capture` kept it."""
    directory = app.settings.trap.capture
    if not directory:
        return None
    from gatepost_policy.report import evidence

    line = evidence.newest(report)
    for sidecar in _sidecars(Path(directory), line.at):
        found = _read(sidecar, line)
        if found is not None:
            return found
    return None


def _sidecars(directory: Path, at: float) -> Iterator[Path]:
    """Those whose name has the second of this message, or the one beside it."""
    for second in (0, -1, 1):
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(at + second))
        yield from sorted(directory.glob(f"{stamp}-*.json"))


def _read(sidecar: Path, line: "Line") -> "Captured | None":
    from gatepost_policy.report.evidence import Captured

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
        note(f"milterctl: {sidecar}: cannot be read ({type(error).__name__}); reported without it")
        return None
