"""`milterctl check exim` names each broken set-up, and has nothing to say about a right one."""

import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import mta_unpack
from daemons import BIN
from exim_instance import EximInstance
from gatepost_milter.doctor import exim as exim_checks
from gatepost_milter.doctor import exim_config
from gatepost_policy.config.settings import Settings
from open_socket import Listener
from ports import free_port

pytestmark = [pytest.mark.exim, pytest.mark.timeout(120)]


@dataclass(frozen=True, slots=True)
class Broken:
    """One text of the configuration that is another, and the code of the finding."""

    name: str
    code: str
    old: str
    new: str


BROKEN = (
    Broken("without remove_header", "remove-header", "remove_header = GATEPOST_REMOVE",
           "logwrite = GATEPOST_REMOVE"),
    Broken("the scrub is not called", "remove-header", "  warn    acl = gatepost_scrub\n", ""),
    Broken("remove_header without Bcc", "remove-header", " : Bcc : X-Bcc", " : X-Bcc"),
    Broken("remove_header without X-Apple-*", "remove-header", "|X-Apple-", ""),
    Broken("another readsocket port", "policy-socket", "GATEPOST_POLICY = inet:127.0.0.1:",
           "GATEPOST_POLICY = inet:127.0.0.1:1"),
    Broken("acl_smtp_dkim not set", "stage-dkim", "acl_smtp_dkim = gatepost_dkim\n", ""),
    Broken("not asked at RCPT", "stage-rcpt", "  require acl = gatepost_rcpt\n", ""),
    Broken("not asked at DATA", "stage-data", "  require acl = gatepost_data\n", ""),
    Broken("unknown users refused first", "policy-order", "  require acl = gatepost_rcpt\n",
           "  require verify = recipient\n  require acl = gatepost_rcpt\n"),
    Broken("own hop as Exim writes it", "received-header", "received_header_text = ",
           "GATEPOST_NOT_USED = "),
    Broken("envelope sender in our hop", "received-header", "(Exim $version_number)\\n\\tid",
           "(Exim $version_number) (envelope-from <$sender_address>)\\n\\tid"),
    Broken("Sender added", "sender-added", "control = submission/sender_retain",
           "control = submission"),
    Broken("no verification", "dkim-off", "acl_smtp_dkim = gatepost_dkim",
           "acl_smtp_dkim = gatepost_dkim\ndkim_verify_signers ="),
    Broken("a submission port that is not ours", "ports", "GATEPOST_PORTS = ",
           "daemon_smtp_ports = 25 : 587\nGATEPOST_PORTS = "),
    Broken("a TLS port that is not ours", "ports", "GATEPOST_PORTS = ",
           "daemon_smtp_ports = <; 25 ; 2465\ntls_on_connect_ports = 2465\nGATEPOST_PORTS = "),
    Broken("no router", "router", "$acl_m_gatepost_drop", "$acl_m_never_set"),
    Broken("router too late", "router", "begin routers\n", "begin routers\nfirst_r:\n"
           "  driver = accept\n  transport = inbox\n"),
    Broken("warn for require at RCPT", "verb", "  require acl = gatepost_rcpt\n",
           "  warn acl = gatepost_rcpt\n"),
    Broken("warn for require at DATA", "verb", "  require acl = gatepost_data\n",
           "  warn acl = gatepost_data\n"),
    Broken("no acl_not_smtp", "not-smtp", "acl_not_smtp = gatepost_not_smtp\n", ""),
    Broken("local_from_check", "local-from",
           "local_from_check = false\nlocal_sender_retain = true\n", ""),
)  # fmt: skip


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    listener = Listener(("127.0.0.1", 0))
    yield int(listener.sock.getsockname()[1])
    listener.close()


def settings(port: int) -> Settings:
    return Settings.model_validate({"policy": {"listen": f"inet:{port}@127.0.0.1"}})


