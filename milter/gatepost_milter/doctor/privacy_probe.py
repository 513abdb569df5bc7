"""Send a test message full of private data through a real submission port, and read it again.

This probe has every field of submission.remove, a Received field of an invented laptop and an EHLO
name of its own, so that everything that is not removed can be recognised. It is read from a mailbox
(mbox file or Maildir) or from a small SMTP server to which the operator routes one recipient.
Raises `ProbeError` where no verdict is possible.
"""

import re
import secrets
import smtplib
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from typing import Any

from gatepost_milter.doctor.smtp_within import Deadline, connect
from gatepost_policy.config.settings import Settings

POLL_SECONDS = 0.2
SETTLE_SECONDS = 0.5  # after the first copy others are waited for


class ProbeError(Exception):
    """The probe was not sent or did not arrive; one line with the next step. `unreachable`: the
    server could not be reached."""

    def __init__(self, text: str, unreachable: bool = False) -> None:
        super().__init__(text)
        self.unreachable = unreachable


@dataclass(frozen=True, slots=True)
class Target:
    """A submission port, and the addresses and login to use there. `tls` is starttls, tls or none;
    `timeout` is in seconds."""

    host: str
    port: int
    sender: str
    recipient: str
    login: str = ""
    password: str = ""
    tls: str = "starttls"
    verify: bool = True
    timeout: float = 30.0


@dataclass(frozen=True, slots=True)
class Probe:
    """What was sent. `token`: the text by which the probe is found again."""

    token: str
    helo: str
    message: bytes

    def known(self, target: Target, address: str, port: int) -> dict[str, str]:
        """{what: text} of each text that must not be found in the probe as it arrives.

        `address` and `port` are our end of the SMTP connection; port 0: there was none.
        """
        secret = {"EHLO name": self.helo, "probe's own trace": self.token + "-trace"}
        if not address.startswith("127.0.0.") and address != "::1":
            # Loopback addresses are no secret: mail servers write their own as well.
            secret["client address"] = address
        if port:
            secret["source port"] = str(port)
        if target.login and target.login.lower() not in (
            target.sender.lower(),
            target.recipient.lower(),
        ):
            secret["login"] = target.login
        return secret


def make(target: Target, settings: Settings, received: bool = True) -> Probe:
    """A probe with everything that the configuration promises to remove, and with what stays by
    default (a private host in the Message-ID, the time zone), which `audit` calls a hint.

    `received`: with a Received field of its own. Without a login that would make it mail that is
    only forwarded, not submitted."""
    token = "gatepost-probe-" + secrets.token_hex(8)
    trace = token + "-trace"
    domain = target.sender.rpartition("@")[2] or "localhost"
    date = formatdate(localtime=False).replace("-0000", "+0530")
    lines = []
    if received and settings.submission.client_received == "anonymise":
        lines.append(f"Received: from [192.168.77.7] ({trace} [192.168.77.7])\r\n\tby laptop.local"
                     f" with ESMTP; {date}")  # fmt: skip
    for glob in settings.submission.remove:
        # Bcc must be an address list; the others may hold anything.
        value = f"hidden-{trace}@{domain}" if "bcc" in glob.lower() else trace
        lines.append(f"{glob.replace('*', 'Probe')}: {value}")
    lines += [
        f"From: <{target.sender}>", f"To: <{target.recipient}>", f"Subject: {token}",
        f"Date: {date}", f"Message-ID: <{token}@laptop.local>", f"MIME-Version: 1.0 ({trace})",
        "Content-Type: text/plain", "", "A probe of milterctl privacy test.", "",
    ]  # fmt: skip
    return Probe(token, f"{token}.laptop.example", "\r\n".join(lines).encode())


def send(target: Target, probe: Probe) -> tuple[str, int]:
    """Send the probe; returns (address, port) of our end of the connection. Raises ProbeError,
    when the whole takes longer than `target.timeout`, too."""
    with Deadline(target.timeout) as deadline:
        try:
            return _send(target, probe, deadline)
        except ProbeError as error:
            if not deadline.over:
                raise
            raise ProbeError(
                f"{target.host}:{target.port}: no end of its answers within"
                f" {target.timeout:.0f} s: timed out; see --timeout"
            ) from error


def _send(target: Target, probe: Probe, deadline: Deadline) -> tuple[str, int]:
    where = f"{target.host}:{target.port}"
    context = ssl.create_default_context()
    if not target.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    first = context if target.tls == "tls" else None
    try:
        with connect(target.host, target.port, helo=probe.helo, timeout=target.timeout, tls=first,
                     deadline=deadline) as smtp:  # fmt: skip
            assert smtp.sock is not None
            name = smtp.sock.getsockname()
            if target.tls == "starttls":
                smtp.starttls(context=context)
            if target.login:
                smtp.login(target.login, target.password)
            smtp.sendmail(target.sender, [target.recipient], probe.message)
            return str(name[0]), int(name[1])
    except smtplib.SMTPAuthenticationError as error:
        raise ProbeError(
            f"{where} refuses the login: {error.smtp_code}; see --login and --password-file"
        ) from error
    except smtplib.SMTPRecipientsRefused as error:
        code, text = error.recipients[target.recipient]
        later = "; try again in some minutes (greylisting?)" if code // 100 == 4 else ""
        raise ProbeError(f"{where} refuses the recipient: {code} {_text(text)}{later}") from error
    except smtplib.SMTPResponseException as error:
        if error.smtp_code < 100:
            raise ProbeError(
                f"{where}: no answer of an SMTP server; does --tls say what the port speaks?"
            ) from error
        raise ProbeError(f"{where}: {error.smtp_code} {_text(error.smtp_error)}") from error
    except ssl.SSLCertVerificationError as error:
        raise ProbeError(
            f"{where}: {error.verify_message}; give --host the name in the certificate,"
            " or --insecure"
        ) from error
    except (smtplib.SMTPException, ssl.SSLError) as error:
        raise ProbeError(f"{where}: {error}; does --tls say what the port speaks?") from error
    except ValueError as error:
        # smtplib raises this for an address or password not in ASCII, and a challenge that is not
        # base64.
        if isinstance(error, UnicodeError):
            raise ProbeError(
                f"{where}: {_odd(target)} is not in ASCII, and this test writes nothing else"
            ) from None
        raise ProbeError(f"{where}: {error}: the server, or an address, is none") from None
    except OSError as error:
        step = "name the submission server with --host and --port"
        if isinstance(error, ConnectionRefusedError):
            step = f"nobody listens there: start the submission service, or {step}"
        raise ProbeError(f"{where}: {error.strerror or error}; {step}", unreachable=True) from error


