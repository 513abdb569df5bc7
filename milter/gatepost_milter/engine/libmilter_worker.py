"""The engine on libmilter: its socket, its thread, and how to leave it in order.

Why libmilter does not run in the main thread: it collects TERM, INT and HUP with sigwait(3) and
takes up to 5 s to act on them. A signal that the main thread ignores, and does not block, is
dropped by the kernel before libmilter can see it.
"""

import os
import resource
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType

import milter

from gatepost_milter.engine import libmilter
from gatepost_milter.engine.listener import BACKLOG, Listener, open_sockets
from gatepost_milter.filter.context import Context
from gatepost_policy.system.readable import readable
from gatepost_policy.system.socket_address import SocketAddress

RETIRE_S = 600.0  # a retired worker leaves after this, whatever its sessions do
MAX_GRACE_S = 4.0  # TERM ends everything within 5 s
WATCH_S = 0.5
SAY_S = 60.0
SPARE = 8  # descriptors that a session, a look-up and the journal may need at the same time
FDS = "/proc/self/fd"
ANSWER_S = 0.1  # how long libmilter may need to send the value that our callback returned


def open_socket(address: SocketAddress) -> int:
    """The descriptor of the socket that libmilter opens at `address`. Once in a process. Raises
    OSError."""
    libmilter.register()
    before = open_sockets()
    try:
        milter.setconn(str(address))
        milter.setbacklog(BACKLOG)
        milter.opensocket(True)
    except milter.error:
        raise OSError(0, "libmilter cannot open it") from None
    # Compared by inode, not by number alone: listing /proc opens a descriptor too, and the new
    # socket may get the number which that one had.
    found = [fd for fd, link in open_sockets().items() if before.get(fd) != link]
    if len(found) != 1:
        raise OSError(0, f"want one new socket, found {len(found)}")
    return found[0]


def serve(
    context: Context, listener: Listener, control: int, report: Callable[[bytes], None]
) -> None:
    """Serve in this process until the parent has told it to leave, and it has."""
    sys.excepthook = _excepthook(context)
    libmilter.attach(context)
    threading.Thread(target=_listen, name="libmilter", daemon=True).start()
    report(b"+")
    _obey(context, listener, control, report)


def _listen() -> None:
    try:
        milter.main()
    except milter.error:
        pass
    os._exit(1)  # libmilter gave up: the parent makes a new worker


def _obey(
    context: Context, listener: Listener, control: int, report: Callable[[bytes], None]
) -> None:
    while True:
        _wait_for_word(context, listener, control)
        word = os.read(control, 1)
        if word == b"r":
            listener.go_deaf()
            report(b"-")
            deadline = time.monotonic() + RETIRE_S
            while listener.sessions()[0] and time.monotonic() < deadline:
                if readable(control, 0.05):
                    break  # a second word: quit after all
            else:
                _drain(context, listener, time.monotonic() + MAX_GRACE_S)
                return
        elif word in (b"q", b""):
            grace: float = context.gate.settings.milter.drain
            if word == b"q":
                # The parent ends us after this time. At end of file it is gone: no limit then.
                grace = min(grace, MAX_GRACE_S)
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
    """Return once the parent has written. Meanwhile stop accepting while descriptors run out.

    libmilter would call accept(2) again and again without a pause. Until sessions have ended,
    new connections go to the other workers or wait in the queue.
    """
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    paused, said = False, 0.0
    while not readable(control, WATCH_S):
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
        elif paused and (
            used < most - 2 * SPARE or (used < most - 2 and not listener.sessions()[0])
        ):
            # Without a session no descriptor will be freed: those in use are this worker's own,
            # so waiting for 2 * SPARE free ones could last for ever.
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
    # The callback has returned its answer, but libmilter may not have sent it yet.
    time.sleep(max(0.0, context.last_end + ANSWER_S - time.monotonic()))


def _excepthook(
    context: Context,
) -> Callable[[type[BaseException], BaseException, TracebackType | None], None]:
    """Log what pymilter reports by itself (a value it could not decode): one line, without the
    value, which may be private."""

    def tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if context.slot is not None:
            context.slot.failed()
        context.gate.log.event("warning", "callback-skipped", type=kind.__name__)

    return tell
