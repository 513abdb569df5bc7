"""OpenDKIM behind gatepost, in each way of hiding: it signs what really leaves."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import dkim
import pytest

import mta_modes
import mta_unpack
import rings
from canary import Canaries
from daemons import Daemon
from mail_programs import BODY, PROGRAMS, message
from mta_modes import BASE_CONFIG, MODES, SUBMISSION
from neighbours import listening
from ports import free_port
from postfix_instance import LOGIN, PostfixInstance, version
from signed_mail import new_key, pem, record

pytestmark = [pytest.mark.postfix, pytest.mark.one_engine, pytest.mark.timeout(300)]


@dataclass(frozen=True, slots=True)
class Signer:
    """`milter`: how Postfix names it; `record`: its key in DNS."""

    milter: str
    record: bytes

    def signed(self, data: bytes) -> bool:
        """True where a signature of its own verifies."""
        found = dkim.verify(data.replace(b"\n", b"\r\n"), dnsfunc=lambda *_a, **_k: self.record)
        return bool(found)


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Signer]:
    program = shutil.which("opendkim")
    if program is None:
        rings.missing("postfix", "no opendkim here (tests/mta_packages.txt, section tools)")
    key, port = new_key(), free_port()
    # OpenDKIM reads no key below a directory that others may write to, as /tmp is.
    home = mta_unpack.cache() / f"opendkim-{os.getpid()}"
    home.mkdir(mode=0o700)
    private, config = home / "key.pem", home / "opendkim.conf"
    private.write_bytes(pem(key))
    private.chmod(0o600)
    config.write_text(
        f"Socket inet:{port}@127.0.0.1\nMode s\nDomain local.test\nSelector s1\n"
        f"KeyFile {private}\nBackground no\nSyslog no\nInternalHosts 0.0.0.0/0,::/0\n"
        "MTA ORIGINATING,HOP2\nCanonicalization relaxed/simple\nOverSignHeaders From\n"
    )
    output = tmp_path_factory.mktemp("signer") / "opendkim.log"
    command: list[str | Path] = [program, "-f", "-x", config]
    try:
        with listening(command, mta_unpack.Programs(Path("/"), ()), output, port):
            yield Signer(f"inet:127.0.0.1:{port}", record(key).encode())
    finally:
        shutil.rmtree(home)


@pytest.mark.parametrize("way", [*MODES, "own mail_name"])
def test_signatures_behind_gatepost_verify(
    way: str, signer: Signer, postfix_programs: mta_unpack.Programs
) -> None:
    mode, main = (way, {}) if way in MODES else ("milter", {"mail_name": "Mailserver"})
    submission = {}
    if mode == "mta" and version(postfix_programs) < (3, 7, 11):
        submission["smtpd_data_restrictions"] = ""  # as the recipe says
    with Daemon(BASE_CONFIG + SUBMISSION[mode]) as daemon:
        # The recipes have one milter: here the signer stands behind it.
        chain = f"{daemon.socket},default_action=tempfail}},{{{signer.milter}"
        setup = mta_modes.setup(mode, daemon.socket, main, submission=submission)
        recipe = setup.recipe.replace(f"{daemon.socket},default_action=tempfail", chain)
        setup.recipe = recipe
        with PostfixInstance(postfix_programs, setup) as postfix:
            for program in PROGRAMS:
                canaries = Canaries.fresh("ipv4", LOGIN)
                client = postfix.submission(helo=canaries.helo, xclient=canaries.xclient)
                sent = client.send(message(program, canaries), "alice@local.test",
                                   ["bob@local.test"])  # fmt: skip
                assert sent.code == 250, (program, sent, postfix.log_text())
                (data,) = postfix.collect()
                assert data.count(b"DKIM-Signature:") == 1, data.decode(errors="replace")
                assert signer.signed(data), data.decode(errors="replace")
                # The counter-proof: one octet of what was signed is another.
                assert not signer.signed(data.replace(b"Subject: x", b"Subject: y"))
                assert data.partition(b"\n\n")[2] == BODY
