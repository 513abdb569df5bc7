"""Mail that comes back through port 25, and mail that begins there, on a real Postfix.

What a content filter, a list manager, a Sieve rule or a POP collector hands in is told apart from
the webmail beside it. Each proof has its counter-proof: the same message without what proves it.
"""

import json
import re
import subprocess
from collections.abc import Iterator

import pytest

import mta_modes
import mta_unpack
from canary import Canaries
from daemons import BIN, Daemon
from mta_modes import BASE_CONFIG, Stack
from postfix_instance import HOST, LOGIN, PostfixInstance

pytestmark = [pytest.mark.postfix, pytest.mark.timeout(300)]

CONFIG = """\
[submission]
networks = ["127.0.0.0/8"]
second_pass_names = ["FILTERED"]
[sender]
own_domains = ["local.test"]
action = "reject"
[trap]
action = "accept"
"""
TRAP = "trap@local.test"
AMAVIS = (
    f"Received: from localhost ([127.0.0.1])\n\tby localhost ({HOST} [127.0.0.1]) (amavisd-new,"
    " port 10024)\n\twith ESMTP id abc-12 for <x@local.test>;\n"
    "\tFri, 20 Nov 2026 10:00:00 +0000 (UTC)\n"
)


@pytest.fixture(scope="module")
def running(milter_engine: str, postfix_programs: mta_unpack.Programs) -> Iterator[Stack]:
    with Daemon(BASE_CONFIG + CONFIG, "milterctl") as daemon:
        milterctl(daemon, "trap", "add", TRAP)
        main = {"non_smtpd_milters": daemon.socket}
        setup = mta_modes.setup("milter", daemon.socket, main)
        with PostfixInstance(postfix_programs, setup) as postfix:
            yield Stack(postfix, daemon)


def milterctl(daemon: Daemon, *args: str) -> str:
    return subprocess.run(
        [BIN / "milterctl", "--config", daemon.config, *args],
        check=True, capture_output=True, text=True, cwd=daemon.home,
    ).stdout  # fmt: skip


def recorded(daemon: Daemon) -> list[dict[str, object]]:
    """Every message in the store, newest first."""
    text = milterctl(daemon, "report", "--format", "json", "--limit", "1000")
    found: list[dict[str, object]] = json.loads(text)["messages"]
    return found


def reasons(daemon: Daemon, since: int) -> list[str]:
    return re.findall(r" reason=([a-z-]+)", daemon.text()[since:])


def stranger(postfix: PostfixInstance, recipient: str = "bob@local.test") -> tuple[Canaries, bytes]:
    """A stranger's mail as it was delivered."""
    canaries = Canaries.fresh("ipv4", LOGIN)
    client = postfix.inbound(helo=canaries.helo, xclient=canaries.xclient)
    message = b"X-Mailer: Stranger 1\nSubject: in\nFrom: x@example.net\n\nhello\n"
    sent = client.send(message, "x@example.net", [recipient])
    assert sent.code == 250, (sent, postfix.log_text())
    (data,) = postfix.collect()
    return canaries, data.partition(b"\n")[2] if data.startswith(b"Return-Path") else data


def strip(data: bytes) -> bytes:
    """Without what the delivery put on top."""
    lines = data.split(b"\n")
    while lines and not lines[0].startswith(b"Received:"):
        del lines[0]
    return b"\n".join(lines)


def hand_in(
    postfix: PostfixInstance, message: bytes, sender: str, recipient: str = "bob@local.test"
) -> bytes:
    """`message` through port 25 from this machine, and as it is delivered."""
    sent = postfix.inbound(helo="localhost").send(message, sender, [recipient])
    assert sent.code == 250, (sent, postfix.log_text())
    (data,) = postfix.collect()
    return data


@pytest.mark.parametrize("above", ["", AMAVIS], ids=["bare", "amavis"])
@pytest.mark.parametrize("restart", [False, True])
def test_what_a_filter_hands_back(running: Stack, above: str, restart: bool) -> None:
    postfix, daemon = running.postfix, running.gatepost
    _, first = stranger(postfix)
    first = strip(first)
    if restart:
        daemon.start_again()
    before, since = len(recorded(daemon)), len(daemon.text())
    again = hand_in(postfix, above.encode() + first, "x@example.net")
    assert again.endswith(above.encode() + first), again.decode(errors="replace")
    assert reasons(daemon, since) == ["second-pass"]
    assert len(recorded(daemon)) == before

    # The counter-proof: an id that gatepost never answered.
    forged = re.sub(rb"id [0-9A-Za-z]+\n\tfor", b"id 4FORGED\n\tfor", first, count=1)
    assert forged != first, first.decode()
    since = len(daemon.text())
    hand_in(postfix, above.encode() + forged, "x@example.net")
    assert reasons(daemon, since) == ["trusted-relay"]
    assert len(recorded(daemon)) == before + 1


def test_a_list_of_our_own_user(running: Stack) -> None:
    """Many copies of a submission come back: no record, and what the list wrote stays."""
    postfix, daemon = running.postfix, running.gatepost
    canaries = Canaries.fresh("ipv4", LOGIN)
    client = postfix.submission(helo=canaries.helo, xclient=canaries.xclient)
    sent = client.send(mta_modes.message(canaries), "alice@local.test", ["bob@local.test"])
    assert sent.code == 250, (sent, postfix.log_text())
    post = b"List-Id: <l.local.test>\nX-Mailer: List 1\n" + strip(postfix.collect()[0])
    since = len(daemon.text())
    for n in range(3):
        data = hand_in(postfix, post, f"l-bounces-{n}@local.test")
        assert data.endswith(post) and canaries.found(data) == ()
    assert reasons(daemon, since) == ["second-pass"] * 3


