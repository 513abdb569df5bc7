"""Postfix and gatepost together, in each of the ways that own hop can be hidden.

`stack(programs, mode)` starts both on the shipped recipe; `plain(programs)` is the same Postfix
without gatepost: the counter-proof, where every trace must be found.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import mta_unpack
from canary import Canaries
from daemons import Daemon
from postfix_instance import LOGIN, PostfixInstance, Setup, version
from postfix_recipes import TOKEN, adapted, shipped

MODES = ("milter", "mta", "proxy")
RECIPES = {"milter": "master.cf.milter", "mta": "master.cf.token", "proxy": "master.cf.proxy",
           "hide": "master.cf.hide-client-session"}  # fmt: skip

# Everything that Postfix can be told to write about a client, written: the worst case.
TALKATIVE = {
    "smtpd_tls_received_header": "yes",
    "smtpd_sasl_authenticated_header": "yes",
}
BASE_CONFIG = """\
[milter]
socket = "inet:{port}@127.0.0.1"
workers = 1
[policy]
listen = "inet:{policy_port}@127.0.0.1"
[store]
url = "sqlite:///{dir}/gatepost.sqlite"
[dkim]
nameservers = ["127.0.0.1:9"]
lookup_timeout_ms = 100
"""
SUBMISSION = {
    "milter": "",
    "mta": f'[submission]\nown_received = "mta"\nmta_token = "{TOKEN}"\n',
    "proxy": '[submission]\nown_received = "proxy"\n',
    "hide": '[submission]\nown_received = "mta"\n',
}


@dataclass(frozen=True, slots=True)
class Stack:
    """One Postfix with one gatepost behind it (None: without)."""

    postfix: PostfixInstance
    daemon: Daemon | None

    @property
    def gatepost(self) -> Daemon:
        assert self.daemon is not None
        return self.daemon


def setup(
    mode: str, milter: str, main: Mapping[str, str] | None = None,
    files: Mapping[str, str] | None = None, **more: object,
) -> Setup:  # fmt: skip
    """The instance's set-up for one mode, from the shipped recipe."""
    return Setup(
        main={**TALKATIVE, "smtpd_milters": f"{{ {milter}, default_action=accept }}",
              **(main or {})},
        recipe=adapted(shipped(RECIPES[mode]), "@ETC@", milter),
        files={"submission_received": adapted(shipped("submission_received"), "@ETC@", milter),
               **(files or {})},
        **more,  # type: ignore[arg-type]
    )  # fmt: skip


@contextmanager
def stack(
    programs: mta_unpack.Programs, mode: str, main: Mapping[str, str] | None = None,
    config: str = "", submission: Mapping[str, str] | None = None,
) -> Iterator[Stack]:  # fmt: skip
    """Postfix and gatepost-milter in one mode."""
    submission = dict(submission or {})
    if mode == "mta" and version(programs) < (3, 7, 11):
        submission["smtpd_data_restrictions"] = ""  # as the recipe says
    with (
        Daemon(BASE_CONFIG + SUBMISSION[mode] + config) as daemon,
        PostfixInstance(
            programs, setup(mode, daemon.socket, main, submission=submission)
        ) as postfix,
    ):
        yield Stack(postfix, daemon)


@contextmanager
def plain(programs: mta_unpack.Programs, main: Mapping[str, str] | None = None) -> Iterator[Stack]:
    """The same Postfix, and no gatepost."""
    with PostfixInstance(programs, Setup(main={**TALKATIVE, **(main or {})})) as postfix:
        yield Stack(postfix, None)


@dataclass(frozen=True, slots=True)
class Case:
    """One column of the matrix."""

    name: str
    family: str = "ipv4"
    tls: bool = False
    recipients: tuple[str, ...] = ("bob@local.test",)
    sender: str = "alice@local.test"
    options: tuple[str, ...] = ()
    copies: int = 1


COLUMNS = (
    Case("v4"),
    Case("v6", family="ipv6"),
    Case("TLS", tls=True),
    Case("SMTPUTF8", sender="ålice@local.test", recipients=("bøb@local.test",),
         options=("SMTPUTF8", "BODY=8BITMIME")),
    Case("multi-rcpt", recipients=("bob@local.test", "carol@local.test", "dave@example.org"),
         copies=3),
    Case("bounce", family="ipv6", tls=True, recipients=("gone@fail.test",)),
)  # fmt: skip

CLIENT_RECEIVED = (
    "Received: from [192.168.7.7] (localhost [127.0.0.1])\n\tby alice-laptop.example (8.17/8.17)"
    " with ESMTP id 123;\n\tFri, 20 Nov 2026 09:00:00 +0100\n"
)
TELLING = (
    "X-Mailer: Canary Mail 1\nUser-Agent: Canary/1\nX-Enigmail-Version: 2\nX-Enigmail: 2\n"
    "X-Originating-IP: [192.168.7.7]\nBcc: hidden@example.org\n"
)


def message(canaries: Canaries, subject: str = "probe", extra: str = "") -> bytes:
    """A message that tells whatever a mail program can tell about its user."""
    return (
        CLIENT_RECEIVED
        + f"Received: from x (y [{canaries.address}]) by {canaries.helo}; Fri, 20 Nov 2026"
        " 08:00:00 +0000\n"
        + TELLING
        + f"X-Forwarded-For: {canaries.address}\n"
        + extra
        + "From: Alice <alice@local.test>\nTo: bob@local.test\n"
        f"Subject: {subject}\nDate: Fri, 20 Nov 2026 10:00:00 +0000\n"
        "Message-ID: <20261120.1@local.test>\nMIME-Version: 1.0\n\nbody\n"
    ).encode()


def submit(postfix: PostfixInstance, case: Case, extra: str = "") -> tuple[Canaries, list[bytes]]:
    """Send one column's message with fresh canaries; what was delivered."""
    canaries = Canaries.fresh(case.family, LOGIN)
    client = postfix.submission(
        "::1" if case.family == "ipv6" else "127.0.0.1",
        helo=canaries.helo, tls=case.tls, xclient=canaries.xclient, options=case.options,
    )  # fmt: skip
    sent = client.send(message(canaries, case.name, extra), case.sender, case.recipients)
    assert sent.code == 250, (sent, client.transcript, postfix.log_text())
    return canaries, postfix.collect(case.copies)
