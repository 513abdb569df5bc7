"""Real programs beside gatepost and a real Postfix, with the lines of docs/neighbours.md."""

import os
import pwd
from pathlib import Path

import pytest

import dovecot
import mta_modes
import mta_unpack
from mta_common import certificate, let_others_in
from neighbours import CANARIES, MESSAGE, mail_server, program, shown, unpacked
from ports import free_port
from postfix_instance import LOGIN, PASSWORD
from smtp_client import Client

pytestmark = [pytest.mark.postfix, pytest.mark.timeout(300)]


@pytest.mark.parametrize("what", ["as documented", "on the port for strangers"])
def test_dovecot_submission(
    what: str, postfix_programs: mta_unpack.Programs, tmp_path: Path
) -> None:
    """Users log in at Dovecot, which hands on with XCLIENT; and as it comes, without."""
    files = unpacked("dovecot", "usr/sbin/dovecot")
    entry, lines = shown("Dovecot submission")[:2]
    relay, port = free_port(), free_port()
    entry = entry.replace("10587", str(relay))
    let_others_in(tmp_path)
    (tmp_path / "tls.pem").write_bytes(certificate())
    nobody = pwd.getpwnam("nobody")
    (tmp_path / "home").mkdir()
    os.chown(tmp_path / "home", nobody.pw_uid, nobody.pw_gid)
    with mail_server(postfix_programs, entry) as stack:
        postfix = stack.postfix
        if what != "as documented":
            lines = lines.replace("10587", str(postfix.inbound_port))
            lines = lines.replace("submission_relay_trusted = yes", "submission_relay_trusted = no")
        lines = lines.replace("10587", str(relay))
        with dovecot.running(files, tmp_path, "submission", port, lines,
                             password=PASSWORD, tls=tmp_path / "tls.pem"):  # fmt: skip
            client = Client("127.0.0.1", port, helo="canary-laptop.example", source="127.0.0.77",
                            login=LOGIN, password=PASSWORD, tls=True)  # fmt: skip
            sent = client.send(MESSAGE, "alice@local.test", ["bob@local.test"])
            log = (tmp_path / "dovecot.log").read_text()
            assert sent.code == 250, (sent, client.transcript, log, postfix.log_text())
            (data,) = postfix.collect()
    assert [c for c in CANARIES if c in data] == [], data.decode(errors="replace")


def test_haproxy(postfix_programs: mta_unpack.Programs, tmp_path: Path) -> None:
    """Behind the PROXY protocol a stranger keeps his address, and a user loses hers."""
    haproxy = unpacked("haproxy", "usr/sbin/haproxy")
    services, config = shown("postscreen and haproxy")[:2]
    ports = {name: free_port() for name in ("2525", "2587", "10025", "10587")}
    for name, port in ports.items():
        services = services.replace(f":{name}", f":{port}")
        config = config.replace(f":{name}", f":{port}")
    path = tmp_path / "haproxy.cfg"
    path.write_text("defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 60s\n"
                    "  timeout server 60s\n" + config)  # fmt: skip
    with mail_server(postfix_programs, services) as stack:
        postfix = stack.postfix
        command: list[str | Path] = [haproxy.root / "usr/sbin/haproxy", "-db", "-f", path]
        with program(command, haproxy, tmp_path / "output", ports["2525"]):
            stranger = Client("127.0.0.1", ports["2525"], helo="stranger.example",
                              source="127.0.0.99")  # fmt: skip
            sent = stranger.send(MESSAGE, "x@y.example", ["bob@local.test"])
            assert sent.code == 250, (sent, postfix.log_text())
            (data,) = postfix.collect()
            assert b"127.0.0.99" in data and b"Canary Mail" in data  # nobody's but his own
            user = Client("127.0.0.1", ports["2587"], helo="canary-laptop.example", tls=True,
                          source="127.0.0.77", login=LOGIN, password=PASSWORD)  # fmt: skip
            sent = user.send(MESSAGE, "alice@local.test", ["bob@local.test"])
            assert sent.code == 250, (sent, user.transcript, postfix.log_text())
            (data,) = postfix.collect()
    assert [c for c in CANARIES if c in data] == [], data.decode(errors="replace")


def test_nothing_is_clean_without_gatepost(postfix_programs: mta_unpack.Programs) -> None:
    """The counter-proof: the same message, the same client, no gatepost."""
    with mta_modes.plain(postfix_programs) as stack:
        client = stack.postfix.submission(helo="canary-laptop.example", source="127.0.0.77")
        assert client.send(MESSAGE, "alice@local.test", ["bob@local.test"]).code == 250
        (data,) = stack.postfix.collect()
    assert all(c in data for c in CANARIES), data.decode(errors="replace")
