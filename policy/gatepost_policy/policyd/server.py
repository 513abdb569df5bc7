"""gatepost-policyd: the policy service on its sockets, and the recorder where no other one runs.

One process, one event loop. Connections are cheap and long-lived (Postfix keeps one for each
smtpd): requests may be pipelined, answers come in their order. A connection that sends nothing for
`policy.idle`, or does not finish a request within PARTIAL_S, is closed; over `max_connections` the
one that has been silent longest is closed. TERM and INT end the process: connections get 1 s, then
the recorder STOP_S. HUP reads the configuration again and keeps the old one where the new one is
wrong.

Limits: `policy.listen` and `policy.socket_mode` are as they were at the start until a restart.

Exit codes: 0 after a signal, 2 for the configuration, 3 where a socket cannot be opened or the
state directory or the journal cannot be written.
"""

import argparse
import asyncio
import errno
import gc
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gatepost_policy import config
from gatepost_policy.policyd.connection import Door
from gatepost_policy.policyd.service import Service
from gatepost_policy.system import sockets, std_files, systemd, version
from gatepost_policy.system.garbage import collect_less_often
from gatepost_policy.system.socket_address import SocketAddress

if TYPE_CHECKING:
    from gatepost_policy.config.settings import Settings
    from gatepost_policy.monitoring.maillog import MailLog

PARTIAL_S = 30.0
STOP_S = 3.0
PUBLISH_S = 2.0
SWEEP_S = 1.0
BACKLOG = 1_024
SAY_S = 60.0


