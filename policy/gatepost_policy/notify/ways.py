"""The ways of telling: a command, a webhook, mail. Each sends a batch, or raises an error.

No shell is used. The events are JSON on the command's standard input, JSON in the webhook's body,
or text in the mail's body: so a name that a sender chose is never part of a command line or an
address, and in the subject it is escaped.

Limits: TIMEOUT_S for each, and half a minute more where a name server does not answer.
"""

import http.client
import os
import signal
import smtplib
import socket
import ssl
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from email.message import EmailMessage
from email.utils import formatdate
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from gatepost_policy.notify import words
from gatepost_policy.notify.words import Batch
from gatepost_policy.system.socket_address import SocketAddress
from gatepost_policy.text.escape import shown

if TYPE_CHECKING:
    from gatepost_policy.config.settings import Notify

TIMEOUT_S = 30.0
SAID_MAX = 200


class Undelivered(Exception):
    """The batch was not sent to anybody. The text is one line: which way, and why."""


def command(settings: "Notify", batch: Batch, now: float) -> None:
    """Give the batch to the command, on its standard input. Raises Undelivered."""
    name = shown(os.path.basename(settings.command[0]))
    where = f"notify.command: {name}"
    # Its stderr is a file, not a pipe: a child that it leaves behind could keep a pipe open.
    with tempfile.TemporaryFile() as said:
        try:
            process = subprocess.Popen(
                settings.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=said,
                env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8"},
                cwd="/",
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise Undelivered(f"{where}: {why}") from None
        try:
            process.communicate(words.document(batch, settings.page), timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise Undelivered(f"{where}: not done in {TIMEOUT_S:g} s") from None
        finally:
            if process.poll() is None:
                with suppress(OSError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            if process.stdin is not None:
                with suppress(OSError):
                    process.stdin.close()
        if process.returncode:
            said.seek(max(0, said.tell() - SAID_MAX))
            last = said.read(SAID_MAX).decode("utf-8", "replace").strip().rpartition("\n")[2]
            text = f"{where}: exit code {process.returncode}"
            raise Undelivered(f"{text}: {shown(last)}" if last else text)


@contextmanager
def _deadline(close: Callable[[], None]) -> Iterator[None]:
    """Call `close` after TIMEOUT_S. A socket's own time-out is not enough: it begins again with
    each octet that a slow server sends."""
    timer = threading.Timer(TIMEOUT_S, close)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _shut(given: socket.socket | None) -> None:
    if given is not None:
        with suppress(OSError):
            given.shutdown(socket.SHUT_RDWR)


def webhook(settings: "Notify", batch: Batch, now: float) -> None:
    """POST the batch; every answer except 2xx is a failure. Raises Undelivered.

    No redirect is followed and no proxy of the environment is used: only the configured URL was
    checked. Its path may be a secret, so no error text holds it.
    """
    url = urlsplit(settings.webhook)
    assert url.hostname is not None
    where = f"notify.webhook: {shown(url.hostname)}"
    connection: http.client.HTTPConnection
    if url.scheme == "https":
        connection = http.client.HTTPSConnection(
            url.hostname, url.port, timeout=TIMEOUT_S, context=ssl.create_default_context()
        )
    else:
        connection = http.client.HTTPConnection(url.hostname, url.port, timeout=TIMEOUT_S)
    target = (url.path or "/") + (f"?{url.query}" if url.query else "")
    fields = {
        "Content-Type": "application/json",
        "User-Agent": "gatepost",
        # The same for each try, so that the receiver can recognise a repeated batch.
        "Idempotency-Key": batch.name,
    }
    try:
        with _deadline(lambda: _shut(connection.sock)):
            connection.request("POST", target, words.document(batch, settings.page), fields)
            status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        raise Undelivered(f"{where}: {_why(error)}") from None
    finally:
        connection.close()
    if 300 <= status < 400:
        raise Undelivered(f"{where}: answered {status}; a redirect is not followed")
    if not 200 <= status < 300:
        raise Undelivered(f"{where}: answered {status}")


def mail(settings: "Notify", batch: Batch, now: float) -> None:
    """Send the batch through the MTA. Raises Undelivered, and PartlyDelivered where only some
    recipients were accepted.

    It cannot start a loop: the envelope sender is null, so there is no bounce, and `Auto-Submitted`
    asks others not to answer (RFC 3834 section 5).
    """
    server = SocketAddress.parse(settings.smtp)
    message = composed(settings, batch, now)
    where = f"notify.smtp: {server}"
    try:
        # HELO with an address literal: else smtplib would look up our own name.
        with smtplib.SMTP(timeout=TIMEOUT_S, local_hostname="[127.0.0.1]") as smtp:
            with _deadline(lambda: _shut(smtp.sock)):
                smtp.connect(server.host, server.port)
                refused = smtp.send_message(message, from_addr="", to_addrs=settings.mail_to)
    except smtplib.SMTPRecipientsRefused as error:
        raise Undelivered(f"{where}: {_refused(error.recipients)}") from None
    except (OSError, smtplib.SMTPException) as error:
        raise Undelivered(f"{where}: {_why(error)}") from None
    if refused:
        # No other try: those who have it would get it twice.
        raise PartlyDelivered(f"{where}: {_refused(refused)}")


class PartlyDelivered(Exception):
    """Some recipients got the mail, the others will not. The text is one line."""


def _refused(answers: dict[str, tuple[int, bytes]]) -> str:
    name, (code, said) = next(iter(answers.items()))
    text = said.decode("utf-8", "replace").replace("\n", " ")[:SAID_MAX]
    return f"refuses {shown(name)}: {code} {shown(text)}"


def _why(error: BaseException) -> str:
    if isinstance(error, smtplib.SMTPResponseException):
        said = error.smtp_error
        text = said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)
        return shown(f"{error.smtp_code} {text}".replace("\n", " ")[:SAID_MAX])
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return shown(str(text)[:SAID_MAX])


def composed(settings: "Notify", batch: Batch, now: float) -> EmailMessage:
    """The mail without its envelope. `now`: Unix seconds."""
    host = socket.gethostname()
    message = EmailMessage()
    message["From"] = settings.mail_from or f"gatepost@{host}"
    message["To"] = ", ".join(settings.mail_to)
    message["Subject"] = words.subject(batch)
    message["Date"] = formatdate(now)
    domain = str(message["From"]).rpartition("@")[2]
    message["Message-ID"] = f"<gatepost.{batch.name}@{domain}>"
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(words.text(batch, settings.page), cte="quoted-printable")
    return message
