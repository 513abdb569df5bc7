"""An SMTP server on loopback that stands in for Postfix: what it gets goes through the milter.

Each SMTP command becomes its milter event while the client waits, so a client sees the milter's
answers where Postfix would give them. XCLIENT sets the client (Postfix XCLIENT_README), AUTH takes
any password: this server is for tests and trials and delivers nothing. `results` holds what became
of each message.

Limits: command lines of 4 kB, messages of `MAX_BYTES`, no TLS.
"""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword
from aiosmtpd.smtp import Envelope as SmtpEnvelope
from aiosmtpd.smtp import Session as SmtpSession

from gatepost_milter.mta.client import Result, Session
from gatepost_milter.mta.envelope import Envelope
from gatepost_milter.mta.wire import ProtocolError

MAX_BYTES = 256 * 1024 * 1024
XCLIENT = "NAME ADDR PORT PROTO HELO LOGIN"
UNAVAILABLE = "451 4.7.1 Service unavailable - try again later"


class Server(SMTP):
    """aiosmtpd's SMTP with XCLIENT, and lines as long as a whole message."""

    command_size_limit = 4096
    line_length_limit = MAX_BYTES

    async def smtp_XCLIENT(self, arg: str | None) -> None:  # noqa: N802 (aiosmtpd finds it by name)
        """XCLIENT NAME=... ADDR=...: from here on the session is that client's."""
        front = self.event_handler
        assert isinstance(front, Front) and self.session is not None
        try:
            front.xclient(self.session, arg or "")
        except ValueError as error:
            await self.push(f"501 5.5.4 {error}")
            return
        self.session.host_name = None  # EHLO again
        await self.push("220 mx.example.net ESMTP")

    def connection_lost(self, error: Exception | None) -> None:
        """End the milter session, also where the client has gone without QUIT."""
        if isinstance(self.event_handler, Front):
            self.event_handler.close(self.session)
        super().connection_lost(error)


