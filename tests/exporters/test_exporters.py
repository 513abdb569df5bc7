"""Exports: what is written, what is refused, and that the real consumers load it."""

import json
import os
import re
import shutil
import subprocess
import time
from ipaddress import ip_address, ip_network
from pathlib import Path

import dns.message
import dns.query
import dns.rcode
import pytest
from click.testing import CliRunner
from sqlalchemy import Engine

import rings
from daemons import Process
from export_entries import NOW, OURS, SOME, WANTED, entry, text
from fix_store import AT, message
from from_table import from_table
from gatepost_milter.cli import common
from gatepost_milter.cli.milterctl import cli
from gatepost_policy import exporters, ingest, listings, store, traps
from gatepost_policy.config.settings import Settings
from gatepost_policy.exporters import postfix
from mta_common import let_others_in
from mta_unpack import Programs
from ports import free_port

REFUSALS = [
    ("10.1.2.3/32", "one of our own networks"),
    ("10.0.0.0/7", "one of our own networks"),
    ("2001:db8:aaaa:1::/64", "one of our own networks"),
    ("198.51.100.0/24", "one of our own networks"),
    ("127.0.0.1/32", "this machine, or nobody's address"),
    ("0.0.0.0/0", "one of our own networks"),
    ("64.0.0.0/5", "too wide"),
    ("::1/128", "this machine, or nobody's address"),
    ("fe80::/64", "this machine, or nobody's address"),
    ("2000::/12", "too wide"),
]


@pytest.mark.parametrize(("value", "why"), REFUSALS)
def test_what_shuts_us_out_is_refused(value: str, why: str) -> None:
    settings = OURS if "our own" in why else Settings()
    got = exporters.sort_out([entry(value)], settings)
    assert (got.prefixes, [(r.value, r.why) for r in got.left_out]) == ([], [(value, why)])


def test_sorted_without_overlaps_and_domains() -> None:
    got = exporters.sort_out(SOME[::-1], OURS)
    assert ([b.text for b in got.prefixes], got.left_out) == (WANTED, [])
    assert [d.name for d in got.domains] == ["sender.example"]


def test_a_nested_listing_keeps_the_longer_end() -> None:
    """Each address once, for as long as the longest listing that covers it."""
    nested = [
        entry("203.0.113.0/24", until=NOW + 60),
        entry("203.0.113.9/32", until=NOW + 3_600),
        entry("203.0.113.8/30", until=NOW + 600),
        entry("203.0.113.77/32", until=NOW + 30),
        entry("198.51.100.1/32", until=NOW + 10),
    ]
    got = exporters.sort_out(nested, Settings()).prefixes
    for last in range(256):
        address = ip_address(f"203.0.113.{last}")
        (holder,) = [b for b in got if address in b.network]
        want = max(e.until for e in nested if address in ip_network(e.value))
        assert holder.entry.until == want, address
    assert [b.text for b in got] == [b.text for b in sorted(
        got, key=lambda b: int(b.network.network_address))]  # fmt: skip


def test_a_storm_of_listings_is_sorted_in_seconds() -> None:
    """Each is compared with hundreds of names that are never listed; 10 000 took minutes."""
    many = [entry(f"203.{n >> 8}.{n & 255}.7/32") for n in range(500)]
    many += [entry(f"d{n}.spam.example", kind="dkim") for n in range(500)]
    before = time.process_time()
    got = exporters.sort_out(many, OURS)
    assert (len(got.prefixes), len(got.domains), got.left_out) == (500, 500, [])
    assert time.process_time() - before < 2


def test_domains_that_no_zone_holds_are_named() -> None:
    got = exporters.sort_out(
        [entry(name, kind="dkim") for name in ("ok.example", "a b.example", "gmail.com", "co.uk")],
        Settings(),
    )
    assert [d.name for d in got.domains] == ["ok.example"]
    assert [one.value for one in got.left_out] == ["a b.example", "gmail.com", "co.uk"]


def test_promoted_where_it_is_enforced() -> None:
    enforced = from_table(Settings, {"sender": {"promotion": "enforce"}})
    got = exporters.sort_out(SOME, enforced)
    assert "2001:db8:9::/48" in [b.text for b in got.prefixes]


