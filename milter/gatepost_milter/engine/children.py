"""A forked child as its parent knows it, and the services that run beside the workers."""

import os
import signal
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NoReturn

from gatepost_milter.engine.worker import quiet_signals
from gatepost_policy.config.settings import Settings
from gatepost_policy.system.garbage import collect_less_often

HELPER_GRACE_S = 4.5


@dataclass(slots=True)
class Child:
    """One child process. `control` and `report` are the parent's ends of its pipes (-1: closed)."""

    name: str
    pid: int
    control: int
    report: int
    slot: int | None
    core: int | None = None  # where it is pinned
    helper: "Helper | None" = None
    retired: bool = False  # it was told to leave, so its end is not logged as an error
    born: float = field(default_factory=time.monotonic)

    @property
    def age(self) -> float:
        """Seconds since the fork."""
        return time.monotonic() - self.born

    def tell(self, word: bytes) -> None:
        """Write `r` (retire) or `q` (quit) to the control pipe. No error if the child is gone."""
        try:
            os.write(self.control, word)
        except OSError:
            pass

    def retire(self) -> None:
        """Tell a worker to finish its sessions and leave, a helper to leave now."""
        self.retired = True
        self.tell(b"r" if self.helper is None else b"q")

    def ended(self) -> int | None:
        """The exit status (negative: the signal that killed it), None while it runs."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        return None if pid == 0 else os.waitstatus_to_exitcode(status)

    def kill(self) -> None:
        """End it now and wait for it."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)

    def close(self) -> None:
        """Close the parent's ends."""
        for descriptor in (self.control, self.report):
            if descriptor >= 0:
                os.close(descriptor)
        self.control = self.report = -1


@dataclass(frozen=True, slots=True)
class Helper:
    """A service in a child of its own: `run(settings, stop)` returns soon after `stop` is set.

    `last`: it is ended after the workers, because it works on what they wrote (the recorder).
    `again`: what is run instead where a child of this kind has died.
    """

    name: str
    run: Callable[[Settings, threading.Event], None]
    last: bool = False
    again: Callable[[Settings, threading.Event], None] | None = None

    def serve(self, settings: Settings, control: int, again: bool = False) -> NoReturn:
        """Run in this process until `q` or the end of the parent, then leave."""
        status = 1
        try:
            quiet_signals()
            stop = threading.Event()
            threading.Thread(target=_watch, args=(control, stop), daemon=True).start()
            run = self.again if again and self.again is not None else self.run
            run(settings, stop)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)


def _watch(control: int, stop: threading.Event) -> None:
    os.read(control, 1)  # any octet, and end of file (the parent died), means: leave
    stop.set()
    time.sleep(HELPER_GRACE_S)
    os._exit(1)


def record(settings: Settings, stop: threading.Event, create: bool = True) -> None:
    """The recorder: journal segments into the store, where it gets the recorder's lock."""
    from gatepost_policy.recorder import Recorder

    collect_less_often()
    if settings.metrics.listen:
        from gatepost_policy.monitoring import metrics

        metrics.start(settings, stop, milter=True)
    Recorder(settings, create=create).run(stop)


def record_again(settings: Settings, stop: threading.Event) -> None:
    """`record`, where the service has been running: a store that is gone was removed."""
    record(settings, stop, create=False)


RECORDER = Helper("recorder", record, last=True, again=record_again)