def _odd(target: Target) -> str:
    """The option whose value is not ASCII."""
    named = (("--sender", target.sender), ("--recipient", target.recipient),
             ("--login", target.login))  # fmt: skip
    return next((name for name, text in named if not text.isascii()), "the password")


def _text(text: bytes | str) -> str:
    return text.decode("utf-8", "replace") if isinstance(text, bytes) else text


@dataclass(frozen=True, slots=True)
class Seen:
    """What has come: each copy of the probe; `inside`: other mail that has the probe in it (a
    bounce, an answer, a filter's report)."""

    copies: tuple[bytes, ...] = ()
    inside: int = 0

    def joined(self, other: "Seen") -> "Seen":
        """Both; the same file under two names counts once."""
        copies = tuple(dict.fromkeys((*self.copies, *other.copies)))
        return Seen(copies, self.inside + other.inside)


Look = Callable[[], Seen]


def sorted_out(messages: Iterable[bytes], probe: Probe) -> Seen:
    """Which of these messages are the probe. A bounce quotes its header, and would look clean: so
    the subject must be the message's own, and the message no answer (RFC 3834 5)."""
    copies: list[bytes] = []
    inside = 0
    subject = re.compile(rb"(?mi)^Subject:[ \t]*" + probe.token.encode() + rb"[ \t\r]*$")
    for data in messages:
        header = re.split(rb"\r?\n\r?\n", data, maxsplit=1)[0]
        if subject.search(header) and not _ANSWER.search(header):
            copies.append(data)
        elif probe.token.encode() in data:
            inside += 1
    return Seen(tuple(copies), inside)


_ANSWER = re.compile(rb"(?mi)^(?:Auto-Submitted:[ \t]*auto-|Content-Type:[ \t]*multipart/report)")


def in_mailbox(path: Path, probe: Probe) -> Look:
    """A function that looks for the probe in a Maildir or an mbox file."""
    token = probe.token.encode()

    def look() -> Seen:
        found: list[bytes] = []
        for file in _files(path):
            try:
                data = file.read_bytes()
            except FileNotFoundError:
                continue  # a Maildir reader has just moved it
            found += dict.fromkeys(_around(data, m.start()) for m in re.finditer(token, data))
        return sorted_out(found, probe)

    return look


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        folders = [path / name for name in ("new", "cur") if (path / name).is_dir()] or [path]
        for folder in folders:
            yield from (p for p in sorted(folder.iterdir()) if p.is_file())
    elif path.is_file():
        yield path


def _around(data: bytes, at: int) -> bytes:
    """The message of an mbox that contains offset `at`; `data` itself where it is no mbox."""
    if not data.startswith(b"From "):
        return data
    start = data.rfind(b"\nFrom ", 0, at) + 1
    end = data.find(b"\n\nFrom ", at)
    return data[start : end + 1 if end >= 0 else None]


@contextmanager
def sink(host: str, port: int, probe: Probe) -> Iterator[Look]:
    """An SMTP server that accepts all mail; yields a function that looks for the probe in it.
    Raises ProbeError."""
    from aiosmtpd.controller import Controller

    arrived: list[bytes] = []

    class Handler:
        async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
            arrived.append(envelope.content)
            return "250 2.0.0 Ok"

    class Server(Controller):
        def _trigger_server(self) -> None:
            """aiosmtpd's own test connection goes to localhost; this address may be another."""
            socket.create_connection((self.hostname, self.port), 5).close()

    controller = Server(Handler(), hostname=host, port=port, server_hostname="gatepost.invalid")
    try:
        controller.start()
    except OSError as error:
        raise ProbeError(f"no sink on {host}:{port}: {error.strerror or error}") from error
    try:
        yield lambda: sorted_out(arrived, probe)
    finally:
        controller.stop()


def wait(look: Look, timeout: float, leaks: Callable[[bytes], int]) -> bytes:
    """The probe as it arrived; of several copies the one with the most `leaks`. Raises ProbeError
    when none comes in `timeout` seconds."""
    end = time.monotonic() + timeout
    while True:
        seen = look()
        if seen.copies:
            # One copy may be clean and another not (an archive, a second recipient, a filter).
            time.sleep(SETTLE_SECONDS)
            return max((*seen.copies, *look().copies), key=leaks)
        if time.monotonic() > end:
            if seen.inside:
                raise ProbeError(
                    "the probe did not arrive; other mail came that has it inside (a bounce, an "
                    "automatic answer, a filter's report): read it, it says why"
                )
            raise ProbeError(
                f"the probe was accepted but did not arrive within {timeout:.0f} s: is the "
                "recipient delivered to the mailbox or sink you named?"
            )
        time.sleep(POLL_SECONDS)
