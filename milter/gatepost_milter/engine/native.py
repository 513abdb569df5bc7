"""The native engine: accept, read, feed a `Dialogue`, write. One thread, one epoll.

How it works. What may block is done in a thread of its own (`Dialogue.work`). Meanwhile its
connection is not read, and the MTA gets SMFIR_PROGRESS every PROGRESS_S, so that it does not time
out. Answers that an MTA does not read are queued; nothing more is read from it until it has.

Limits: MAX_CONNECTIONS per worker, or what its descriptors allow. Beyond that, new connections wait
in the listening socket's queue until one has ended. A connection is ended after IDLE_S of silence,
and after UNREAD_S in which the MTA read none of its answers. A bug ends the connection in which it
occurs, and the loop goes on.
"""

import os
import resource
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from gatepost_milter.engine.dialogue import PROGRESS, Dialogue
from gatepost_milter.engine.listener import BACKLOG, Listener
from gatepost_milter.filter.context import Context
from gatepost_policy.system import sockets
from gatepost_policy.system.socket_address import SocketAddress

READ_BYTES = 65_536  # a whole small message, and an MTA's chunk of a large one
MAX_CONNECTIONS = 2_000
SPARE_DESCRIPTORS = 16  # for the journal, the store, look-ups
IDLE_S = 7_210.0  # as libmilter
UNREAD_S = 300.0  # Postfix: milter_content_timeout
PROGRESS_S = 5.0
SWEEP_S = 1.0
PAUSE_S = 0.5  # before the next try to accept, where no descriptor was left
RETIRE_S = 600.0  # a retired worker leaves after this, whatever its sessions do
MAX_GRACE_S = 4.0  # TERM ends everything within 5 s

_IN, _OUT, _ONE = select.EPOLLIN, select.EPOLLOUT, select.EPOLLEXCLUSIVE
_NOW = socket.MSG_DONTWAIT


class Link:
    """One connection: its socket, its dialogue, and when something happened last (monotonic)."""

    __slots__ = ("dialogue", "heard", "number", "peer", "told", "unsent", "working")

    def __init__(self, connection: socket.socket, context: Context) -> None:
        self.peer = connection
        self.number = connection.fileno()
        self.dialogue = Dialogue(context)
        self.heard = self.told = time.monotonic()
        self.unsent = b""  # answers that the MTA has not taken
        self.working = False  # a thread has its dialogue