@pytest.mark.parametrize("form", list(exporters.FORMATS))
def test_every_format_carries_end_and_evidence(form: str) -> None:
    got = text(form)
    assert got.isascii() and "\x1b" not in got
    assert "3 hits" in got and "4Q1" in got
    assert ("timeout 3600s" if form == "nft" else "until 2026-09-21T") in got
    for prefix in WANTED:
        assert prefix in got
    # Who reads the file learns no trap.
    assert "trap@home" not in got


def test_plain_and_pf_grammar() -> None:
    """pf.conf(5): a table file holds an address or network a line; `#` starts a comment."""
    for form in ("plain", "pf"):
        found = []
        for line in text(form).splitlines():
            assert re.fullmatch(r"[\x20-\x7e\t]*", line), line
            item = line.partition("#")[0].strip()
            if item:
                ip_network(item)
                found.append(item)
        assert found == WANTED


def test_an_empty_list_is_a_file_too() -> None:
    for form in exporters.FORMATS:
        assert text(form, []).startswith("# gatepost: 0 listings")


def need(program: str) -> str:
    found = shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")
    if found is None:
        rings.missing("tools", f"{program} is not installed")
    return found


@pytest.mark.tools
def test_nft_loads_it(tmp_path: Path) -> None:
    nft = need("nft")
    # In a network namespace of its own: what is loaded goes with it. Without root it is a user
    # namespace as well, where the kernel takes short messages only.
    root = os.geteuid() == 0
    apart = ["unshare", "-n" if root else "-rn"]
    if subprocess.run([*apart, "true"], check=False).returncode:
        rings.missing("tools", "no network namespaces here")
    many = [entry(f"2001:db8:{n:x}::/64") for n in range(1_200 if root else 100)]
    contents = {"some": text("nft"), "many": text("nft", many), "none": text("nft", [])}
    file = tmp_path / "rules"
    command = [*apart, nft, "-f", str(file)]
    for content in contents.values():
        file.write_text(content)
        subprocess.run(command, check=True, timeout=60)
    file.write_text(text("nft").replace("192.0.2.7", "192.0.2.777"))
    assert subprocess.run(command, check=False, capture_output=True, timeout=60).returncode


@pytest.mark.tools
def test_rbldnsd_serves_it(tmp_path: Path) -> None:
    program = need("rbldnsd")
    now = time.time()
    some = [
        entry("192.0.2.7/32", until=now + 3_600),
        entry("2001:db8:1:2::/64", until=now + 3_600),
        entry("203.0.113.0/24", until=now + 60, note="costs 5$"),
    ]
    blocked = exporters.sort_out(some, OURS).prefixes
    zone = tmp_path / "zone"
    zone.write_text("".join(f"{x}\n" for x in exporters.FORMATS["rbldnsd"](blocked, now, OURS)))
    let_others_in(tmp_path)  # it gives up root and must still find the zone
    port = free_port()
    user = ["-u", "nobody"] if Path("/proc/self").stat().st_uid == 0 else []
    daemon = Process(
        [program, "-n", "-b", f"127.0.0.1/{port}", *user, f"gp.test:combined:{zone}"],
        tmp_path / "log",
    )
    try:
        daemon.wait_for("started")
        for address, want in (
            ("192.0.2.7", "until "), ("203.0.113.200", "costs 5."), ("2001:db8:1:2::99", "3 hits"),
            ("192.0.2.8", None), ("2001:db8:1:3::1", None),
        ):  # fmt: skip
            name = ip_address(address).reverse_pointer.rsplit(".", 2)[0] + ".gp.test"
            reply = dns.query.udp(
                dns.message.make_query(name, "TXT"), "127.0.0.1", port=port, timeout=20
            )
            assert (want is None) == (not reply.answer), address
            assert want is None or want in str(reply.answer[0]), address
    finally:
        daemon.stop()


DOMAINS = [
    entry("sender.example", kind="dkim", note="costs 5$"),
    entry("a.spam.example", kind="dkim"),
]
# name, is it listed
ASKED = [
    ("sender.example", True),
    ("x.sender.example", True),
    ("a.spam.example", True),
    ("spam.example", False),
    ("b.spam.example", False),
    ("notsender.example", False),
]


