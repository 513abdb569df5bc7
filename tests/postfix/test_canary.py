"""Nothing gatepost writes names a submitting client: journal, store, log, metrics, capture.

Submissions with canaries go every way a submission can go (accepted, refused, to a trap, reset, an
unscrubbable one); then every file below gatepost's directory is searched. The counter-proof sends
a stranger's mail with canaries: the same search finds it.
"""

import smtplib
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

import mta_modes
import mta_unpack
from canary import Canaries
from daemons import BIN, Daemon, read_everything
from gatepost_policy import tracing
from mta_modes import BASE_CONFIG, TALKATIVE, Stack
from postfix_instance import LOGIN, PostfixInstance
from postfix_recipes import SHIPPED_POLICY, main_cf, shipped

pytestmark = [pytest.mark.postfix, pytest.mark.timeout(300)]

TRAP = "trap@local.test"
CONFIG = """\
[trap]
capture = "{dir}/captured"
[metrics]
listen = "inet:{metrics_port}@127.0.0.1"
[log]
level = "debug"
[submission]
networks = ["127.0.0.0/8"]
unknown_fields = "drop"
trace_keys = "{{keys}}"
[sender]
own_domains = ["local.test"]
"""


@pytest.fixture(scope="module", params=["counts", "full"])
def running(
    milter_engine: str,
    request: pytest.FixtureRequest,
    postfix_programs: mta_unpack.Programs,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Stack]:
    keys = tmp_path_factory.mktemp("trace")
    tracing.make_keys(keys / "keys", keys / "bundle", 2, time.time())
    store = f'url = "sqlite:///{{dir}}/gatepost.sqlite"\nsubmission = "{request.param}"'
    config = BASE_CONFIG.replace('url = "sqlite:///{dir}/gatepost.sqlite"', store)
    config += CONFIG.replace("{{keys}}", str(keys / "bundle"))
    with Daemon(config, "milterctl") as daemon:
        milterctl(daemon, "trap", "add", TRAP)
        time.sleep(2.5)  # a trap made by hand holds in every process within two seconds
        restrictions = main_cf(shipped("main.cf"))["smtpd_recipient_restrictions"]
        policy = f"inet:127.0.0.1:{daemon.policy_port}"
        setup = mta_modes.setup(
            "milter", daemon.socket,
            {"smtpd_recipient_restrictions": restrictions.replace(SHIPPED_POLICY, policy)},
            # Asked about submissions as well: more than the recipe does.
            submission={"smtpd_recipient_restrictions": f"check_policy_service {policy}, permit"},
        )  # fmt: skip
        with PostfixInstance(postfix_programs, setup) as postfix:
            yield Stack(postfix, daemon)


def milterctl(daemon: Daemon, *args: str) -> str:
    return subprocess.run(
        [BIN / "milterctl", "--config", daemon.config, *args],
        check=True, capture_output=True, text=True, cwd=daemon.home,
    ).stdout  # fmt: skip


def searched(daemon: Daemon) -> dict[Path, bytes]:
    """Everything written, after the recorder has had its time, and what the metrics page says."""
    milterctl(daemon, "report")  # waits until the recorder has read the journal
    found = read_everything(daemon.home)
    url = f"http://127.0.0.1:{daemon.metrics_port}/metrics"
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310
        found[Path("metrics")] = answer.read()
    return found


