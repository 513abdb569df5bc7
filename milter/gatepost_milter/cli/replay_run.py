"""Replay files through a milter, several at once, and give the outcomes in the files' order."""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from gatepost_milter.cli.common import UNREACHABLE, Failure
from gatepost_milter.mta.client import Result
from gatepost_milter.mta.envelope import Envelope
from gatepost_milter.replay import play, saved_envelope, saved_mail
from gatepost_milter.replay.journal_tail import JournalTail
from gatepost_milter.replay.private_milter import PrivateMilter, StartError
from gatepost_milter.replay.store_lookup import StoreFind
from gatepost_policy import config, journal
from gatepost_policy.journal import record as records
from gatepost_policy.journal.record import Json

if TYPE_CHECKING:
    from gatepost_policy.config.settings import Settings

# Larger messages are replayed one at a time: each is in memory several times while it is edited.
LARGE_BYTES = 4 * 1024 * 1024
_large = threading.Lock()

Run = Callable[[saved_mail.Item], play.Outcome]
Keep = Callable[[play.Outcome], None]


def player(
    stack: ExitStack,
    settings: "Settings",
    socket: str | None,
    given: saved_envelope.Given,
    files: int,
    record: bool,
) -> tuple[Run, Keep]:
    """(run, keep): `run` replays one message, `keep` takes its outcome (writes it with --record).

    `socket`: an external milter's, None for a private one. Raises Failure where that does not
    start."""
    if socket is not None:
        elsewhere = _external(stack, settings, given)
        return lambda item: play.run(item, given, socket, elsewhere), _drop
    workers = 1 if files == 1 else min(4, os.cpu_count() or 1)
    try:
        own = stack.enter_context(PrivateMilter(settings, workers))
    except StartError as error:
        raise Failure(f"cannot start a milter for the replay: {error}", UNREACHABLE) from None
    tail = JournalTail(own.journal)
    keep = _recording(stack, settings) if record else _drop
    return lambda item: play.run(item, given, own.socket, tail.find, spool=own.directory), keep


def _external(stack: ExitStack, settings: "Settings", given: saved_envelope.Given) -> play.Find:
    """A function that finds an external milter's record: in the journal, else in the store.

    Where neither has it, the outcome shows what Authentication-Results says.
    """
    tail = JournalTail(config.journal_dir(settings), from_now=True)
    stored = StoreFind(settings)
    stack.callback(stored.close)

    def find(result: Result, envelope: Envelope) -> Json | None:
        try:
            found = tail.find(result, envelope)
        except OSError:
            found = None  # no permission to read it
        # Submissions are only counted in the store, so none can be found there.
        if found is None and result.stage == "end" and given.login is None:
            found = stored.take(result.queue_id)
        return found

    return find


def _drop(outcome: play.Outcome) -> None:
    """Do nothing with the outcome: there is no --record."""


def _recording(stack: ExitStack, settings: "Settings") -> Keep:
    """Write the private milter's records to the configured journal, as the running milter would."""
    writer = journal.Writer(
        config.journal_dir(settings),
        max_bytes=settings.store.journal_max_bytes,
        sync=settings.store.sync,
    )
    stack.callback(writer.close)

    def keep(outcome: play.Outcome) -> None:
        if outcome.record is None:
            return
        obj = outcome.record
        if obj["direction"] != "inbound" and settings.store.submission == "counts":
            seen = records.read_seen(obj)
            obj = records.count(seen.facts, seen.decision)
        if not writer.write(obj):
            raise Failure(f"{config.journal_dir(settings)}: cannot write the journal", UNREACHABLE)
        _hand_over(config.journal_dir(settings))

    return keep


def _hand_over(directory: Path) -> None:
    """Give root's segments to the owner of the journal, whose recorder could not read them."""
    if os.geteuid() != 0:
        return
    owner = directory.stat()
    for segment in journal.segments(directory):
        with suppress(FileNotFoundError):
            if segment.stat().st_uid != owner.st_uid:
                os.chown(segment, owner.st_uid, owner.st_gid)


def in_order(files: list[str], run: Run, advance: Callable[[], None]) -> Iterator[play.Outcome]:
    """Replay several files at once and yield the outcomes in the files' order. `advance` is called
    after each file."""
    threads = max(2, min(8, 2 * (os.cpu_count() or 1)))
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[list[play.Outcome]]] = deque()
        try:
            for file in files:
                waiting.append(pool.submit(_file, file, run))
                # Bounded, so that the outcomes of 100 000 files are not in memory at once.
                if len(waiting) >= 4 * threads:
                    yield from waiting.popleft().result()
                    advance()
            while waiting:
                yield from waiting.popleft().result()
                advance()
        finally:
            for future in waiting:
                future.cancel()


def _file(file: str, run: Run) -> list[play.Outcome]:
    outcomes = []
    for item in saved_mail.read(file):
        with _large if len(item.data) > LARGE_BYTES else nullcontext():
            # Without the message itself: a large mbox must not stay in memory.
            outcomes.append(replace(run(item), result=None))
    return outcomes
