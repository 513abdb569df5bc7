"""What is ours without being configured: asked of a real Postfix and of the kernel."""

import socket
from pathlib import Path

import pytest

from gatepost_policy.system import mta_tables
from mta_unpack import Programs


def test_own_addresses() -> None:
    """What this host can bind to is its own."""
    found = list(mta_tables.addresses())
    assert "127.0.0.1" in found
    for address in found:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        if not address.startswith("fe80:"):
            with socket.socket(family) as probe:
                probe.bind((address, 0))


def test_without_the_kernels_files(tmp_path: Path) -> None:
    assert list(mta_tables.addresses(tmp_path)) == []


@pytest.mark.postfix
def test_postfix_says(
    postfix_programs: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names, tables and files; what cannot be read is named."""
    etc = tmp_path / "etc"
    etc.mkdir()
    (tmp_path / "virtual").write_text("v1.example anything\nv2.example x\n# no.example\n")
    (tmp_path / "relay").write_text(f"relay.example, r2.example r3.example\n{tmp_path}/more\n")
    (tmp_path / "more").write_text(f"r4.example\n!r5.example\n{tmp_path}/more\n")
    (tmp_path / "nets").write_text("198.51.100.0/24 OK\n")
    lib = postfix_programs.root / "usr/lib/postfix"
    (etc / "main.cf").write_text(
        f"compatibility_level = 3.6\ndaemon_directory = {lib}/sbin\nshlib_directory = {lib}\n"
        f"meta_directory = {postfix_programs.root}/etc/postfix\nqueue_directory = {tmp_path}\n"
        f"data_directory = {tmp_path}\nmyhostname = mx.home.example\nmydomain = home.example\n"
        "mydestination = $myhostname, localhost, $mydomain\n"
        f"virtual_mailbox_domains = texthash:{tmp_path}/virtual\n"
        f"virtual_alias_domains = mysql:{tmp_path}/nothing\n"
        f"relay_domains = {tmp_path}/relay\n"
        f"mynetworks = 192.0.2.0/28 [2001:db8::]/64 !192.0.2.1 cidr:{tmp_path}/nets\n"
    )
    monkeypatch.setenv("MAIL_CONFIG", str(etc))
    for name, value in postfix_programs.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", f"{postfix_programs.root}/usr/sbin:/usr/bin:/bin")
    found = mta_tables.read()
    wanted = {"mx.home.example", "home.example", "v1.example", "v2.example", "relay.example"}
    wanted |= {"r2.example", "r3.example", "r4.example"}
    assert wanted <= found.domains
    assert not found.domains & {"localhost", "no.example", "r5.example"}
    assert {"192.0.2.0/28", "2001:db8::/64", "198.51.100.0/24"} <= found.networks
    assert "192.0.2.1/32" not in found.networks
    assert set(found.unread) == {f"mysql:{tmp_path}/nothing", f"{tmp_path}/more"}  # names itself
