"""What is installed as a service listens where the MTA reaches it, and nobody else does."""

import grp
import os
import shlex
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from daemons import Daemon
from gatepost_milter.doctor import postfix_lines
from gatepost_policy import config
from gatepost_policy.config.values import write_table
from gatepost_policy.system.socket_address import SocketAddress

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SYSTEMD = ROOT / "conf" / "systemd"
MILTER = "/var/spool/postfix/gatepost/milter.sock"
POLICY = "/var/spool/postfix/gatepost/policy.sock"
EXIM = "/run/gatepost/exim/policy.sock"


def edited(path: Path) -> Path:
    """The shipped configuration as docs/install.md installs it."""
    shutil.copy(ROOT / "conf" / "gatepost.toml", path)
    subprocess.run(["sed", "-i", "-f", SYSTEMD / "unix-sockets.sed", path], check=True)
    return path


def test_the_installed_configuration_has_unix_sockets(tmp_path: Path) -> None:
    settings = config.load(edited(tmp_path / "gatepost.toml"))
    assert settings.milter.socket == f"unix:{MILTER}"
    assert [a.path for a in settings.policy.listen] == [POLICY, EXIM]
    # Nothing else changed, and `make run` keeps loopback.
    shipped = write_table(config.load(ROOT / "conf" / "gatepost.toml"))
    installed = write_table(settings)
    for key, one in (("milter", "socket"), ("policy", "listen")):
        assert shipped[key].pop(one) != installed[key].pop(one)
    assert shipped == installed
    # As a chrooted smtpd finds them, in the words of `setup postfix`.
    where = postfix_lines.spelling(
        SocketAddress.parse(settings.milter.socket), "/var/spool/postfix"
    )
    assert where == "unix:gatepost/milter.sock"
    server = postfix_lines.policy_sockets(settings)[0]
    assert postfix_lines.spelling(server, "/var/spool/postfix") == "unix:gatepost/policy.sock"


def steps(unit: str) -> list[str]:
    lines = (SYSTEMD / unit).read_text().splitlines()
    return [x.partition("=")[2] for x in lines if x.startswith("ExecStartPre=")]


@pytest.mark.parametrize("unit", ["gatepost-milter.service", "gatepost-policyd.service"])
def test_units_make_the_directories(unit: str, tmp_path: Path) -> None:
    """The lines as they stand, with other users' names and below another root."""
    assert "ReadWritePaths=-/var/spool/postfix/gatepost" in (SYSTEMD / unit).read_text()
    mine = grp.getgrgid(os.getegid()).gr_name
    made = {"gatepost": tmp_path / "var/spool/postfix/gatepost"}
    if "policyd" in unit:
        made["exim"] = tmp_path / "run/gatepost/exim"
    assert len(steps(unit)) == len(made)
    for there in (True, False):  # the MTA's group
        for line in steps(unit):
            line = line.removeprefix("-+").replace("-o gatepost", f"-o {os.geteuid()}")
            line = line.replace("-g gatepost", f"-g {mine}")
            for name in ("postfix", "Debian-exim"):
                line = line.replace(f"group {name} ", f"group {mine if there else 'no-such'} ")
                line = line.replace(f"-g {name}", f"-g {mine if there else 'no-such'}")
            line = line.replace(" /var/", f" {tmp_path}/var/").replace(
                " /run/", f" {tmp_path}/run/"
            )
            subprocess.run(shlex.split(line), check=True)
        for path in made.values():
            assert stat.S_IMODE(path.stat().st_mode) == 0o2710
            path.rmdir()


@pytest.mark.milter
def test_sockets_get_the_group_of_the_directory(tmp_path: Path) -> None:
    """A setgid directory of Postfix's group: the socket is that group's, and no other user's."""
    others = [g for g in os.getgroups() if g != os.getegid()]
    group = 65534 if os.geteuid() == 0 else (others or [os.getegid()])[0]
    inside = tmp_path / "gatepost"
    inside.mkdir()
    os.chown(inside, -1, group)
    inside.chmod(0o2710)
    for program, table, key in (
        ("gatepost-milter", "milter", "socket"), ("gatepost-policyd", "policy", "listen"),
    ):  # fmt: skip
        path = inside / f"{table}.sock"
        store = '[store]\nurl = "{dir}/gatepost.sqlite"\n'
        with Daemon(f'[{table}]\n{key} = "unix:{path}"\n{store}', program):
            found = path.stat()
            assert found.st_gid == group
            assert stat.S_IMODE(found.st_mode) & 0o667 == 0o660
