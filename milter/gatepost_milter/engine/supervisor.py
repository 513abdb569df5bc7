"""The parent: opens the socket, starts the workers and the recorder, replaces and ends them.

How it works. The parent opens the socket, forks, and then only waits for signals; it has no
thread, no database engine and no part in any message. Each child has a control pipe whose writing
end only the parent holds.

* a dead child is replaced (after a second, if it lived for less than one);
* HUP: the new configuration is loaded and a new generation forked on the same socket; once all
  of it is there, the old one retires. Any error keeps the old one and is one line in the log;
* TERM, INT: workers drain, the recorder takes in what they wrote, all within 5 s.

Limits: `milter.socket`, its mode and `milter.engine` are as they were at the start until a restart.
"""

import gc
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import NoReturn

from gatepost_milter.engine import worker
from gatepost_milter.engine.children import Child, Helper
from gatepost_milter.engine.engines import Engine
from gatepost_milter.engine.listener import Listener
from gatepost_policy import config, dkim, journal
from gatepost_policy.config.settings import Settings
from gatepost_policy.monitoring import worker_figures
from gatepost_policy.monitoring.maillog import MailLog
from gatepost_policy.system.readable import among
from gatepost_policy.system.systemd import notify, reloading, watchdog_seconds

WAITED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
# pymilter gives each session a thread state of its own, and numpy asks for that of the thread:
# where they differ, Python ends the process ("non-NULL old thread state", seen on 3.13 under load).
NUMPY_ENDS_LIBMILTER = sys.version_info >= (3, 12)
DEAF_S = 2.0
PUBLISH_S = 2.0
START_S = 30.0  # a new generation must be there within this
DRAIN_S = 4.3  # workers; then helpers until END_S
END_S = 4.8
RESPAWN_S = 1.0


