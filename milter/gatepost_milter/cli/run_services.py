"""Milter and policy service side by side in the foreground, for `milterctl run`.

How it works: both services are children that print `ready` on stdout once their sockets answer;
their logs go to our stderr. When one ends, the other is ended too: we wait on their pidfds. Each
child has asked the kernel to send it SIGTERM when we die (prctl(2), PR_SET_PDEATHSIG), so that none
is left behind with the port.
"""

import errno
import os
import selectors
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from gatepost_milter.cli.common import FINDINGS, UNREACHABLE, Failure
from gatepost_policy import config
from gatepost_policy.system import services, sockets
from gatepost_policy.system.socket_address import SocketAddress

if TYPE_CHECKING:
    from gatepost_policy.config.settings import Settings

START_S = 60.0
STOP_S = 10.0
SERVICES = {"gatepost-milter": services.MILTER, "gatepost-policyd": services.POLICYD}


@dataclass
class Child:
    """One running service."""

    name: str
    process: subprocess.Popen[bytes]
    pidfd: int
    ready: bool = False


def run(settings: "Settings", options: Sequence[str], out: TextIO) -> int:
    """Run both services with these options until a signal or the end of either.

    Returns the exit code. Raises Failure where a socket is taken or a service does not start.
    """
    check_sockets(settings)
    with selectors.DefaultSelector() as waiting:
        wake, wakeup = socket.socketpair()
        wakeup.setblocking(False)
        wake.setblocking(False)
        before = {
            number: signal.signal(number, lambda *_: None)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        }
        old_fd = signal.set_wakeup_fd(wakeup.fileno(), warn_on_full_buffer=False)
        waiting.register(wake, selectors.EVENT_READ)
        children: list[Child] = []
        try:
            for name, module in SERVICES.items():
                process = services.start_service(module, options, stdout=subprocess.PIPE)
                children.append(Child(name, process, os.pidfd_open(process.pid)))
            return _watch(settings, children, waiting, wake, out)
        finally:
            _stop(children)
            signal.set_wakeup_fd(old_fd)
            for number, handler in before.items():
                signal.signal(number, handler)
            wake.close()
            wakeup.close()


def check_sockets(settings: "Settings") -> None:
    """Raise Failure where another process already listens on one of our sockets."""
    for key, address in listeners(settings):
        problem = sockets.obstacle(address)
        if problem is None:
            continue
        if problem.errno != errno.EADDRINUSE:
            said = str(problem.strerror).lower()
        elif address.kind == "unix":
            said = "another program answers there"
        else:
            said = "the port is in use"
        raise Failure(
            f"{key} = {address}: {said}; stop what listens there "
            f"({_who(address)}) or set another socket",
            UNREACHABLE,
        )


def listeners(settings: "Settings") -> list[tuple[str, SocketAddress]]:
    """(key, socket) of all that the two services listen on."""
    found = [("milter.socket", SocketAddress.parse(settings.milter.socket))]
    found += [("policy.listen", address) for address in settings.policy.listen]
    return found + [("metrics.listen", address) for address in settings.metrics.listen]


def _who(address: SocketAddress) -> str:
    if address.kind == "unix":
        return f"fuser {address.path}"
    return f"ss -ltnp sport = :{address.port}"


def _watch(
    settings: "Settings",
    children: list[Child],
    waiting: selectors.BaseSelector,
    wake: socket.socket,
    out: TextIO,
) -> int:
    for child in children:
        waiting.register(child.pidfd, selectors.EVENT_READ, child)
        assert child.process.stdout is not None
        waiting.register(child.process.stdout, selectors.EVENT_READ, child)
    end = time.monotonic() + START_S
    told = False
    while True:
        events = waiting.select(None if told else max(0.0, end - time.monotonic()))
        if not events and not told:
            late = [child.name for child in children if not child.ready]
            raise Failure(f"{' and '.join(late)} did not start within {START_S:.0f} s", UNREACHABLE)
        for key, _ in events:
            if key.fileobj is wake:
                numbers = set(wake.recv(64))
                if numbers - {int(signal.SIGHUP)}:
                    return 0
                for child in children:  # a reload: each keeps its old settings on error
                    child.process.send_signal(signal.SIGHUP)
            elif key.fileobj == key.data.pidfd:
                return _ended(key.data, told)
            else:
                data = os.read(key.fd, 65536)
                if not data:
                    waiting.unregister(key.fileobj)
                key.data.ready = key.data.ready or b"ready" in data
        if not told and all(child.ready for child in children):
            told = True
            print(greeting(settings), file=out, flush=True)


def _ended(child: Child, told: bool) -> int:
    """Raise Failure: `child` ended by itself. Its own error is in the log above."""
    code = child.process.wait()
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    raise Failure(
        f"{child.name} {how}" + ("; the other service is stopped too" if told else ""),
        code if code in (1, 2, 3) else FINDINGS,
    )


def _stop(children: list[Child]) -> None:
    services.stop_services([child.process for child in children], STOP_S)
    for child in children:
        os.close(child.pidfd)
        if child.process.stdout is not None:
            child.process.stdout.close()


def greeting(settings: "Settings") -> str:
    """The `ready` line, and the commands that this host's Postfix needs."""
    store = config.database_path(settings) or "PostgreSQL"
    names = ", ".join(map(str, settings.policy.listen))
    milter = SocketAddress.parse(settings.milter.socket)
    ready = f"ready: milter on {milter}, policy service on {names}, store {store}\n"
    return ready + "\n" + "\n".join((*_where_milterctl(), *_for_postfix(settings))) + "\n"


def _where_milterctl() -> Iterator[str]:
    """How to set PATH, where the shell would not find our milterctl."""
    ours = Path(sys.executable).with_name("milterctl")
    found = shutil.which("milterctl")
    if not ours.exists() or (found is not None and Path(found).resolve() == ours.resolve()):
        return
    yield f"milterctl is {ours}; to have it in this shell:"
    yield f"  PATH={shlex.quote(str(ours.parent))}:$PATH"
    yield ""


def _for_postfix(settings: "Settings") -> Iterator[str]:
    """Commands for the Postfix of this host. Where there is none, the items to add are described:
    whole lines would replace an existing value, and with it block lists and other milters."""
    from gatepost_milter.doctor import postfix_config, postfix_lines
    from gatepost_milter.setup import postfix_plan

    try:
        live = postfix_config.read()
        made = postfix_plan.plan(live, settings)
    except postfix_config.Unreadable:
        yield "Postfix: milterctl setup postfix prints the commands, where Postfix is. They put"
        for name, value in postfix_lines.for_an_empty_postfix(settings):
            where = {
                "smtpd_recipient_restrictions": "behind permit_mynetworks and "
                "permit_sasl_authenticated",
            }.get(name, "before what stands there")
            yield f"  into {name} of main.cf, {where}:"
            yield f"    {postfix_lines.ours_of(value)}"
        yield "  into master.cf, for each listener where your own users hand in mail:"
        for name, value in postfix_lines.submission_options(settings):
            yield f"    -o {name}={value}"
        return
    if made.edits:
        yield "Postfix (milterctl setup postfix --apply runs these and can undo them):"
        for command in made.commands(live):
            yield f"  {command}"
    else:
        yield "Postfix: gatepost is in it; milterctl check postfix looks closer."


def options(config_path: Path | None, store: str | None) -> list[str]:
    """The options of this run for the two services."""
    made = [] if config_path is None else ["--config", str(config_path.absolute())]
    return made + ([] if store is None else ["--store", store])
