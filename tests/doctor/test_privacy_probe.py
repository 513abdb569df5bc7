"""`milterctl privacy test` through a real Postfix: clean with gatepost, telling without."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import mta_modes
import mta_unpack
from daemons import BIN
from mta_modes import Stack
from ports import free_port
from postfix_instance import LOGIN, PASSWORD, PostfixInstance

pytestmark = [pytest.mark.postfix, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def sink_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def running(
    milter_engine: str, postfix_programs: mta_unpack.Programs, sink_port: int
) -> Iterator[Stack]:
    main = {"transport_maps": f"inline:{{ sink.test=smtp:[127.0.0.1]:{sink_port} }}",
            "smtp_dns_support_level": "disabled"}  # fmt: skip
    with mta_modes.stack(postfix_programs, "milter", main) as stack:
        yield stack


@pytest.fixture(scope="module")
def bare(postfix_programs: mta_unpack.Programs) -> Iterator[Stack]:
    with mta_modes.plain(postfix_programs) as stack:
        yield stack


def probe(
    postfix: PostfixInstance, config: Path | None, *more: str, password: str = PASSWORD
) -> subprocess.CompletedProcess[str]:
    command: list[str | Path] = [BIN / "milterctl"]
    if config is not None:
        command += ["--config", config]
    command += [
        "privacy",
        "test",
        "--port",
        str(postfix.submission_port),
        "--insecure",
        "--login",
        LOGIN,
        "--sender",
        "alice@local.test",
        "--timeout",
        "30",
        *more,
    ]
    return subprocess.run(
        command, capture_output=True, text=True, check=False,
        env={"GATEPOST_PASSWORD": password, "PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
    )  # fmt: skip


def mailbox(postfix: PostfixInstance) -> tuple[str, ...]:
    return ("--recipient", "bob@local.test", "--mailbox", str(postfix.mail / "inbox"))


@pytest.mark.parametrize("tls", ["starttls", "none"])
def test_clean_with_gatepost(running: Stack, tls: str) -> None:
    done = probe(running.postfix, running.gatepost.config, "--tls", tls, *mailbox(running.postfix))
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert "clean" in done.stdout


def test_into_a_sink(running: Stack, sink_port: int) -> None:
    done = probe(running.postfix, running.gatepost.config, "--recipient", "x@sink.test",
                 "--sink", f"inet:{sink_port}@127.0.0.1", "--format", "json")  # fmt: skip
    assert done.returncode == 0, (done.stdout, done.stderr)
    answer = json.loads(done.stdout)
    assert answer["leaks"] == 0
    assert any("with ESMTPSA id" in line for line in answer["header"]), answer


def test_leaks_without_gatepost(bare: Stack) -> None:
    done = probe(bare.postfix, None, "--format", "json", *mailbox(bare.postfix))
    assert done.returncode == 1, (done.stdout, done.stderr)
    found = {f["field"]: f for f in json.loads(done.stdout)["findings"]}
    assert found["Received"]["setting"]
    assert {"X-MailerProbe", "User-Agent", "X-Enigmail", "X-OriginatingProbe"} <= set(found)
    done = probe(bare.postfix, None, *mailbox(bare.postfix))
    assert done.returncode == 1 and "submission.own_received" in done.stdout
    assert LOGIN in done.stdout  # what leaks is told to the operator


def test_no_verdict(running: Stack, tmp_path: Path) -> None:
    """Wrong password, refused recipient, nothing arrives, nobody listens: said in one line."""
    postfix, config = running.postfix, running.gatepost.config
    done = probe(postfix, config, *mailbox(postfix), password="wrong")
    assert done.returncode == 1 and "refuses the login" in done.stderr
    done = probe(postfix, config, "--recipient", "nobody1@local.test", "--mailbox", str(tmp_path))
    assert done.returncode == 1 and "refuses the recipient" in done.stderr
    done = probe(postfix, config, "--recipient", "bob@local.test", "--mailbox", str(tmp_path),
                 "--timeout", "1")  # fmt: skip
    assert done.returncode == 1 and "did not arrive" in done.stderr
    done = probe(postfix, config, "--port", str(free_port()), *mailbox(postfix))
    assert done.returncode == 3 and len(done.stderr.splitlines()) == 1
    done = probe(postfix, config, "--recipient", "bob@local.test")
    assert done.returncode == 2
