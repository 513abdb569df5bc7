"""Set-ups people really have: what `ready` prints, a unix socket in the chroot, sendmail(1)."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import mta_modes
import mta_unpack
from canary import Canaries
from daemons import Daemon
from from_table import from_table
from gatepost_milter.cli import run_services
from gatepost_milter.doctor import postfix_lines
from gatepost_policy.config.settings import Settings
from gatepost_policy.scrub import audit
from mta_modes import BASE_CONFIG, TALKATIVE, Case
from postfix_instance import LOGIN, PostfixInstance, Setup
from postfix_recipes import adapted, main_cf, shipped

pytestmark = [pytest.mark.postfix, pytest.mark.timeout(300)]

V4 = Case("v4")


def test_the_lines_that_run_prints(
    postfix_programs: mta_unpack.Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pasted as they are, submissions are clean, inbound mail flows, our own people are let in."""
    stock = {"smtpd_relay_restrictions": "permit_mynetworks permit_sasl_authenticated "
             "defer_unauth_destination", "smtpd_recipient_restrictions": "",
             "mynetworks": "127.0.0.0/8"}  # fmt: skip
    entry = "submission inet n - n - - smtpd\n  -o smtpd_sasl_auth_enable=yes\n"
    with (
        Daemon(BASE_CONFIG, "milterctl") as daemon,
        PostfixInstance(
            postfix_programs, Setup(main={**TALKATIVE, **stock}, recipe=entry), run=False
        ) as postfix,
    ):
        monkeypatch.setenv("PATH", f"{postfix.commands_for_check()}:{os.environ['PATH']}")
        monkeypatch.setenv("MAIL_CONFIG", str(postfix.etc))
        settings = from_table(Settings, {
            "milter": {"socket": f"inet:{daemon.port}@127.0.0.1"},
            "policy": {"listen": f"inet:{daemon.policy_port}@127.0.0.1"},
        })  # fmt: skip
        lines = re.findall(r"^  (postconf .*)$", run_services.greeting(settings), re.M)
        assert len(lines) >= 4, lines
        for line in lines:
            subprocess.run(["sh", "-c", line], check=True, timeout=60)
        postfix.start()
        canaries, (data,) = mta_modes.submit(postfix, V4)
        assert canaries.found(data) == (), data.decode(errors="replace")
        for sender, recipient in (("x@y.example", "bob@local.test"), ("a@local.test", "x@y.test")):
            sent = postfix.inbound().send(b"Subject: x\n\nx\n", sender, [recipient])
            assert sent.code == 250, sent
            postfix.collect()


def test_unix_socket_with_its_group(postfix_programs: mta_unpack.Programs) -> None:
    """socket_mode 0660 and socket_group postfix, as docs/postfix.md has it; without, 4xx."""
    with PostfixInstance(postfix_programs, Setup(sasl=False)) as postfix:
        folder = postfix.spool / "gatepost"
        folder.mkdir()
        folder.chmod(0o755)
        socket = folder / "milter.sock"
        config = BASE_CONFIG.replace("inet:{port}@127.0.0.1", f"unix:{socket}")
        for group, wanted in (("postfix", 2), ("root", 4)):
            mode = f'workers = 1\nsocket_mode = "0660"\nsocket_group = "{group}"'
            with Daemon(config.replace("workers = 1", mode)):
                # Relative to the queue directory, where a chrooted smtpd would look.
                postfix.restart(mta_modes.setup("milter", "unix:gatepost/milter.sock"))
                canaries = Canaries.fresh("ipv4", LOGIN)
                client = postfix.submission(helo=canaries.helo, xclient=canaries.xclient)
                sent = client.send(mta_modes.message(canaries), "a@local.test", ["bob@local.test"])
                assert sent.code // 100 == wanted, (group, sent, postfix.log_text())
                if wanted == 2:
                    assert canaries.found(postfix.collect()[0]) == ()


