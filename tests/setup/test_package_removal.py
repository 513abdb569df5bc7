"""Removing the Debian package while the mail server still asks gatepost: said, with a way out.

The script is the one of the package, run by a real shell on a directory in place of `/`.
"""

import os
import re
import subprocess
from pathlib import Path

import pytest

from gatepost_milter.setup import copies

SCRIPT = Path(__file__).parents[2] / "conf/debian/gatepost.postrm"
FILES = ("main.cf", "master.cf")
ASKS = "smtpd_milters = unix:/gatepost/milter.sock\n"


def removed(root: Path, how: str = "remove") -> str:
    """What the script says; it must never fail, or the package could not be removed."""
    done = subprocess.run(
        ["/bin/sh", str(SCRIPT), how], env={"PATH": os.environ["PATH"], "DPKG_ROOT": str(root)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == ""
    return done.stderr


@pytest.fixture
def postfix(tmp_path: Path) -> Path:
    """A configuration of Postfix before gatepost."""
    made = tmp_path / "etc/postfix"
    made.mkdir(parents=True)
    for name in FILES:
        (made / name).write_text(f"# {name}; gatepost is not in it\n")
    return made


def apply(postfix: Path, text: str = ASKS) -> None:
    """What `milterctl setup postfix --apply` leaves behind."""
    copy = copies.take(postfix, FILES)
    with (postfix / "main.cf").open("a") as stream:
        stream.write(text)
    copies.finish(copy, FILES)


@pytest.mark.parametrize("how", ["remove", "purge"])
def test_a_server_that_still_asks_is_named_with_commands_that_work(
    postfix: Path, tmp_path: Path, how: str
) -> None:
    before = {name: (postfix / name).read_bytes() for name in FILES}
    assert removed(tmp_path, how) == ""
    apply(postfix)
    said = removed(tmp_path, how)
    assert f"{postfix}/main.cf" in said and f"{postfix}/master.cf\n" not in said.partition("cp")[0]
    assert "451" in said
    commands = [line.strip() for line in said.splitlines() if line.startswith("    ")]
    assert commands[-1].endswith("; postfix reload")
    for command in commands:
        subprocess.run(["/bin/sh", "-ec", command.partition("; postfix")[0]], check=True)
    assert {name: (postfix / name).read_bytes() for name in FILES} == before
    assert removed(tmp_path, how) == ""


def test_no_command_where_it_would_lose_an_edit(postfix: Path, tmp_path: Path) -> None:
    apply(postfix)
    (postfix / "main.cf").write_text(f"{ASKS}mynetworks = 127.0.0.1\n")
    said = removed(tmp_path)
    assert "take its lines out" in said and "cp " not in said
    # After two changes the newest copy is one with gatepost in it.
    apply(postfix, "")
    assert "take its lines out" in removed(tmp_path) and "cp " not in removed(tmp_path)


def test_exim_is_named_too_and_an_upgrade_says_nothing(tmp_path: Path) -> None:
    exim = tmp_path / "etc/exim4/conf.d/acl/30_local"
    exim.parent.mkdir(parents=True)
    exim.write_text(".include /etc/gatepost/exim/acl_check_rcpt\n")
    assert str(exim) in removed(tmp_path)
    for how in ("upgrade", "failed-upgrade", "abort-install", "disappear"):
        assert removed(tmp_path, how) == ""


def test_what_the_units_made_goes_and_nothing_else(tmp_path: Path) -> None:
    spool, run = tmp_path / "var/spool/postfix/gatepost", tmp_path / "run/gatepost"
    (run / "exim").mkdir(parents=True)
    spool.mkdir(parents=True)
    foreign = spool / "somebody's"
    foreign.touch()
    assert removed(tmp_path) == ""
    assert foreign.exists() and not run.exists()
    foreign.unlink()
    assert removed(tmp_path, "purge") == ""
    assert not spool.exists() and spool.parent.exists()


def test_units_that_an_admin_enabled_are_stopped_before_their_files_go() -> None:
    """debhelper stops only what it starts; the others ran on until the watchdog ended them."""
    rules = (SCRIPT.parent / "rules").read_text()
    left = set(re.findall(r"dh_installsystemd --name=(\S+) .*--no-start", rules))
    before = SCRIPT.with_suffix(".prerm").read_text().partition("#DEBHELPER#")[0]
    stop = before.partition("deb-systemd-invoke stop")[2].split()
    units = SCRIPT.parents[1] / "systemd"
    wanted = {path.name for name in left for path in units.glob(f"{name}.*")}
    assert wanted and wanted <= set(stop)