def program(exim: EximInstance) -> Path:
    """Exim with its libraries found, as an installed one would be."""
    path = exim.root / "exim"
    libraries = exim.programs.environment().get("LD_LIBRARY_PATH", "")
    path.write_text(f'#!/bin/sh\nLD_LIBRARY_PATH={libraries} exec {exim.exim} "$@"\n')
    path.chmod(0o755)
    return path


def codes(exim: EximInstance, port: int) -> set[str]:
    live = exim_config.read(exim.config, program(exim))
    return {f.code for f in exim_checks.check(live, settings(port))}


@pytest.fixture(scope="module")
def exim(port: int, exim_programs: mta_unpack.Programs) -> Iterator[EximInstance]:
    with EximInstance(exim_programs, port, run=False) as made:
        yield made


def test_nothing_to_say_about_a_right_one(exim: EximInstance, port: int) -> None:
    assert codes(exim, port) == set()


@pytest.mark.parametrize("broken", BROKEN, ids=lambda b: b.name.replace(" ", "-"))
def test_broken(broken: Broken, exim: EximInstance, port: int) -> None:
    # The operator's own lines stand in comments of gatepost-acl.conf as well.
    own = broken.old.startswith("  require")
    paths = [exim.config] if own else [p for p in exim.root.iterdir() if p.suffix == ".conf"]
    before = {p: p.read_text() for p in paths}
    assert any(broken.old in text for text in before.values()), broken.name
    try:
        for path, text in before.items():
            path.write_text(text.replace(broken.old, broken.new))
        # A configuration without the acl_data line has no scrub either.
        also = {"remove-header"} if broken.code == "stage-data" else set()
        if broken.name == "the scrub is not called":
            also = {"not-smtp"}
        assert codes(exim, port) - also == {broken.code}
    finally:
        for path, text in before.items():
            path.write_text(text)


@pytest.mark.parametrize("key, value", [
    ("date", "utc"), ("message_id", "mask-host"), ("networks", ["192.168.7.0/24"]),
    ("relay_logins", ["list@local.test"]), ("client_received", "keep"), ("local", "leave"),
    ("own_received", "proxy"),
])  # fmt: skip
def test_keys_that_exim_cannot_obey(
    key: str, value: object, exim: EximInstance, port: int
) -> None:  # fmt: skip
    """Each is named, and the line says what really holds."""
    live = exim_config.read(exim.config, program(exim))
    said = Settings.model_validate({"policy": {"listen": f"inet:{port}@127.0.0.1"},
                                    "submission": {key: value}})  # fmt: skip
    (finding,) = exim_checks.check(live, said)
    assert (finding.code, finding.where) == ("not-obeyed", f"gatepost.toml, submission.{key}")
    line = finding.change.removeprefix("gatepost.toml: [submission] ")
    mended = Settings.model_validate({"policy": {"listen": f"inet:{port}@127.0.0.1"},
                                      "submission": tomllib.loads(line)})  # fmt: skip
    assert exim_checks.check(live, mended) == ()


def test_nobody_listens(exim: EximInstance) -> None:
    assert "socket-unreachable" in codes(exim, free_port())


def test_plain_exim(exim_programs: mta_unpack.Programs, port: int) -> None:
    """An Exim that never heard of gatepost: everything is missing."""
    with EximInstance(exim_programs, port, gatepost=False, run=False) as made:
        assert codes(made, port) == {
            "remove-header", "received-header", "stage-rcpt", "stage-dkim", "stage-data",
            "router", "not-smtp",
        }  # fmt: skip


def test_command_line(exim: EximInstance, port: int, tmp_path: Path) -> None:
    config = tmp_path / "gatepost.toml"
    for listen, code in ((port, 0), (free_port(), 1)):
        config.write_text(f'[policy]\nlisten = "inet:{listen}@127.0.0.1"\n')
        done = subprocess.run(
            [BIN / "milterctl", "--config", config, "check", "exim", "--exim-config", exim.config,
             "--exim", program(exim)], capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == code, (done.stdout, done.stderr)
        if code:
            assert f"GATEPOST_POLICY = inet:127.0.0.1:{listen}" in done.stdout