def test_no_trace_of_a_submission(running: Stack) -> None:
    postfix, daemon = running.postfix, running.gatepost
    every: list[Canaries] = []
    for family, recipients, extra, wanted in (
        ("ipv4", ["bob@local.test"], "", 250),
        ("ipv6", ["bob@local.test", "carol@example.org"], "", 250),
        ("ipv4", [TRAP], "", 250),  # an own user who mails a trap
        ("ipv6", ["bob@local.test", TRAP], "", 250),
        ("ipv4", ["nobody1@local.test"], "", 550),
        ("ipv4", ["bob@local.test"], "X-Mailer : odd\n", None),
        ("ipv4", ["gone@fail.test"], "", 250),
    ):
        canaries = Canaries.fresh(family, LOGIN)
        every.append(canaries)
        client = postfix.submission(
            helo=canaries.helo, xclient=canaries.xclient, tls=family == "ipv6"
        )
        message = mta_modes.message(canaries, extra=extra)
        sent = client.send(message, "alice@local.test", recipients)
        if wanted is not None:
            assert sent.code == wanted, (sent, postfix.log_text())
        assert canaries.found(sent.final.encode()) == ()
        if wanted == 250 and TRAP not in recipients:
            assert all(b"\nX-Gatepost-Trace: " in data for data in postfix.collect(len(recipients)))
    abandoned(postfix, every)
    begun_here(postfix, every)
    postfix.settle()
    for path, data in searched(daemon).items():
        for canaries in every:
            assert canaries.found(data) == (), (path, canaries)


def begun_here(postfix: PostfixInstance, every: list[Canaries]) -> None:
    """Without a login: webmail, a submission proxy, and both handed back by a filter."""
    for protocol in ("HTTP", "ESMTPSA"):
        canaries = Canaries.fresh("ipv6", LOGIN)
        every.append(canaries)
        message = (
            f"Received: from {canaries.helo} ({canaries.name} [IPv6:{canaries.address}])\n"
            f"\tby mx.local.test with {protocol}; Fri, 20 Nov 2026 10:00:00 +0000\n"
            f"X-Seen: {canaries.address}\nX-{canaries.helo.partition('.')[0]}: {LOGIN}\n"
            "From: alice@local.test\nSubject: begun here\n\nx\n"
        ).encode()
        for _ in ("first", "handed back"):
            postfix.settle()
            for left in postfix.delivered():
                left.unlink()
            client = postfix.inbound(helo="localhost")
            assert client.send(message, "alice@local.test", ["bob@local.test"]).code == 250
            (message,) = postfix.collect()
            assert canaries.found(message) == (), message.decode(errors="replace")


def abandoned(postfix: PostfixInstance, every: list[Canaries]) -> None:
    """A session that ends after RCPT, and one with a wrong password."""
    for password in ("secret", "wrong"):
        canaries = Canaries.fresh("ipv4", LOGIN)
        every.append(canaries)
        with smtplib.SMTP("127.0.0.1", postfix.submission_port, canaries.helo) as smtp:
            smtp.ehlo()
            smtp.docmd("XCLIENT", canaries.xclient)
            smtp.ehlo()
            try:
                smtp.login(LOGIN, password)
                smtp.mail("alice@local.test")
                smtp.rcpt(TRAP)
                smtp.rset()
            except smtplib.SMTPAuthenticationError:
                pass


def test_the_search_finds_a_stranger(running: Stack) -> None:
    """The counter-proof: inbound mail to a trap is history, and the same search sees it."""
    postfix, daemon = running.postfix, running.gatepost
    canaries = Canaries.fresh("ipv6", LOGIN)
    client = postfix.inbound(helo=canaries.helo, xclient=canaries.xclient)
    sent = client.send(mta_modes.message(canaries), "spam@example.net", [TRAP])
    assert sent.code == 550, (sent, postfix.log_text())
    files = searched(daemon)
    found = {what for data in files.values() for what in canaries.found(data)}
    assert found >= {"address", "host name", "EHLO"}, (found, list(files))
    # The capture holds the message, the store and the log the client.
    where = {p.name for p, data in files.items() if canaries.found(data)}
    assert any(name.endswith(".eml") for name in where), where
    assert any("sqlite" in name for name in where) and any("log" in name for name in where), where


def test_talkative_postfix(running: Stack) -> None:
    """The set-up under test does write what it can: without gatepost this search has a catch."""
    assert running.postfix.setup.main["smtpd_sasl_authenticated_header"] == "yes"
    assert TALKATIVE["smtpd_tls_received_header"] == "yes"