class Server:
    """All connections, the timer that closes idle ones, and the service that answers them."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.doors: set[Door] = set()
        self._servers: dict[SocketAddress, asyncio.Server] = {}
        self._paths: dict[SocketAddress, tuple[int, int] | None] = {}  # of unix sockets: inodes
        self._full = 0.0  # monotonic: when the lack of descriptors was last logged

    async def listen(self) -> list[str]:
        """Open the configured sockets; returns their names. Raises OSError."""
        policy = self.service.settings.policy
        for where in policy.listen:
            await self._open(where)
        asyncio.get_running_loop().set_exception_handler(self._loop_error)
        return [str(where) for where in policy.listen]

    async def _open(self, where: SocketAddress) -> None:
        mode = int(self.service.settings.policy.socket_mode, 8)
        try:
            bound = sockets.listen(where, mode, BACKLOG)
        except OSError as error:
            raise OSError(error.errno, f"{where}: {error.strerror or error}") from None
        if where.kind == "unix":
            self._paths[where] = sockets.inode(where.path)
        loop = asyncio.get_running_loop()
        # asyncio calls accept(2) `backlog` times in a row, even when it fails: with 1024, one lack
        # of descriptors would make 1024 tracebacks. So asyncio gets 1, and the kernel BACKLOG.
        self._servers[where] = await loop.create_server(lambda: Door(self), sock=bound, backlog=1)
        bound.listen(BACKLOG)

    def _loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Handle errors of asyncio itself. Without free descriptors it cannot accept: then close
        an eighth of the idle connections, those silent longest, and log it once in SAY_S."""
        error = context.get("exception")
        if not isinstance(error, OSError) or error.errno not in (errno.EMFILE, errno.ENFILE):
            if isinstance(error, Exception):
                self.log_error(error)
            return
        quiet = sorted((d for d in self.doors if not d.busy), key=lambda d: d.heard)
        for door in quiet[: max(1, len(quiet) // 8)]:
            self.doors.discard(door)
            door.close()
        now = time.monotonic()
        if not self._full or now - self._full >= SAY_S:
            self._full = now
            self.service.log.event(
                "error",
                "no-descriptors",
                open=len(self.doors),
                hint="connections wait, the most silent are closed; raise LimitNOFILE",
            )

    async def _look_at_sockets(self) -> None:
        """Make a unix socket again whose name was removed: no MTA could reach us any more."""
        for where, mine in list(self._paths.items()):
            if mine is not None and sockets.inode(where.path) == mine:
                continue
            if mine is None and os.path.lexists(where.path):
                continue  # logged already: another program has put a file there
            there = os.path.lexists(where.path)
            self._paths[where] = None
            if not there:
                try:
                    old = self._servers[where]
                    await self._open(where)
                    old.close()
                except OSError as error:
                    if mine is not None:
                        self._say_socket(where, f"was removed, cannot be made: {error.strerror}")
                    continue
            self._say_socket(where, "was replaced" if there else "was removed; it is made again")

    def _say_socket(self, where: SocketAddress, what: str) -> None:
        self.service.log.event("error", "socket-lost", socket=str(where), what=what)

    def admit(self, door: Door) -> None:
        """Register a connection; over the limit, close the one that has been silent longest, or
        this new one where all others are busy."""
        self.doors.add(door)
        if len(self.doors) <= self.service.settings.policy.max_connections:
            return
        quiet = [d for d in self.doors if not d.busy and d is not door]
        victim = min(quiet, key=lambda d: d.heard, default=door)
        self.doors.discard(victim)
        victim.close()

    def log_error(self, error: Exception) -> None:
        """Log a bug: the exception's type, and the function and line; not its text."""
        place = error.__traceback__
        while place is not None and place.tb_next is not None:
            place = place.tb_next
        at = None if place is None else f"{place.tb_frame.f_code.co_name}:{place.tb_lineno}"
        self.service.log.event("error", "internal-error", type=type(error).__name__, at=at)

    async def sweep(self) -> None:
        """Every SWEEP_S, without end: close connections that are idle or too slow, forget old
        signatures, look at the unix sockets."""
        while True:
            await asyncio.sleep(SWEEP_S)
            now = time.monotonic()
            idle = self.service.settings.policy.idle
            for door in list(self.doors):
                slow = door.began is not None and now - door.began > PARTIAL_S
                if slow or (not door.busy and now - door.heard > idle):
                    door.close()
            self.service.tick()
            await self._look_at_sockets()

    async def close(self) -> None:
        """Take no new connections; give busy ones 1 s, then close all."""
        for server in self._servers.values():
            server.close()
        for where, mine in self._paths.items():
            sockets.remove(where.path, mine)
        for door in list(self.doors):
            if not door.busy:
                door.close()
        end = time.monotonic() + 1.0
        while self.doors and time.monotonic() < end:
            await asyncio.sleep(0.02)
        for door in list(self.doors):
            door.close()


def build(settings: "Settings") -> Service:
    """The service for these settings, on the configured state directory."""
    from gatepost_policy import journal
    from gatepost_policy.lookup import KnownState
    from gatepost_policy.monitoring.maillog import MailLog

    log = MailLog(settings.log)
    writer = journal.Writer(
        config.journal_dir(settings),
        max_bytes=settings.store.journal_max_bytes,
        sync=settings.store.sync,
        tell=lambda text: log.event("error", "journal", text=text),
    )
    return Service(settings, KnownState(settings), writer, log)


async def serve(settings: "Settings", path: Path | None, store: str | None) -> None:
    """Run until TERM or INT. `path` and `store`: where HUP reads the configuration again.

    Raises OSError where a socket cannot be opened.
    """
    loop = asyncio.get_running_loop()
    service = build(settings)
    server = Server(service)
    stop = asyncio.Event()
    halt = threading.Event()
    recording = Recording()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, _reload, server, recording, path, store)
    names = await server.listen()
    await _publish(settings)
    recording.start(settings, service.log)
    if settings.metrics.listen:
        from gatepost_policy.monitoring import metrics

        metrics.start(settings, halt)
    # Objects made so far live as long as the process: the collector need not look at them again.
    gc.freeze()
    collect_less_often()  # the recorder's thread takes a third less time
    print(f"gatepost-policyd ready {' '.join(names)}", flush=True)
    systemd.notify("READY=1", f"STATUS=policy service on {' '.join(names)}")
    sweeping = loop.create_task(server.sweep())
    watching = loop.create_task(_watchdog())
    await stop.wait()
    systemd.notify("STOPPING=1")
    halt.set()
    sweeping.cancel()
    watching.cancel()
    await server.close()
    await loop.run_in_executor(None, recording.stop)
    getattr(service.journal, "close", lambda: None)()


async def _publish(settings: "Settings") -> None:
    """Publish today's traps and listings before the first answer; waits PUBLISH_S at most."""
    from gatepost_policy.recorder import publish_now

    def publish() -> None:
        # Errors are not logged here: the recorder meets the same ones, logs them and tries again.
        with suppress(Exception):
            publish_now(settings)

    thread = threading.Thread(target=publish, name="publish", daemon=True)
    thread.start()
    end = time.monotonic() + PUBLISH_S
    while thread.is_alive() and time.monotonic() < end:
        await asyncio.sleep(0.005)


async def _watchdog() -> None:
    every = systemd.watchdog_seconds()
    while every is not None:
        systemd.notify("WATCHDOG=1")
        await asyncio.sleep(every)


class Recording:
    """The recorder in a thread. It waits for the recorder's lock, which the milter's recorder holds
    while it runs."""

    def __init__(self) -> None:
        self._halt = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self, settings: "Settings", log: "MailLog") -> None:
        """Record with these settings. An earlier thread is told to stop; the new one waits for it
        by the lock."""
        self._halt.set()
        halt = self._halt = threading.Event()
        thread = threading.Thread(
            target=_record, args=(settings, log, halt), name="recorder", daemon=True
        )
        self._threads = [t for t in self._threads if t.is_alive()] + [thread]
        thread.start()

    def stop(self) -> None:
        """Stop, and wait until the journal is in the store; STOP_S at most for each thread."""
        self._halt.set()
        for thread in self._threads:
            thread.join(STOP_S)