@dataclass(slots=True)
class Supervisor:
    """Runs the service. `load` reads the configuration again and raises ConfigError."""

    engine: Engine
    settings: Settings
    listener: Listener
    load: Callable[[], Settings]
    ready: Callable[[Settings], None]
    helpers: Sequence[Helper] = ()
    replay: bool = False
    log: MailLog = field(init=False)
    children: list[Child] = field(default_factory=list)
    respawns: list[tuple[float, Helper | None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.log = MailLog(self.settings.log)

    def run(self) -> int:
        """Serve until TERM or INT; the exit status."""
        signal.pthread_sigmask(signal.SIG_BLOCK, WAITED)
        if not self.replay:
            _preload()
            self._make_slots()
        dkim.preload(numpy=self.settings.milter.engine == "native" or not NUMPY_ENDS_LIBMILTER)
        # The first full collection would write to, and so copy, every page the workers share.
        gc.collect()
        gc.freeze()
        if self.helpers:
            self._publish()
        for helper in self.helpers:
            self._fork_helper(helper)
        if not self._start_generation(config.worker_count(self.settings)):
            self.log.event("error", "workers-failed", hint="see the lines above")
            return self._stop(3)
        self.ready(self.settings)
        notify("READY=1", f"STATUS={len(self.children)} processes")
        return self._wait()

    def _publish(self) -> None:
        """Publish today's traps and listings before the first worker starts; PUBLISH_S at most.

        Done in a child, because no database engine may exist in this process. Errors are not
        logged here: the recorder meets the same ones, logs them and tries again.
        """
        pid = os.fork()
        if pid == 0:
            try:
                from gatepost_policy.recorder import publish_now

                self.listener.go_deaf()
                publish_now(self.settings)
            finally:
                os._exit(0)
        deadline = time.monotonic() + PUBLISH_S
        while os.waitpid(pid, os.WNOHANG)[0] == 0:
            if time.monotonic() >= deadline:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                return
            time.sleep(0.005)

    def _make_slots(self) -> None:
        try:
            directory = config.state_dir(self.settings)
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            journal.LOSSES.tell_in(directory, "milter")
            worker_figures.create(directory)
        except OSError as error:
            self.log.event("warning", "no-worker-metrics", error=error.strerror)

    def _wait(self) -> int:
        watchdog = watchdog_seconds()
        fed = 0.0
        while True:
            pause = 0.2 if self.respawns else min(5.0, watchdog or 5.0)
            got = signal.sigtimedwait(WAITED, pause)
            if watchdog is not None and time.monotonic() - fed >= watchdog / 2:
                fed = time.monotonic()
                notify("WATCHDOG=1")
            if got is not None and got.si_signo in (signal.SIGTERM, signal.SIGINT):
                notify("STOPPING=1")
                return self._stop(0)
            if got is not None and got.si_signo == signal.SIGHUP:
                self._reload()
            self._bury()
            self._respawn()
            if self.listener.lost():
                # libmilter cannot open a second socket in one process, so we end, and systemd
                # (or whatever started us) starts us again.
                self.log.event(
                    "error", "socket-lost", socket=str(self.listener.address),
                    hint="its name was removed or replaced: no MTA can reach it; ending",
                )  # fmt: skip
                notify("STOPPING=1")
                return self._stop(3)

    def _start_generation(self, count: int) -> bool:
        """Fork `count` workers; True once all listen. False: one failed, and all were killed."""
        born: list[Child] = []
        for _ in range(count):
            born.append(self._fork_worker(born))
        if _heard(born, b"+", START_S):
            return True
        for child in born:
            child.tell(b"q")
            child.kill()
            self._forget(child)
        return False

    def _reload(self) -> None:
        reloading()
        old = [child for child in self.children if not child.retired]
        try:
            settings = self.load()
            if not self.replay:
                try_journal(settings, self.log)
        except config.ConfigError as error:
            self.log.event("error", "reload-refused", error=str(error), kept="old configuration")
            notify("READY=1")
            return
        kept, self.settings = self.settings, settings
        if self._start_generation(config.worker_count(settings)):
            for key in ("socket", "engine"):
                if getattr(settings.milter, key) != getattr(kept.milter, key):
                    self.log.event("warning", "restart-needed", key=f"milter.{key}")
            self.log = MailLog(settings.log)
            self.respawns.clear()  # whoever died has a successor in the new generation
            for child in old:
                child.retire()
            # After this, only sessions that are already open still use the old configuration.
            _heard([child for child in old if child.helper is None], b"-", DEAF_S)
            same_store = config.store_url(settings) == config.store_url(kept)
            for helper in self.helpers:
                self._fork_helper(helper, again=same_store)
            self.log.event("info", "reloaded", workers=config.worker_count(settings))
        else:
            self.settings = kept
            self.log.event("error", "reload-refused", error="workers failed", kept="old workers")
        notify("READY=1")

    def _fork_worker(self, peers: Sequence[Child]) -> Child:
        """Fork one worker; `peers` are those that it will share the cores with."""
        used = {child.slot for child in self.children}
        slot = next((n for n in range(worker_figures.SLOTS) if n not in used), None)
        engine, settings = self.engine, self.settings
        listener, replay = self.listener, self.replay
        core = self._free_core(peers)

        def work(control: int, report: int) -> NoReturn:
            worker.serve(engine, settings, listener, control, report, replay, slot, core)

        child = self._fork("worker", work, slot)
        child.core = core
        return child

    def _free_core(self, peers: Sequence[Child]) -> int | None:
        """The core with the fewest of `peers`; None: run anywhere."""
        cores = config.cores()
        if self.replay or not self.settings.milter.pin_workers or not cores:
            return None
        busy = Counter(child.core for child in peers)
        least = min(busy[core] for core in cores)
        # Services with fewer workers than cores must not all begin with core 0, nor with the one
        # that a process id chooses: in a container that is always 1.
        return random.choice([core for core in cores if busy[core] == least])

    def _fork_helper(self, helper: Helper, again: bool = False) -> Child:
        settings = self.settings

        def work(control: int, report: int) -> NoReturn:
            os.close(report)
            # The listening socket belongs to the workers: a helper that outlived them by a
            # moment would keep the port.
            self.listener.go_deaf()
            helper.serve(settings, control, again)

        child = self._fork(helper.name, work, None)
        child.helper = helper
        return child

    def _fork(self, name: str, work: Callable[[int, int], NoReturn], slot: int | None) -> Child:
        control_read, control_write = os.pipe()
        report_read, report_write = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                # A copy of another child's writing end would hide the parent's death from it.
                os.close(control_write)
                os.close(report_read)
                for other in self.children:
                    other.close()
                work(control_read, report_write)
            finally:
                os._exit(1)
        os.close(control_read)
        os.close(report_write)
        if name != "worker":
            os.close(report_read)
            report_read = -1
        child = Child(name, pid, control_write, report_read, slot)
        self.children.append(child)
        return child

    def _bury(self) -> None:
        """Reap the children that have ended (without waiting), and schedule replacements."""
        for child in list(self.children):
            status = child.ended()
            if status is None:
                continue
            self._forget(child)
            if child.retired:
                continue
            self.log.event("error", "child-died", name=child.name, pid=child.pid, status=status)
            soon = time.monotonic() + (0 if child.age > RESPAWN_S else RESPAWN_S)
            self.respawns.append((soon, child.helper))

    def _respawn(self) -> None:
        due = [r for r in self.respawns if r[0] <= time.monotonic()]
        self.respawns = [r for r in self.respawns if r not in due]
        for _, helper in due:
            if helper is not None:
                self._fork_helper(helper, again=True)
            else:
                self._fork_worker([c for c in self.children if not (c.helper or c.retired)])

    def _forget(self, child: Child) -> None:
        child.close()
        if child in self.children:
            self.children.remove(child)

    def _stop(self, status: int) -> int:
        """End all children: workers first, because the recorder stores their last records.
        Returns `status`, the exit status."""
        begin = time.monotonic()
        for child in self.children:
            if child.helper is None or not child.helper.last:
                child.retired = True
                child.tell(b"q")
        self._await(lambda c: c.helper is None or not c.helper.last, begin + DRAIN_S)
        for child in self.children:
            child.retired = True
            child.tell(b"q")
        self._await(lambda c: True, begin + END_S)
        for child in self.children:
            child.kill()
        self.listener.remove()
        return status

    def _await(self, which: Callable[[Child], bool], deadline: float) -> None:
        while any(which(c) for c in self.children) and time.monotonic() < deadline:
            signal.sigtimedwait((signal.SIGCHLD,), 0.02)
            self._bury()


def try_journal(settings: Settings, log: MailLog) -> None:
    """Check that the journal can be written. Raises ConfigError where it cannot.

    A full disk is no reason to stop mail: it is only logged, now and with every lost record.
    """
    directory = config.journal_dir(settings)
    why = journal.refused(directory)
    if why is None:
        return
    text = f"{directory}: records cannot be written: {why.strerror or why}"
    if why.errno not in journal.FULL:
        raise config.ConfigError(
            f"{text}; look at owner and mode of the directory, or set store.url"
        )
    log.event("error", "journal", text=f"{text}; until there is room they are lost")


def _heard(children: Sequence[Child], word: bytes, seconds: float) -> bool:
    """True once each of `children` has reported `word`; False where one ended, or after `seconds`
    without a report."""
    deadline = time.monotonic() + seconds
    waiting = {child.report for child in children}
    while waiting:
        ready = among(waiting, max(0.0, deadline - time.monotonic()))
        if not ready:
            return False
        for descriptor in ready:
            said = os.read(descriptor, 64)
            if not said:
                return False
            if word in said:
                waiting.discard(descriptor)
    return True


def _preload() -> None:
    """Load what a child would otherwise load in the middle of its first trap hit. No engine is
    made here: neither a SQLite handle nor a server's socket may be shared by processes."""
    for name in ("recorder", "listings"):
        import_module(f"gatepost_policy.{name}")