class Front:
    """The handler: one milter session for each SMTP session. `results`: what became of each
    message, in order (empty where `on_result` is given)."""

    def __init__(
        self,
        socket: str,
        base: Envelope | None = None,
        on_result: Callable[[Result], None] | None = None,
        **session: Any,
    ) -> None:
        self.socket = socket
        self.base = base or Envelope()
        self.results: list[Result] = []
        self._on_result = on_result or self.results.append
        self._session_fields = session

    def xclient(self, smtp: Any, text: str) -> None:
        """Set the client as XCLIENT says. Raises ValueError for an attribute that is unknown."""
        envelope: Envelope = getattr(smtp, "gatepost", self.base)
        for item in text.split():
            name, equals, value = item.partition("=")
            if not equals or name.upper() not in XCLIENT.split():
                raise ValueError(f"Bad XCLIENT attribute: {name}")
            known = value if value not in ("[UNAVAILABLE]", "[TEMPUNAVAIL]") else None
            match name.upper():
                case "ADDR":
                    if known is None:
                        raise ValueError("XCLIENT without an address is not supported")
                    envelope = replace(envelope, client=known.removeprefix("IPV6:"))
                case "NAME":
                    envelope = replace(envelope, client_name=known)
                case "PORT":
                    envelope = replace(envelope, port=int(known or 0))
                case "HELO":
                    envelope = replace(envelope, helo=known)
                case "LOGIN":
                    envelope = replace(envelope, login=known)
        smtp.gatepost = envelope
        self.close(smtp)

    async def handle_EHLO(  # noqa: N802
        self, server: Any, session: SmtpSession, envelope: Any, hostname: str, responses: list[str]
    ) -> list[str]:
        """EHLO: offer XCLIENT as well."""
        session.host_name = hostname
        self._greeted(session, hostname)
        return [*responses[:-1], f"250-XCLIENT {XCLIENT}", responses[-1]]

    async def handle_HELO(  # noqa: N802
        self, server: Any, session: SmtpSession, envelope: Any, hostname: str
    ) -> str:
        """HELO."""
        session.host_name = hostname
        self._greeted(session, hostname)
        return "250 mx.example.net"

    def _greeted(self, session: Any, hostname: str) -> None:
        known: Envelope | None = getattr(session, "gatepost", None)
        if known is None:
            peer = session.peer
            address = peer[0] if isinstance(peer, tuple) else None
            port = peer[1] if isinstance(peer, tuple) else 0
            known = replace(self.base, client=address, port=port)
        # A HELO name set by XCLIENT counts until the client sends a new HELO or EHLO.
        session.gatepost = replace(known, helo=hostname)

    async def handle_MAIL(  # noqa: N802
        self,
        server: Any,
        session: Any,
        envelope: SmtpEnvelope,
        address: str,
        options: list[str],
    ) -> str:
        """MAIL FROM: the milter's answer, or 250."""
        login = getattr(session, "auth_data", None) if session.authenticated else None
        base: Envelope = session.gatepost
        current = replace(
            base,
            sender=address or "",
            sender_args=tuple(options),
            login=login.decode("utf-8", "replace") if login else base.login,
            recipients=(),
        )
        if not hasattr(session, "milter"):
            session.milter = Session(self.socket, current, **self._session_fields)
        try:
            refused = await asyncio.to_thread(session.milter.mail, current)
        except ProtocolError:
            return UNAVAILABLE
        if refused is not None:
            self._on_result(refused)
            return str(refused.reply)
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 2.1.0 Ok"

    async def handle_RCPT(  # noqa: N802
        self,
        server: Any,
        session: Any,
        envelope: SmtpEnvelope,
        address: str,
        options: list[str],
    ) -> str:
        """RCPT TO: the milter's answer, or 250. Those in `Envelope.rejected` get 550."""
        rejected = address in self.base.rejected
        milter: Session = session.milter
        try:
            reply = await asyncio.to_thread(milter.rcpt, address, rejected)
        except ProtocolError:
            return UNAVAILABLE
        if reply.startswith("2"):
            envelope.rcpt_tos.append(address)
        return reply

    async def handle_DATA(  # noqa: N802
        self, server: Any, session: Any, envelope: SmtpEnvelope
    ) -> str:
        """The whole message: the milter's answer, or 250 with a queue id."""
        content = envelope.original_content or b""
        try:
            result: Result = await asyncio.to_thread(session.milter.data, content)
        except ProtocolError:
            return UNAVAILABLE
        self._on_result(result)
        return result.reply

    async def handle_RSET(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        """RSET: the milter hears that the transaction is over."""
        if hasattr(session, "milter"):
            await asyncio.to_thread(session.milter.rset)
        return "250 2.0.0 Ok"

    async def handle_QUIT(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        """QUIT: end the milter session."""
        self.close(session)
        return "221 2.0.0 Bye"

    def close(self, session: Any) -> None:
        """End the milter session of this SMTP session, if there is one."""
        if hasattr(session, "milter"):
            session.milter.close()
            del session.milter


@contextmanager
def serving(front: Front, host: str = "127.0.0.1", port: int = 0) -> Iterator[int]:
    """Serve `front` in a thread; yields the port (`port` 0: any free one). On leaving, every
    session is ended."""
    loop = asyncio.new_event_loop()

    def protocol() -> Server:
        return Server(
            front,
            data_size_limit=MAX_BYTES,
            enable_SMTPUTF8=True,
            hostname="mx.example.net",
            auth_require_tls=False,
            authenticator=_anybody,
            loop=loop,
        )

    server = loop.run_until_complete(loop.create_server(protocol, host, port))
    thread = threading.Thread(target=loop.run_forever, name="smtp-front", daemon=True)
    thread.start()
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        asyncio.run_coroutine_threadsafe(_stop(server), loop).result(timeout=30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout=30)
        loop.close()


async def _stop(server: asyncio.Server) -> None:
    server.close()
    tasks = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _anybody(server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
    """Accept every password; the milter gets the login name as {auth_authen}."""
    login = data.login if isinstance(data, LoginPassword) else b""
    return AuthResult(success=True, auth_data=login)