def _record(settings: "Settings", log: "MailLog", halt: threading.Event) -> None:
    # Imported here, so that the first answer does not wait for the store's modules.
    from gatepost_policy.recorder import keep_recording

    keep_recording(settings, log, halt)


def _reload(server: Server, recording: Recording, path: Path | None, store: str | None) -> None:
    """HUP: use the new configuration; where it is wrong, keep the old one and log why."""
    log = server.service.log
    systemd.reloading()
    try:
        settings = config.load(path, store=store)
        if (problem := _unwritable(settings)) is not None:
            raise config.ConfigError(problem)
    except config.ConfigError as error:
        log.event("error", "reload-refused", error=str(error))
        systemd.notify("READY=1")
        return
    old = server.service
    fresh = build(settings)
    # Keep the open journal segment, and the signatures whose messages have not come yet.
    fresh.journal = old.journal
    fresh.adopt(old)
    server.service = fresh
    recording.start(settings, fresh.log)
    fresh.log.event("info", "reloaded")
    systemd.notify("READY=1")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command `gatepost-policyd`."""
    std_files.ensure()
    parser = argparse.ArgumentParser(
        prog="gatepost-policyd", description="The policy service of gatepost, in the foreground."
    )
    parser.add_argument("--config", metavar="FILE", help="configuration file")
    parser.add_argument("--version", action=version.Version)
    parser.add_argument("--store", metavar="URL", help="use this store instead")
    options = parser.parse_args(arguments)
    try:
        path = config.find(options.config, os.environ)
        settings = config.load(path, store=options.store)
    except config.ConfigError as error:
        print(f"gatepost-policyd: {error}", file=sys.stderr)
        sys.exit(2)
    _raise_file_limit(settings.policy.max_connections)
    if (problem := _unwritable(settings)) is not None:
        print(f"gatepost-policyd: {problem}", file=sys.stderr)
        sys.exit(3)
    from gatepost_policy import journal

    journal.LOSSES.tell_in(config.state_dir(settings), "policy")
    try:
        asyncio.run(serve(settings, path, options.store))
    except OSError as error:
        print(
            f"gatepost-policyd: cannot start: {error.strerror or error}; "
            f"look at [policy] listen and at who uses it (ss -ltnp)",
            file=sys.stderr,
        )
        sys.exit(3)
    sys.exit(0)


def _unwritable(settings: "Settings") -> str | None:
    """Why no record could be written with these settings; None where they can. A full disk is no
    reason: it may get room again."""
    from gatepost_policy import journal

    state, records = config.state_dir(settings), config.journal_dir(settings)
    try:
        state.mkdir(mode=0o750, parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in journal.FULL:
            return None
        return f"state directory {state}: {error.strerror}; make it, or set store.url"
    why = journal.refused(records)
    if why is None or why.errno in journal.FULL:
        return None
    return (
        f"{records}: records cannot be written: {why.strerror or why}; "
        "look at owner and mode of the directory, or set store.url"
    )


def _raise_file_limit(connections: int) -> None:
    """Raise the limit of open files to that of the connections, as far as the hard limit allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + 256
    if soft < wanted:
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
