"""The ways by which our own mail leaves this host: each is tested with a probe of its own.

User, mailbox and sendmail program are found by themselves where possible. A way that could not be
tested is not clean, and says what to type. Where nothing was removed from a probe, `reason` says
by which rule it was not taken for a submission.
"""

import os
import pwd
import shutil
import socket
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from gatepost_milter.doctor import privacy_probe
from gatepost_milter.doctor.privacy_probe import Look, Probe, ProbeError, Seen, Target
from gatepost_policy.config.settings import Settings
from gatepost_policy.mail import address as addresses
from gatepost_policy.mail.client_address import within
from gatepost_policy.rules import trace
from gatepost_policy.scrub import audit

SUBMISSION, PORT_25, SENDMAIL = "submission", "port25", "sendmail"
UNTOUCHED = 0.9  # where this share of the fields to remove arrives, gatepost removed none


@dataclass(frozen=True, slots=True)
class Tried:
    """The result of one way. `findings`: of the probe that arrived; `missed`: why none arrived,
    and what to do; `header`: the header as it arrived, lines with LF."""

    way: str
    where: str
    findings: tuple[audit.Finding, ...] = ()
    missed: str = ""
    reason: str = ""
    header: bytes = b""

    @property
    def leaks(self) -> int:
        """How many findings are leaks."""
        return sum(f.weight == "leak" for f in self.findings)

    @property
    def clean(self) -> bool:
        """True where the probe arrived, and without a leak."""
        return not self.missed and not self.leaks


def own_address() -> str:
    """The address of the user who runs this, at the host's own name."""
    return f"{pwd.getpwuid(os.geteuid()).pw_name}@{socket.getfqdn()}"


def mailboxes(user: str) -> tuple[Path, ...]:
    """The usual places of a local user's mailbox; they may not exist."""
    try:
        home = Path(pwd.getpwnam(user).pw_dir)
    except KeyError:
        return ()
    return (home / "Maildir", home / "mail" / "inbox", home / "mbox", home / "Mailbox",
            Path("/var/mail") / user, Path("/var/spool/mail") / user)  # fmt: skip


def anywhere(paths: tuple[Path, ...], probe: Probe) -> Look:
    """Looks for the probe in each of these mailboxes."""
    looks = [privacy_probe.in_mailbox(path, probe) for path in paths]

    def look() -> Seen:
        seen = Seen()
        for one in looks:
            try:
                seen = seen.joined(one())
            except OSError:
                continue  # no permission: another user's mailbox
        return seen

    return look


def leaks(known: dict[str, str], settings: Settings) -> Callable[[bytes], int]:
    """Counts the leaks of a message, with the texts that must not be in it."""
    return lambda data: sum(
        f.weight == "leak" for f in audit.find(data, known, settings.submission)
    )


def by_smtp(way: str, target: Target, settings: Settings, look: Callable[[Probe], Look]) -> Tried:
    """Send a probe through a port and look for it with `look`. Errors are in `missed`."""
    where = f"{target.host}:{target.port}"
    probe = privacy_probe.make(target, settings, received=way == SUBMISSION)
    try:
        address, port = privacy_probe.send(target, probe)
        known = probe.known(target, address, port)
        data = privacy_probe.wait(look(probe), target.timeout, leaks(known, settings))
    except ProbeError as error:
        return Tried(way, where, missed=str(error))
    found = audit.find(data, known, settings.submission)
    return Tried(way, where, found, reason=reason(way, probe, data, address, target, settings),
                 header=data.replace(b"\r\n", b"\n").partition(b"\n\n")[0])  # fmt: skip


def by_sendmail(
    sender: str, recipient: str, settings: Settings, look: Callable[[Probe], Look], timeout: float
) -> Tried:
    """Send a probe through sendmail(1). `timeout`: seconds. Errors are in `missed`."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/usr/lib"
    program = shutil.which("sendmail", path=path)
    if program is None:
        return Tried(SENDMAIL, "sendmail(1)", missed="no sendmail in /usr/sbin or /usr/lib")
    target = Target("", 0, sender, recipient, timeout=timeout)
    probe = privacy_probe.make(target, settings, received=False)
    try:
        subprocess.run(
            [program, "-i", "-f", sender, recipient], input=probe.message.replace(b"\r\n", b"\n"),
            check=True, capture_output=True, timeout=timeout,
        )  # fmt: skip
        known = probe.known(target, "127.0.0.1", 0)
        data = privacy_probe.wait(look(probe), timeout, leaks(known, settings))
    except subprocess.TimeoutExpired:
        why = f"has not taken the probe after {timeout:g} s; is the mail server running?"
        return Tried(SENDMAIL, program, missed=f"{program} {why}")
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        why = f"does not take the probe: {said or f'it ended with status {error.returncode}'}"
        return Tried(SENDMAIL, program, missed=f"{program} {why}")
    except OSError as error:
        why = f"does not take the probe: {error.strerror or error}"
        return Tried(SENDMAIL, program, missed=f"{program} {why}")
    except ProbeError as error:
        return Tried(SENDMAIL, program, missed=str(error))
    found = audit.find(data, known, settings.submission)
    return Tried(SENDMAIL, program, found, reason=reason(SENDMAIL, probe, data, "", target,
                                                          settings),
                 header=data.replace(b"\r\n", b"\n").partition(b"\n\n")[0])  # fmt: skip


def reason(
    way: str, probe: Probe, data: bytes, address: str, target: Target, settings: Settings
) -> str:
    """Why nothing was removed, in words; '' where anything was. `address`: our end of the SMTP
    connection, '' for sendmail(1)."""
    if not untouched(probe, data, settings):
        return ""
    why = _why(way, address, target, settings)
    seen = settings.dkim.authserv_id.encode()
    if way != SENDMAIL and seen and seen not in data:
        why = f"{why}; gatepost has not seen it at all" if why else ""
    return "this mail was not taken for a submission: " + (
        why or "gatepost does not see it, or is not told the login (milterctl check)"
    )


def untouched(probe: Probe, data: bytes, settings: Settings) -> bool:
    """True where nearly all fields of submission.remove are still there. Not all: an MTA removes
    one or two (Bcc) by itself."""
    header = data.replace(b"\r\n", b"\n").partition(b"\n\n")[0].lower()
    names = [g.replace("*", "Probe").encode().lower() for g in settings.submission.remove]
    sent = [n for n in names if b"\n" + n + b":" in b"\n" + probe.message.lower()]
    left = sum(b"\n" + n + b":" in b"\n" + header for n in sent)
    return bool(sent) and left >= UNTOUCHED * len(sent)


def _why(way: str, address: str, target: Target, settings: Settings) -> str:
    submission = settings.submission
    sender = addresses.parse(target.sender)
    if way == SUBMISSION:
        if target.login:
            return ""
        return "nobody logged in, and the listener has no name of submission.daemon_names"
    if way == SENDMAIL and submission.local == "leave":
        return "submission.local is leave"
    if way == PORT_25 and not within(ip_address(address), submission.networks):
        return f"client {address} is not in submission.networks"
    if not trace.own_sender(sender, None, settings):
        return f"its envelope sender {target.sender} is of no domain in sender.own_domains"
    return ""
