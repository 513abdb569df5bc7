"""One milter worker: libmilter in a thread, the parent's control pipe in the main thread.

The parent's word, one byte: `r` retire (stop accepting, leave when the last session is over),
`q` quit (stop accepting, leave when no message is in flight or the grace is over). End of file
means that the parent died, which is `q` as well, so nothing is left behind by kill -9.

Why libmilter does not run in the main thread: it collects TERM, INT and HUP with sigwait(3) and
takes up to 5 s to act on them. A signal that the main thread ignores, and does not block, is
dropped by the kernel before libmilter can see it; Ctrl-C reaches the whole process group.
"""

import gc
import os
import resource
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import NoReturn

import milter

from gatepost_milter.engine import libmilter
from gatepost_milter.engine.listener import Listener
from gatepost_milter.filter.context import Context
from gatepost_milter.filter.gate import Gate
from gatepost_policy import config
from gatepost_policy.config.settings import Settings
from gatepost_policy.monitoring import slots
from gatepost_policy.monitoring.slots import Slot

RETIRE_S = 600.0  # a retired worker leaves after this, whatever its sessions do
MAX_GRACE_S = 4.0  # TERM ends everything within 5 s
ANSWER_S = 0.1  # how long libmilter may need to send an answer that the callback has given
WATCH_S = 0.5
SAY_S = 60.0
SPARE = 8  # descriptors that a session, a look-up and the journal may want at once
FDS = "/proc/self/fd"
IGNORED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def quiet_signals() -> None:
    """Ignore and unblock what the parent handles; the control pipe speaks for it."""
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def serve(
    settings: Settings,
    listener: Listener,
    control: int,
    report: int,
    replay: bool,
    slot: int | None,
    core: int | None,
) -> NoReturn:
    """Run until told to leave. Never returns; the exit status is 0 for an ordered leave."""
    status = 1
    try:
        quiet_signals()
        pinned = pin(core)  # before there is a thread: each inherits it
        gate = Gate(settings, replay=replay)
        if not pinned:
            hint = "allow sched_setaffinity(2), or set milter.pin_workers = false"
            gate.log.event("warning", "worker-not-pinned", core=core, hint=hint)
        # A message makes hundreds of objects and no cycles: look for those less often.
        gc.set_threshold(20_000, 20, 20)
        if slot is not None and not replay:
            gate.slot = _slot(settings, slot)
        context = Context(gate, gate.slot)
        sys.excepthook = _excepthook(context)
        libmilter.attach(context)
        threading.Thread(target=_listen, name="libmilter", daemon=True).start()
        _report(report, b"+")
        _obey(context, listener, control, report, settings)
        gate.close()
        status = 0
    except BaseException:
        # Nothing may run on in a child that still believes to be the parent.
        import traceback

        traceback.print_exc()
    finally:
        # Not sys.exit: libmilter's threads would be waited for.
        os._exit(status)


def _report(report: int, word: bytes) -> None:
    """`+`: listening; `-`: no longer."""
    try:
        os.write(report, word)
    except OSError:
        pass  # the parent is gone


def pin(core: int | None) -> bool:
    """Stay on `core`. One lock (the GIL) lets one thread of this process run at a time; on two
    cores they wake each other and move their data across for it: 0.43 against 0.60 ms a small
    message (bench/RESULTS.md)."""
    if core is not None:
        try:
            os.sched_setaffinity(0, {core})
        except OSError:
            return False  # forbidden, or the core has gone
    return True


def _slot(settings: Settings, number: int) -> Slot | None:
    try:
        return Slot(config.state_dir(settings) / slots.NAME, number)
    except (OSError, ValueError):
        return None  # no figures of this worker: the parent has said so


def _listen() -> None:
    try:
        milter.main()
    except milter.error:
        pass
    os._exit(1)  # libmilter gave up: the parent makes a new worker


def _obey(
    context: Context, listener: Listener, control: int, report: int, settings: Settings
) -> None:
    while True:
        _wait_for_word(context, listener, control)
        word = os.read(control, 1)
        if word == b"r":
            listener.go_deaf()
            _report(report, b"-")
            deadline = time.monotonic() + RETIRE_S
            while listener.sessions()[0] and time.monotonic() < deadline:
                if select.select([control], [], [], 0.05)[0]:
                    break  # a second word: quit after all
            else:
                _drain(context, listener, time.monotonic() + MAX_GRACE_S)
                return
        elif word in (b"q", b""):
            grace: float = settings.milter.drain
            if word == b"q":
                grace = min(grace, MAX_GRACE_S)  # nobody waits for us where the parent is gone
            deadline = time.monotonic() + grace
            while not listener.queue_is_empty() and time.monotonic() < deadline - 1:
                time.sleep(0.002)
            if word == b"" and context.open:
                listener.let_go()
            else:
                listener.go_deaf()
            _drain(context, listener, deadline)
            return


def _wait_for_word(context: Context, listener: Listener, control: int) -> None:
    """Until the parent speaks. Meanwhile: no descriptor left means no accept(2) either.

    libmilter would try it again and again, without a pause; the others, or the MTA's patience,
    have to do until sessions have ended.
    """
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    paused, said = False, 0.0
    while not select.select([control], [], [], WATCH_S)[0]:
        try:
            used = len(os.listdir(FDS))
        except OSError:  # listing takes a descriptor as well
            used = most
        if not paused and used >= most - SPARE:
            listener.pause()
            paused = True
            if not said or time.monotonic() - said >= SAY_S:
                said = time.monotonic()
                hint = "new connections wait; raise LimitNOFILE, or milter.workers"
                context.gate.log.event("error", "no-descriptors", open=used, hint=hint)
        elif paused and used < most - 2 * SPARE:
            listener.resume()
            paused = False
    if paused:
        listener.resume()


def _drain(context: Context, listener: Listener, deadline: float) -> None:
    """Wait until no message is in flight and no command unread, twice in a row."""
    quiet = 0
    while quiet < 2 and time.monotonic() < deadline:
        quiet = 0 if context.busy or listener.sessions()[1] else quiet + 1
        time.sleep(0.01 if context.open else 0.001)
    # The callback has answered, libmilter may not yet have sent it.
    time.sleep(max(0.0, context.last_end + ANSWER_S - time.monotonic()))


def _excepthook(
    context: Context,
) -> Callable[[type[BaseException], BaseException, TracebackType | None], None]:
    """What pymilter reports by itself: a value it could not decode. One line, no value."""

    def tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if context.slot is not None:
            context.slot.failed()
        context.gate.log.event("warning", "callback-skipped", type=kind.__name__)

    return tell
