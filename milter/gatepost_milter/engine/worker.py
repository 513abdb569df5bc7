"""One milter worker process, whatever its engine.

The parent writes one octet to the control pipe: `r` retire (stop accepting, leave when the last
session is over), `q` quit (stop accepting, leave when no message is in flight or the grace time is
over). End of file means that the parent died, and is treated as `q`, so that no worker is left
after kill -9. Signals are ignored, because Ctrl-C reaches the whole process group.
"""

import os
import signal
from typing import NoReturn

from gatepost_milter.engine.engines import Engine
from gatepost_milter.engine.listener import Listener
from gatepost_milter.filter.context import Context
from gatepost_milter.filter.gate import Gate
from gatepost_policy import config
from gatepost_policy.config.settings import Settings
from gatepost_policy.monitoring import worker_figures
from gatepost_policy.monitoring.worker_figures import Slot
from gatepost_policy.system.garbage import collect_less_often

IGNORED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def quiet_signals() -> None:
    """Ignore and unblock the signals that the parent handles; it tells us by the control pipe."""
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def serve(
    engine: Engine,
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
        collect_less_often()
        if slot is not None and not replay:
            gate.slot = _slot(settings, slot)
        context = Context(gate, gate.slot)
        engine.serve(context, listener, control, lambda word: _report(report, word))
        gate.close()
        if gate.slot is not None:
            gate.slot.flush()
        status = 0
    except BaseException:
        # An exception must not leave this function: the child would run on in the parent's code.
        import traceback

        traceback.print_exc()
    finally:
        # Not sys.exit: that would wait for the engine's threads.
        os._exit(status)


def _report(report: int, word: bytes) -> None:
    """Tell the parent: `+` listening, `-` no longer."""
    try:
        os.write(report, word)
    except OSError:
        pass  # the parent is gone


def pin(core: int | None) -> bool:
    """Stay on `core` (None: anywhere); False where the kernel refuses.

    The GIL lets only one thread of this process run at a time; on two cores they wake each other
    and move their data across. Measured with libmilter when this was decided: 0.43 ms for a small
    message on one core, 0.60 ms on two."""
    if core is not None:
        try:
            os.sched_setaffinity(0, {core})
        except OSError:
            return False  # forbidden, or the core has gone
    return True


def _slot(settings: Settings, number: int) -> Slot | None:
    try:
        slot = Slot(config.state_dir(settings) / worker_figures.NAME, number)
    except (OSError, ValueError):
        return None  # no metrics from this worker; the parent has logged that
    slot.write_behind()
    return slot