@pytest.fixture(scope="module")
def local(postfix_programs: mta_unpack.Programs) -> Iterator[PostfixInstance]:
    with PostfixInstance(postfix_programs, Setup()) as running:
        yield running


@pytest.mark.parametrize("stance, clean", [("scrub", True), ("leave", False)])
def test_sendmail(local: PostfixInstance, stance: str, clean: bool) -> None:
    """Mail of cron and web applications, through non_smtpd_milters."""
    message = (
        b"Received: from [192.168.1.2] by webmail.local.test with HTTP;"
        b" Fri, 20 Nov 2026 10:00:00 +0000\n"
        b"X-Mailer: cron\nX-PHP-Originating-Script: 33:mail.php\nFrom: alice@local.test\n"
        b"To: bob@local.test\nSubject: x\n\nx\n"
    )
    with Daemon(BASE_CONFIG + f'[submission]\nlocal = "{stance}"\n') as daemon:
        main = main_cf(adapted(shipped("main.cf"), "@ETC@", daemon.socket))
        del main["smtpd_recipient_restrictions"]
        local.restart(Setup(main=main))
        said = local.command("sendmail", "-f", "alice@local.test", "bob@local.test", stdin=message)
        (data,) = local.collect()
        assert (b"X-Mailer" not in data) is clean, (said, data)
        assert (b"192.168.1.2" not in data) is clean
        assert (b"userid" not in data) is clean
        if clean:
            found = audit.find(data)
            assert [f for f in found if f.weight is audit.Weight.LEAK] == [], data


def test_smtp_over_a_unix_socket(postfix_programs: mta_unpack.Programs) -> None:
    """smtpd on a unix socket: a client without an address; recorded as family unix."""
    with Daemon(BASE_CONFIG) as daemon:
        services = "smtp-in unix n - n - - smtpd\n"
        setup = Setup(main={"smtpd_milters": daemon.socket}, services=services)
        with PostfixInstance(postfix_programs, setup) as postfix:
            client = postfix.inbound(str(postfix.spool / "public/smtp-in"))
            sent = client.send(b"Subject: x\n\nx\n", "x@y.example", ["bob@local.test"])
            assert sent.code == 250, (sent, postfix.log_text())
            postfix.collect()
            assert "family=unix" in daemon.text(), daemon.text()


def test_documentation_shows_the_shipped_lines() -> None:
    """docs/postfix.md quotes conf/postfix; what it quotes is there word for word."""
    text = (Path(__file__).parents[2] / "docs/postfix.md").read_text()
    entry = "".join(line for line in shipped("master.cf.milter").splitlines(True)
                    if not line.startswith("#"))  # fmt: skip
    assert "".join(f"    {line}" for line in entry.splitlines(True)) in text
    said = main_cf(shipped("main.cf"))
    wanted = dict(postfix_lines.for_an_empty_postfix(Settings()))
    # One place makes these lines, whoever prints them.
    assert {name: said[name] for name in wanted} == wanted
    for name in ("smtpd_milters", "smtpd_recipient_restrictions"):
        assert f"    {name} = {wanted[name]}\n" in text
    for name, value in postfix_lines.submission_options(Settings()):
        assert f"  -o {name}={value}\n" in text
        assert f"  -o {name}={value}\n" in shipped("master.cf.milter")


def test_token_recipe_as_documented(tmp_path: Path) -> None:
    """The command of docs/postfix.md leaves no @TOKEN@ behind, on lines with two of them too."""
    root = Path(__file__).parents[2]
    (command,) = re.findall(r"^    (sed .*submission_received) > ",
                            (root / "docs/postfix.md").read_text(), re.M)  # fmt: skip
    done = subprocess.run(["sh", "-c", f"token=abc; {command}"], cwd=root, capture_output=True,
                          text=True, check=True)  # fmt: skip
    assert "@TOKEN@" not in done.stdout and done.stdout.count("abc") > 4
