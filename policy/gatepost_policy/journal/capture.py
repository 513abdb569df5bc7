"""Keep trap mail as it came: X.eml, and X.json with the client, the envelope and DNS answers.

`milterctl replay` reads both back: the same octets, client, DNS answers and time give the same
decision, even years later.

Rules: nothing here ever stops mail; a capture that fails is dropped and counted (`failed`), and
`lost` is called with the reason. A file with its final name is complete: both are written under
other names, and the sidecar is renamed first. Directory and files are readable by the owner only,
because they hold other people's mail.

How it stays bounded: over `capture_max_files` or `capture_max_bytes` the oldest are removed (names
begin with the time). The directory is checked every LOOK_EVERY captures.

Limits: with several processes the bounds may be exceeded by LOOK_EVERY captures each. A message
over `capture_max_message_bytes` is not kept at all: the signatures of a cut one could not be
verified again.
"""

import json
import os
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from gatepost_policy.config.settings import Trap
from gatepost_policy.mail.facts import Facts

LOOK_EVERY = 32
# Remove down to this part of the limits, so that not every message has to remove some.
PRUNE_TO = 0.95
STALE_S = 3_600.0  # an unfinished file this old belonged to a process that was killed


class Sink:
    """Where captures are written. One for a process; it can be made before a fork.

    `lost` is called for each that fails, with a reason that holds nothing of the message.
    """

    def __init__(self, settings: Trap, lost: Callable[[str], None] = lambda why: None) -> None:
        self.settings = settings
        self.enabled = bool(settings.capture)
        self.directory = Path(settings.capture) if settings.capture else Path()
        self.failed = 0
        self._lost = lost
        self._until_look = 0

    def begin(self, at: float) -> "Capture | None":
        """Begin the capture of a message received at `at` (Unix seconds); None where captures are
        off or it failed. Never raises.
        """
        if not self.enabled:
            return None
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self._until_look <= 0:
                self._until_look = LOOK_EVERY
                self.prune()
            self._until_look -= 1
            stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(at))
            return Capture(self, f"{stamp}-{secrets.token_hex(6)}")
        except (OSError, ValueError, OverflowError) as error:
            self.lose(_why(error))
            return None

    def lose(self, why: str) -> None:
        """Count a message that could not be kept, and report `why`."""
        self.failed += 1
        self._lost(why)

    def prune(self) -> None:
        """Remove the oldest captures until the bounds hold. Raises OSError."""
        kept: list[tuple[str, int]] = []
        now = time.time()
        for entry in os.scandir(self.directory):
            with suppress(FileNotFoundError):
                if entry.name.startswith("."):
                    if entry.name.endswith(".part") and now - entry.stat().st_mtime > STALE_S:
                        os.unlink(entry.path)
                elif entry.name.endswith(".eml"):
                    size = entry.stat().st_size
                    with suppress(FileNotFoundError):
                        size += os.stat(entry.path.removesuffix(".eml") + ".json").st_size
                    kept.append((entry.name.removesuffix(".eml"), size))
        most, room = self.settings.capture_max_files, self.settings.capture_max_bytes
        total = sum(size for _, size in kept)
        if len(kept) <= most and total <= room:
            return
        kept.sort(reverse=True)
        while kept and (len(kept) > most * PRUNE_TO or total > room * PRUNE_TO):
            name, size = kept.pop()
            total -= size
            for suffix in (".eml", ".json"):
                (self.directory / f"{name}{suffix}").unlink(missing_ok=True)


class Capture:
    """One message being written. Never raises: after an error it was reported, and nothing more is
    written.
    """

    def __init__(self, sink: Sink, name: str) -> None:
        self.name = name
        self._sink = sink
        self._left = sink.settings.capture_max_message_bytes
        self._part = sink.directory / f".{name}.part"
        handle = os.open(self._part, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        self._file: IO[bytes] | None = os.fdopen(handle, "wb", buffering=65_536)

    def header(self, field: bytes) -> None:
        """Write one header field as it stands in the message, without its line end.

        The MTA gives a milter folds as LF; on the wire they were CRLF (RFC 5322 2.2.3).
        """
        self._write(field.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n") + b"\r\n")

    def end_of_headers(self) -> None:
        """Write the empty line."""
        self._write(b"\r\n")

    def body(self, chunk: bytes) -> None:
        """Write the next octets of the body, unchanged."""
        self._write(chunk)

    def finish(self, sidecar: dict[str, Any]) -> Path | None:
        """Give the message its name, with `sidecar` beside it; the path, None where it failed."""
        if self._file is None:
            return None
        final = self._sink.directory / f"{self.name}.eml"
        beside = self._sink.directory / f"{self.name}.json"
        try:
            self._file.close()
            self._file = None
            aside = self._sink.directory / f".{self.name}.json.part"
            handle = os.open(aside, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(json.dumps(sidecar, indent=1).encode("ascii") + b"\n")
            os.rename(aside, beside)
            os.rename(self._part, final)
        except (OSError, TypeError, ValueError) as error:
            self._fail(_why(error))
            with suppress(OSError):
                beside.unlink(missing_ok=True)
            return None
        return final

    def abandon(self) -> None:
        """Remove what was written: the message did not go to a trap, or never ended. May be called
        twice.
        """
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
            self._file = None
        with suppress(OSError):
            self._part.unlink(missing_ok=True)

    def _write(self, data: bytes) -> None:
        if self._file is None:
            return
        self._left -= len(data)
        if self._left < 0:
            self._fail("larger than trap.capture_max_message_bytes")
            return
        try:
            self._file.write(data)
        except OSError as error:
            self._fail(_why(error))

    def _fail(self, why: str) -> None:
        self._sink.lose(why)
        self.abandon()


def _why(error: Exception) -> str:
    """What the system says, without a path: the name of the file would show when a message came."""
    return getattr(error, "strerror", None) or type(error).__name__


def sidecar(facts: Facts, traps: frozenset[str], dns: dict[str, Any]) -> dict[str, Any]:
    """The content of X.json, for JSON; `dns` in the form that `replay --dns` reads."""
    client = facts.client
    return {
        "at": facts.at,
        "queue_id": facts.queue_id,
        "client": {
            "address": None if client.address is None else str(client.address),
            "port": client.port,
            "family": client.family,
            "name": client.name,
            "helo": client.helo,
        },
        "envelope": {
            "sender": facts.sender.raw,
            "recipients": [
                {"address": r.address.raw, "trap": r.address.raw in traps, "accepted": r.accepted}
                for r in facts.recipients
            ],
        },
        "dns": dns,
        # Which checks have their answers in `dns`: a name that was not asked for must not be read
        # as one without records.
        "checked": ["dkim", "spf", "dmarc"],
    }