def test_a_trap_hit_is_one_and_lists_nobody_here(running: Stack) -> None:
    postfix, daemon = running.postfix, running.gatepost
    _, first = stranger(postfix, TRAP)
    hits = len([m for m in recorded(daemon) if m["recipients"]])
    for _ in range(3):
        hand_in(postfix, AMAVIS.encode() + strip(first), "x@example.net", TRAP)
    # Fetched from elsewhere: recorded, and nobody is to blame.
    fetched = re.sub(rb"id [0-9A-Za-z]+\n\tfor", b"id 4ELSEWHERE\n\tfor", strip(first), count=1)
    hand_in(postfix, fetched, "x@example.net", TRAP)
    assert len(recorded(daemon)) == hits + 1
    newest = recorded(daemon)[0]
    assert newest["client"] == {"address": None, "name": None, "helo": None}, newest
    assert "127.0.0.1" not in milterctl(daemon, "sender", "list")
    assert hand_in(postfix, b"Subject: flows\n\nx\n", "alice@local.test")


def test_redirected_by_sieve_through_sendmail(running: Stack) -> None:
    postfix, daemon = running.postfix, running.gatepost
    original = (
        b"Received: from a.example (a.example [198.51.100.9])\n\tby elsewhere.example with ESMTPS"
        b" id 1;\n\tFri, 20 Nov 2026 09:00:00 +0000\nX-Sieve: Pigeonhole\nX-Mailer: Stranger 1\n"
        b"From: x@example.net\nSubject: redirected\n\nhello\n"
    )
    since = len(daemon.text())
    postfix.command("sendmail", "-i", "-f", "x@example.net", "bob@local.test", stdin=original)
    (data,) = postfix.collect()
    for line in original.partition(b"\n\n")[0].split(b"\n"):
        assert line in data, (line, data.decode(errors="replace"))
    assert reasons(daemon, since) == ["trusted-relay"]
    # The counter-proof: a script's mail on the same way is ours.
    own = b"X-Mailer: Script 1\nFrom: alice@local.test\nSubject: own\n\nhello\n"
    postfix.command("sendmail", "-i", "-f", "alice@local.test", "bob@local.test", stdin=own)
    (data,) = postfix.collect()
    assert b"X-Mailer" not in data and b"userid" not in data, data.decode(errors="replace")


def test_webmail_beside_it(running: Stack) -> None:
    """Begins here: scrubbed, the browser's address too, and nothing of it is written down."""
    postfix, daemon = running.postfix, running.gatepost
    canaries = Canaries.fresh("ipv4", LOGIN)
    told = (
        f"Received: from [{canaries.address}] ({canaries.name} [{canaries.address}])\n"
        " by webmail.local.test with HTTP (HTTP/1.1 POST); Fri, 20 Nov 2026 10:00:00 +0100\n"
        f"X-Forward: {canaries.address}\nX-Seen: {canaries.name}\nX-Sender: {LOGIN}\n"
        "From: alice@local.test\nSubject: webmail\n\nhello\n"
    ).encode()  # fmt: skip
    since = len(daemon.text())
    data = hand_in(postfix, told, "alice@local.test")
    assert canaries.found(data) == (), data.decode(errors="replace")
    assert reasons(daemon, since) == ["scrubbed"]
    assert canaries.found(daemon.text().encode()) == ()
    # The counter-proof: without a user's hop on top it is what others wrote.
    data = hand_in(
        postfix, told.replace(b"with HTTP (HTTP/1.1 POST)", b"with ESMTP"), "a@x.example"
    )
    assert set(canaries.found(data)) >= {"address", "host name"}


def test_a_submission_proxy(running: Stack) -> None:
    """Dovecot's submission service as it comes: its user's mail is ours."""
    postfix, daemon = running.postfix, running.gatepost
    canaries = Canaries.fresh("ipv6", LOGIN)
    told = (
        f"Received: from {canaries.helo} ([IPv6:{canaries.address}])\n\tby {HOST} with ESMTPSA\n"
        "\tid abc (envelope-from <alice@local.test>) for <bob@local.test>;"
        f" Fri, 20 Nov 2026 10:00:00 +0000\nX-Seen: {canaries.helo}\n"
        "From: alice@local.test\nSubject: proxied\n\nhello\n"
    ).encode()
    data = hand_in(postfix, told, "alice@local.test")
    assert canaries.found(data) == (), data.decode(errors="replace")
    assert canaries.found(daemon.text().encode()) == ()
    data = hand_in(postfix, told.replace(b"ESMTPSA", b"ESMTPS"), "alice@elsewhere.example")
    assert set(canaries.found(data)) >= {"address", "EHLO"}


def test_a_listener_for_it(running: Stack) -> None:
    """submission.second_pass_names: whatever comes in there is left alone."""
    postfix, daemon = running.postfix, running.gatepost
    setup = mta_modes.setup("milter", daemon.socket, {"milter_macro_daemon_name": "FILTERED"})
    postfix.restart(setup)
    since = len(daemon.text())
    message = b"X-Mailer: any 1\nX-Spam-Status: No\nSubject: x\n\nx\n"
    assert message in hand_in(postfix, message, "x@example.net", TRAP)
    assert reasons(daemon, since) == ["second-pass"]
