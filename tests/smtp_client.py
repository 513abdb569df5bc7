"""Send one message over SMTP and say what the server answered. Bytes go out as they are."""

import smtplib
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field

TIMEOUT = 60


@dataclass(frozen=True, slots=True)
class Sent:
    """The server's answers, each "550 text". `final` is the last word on the message."""

    final: str
    rcpt: dict[str, str]
    port: int  # the client's source port

    @property
    def code(self) -> int:
        return int(self.final[:3])


@dataclass(slots=True)
class Client:
    """Where to connect and who to be. `xclient` is what an XCLIENT command says."""

    host: str  # an address, or the path of a unix socket
    port: int
    helo: str = "client.example"
    source: str = ""
    login: str = ""
    password: str = ""
    tls: bool = False
    xclient: str = ""
    options: Sequence[str] = ()
    rcpt_options: Sequence[str] = ()
    transcript: list[str] = field(default_factory=list)

    def send(self, message: bytes, sender: str, recipients: Sequence[str]) -> Sent:
        """Run the whole session. Raises OSError where the server cannot be reached."""
        if self.host.startswith("/"):
            with socket.socket(socket.AF_UNIX) as local:
                local.settimeout(TIMEOUT)
                local.connect(self.host)
                return self._session(local, message, sender, recipients)
        source = (self.source, 0) if self.source else None
        with socket.create_connection((self.host, self.port), TIMEOUT, source) as raw:
            return self._session(raw, message, sender, recipients)

    def _session(
        self, raw: socket.socket, message: bytes, sender: str, recipients: Sequence[str]
    ) -> Sent:
        name = raw.getsockname()
        port = int(name[1]) if isinstance(name, tuple) else 0
        smtp = smtplib.SMTP(local_hostname=self.helo, timeout=TIMEOUT)
        smtp.sock = raw
        smtp._host = "mx.local.test"  # type: ignore[attr-defined]  # what starttls() says in SNI
        smtp.command_encoding = "utf-8"

        def told(reply: tuple[int, bytes]) -> str:
            text = f"{reply[0]} {reply[1].decode('utf-8', 'replace')}".replace("\n", " ")
            self.transcript.append(text)
            return text

        def stop(text: str, answers: dict[str, str]) -> Sent:
            smtp.close()
            return Sent(text, answers, port)

        greeting = told(smtp.getreply())
        if not greeting.startswith("220"):
            return stop(greeting, {})
        smtp.ehlo()
        if self.xclient:
            told(smtp.docmd("XCLIENT", self.xclient))
            told(smtp.ehlo())
        if self.tls:
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            smtp.starttls(context=context)
            smtp.ehlo()
        if self.login:
            try:
                smtp.user, smtp.password = self.login, self.password
                told(smtp.auth("PLAIN", smtp.auth_plain))
            except smtplib.SMTPResponseException as error:
                return stop(told((error.smtp_code, _bytes(error.smtp_error))), {})
        mail = told(smtp.docmd("MAIL", " ".join([f"FROM:<{sender}>", *self.options])))
        if not mail.startswith("250"):
            return stop(mail, {})
        rcpt: dict[str, str] = {}
        for recipient in recipients:
            line = " ".join([f"TO:<{recipient}>", *self.rcpt_options])
            rcpt[recipient] = told(smtp.docmd("RCPT", line))
        if not any(answer.startswith("25") for answer in rcpt.values()):
            return stop(next(iter(rcpt.values())), rcpt)
        go = told(smtp.docmd("DATA"))
        if not go.startswith("354"):
            return stop(go, rcpt)
        data = message.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
        if not data.endswith(b"\r\n"):
            data += b"\r\n"
        stuffed = data.replace(b"\r\n.", b"\r\n..")
        smtp.send((b"." if data.startswith(b".") else b"") + stuffed + b".\r\n")
        final = told(smtp.getreply())
        try:
            smtp.quit()
        except (smtplib.SMTPException, OSError):
            smtp.close()
        return Sent(final, rcpt, port)


def _bytes(text: bytes | str) -> bytes:
    return text if isinstance(text, bytes) else text.encode()
