"""One connection to the policy service: requests in, answers out, in the same order.

A request that must wait for DNS, the store or the disk is answered by a task (DNS and the store
get `policy.timeout_ms`); later requests wait, and no more are read meanwhile. An exception is a
bug: only its type is logged (its text may hold data of the request), and the answer is
`no_opinion`.
"""

import asyncio
import socket
import time
from typing import Protocol

from gatepost_policy.mail.facts import Facts
from gatepost_policy.policyd.attributes import no_opinion
from gatepost_policy.policyd.checks import Running
from gatepost_policy.policyd.protocol import Form, ProtocolError, Reader, Request
from gatepost_policy.policyd.service import Service


class House(Protocol):
    """The part of the server that a connection uses."""

    service: Service
    doors: set["Door"]

    def admit(self, door: "Door") -> None:
        """Register a connection; over `policy.max_connections` one is closed."""
        ...

    def log_error(self, error: Exception) -> None:
        """Log a bug by the type of its exception."""
        ...


# Octets taken from one connection before the others get their turn. With asyncio's own 256 KiB a
# client that never stops asking would make all others wait for a thousand answers.
_TURN = memoryview(bytearray(16_384))


class Door(asyncio.BufferedProtocol):
    """One client connection."""

    def __init__(self, server: House) -> None:
        self._server = server
        self._service = server.service
        self._reader = Reader(server.service.settings.policy.max_request_bytes)
        self._transport: asyncio.Transport | None = None
        self._waiting: list[Request] = []  # requests behind the one that `_task` answers
        self._task: asyncio.Task[None] | None = None
        self._form = Form.POSTFIX
        self._trusted = False  # True on a unix socket: its mode says who may connect
        self.heard = time.monotonic()  # monotonic: when the last request was complete
        self.began: float | None = None  # monotonic: when the unfinished request began

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected (asyncio)."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        peer = transport.get_extra_info("socket")
        self._trusted = peer is not None and peer.family == socket.AF_UNIX
        self._server.admit(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone (asyncio)."""
        self._server.doors.discard(self)
        self._transport = None
        if self._task is not None:
            self._task.cancel()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next octets go (asyncio): one place for all, as each is emptied at once."""
        return _TURN

    def buffer_updated(self, nbytes: int) -> None:
        """Answer the requests that these octets complete (asyncio)."""
        data = bytes(_TURN[:nbytes])
        try:
            for request in self._reader.feed(data):
                self._take(request)
        except ProtocolError:
            self._refuse()
            return
        if self._reader.idle:
            self.began = None
        elif self.began is None:
            self.began = time.monotonic()

    def pause_writing(self) -> None:
        """The client does not read its answers: read no more requests (asyncio)."""
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """The client reads its answers again (asyncio)."""
        if self._transport is not None and self._task is None:
            self._transport.resume_reading()

    @property
    def busy(self) -> bool:
        """True while a request is unfinished or unanswered."""
        return self._task is not None or self.began is not None

    def close(self) -> None:
        """Send the answers that were written, then close."""
        if self._transport is not None:
            self._transport.close()

    def _take(self, request: Request) -> None:
        self.heard = time.monotonic()
        self.began = None
        self._form = request.form
        if self._task is not None:
            self._waiting.append(request)
            return
        self._answer(request)

    def _answer(self, request: Request) -> None:
        """Answer now, or start a task that will."""
        service = self._service = self._server.service
        try:
            facts = service.facts(request, trusted=self._trusted)
            checks = None if facts is None else service.checker.begin(facts)
            if checks is not None and not checks.waits:
                facts, checks = checks.finish(), None
            if facts is None:
                self._send(no_opinion(request.form))
                return
            if checks is None:
                known = service.known.lookup(facts, ask_store=False)
                if not service.may_wait(facts, known):
                    self._send(service.answer(request, facts, known))
                    return
            # Later requests wait behind this one: no more are read meanwhile.
            if self._transport is not None:
                self._transport.pause_reading()
            self._task = asyncio.get_running_loop().create_task(self._ask(request, facts, checks))
        except Exception as error:  # a bug must not stop mail: no opinion, and an error in the log
            self._failed(request, error)

    async def _ask(self, request: Request, facts: Facts, checks: Running | None) -> None:
        """Answer a request that needs DNS, or the store, within `policy.timeout_ms`."""
        service = self._service
        begun = time.monotonic()
        try:
            if checks is not None:
                facts = await asyncio.to_thread(checks.finish)
            try:
                known = await asyncio.wait_for(
                    asyncio.to_thread(service.known.lookup, facts),
                    max(service.settings.policy.timeout_ms / 1000 - time.monotonic() + begun, 0.1),
                )
            except TimeoutError:
                known = service.known.lookup(facts, ask_store=False)
            if service.waits_for_disk:
                answer = await asyncio.to_thread(service.answer, request, facts, known)
            else:
                answer = service.answer(request, facts, known)
            self._send(answer)
        except Exception as error:  # as above
            self._failed(request, error)
        self._task = None
        if self._transport is not None:
            self._transport.resume_reading()
        waiting, self._waiting = self._waiting, []
        for position, later in enumerate(waiting):
            self._answer(later)
            if self._task is not None:
                self._waiting = waiting[position + 1 :] + self._waiting
                break

    def _failed(self, request: Request, error: Exception) -> None:
        # The text of an exception may hold data of the request: only its type is logged.
        self._server.log_error(error)
        self._send(no_opinion(request.form))

    def _refuse(self) -> None:
        """After a protocol error: answer `no_opinion` once, and close."""
        self._send(no_opinion(self._form))
        self.close()

    def _send(self, answer: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(answer)