@pytest.mark.tools
def test_rbldnsd_serves_the_domains(tmp_path: Path) -> None:
    program = need("rbldnsd")
    now = time.time()
    some = [entry(e.value, kind="dkim", until=now + 600, note=e.note or "") for e in DOMAINS]
    zone = tmp_path / "zone"
    found = exporters.sort_out(some, OURS).domains
    zone.write_text("".join(f"{x}\n" for x in exporters.DOMAIN_FORMATS["dnset"](found, now, OURS)))
    let_others_in(tmp_path)
    port = free_port()
    user = ["-u", "nobody"] if Path("/proc/self").stat().st_uid == 0 else []
    daemon = Process(
        [program, "-n", "-b", f"127.0.0.1/{port}", *user, f"gp.test:dnset:{zone}"], tmp_path / "log"
    )
    try:
        daemon.wait_for("started")
        for name, listed in ASKED:
            reply = dns.query.udp(
                dns.message.make_query(f"{name}.gp.test", "TXT"), "127.0.0.1", port=port, timeout=20
            )
            assert bool(reply.answer) is listed, name
    finally:
        daemon.stop()


@pytest.mark.tools
def test_unbound_loads_the_policy_zone(tmp_path: Path) -> None:
    """A listed name does not exist for those who ask it; what is not listed does."""
    program = need("unbound")
    zone = tmp_path / "gatepost.rpz"
    zone.write_text(text("rpz", DOMAINS))
    port = free_port()
    (tmp_path / "unbound.conf").write_text(
        f"server:\n    interface: 127.0.0.1@{port}\n    do-daemonize: no\n    username: ''\n"
        f"    chroot: ''\n    directory: {tmp_path}\n    pidfile: ''\n    use-syslog: no\n"
        "    verbosity: 2\n    module-config: 'respip iterator'\n    log-queries: yes\n"
        "    access-control: 127.0.0.0/8 allow\n"
        f"rpz:\n    name: gatepost.rpz\n    zonefile: {zone}\n"
        "forward-zone:\n    name: '.'\n    forward-addr: 127.0.0.1@1\n"
    )
    daemon = Process([program, "-d", "-c", tmp_path / "unbound.conf"], tmp_path / "log")
    try:
        daemon.wait_for("start of service")
        for name, listed in ASKED:
            reply = dns.query.udp(
                dns.message.make_query(name, "TXT"), "127.0.0.1", port=port, timeout=20
            )
            # Nobody is behind it here: what is not listed is a failure, and not "no such name".
            assert (reply.rcode() == dns.rcode.NXDOMAIN) is listed, (name, reply.rcode())
    finally:
        daemon.stop()


