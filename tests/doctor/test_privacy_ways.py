"""`milterctl privacy test` without a login tries what it can, and says what it did not try."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import mta_unpack
from daemons import BIN, Daemon
from gatepost_policy import config
from gatepost_policy.monitoring import privacy_result
from gatepost_policy.monitoring.metrics import Collector
from mta_modes import BASE_CONFIG, TALKATIVE
from postfix_instance import LOGIN, PASSWORD, PostfixInstance, Setup

pytestmark = [pytest.mark.postfix, pytest.mark.timeout(300)]

MAIN = {
    **TALKATIVE,
    "mynetworks": "127.0.0.0/8",
    "smtpd_relay_restrictions": "permit_mynetworks, permit_sasl_authenticated, "
    "defer_unauth_destination",
}


@pytest.fixture(scope="module")
def postfix(postfix_programs: mta_unpack.Programs) -> Iterator[PostfixInstance]:
    with PostfixInstance(postfix_programs, Setup(main=MAIN)) as running:
        yield running


def beside(postfix: PostfixInstance, daemon: Daemon) -> None:
    """gatepost into this Postfix, by setup."""
    done = subprocess.run(
        [BIN / "milterctl", "--config", daemon.config, "setup", "postfix", "-c", postfix.etc,
         "--command-directory", postfix.commands_for_check()],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    for line in done.stdout.splitlines():
        if not line.startswith(("#", "postfix ")):
            subprocess.run(["sh", "-c", line], check=True)
    postfix.end_process()
    postfix.start()


def probe(
    postfix: PostfixInstance, daemon: Daemon, *more: str
) -> "subprocess.CompletedProcess[str]":
    sendmail = postfix.commands_for_check() / "sendmail"
    lines = "".join(f"export {k}={v}\n" for k, v in postfix.environment().items() if k != "PATH")
    sendmail.write_text(f'#!/bin/sh\n{lines}exec {postfix.commands}/sendmail "$@"\n')
    sendmail.chmod(0o755)
    return subprocess.run(
        [BIN / "milterctl", "--config", daemon.config, "privacy", "test",
         "--smtp-port", str(postfix.inbound_port), "--port", str(postfix.submission_port),
         "--sender", "alice@local.test", "--recipient", "bob@local.test", "--timeout", "30",
         *more],
        capture_output=True, text=True, check=False,
        env={**os.environ, "PATH": f"{sendmail.parent}:{os.environ['PATH']}",
             "GATEPOST_PASSWORD": PASSWORD},
    )  # fmt: skip


def test_every_way(postfix: PostfixInstance) -> None:
    mailbox = str(postfix.mail / "inbox")
    networks = '[submission]\nnetworks = ["127.0.0.0/8"]\n'
    with Daemon(BASE_CONFIG + networks, "milterctl") as daemon:
        beside(postfix, daemon)
        # Without a login: two ways are clean, the third was not tried, and that is not clean.
        done = probe(postfix, daemon, "--every-way", "--mailbox", mailbox, "--format", "json")
        assert done.returncode == 1, done
        ways = {w["way"]: w for w in json.loads(done.stdout)}
        assert {w: found["clean"] for w, found in ways.items()} == {
            "submission": False, "port25": True, "sendmail": True,
        }  # fmt: skip
        assert "--login USER" in ways["submission"]["not_tried"]
        done = probe(postfix, daemon, "--every-way", "--mailbox", mailbox, "--login", LOGIN,
                     "--insecure", "--record")  # fmt: skip
        assert done.returncode == 0, done
        settings = config.load(daemon.config)
        result = privacy_result.read(config.state_dir(settings))
        assert result is not None
        assert result.clean == {"submission": True, "port25": True, "sendmail": True}

        def engine() -> object:
            raise AssertionError("asked of the store")

        found = Collector(settings, engine)._privacy()  # type: ignore[arg-type]
        samples = {s.labels.get("way", s.name): s.value for m in found for s in m.samples}
        assert samples["submission"] == samples["port25"] == samples["sendmail"] == 1


def test_why_nothing_was_removed(postfix: PostfixInstance) -> None:
    """The promise that was not kept, and the rule by which it was not."""
    mailbox = str(postfix.mail / "inbox")
    with Daemon(BASE_CONFIG + '[submission]\nlocal = "leave"\n', "milterctl") as daemon:
        beside(postfix, daemon)
        done = probe(postfix, daemon, "--every-way", "--mailbox", mailbox)
        assert done.returncode == 1
        taken = "not kept: this mail was not taken for a submission: "
        assert f"{taken}client 127.0.0.1 is not in submission.networks" in done.stdout
        assert f"{taken}submission.local is leave" in done.stdout
        assert "submission 127.0.0.1:" in done.stdout and "not tried" in done.stdout
        assert "X-Mailer" not in done.stdout  # which list to extend is not what is wrong


def test_with_nothing_said(tmp_path: Path) -> None:
    """As README has it, on a host where nothing listens: each way says what to do; exit 1."""
    (tmp_path / "gatepost.toml").write_text(f'[store]\nurl = "{tmp_path}/state/g.sqlite"\n')
    done = subprocess.run(
        [BIN / "milterctl", "--config", tmp_path / "gatepost.toml", "privacy", "test",
         "--smtp-port", "9", "--timeout", "2"],
        capture_output=True, text=True, check=False, env={"PATH": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 1, done
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["submission", "port25", "sendmail"]
    assert all("not tried" in line for line in lines)