class Loop:
    """A worker's connections. `deaf` is called once no new one is taken."""

    def __init__(
        self,
        context: Context,
        listening: socket.socket,
        control: int,
        drain: float,
        deaf: Callable[[], None],
        idle: float = IDLE_S,
        unread: float = UNREAD_S,
        limit: int | None = None,
    ) -> None:
        self._context = context
        self._listening = listening
        self._control = control
        self._drain = drain
        self._deaf = deaf
        self._idle, self._unread = idle, unread
        self._limit = _connections() if limit is None else limit
        self._links: dict[int, Link] = {}
        self._epoll = select.epoll()
        self._done: deque[Link] = deque()
        self._woken, self._waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._accepting = False
        self._full = False  # whether "no-descriptors" has been logged
        self._accept_at = 0.0  # monotonic: accept no earlier than this; 0: now
        self._hears = True
        self._leave_at: float | None = None
        self._drained = False  # leave when no message is under way, not only with the last session

    def run(self) -> None:
        """Serve until the parent says to leave (one octet on the control pipe: `r` retire, `q`
        quit; end of file: the parent died), and the sessions have ended or their time is over."""
        self._epoll.register(self._control, _IN)
        self._epoll.register(self._woken, _IN)
        self._listen(True)
        swept = time.monotonic()
        while True:
            pause = 0.01 if self._leave_at is not None else SWEEP_S
            events = self._epoll.poll(pause)
            for number, _ in events:
                link = self._links.get(number)
                if link is not None:
                    self._happened(link)
                elif number == self._control:
                    self._told()
                elif number == self._woken:
                    self._back()
                elif self._accepting and number == self._listening.fileno():
                    self._accept()
            now = time.monotonic()
            if now - swept >= SWEEP_S:
                swept = now
                self._sweep(now)
            if self._leave_at is not None and self._may_leave(now, bool(events)):
                return

    # The parent's word

    def _told(self) -> None:
        word = os.read(self._control, 1)
        now = time.monotonic()
        if word == b"r":
            self._leave_at = now + RETIRE_S
        else:
            # The parent ends us after MAX_GRACE_S. At end of file it is gone: no limit then.
            grace = min(self._drain, MAX_GRACE_S) if word == b"q" else self._drain
            self._leave_at = now + grace
            self._drained = True
            self._epoll.unregister(self._control)
        if self._hears:
            # Connections that wait in the queue were made before we were told to leave: serve
            # those that no other worker takes, or their MTAs would see them reset.
            while self._drained and self._accept():
                pass
            self._hears = False
            self._listen(False)
            self._listening.close()
            self._deaf()

    def _may_leave(self, now: float, busy: bool) -> bool:
        assert self._leave_at is not None
        if now > self._leave_at or not self._links:
            return True
        quiet = not busy and not any(x.working or x.unsent for x in self._links.values())
        return self._drained and quiet and not self._context.busy

    # New connections

    def _listen(self, on: bool) -> None:
        if on and not self._accepting:
            # EPOLLEXCLUSIVE: a connection wakes one worker, not all of them.
            self._epoll.register(self._listening.fileno(), _IN | _ONE)
        elif not on and self._accepting:
            self._epoll.unregister(self._listening.fileno())
        self._accepting = on

    def _accept(self) -> bool:
        """Take one connection; False where there is none or none may be taken."""
        if len(self._links) >= self._limit:
            self._pause(len(self._links))
            return False
        try:
            connection, _ = self._listening.accept()
        except (BlockingIOError, ConnectionError):
            return False
        except OSError:  # no descriptor or no memory left
            self._pause(len(self._links))
            return False
        link = Link(connection, self._context)
        self._links[link.number] = link
        self._epoll.register(link.number, _IN)
        self._read(link)  # the MTA's first packet (its offer) has mostly arrived by now
        return True

    def _pause(self, held: int) -> None:
        self._listen(False)
        self._accept_at = time.monotonic() + PAUSE_S
        if not self._full:
            self._full = True
            hint = "new connections wait; raise LimitNOFILE, or milter.workers"
            self._context.gate.log.event("error", "no-descriptors", open=held, hint=hint)

    # What a connection does

    def _happened(self, link: Link) -> None:
        if link.unsent:
            self._write(link, b"")
        else:
            self._read(link)

    def _read(self, link: Link) -> None:
        try:
            data = link.peer.recv(READ_BYTES, _NOW)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._close(link)
            return
        link.heard = time.monotonic()
        self._feed(link, data)

    def _feed(self, link: Link, data: bytes) -> None:
        dialogue = link.dialogue
        try:
            answer = dialogue.feed(data)
        except Exception:
            self._context.failed("native-engine")
            self._close(link)
            return
        if answer and not self._write(link, answer):
            return
        if dialogue.over:
            if dialogue.why is not None:
                self._context.gate.tell_once("warning", "milter-protocol-error", why=dialogue.why)
            self._close(link)
        elif dialogue.blocked and not link.working:
            self._hand_over(link)

    def _write(self, link: Link, answer: bytes) -> bool:
        """Send what can be sent; False where the connection is gone."""
        out = link.unsent + answer if link.unsent else answer
        try:
            sent = link.peer.send(out, _NOW)
        except BlockingIOError:
            sent = 0
        except OSError:
            link.unsent = b""
            self._close(link)
            return False
        waited = bool(link.unsent)
        link.unsent = out[sent:]
        if sent:
            link.told = time.monotonic()
        if link.unsent and not waited and not link.working:
            self._epoll.modify(link.number, _OUT)
        elif waited and not link.unsent and not link.working:
            self._epoll.modify(link.number, _IN)
            if link.dialogue.over:
                self._close(link)
                return False
        return True

    def _close(self, link: Link) -> None:
        if self._links.get(link.number) is not link:
            return
        if link.dialogue.over and link.unsent:
            return  # it still has an answer coming; UNREAD_S ends that
        del self._links[link.number]
        link.peer.close()
        if link.dialogue.closing_may_wait:
            threading.Thread(target=self._end, args=(link,), daemon=True).start()
        else:
            self._end(link)
        if self._full and self._hears:
            self._accept_at = 0.0

    def _end(self, link: Link) -> None:
        try:
            link.dialogue.close()
        except Exception:
            self._context.failed("native-close")

    # What may block

    def _hand_over(self, link: Link) -> None:
        link.working = True
        self._epoll.unregister(link.number)
        link.told = time.monotonic()
        try:
            threading.Thread(target=self._work, args=(link,), daemon=True).start()
        except RuntimeError:  # no thread can be started: better block here than lose the message
            self._work(link)

    def _work(self, link: Link) -> None:
        try:
            link.dialogue.work()
        except Exception:
            self._context.failed("native-work")
            link.dialogue.over = True
        finally:
            self._done.append(link)
            os.write(self._waker, b".")

    def _back(self) -> None:
        os.read(self._woken, 65536)
        while self._done:
            link = self._done.popleft()
            link.working = False
            if self._links.get(link.number) is link:
                self._epoll.register(link.number, _OUT if link.unsent else _IN)
                self._feed(link, b"")

    # Now and then

    def _sweep(self, now: float) -> None:
        for link in list(self._links.values()):
            if link.working:
                if not link.unsent and now - link.told >= PROGRESS_S:
                    link.told = now
                    self._write(link, PROGRESS)
            elif link.unsent:
                if now - link.told >= self._unread:
                    link.unsent = b""
                    self._close(link)
            elif now - link.heard >= self._idle:
                self._close(link)
        if not self._accepting and self._hears and now >= self._accept_at:
            self._full = self._full and len(self._links) >= self._limit
            self._listen(True)


def _connections() -> int:
    """How many connections a worker may have, by its limit of open files."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if files == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return max(1, min(MAX_CONNECTIONS, files - max(SPARE_DESCRIPTORS, files // 8)))


def open_socket(address: SocketAddress) -> int:
    """The descriptor of a socket that listens at `address`. Raises OSError."""
    made = socket.socket(sockets.family(address), socket.SOCK_STREAM)
    try:
        if address.kind == "unix":
            Path(address.path).unlink(missing_ok=True)  # nobody answers on it: that was tried
        else:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if address.kind == "inet6":
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind(sockets.target(address))
        made.listen(BACKLOG)
    except OSError:
        made.close()
        raise
    return made.detach()


def serve(
    context: Context, listener: Listener, control: int, report: Callable[[bytes], None]
) -> None:
    """Serve in this process until the parent has told it to leave, and it has."""
    with socket.socket(fileno=os.dup(listener.descriptor)) as listening:
        drain = context.gate.settings.milter.drain
        loop = Loop(context, listening, control, drain, lambda: report(b"-"))
        # `listening` is our own copy; the inherited descriptor is not needed any more.
        listener.go_deaf()
        report(b"+")
        loop.run()