@pytest.mark.postfix
def test_postmap_reads_it(postfix_programs: Programs, tmp_path: Path) -> None:
    """cidr_table(5) of clients, and the two trap tables, by the real postmap."""
    etc = tmp_path / "etc"
    etc.mkdir()
    lib = postfix_programs.root / "usr/lib/postfix"
    (etc / "main.cf").write_text(
        f"compatibility_level = 3.6\ndaemon_directory = {lib}/sbin\nshlib_directory = {lib}\n"
        f"meta_directory = {postfix_programs.root}/etc/postfix\nqueue_directory = {tmp_path}\n"
        f"data_directory = {tmp_path}\nmyhostname = mx.home.example\n"
    )

    def query(table: str, key: str) -> str:
        done = subprocess.run(
            [postfix_programs.root / "usr/sbin/postmap", "-c", etc, "-q", key, table],
            env=postfix_programs.environment(), capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert "warning" not in done.stderr and "fatal" not in done.stderr, done.stderr
        return done.stdout.strip()

    clients = tmp_path / "clients"
    clients.write_text(text("postfix-cidr"))
    for address, want in (
        ("192.0.2.7", "451 4.7.1 Please try again later"), ("192.0.2.8", ""),
        ("203.0.113.77", "451 4.7.1 Please try again later"), ("2001:db8:1:3::1", ""),
        ("2001:db8:1:2::9", "451 4.7.1 Please try again later"),
    ):  # fmt: skip
        assert query(f"cidr:{clients}", address) == want, address
    screen = tmp_path / "screen"
    screen.write_text(text("postscreen"))
    for address, want in (
        ("203.0.113.77", "reject"),
        ("192.0.2.8", ""),
        ("2001:db8:1:2::9", "reject"),
    ):
        assert query(f"cidr:{screen}", address) == want, address
    found = [
        traps.Trap(*traps.classify(name), name, "", "", "", None, NOW, None, "")
        for name in ("trap@home.example", "@old.example", "#odd@home.example")
    ]
    recipients, transport = tmp_path / "recipients", tmp_path / "transport"
    exporters.write(recipients, postfix.recipient_lines(found))
    exporters.write(transport, postfix.transport_lines(found))
    assert query(f"texthash:{recipients}", "trap@home.example") == "OK"
    assert query(f"texthash:{recipients}", "@old.example") == "OK"
    assert query(f"texthash:{recipients}", "real@home.example") == ""
    assert query(f"texthash:{transport}", "trap@home.example") == "discard:trap"
    assert query(f"texthash:{transport}", "old.example") == "discard:trap"


def run(settings_file: Path, *words: str) -> tuple[int, str]:
    result = CliRunner().invoke(cli, ["--config", str(settings_file), *words])
    code = result.exit_code
    if isinstance(result.exception, common.Failure):
        code = result.exception.code
    return code, result.output


@pytest.fixture
def config_file(settings: Settings, tmp_path: Path) -> Path:
    file = tmp_path / "gatepost.toml"
    file.write_text(f'store.url = "{settings.store.url}"\nsubmission.networks = ["10.0.0.0/8"]\n')
    return file


def test_export_command(
    engine: Engine, settings: Settings, config_file: Path, tmp_path: Path
) -> None:
    hit = message(1, at=time.time(), traps=("trap@home.example",), to=())
    with store.writing(engine) as connection:
        ingest.ingest(connection, [hit], settings, AT)
    target = tmp_path / "listed.pf"
    target.write_text("old\n")
    target.chmod(0o640)
    assert run(config_file, "export", "pf", "-o", str(target))[0] == 0
    assert "192.0.2.7 # until" in target.read_text()
    assert target.stat().st_mode & 0o777 == 0o640
    assert not list(tmp_path.glob(".listed*"))
    code, output = run(config_file, "export", "json")
    (listing,) = json.loads(output)["listings"]
    assert (code, listing["value"], listing["hits"]) == (0, "192.0.2.7/32", 1)
    assert listing["evidence"][0]["trap"] == "trap@home.example"
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ", listing["until"])
    with store.writing(engine) as connection:
        own = listings.identify("10.0.0.1")
        listings.punish(connection, own, seconds=60, at=time.time())
    code, output = run(config_file, "export", "plain")
    assert code == 0 and "10.0.0.1/32 is not exported" in output


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "list"
    target.write_text("old\n")

    def lines() -> object:
        yield "new"
        raise RuntimeError

    with pytest.raises(RuntimeError):
        exporters.write(target, lines())  # type: ignore[arg-type]
    assert (target.read_text(), list(tmp_path.iterdir())) == ("old\n", [target])


def test_trap_tables(engine: Engine, config_file: Path, tmp_path: Path) -> None:
    with store.writing(engine) as connection:
        for name in ("Trap+x@home.example", "@old.example", "i-*@home.example", '"a b"@x.example'):
            traps.add(connection, name, at=AT)
        found = traps.listing(connection)
    code, output = run(config_file, "trap", "export", "postfix", "-d", str(tmp_path))
    assert code == 0
    assert "local_recipient_maps = $local_recipient_maps texthash:" in output
    assert "2 patterns and quoted addresses" in output
    recipients = (tmp_path / "gatepost_trap_recipients").read_text().splitlines()[1:]
    transport = (tmp_path / "gatepost_trap_transport").read_text().splitlines()[1:]
    assert recipients == ["@old.example\tOK", "trap@home.example\tOK"]
    assert transport == ["old.example\tdiscard:trap", "trap@home.example\tdiscard:trap"]
    assert [t.key for t in found if postfix.usable(t)] == ["@old.example", "trap@home.example"]


def test_a_device_stays_one_and_a_link_too(tmp_path: Path) -> None:
    """Root's `export -o /dev/stdout` would else put a file in its place."""
    fifo, link, file = tmp_path / "fifo", tmp_path / "link", tmp_path / "file"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        exporters.write(fifo, iter(["a"]))
        assert os.read(reader, 10) == b"a\n" and fifo.is_fifo()
    finally:
        os.close(reader)
    link.symlink_to(file)
    exporters.write(link, iter(["b"]))
    assert link.is_symlink() and file.read_text() == "b\n"
