"""`milterctl check exim` names each broken set-up, and has nothing to say about a right one."""

import re
import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

import mta_unpack
from daemons import BIN
from exim_checked import codes, policy_socket, program, settings
from exim_instance import EximInstance
from from_table import from_table
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


RCPT, DATA = "  require acl = gatepost_rcpt\n", "  require acl = gatepost_data\n"
OUT = "outbound:\n  driver = appendfile\n"
BROKEN = (
    Broken("without remove_header", "remove-header", "remove_header = GATEPOST_REMOVE",
           "logwrite = GATEPOST_REMOVE"),
    Broken("the scrub is not called", "remove-header", "  warn    acl = gatepost_scrub\n", ""),
    Broken("remove_header without Bcc", "remove-header", " : Bcc : X-Bcc", " : X-Bcc"),
    Broken("remove_header without X-Apple-*", "remove-header", "|X-Apple-", ""),
    Broken("another readsocket port", "policy-socket", "GATEPOST_POLICY = /",
           "GATEPOST_POLICY = inet:127.0.0.1:1 #/"),
    Broken("another readsocket path", "policy-socket", "GATEPOST_POLICY = /",
           "GATEPOST_POLICY = /old/"),
    Broken("acl_smtp_dkim not set", "stage-dkim", "acl_smtp_dkim = gatepost_dkim\n", ""),
    Broken("not asked at RCPT", "stage-rcpt", "  require acl = gatepost_rcpt\n", ""),
    Broken("not asked at DATA", "stage-data", "  require acl = gatepost_data\n", ""),
    Broken("unknown users refused first", "policy-order", "  require acl = gatepost_rcpt\n",
           "  require verify = recipient\n  require acl = gatepost_rcpt\n"),
    Broken("unknown fields are not looked at", "unknown-fields", "remove_header = ${sg{${sg{${sg{",
           "logwrite = ${sg{${sg{${sg{"),
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
    Broken("accept for require at RCPT", "verb", RCPT, "  accept acl = gatepost_rcpt\n"),
    Broken("deny without ! at DATA", "verb", DATA, "  deny acl = gatepost_data\n"),
    Broken("one of two ACLs does not ask", "stage-rcpt", "acl_smtp_rcpt = acl_rcpt\n",
           "acl_smtp_rcpt = ${if eq{$received_port}{587}{acl_other}{acl_rcpt}}\n"),
    Broken("accept for logins above the scrub", "scrub-order", DATA,
           "  accept authenticated = *\n" + DATA),
    Broken("accept by size above the scrub", "scrub-order", DATA,
           "  accept condition = ${if >{$message_size}{300K}}\n" + DATA),
    Broken("accept above the scrub of local mail", "not-smtp", "gatepost_not_smtp:\n",
           "gatepost_not_smtp:\n  accept senders = root@*\n"),
    Broken("unknown users refused by !verify", "policy-order", RCPT,
           "  deny    domains = +local_domains\n          ! verify = recipient\n" + RCPT),
    Broken("unknown users refused behind endpass", "policy-order", RCPT,
           "  accept  domains = +local_domains\n          endpass\n          verify = recipient\n"
           + RCPT),
    Broken("local mail accepted first", "policy-order", RCPT,
           "  accept  domains = +local_domains\n" + RCPT),
    Broken("a transport adds the client", "headers-add", OUT,
           OUT + "  headers_add = X-Client-Info: $sender_host_address\n"),
    Broken("a router adds the login", "headers-add", "out_r:\n", "out_r:\n  headers_add = "
           "X-Who: ${if def:authenticated_id{$authenticated_id}{none}}\n"),
    Broken("the data ACL adds the client", "headers-add", DATA,
           DATA + "  warn add_header = X-Scanned-For: [$sender_host_address]\n"),
    Broken("a transport takes Received away", "headers-remove", OUT,
           OUT + "  headers_remove = Received : X-Foo\n"),
    Broken("ports in local_interfaces", "ports", "local_interfaces = <; 127.0.0.1 ; ::1",
           "local_interfaces = <; [127.0.0.1]:25 ; [::1]:587 ; 127.0.0.1.465"),
    Broken("no signature is verified for anybody", "dkim-off", RCPT,
           "  warn    control = dkim_disable_verify\n" + RCPT),
    Broken("forged results stay", "forged-results",
           "acl = gatepost_scrub\n  warn    acl = gatepost_forged\n  # Exim",
           "acl = gatepost_scrub\n  # Exim"),
    Broken("a local program's forged results stay", "forged-results",
           "acl_not_smtp = gatepost_not_smtp\n", "acl_not_smtp = gatepost_scrub\n"),
    Broken("a rewriting rule writes the login", "rewrite", "begin rewrite\n",
           "begin rewrite\n*@local.test $authenticated_id@local.test F\n"),
    Broken("a DKIM ACL that accepts first", "stage-dkim", "acl_smtp_dkim = gatepost_dkim",
           "acl_smtp_dkim = acl_dkim"),
)  # fmt: skip
# What people have and is right.
ODD = (
    (RCPT, "  deny    ! acl = gatepost_rcpt\n"),
    (DATA, "  deny    !acl = gatepost_data\n"),
    (RCPT, "  require\n    acl = \\\n      gatepost_rcpt\n"),
    ("acl_smtp_data = acl_data\n", "acl_smtp_data = gatepost_data\n"),
    (DATA, "  accept  !authenticated = *\n          hosts = 192.0.2.1\n" + DATA),
    (DATA, "  deny    condition = ${if >{$max_received_linelength}{998}}\n" + DATA),
    (DATA, DATA + "  warn    !authenticated = *\n          add_header = X-A: $sender_fullhost\n"),
    (RCPT, "  accept  local_parts = postmaster\n          domains = +local_domains\n" + RCPT),
    (RCPT, "  accept  authenticated = *\n" + RCPT),
    (RCPT, "  warn    authenticated = *\n          control = dkim_disable_verify\n" + RCPT),
    ("acl_smtp_rcpt = acl_rcpt\n",
     "acl_smtp_rcpt = ${if eq{$received_port}{587}{acl_rcpt}{acl_rcpt}}\n"),
    ("local_r:\n", "local_r:\n  headers_add = "
     "${if def:authenticated_id{}{X-Client: $sender_host_address}}\n"),
    (OUT, OUT + "  headers_remove = X-Spam-Score : X-Received-By\n"),
    ("acl_smtp_dkim = gatepost_dkim", "acl_smtp_dkim = acl_asks_dkim"),
    ("local_from_check = false\n", "no_local_from_check\n"),
)  # fmt: skip
MORE_ACLS = """begin acl
acl_other:
  accept
acl_dkim:
  accept  dkim_status = none:invalid:fail
  warn    acl = gatepost_dkim
  accept
acl_asks_dkim:
  require acl = gatepost_dkim
  accept
"""


@pytest.fixture(scope="module")
def policy() -> Iterator[Path]:
    with policy_socket() as path:
        yield path


@pytest.fixture(scope="module")
def exim(policy: Path, exim_programs: mta_unpack.Programs) -> Iterator[EximInstance]:
    with EximInstance(exim_programs, policy, run=False) as made:
        yield made


def test_nothing_to_say_about_a_right_one(exim: EximInstance, policy: Path) -> None:
    assert codes(exim, policy, asked=True) == set()
    live = exim_config.read(exim.config, program(exim))
    assert exim_checks.unchecked(live) == ()
    assert exim_checks.unchecked(replace(live, called=("/nowhere/exim",))) != ()


@pytest.mark.parametrize("broken", BROKEN, ids=lambda b: b.name.replace(" ", "-"))
def test_broken(broken: Broken, exim: EximInstance, policy: Path) -> None:
    # The operator's own lines stand in comments of gatepost-acl.conf as well.
    own = broken.old in (RCPT, DATA)
    paths = [exim.config] if own else [p for p in exim.root.iterdir() if p.suffix == ".conf"]
    before = {p: p.read_text() for p in paths}
    assert any(broken.old in text for text in before.values()), broken.name
    try:
        for path, text in before.items():
            changed = text.replace(broken.old, broken.new)
            path.write_text(changed.replace("begin acl\n", MORE_ACLS))
        # A configuration without the acl_data line has no scrub either.
        also = {"remove-header"} if broken.code == "stage-data" else set()
        if broken.name == "the scrub is not called":
            also = {"not-smtp"}
        assert codes(exim, policy) - also == {broken.code}
    finally:
        for path, text in before.items():
            path.write_text(text)


@pytest.mark.parametrize("old, new", ODD, ids=range(len(ODD)))
def test_odd_and_right(old: str, new: str, exim: EximInstance, policy: Path) -> None:
    paths = [exim.config] if old in (RCPT, DATA) else list(exim.root.glob("*.conf"))
    before = {p: p.read_text() for p in paths}
    assert any(old in text for text in before.values())
    try:
        for path, text in before.items():
            path.write_text(text.replace(old, new).replace("begin acl\n", MORE_ACLS))
        assert codes(exim, policy) == set()
    finally:
        for path, text in before.items():
            path.write_text(text)


def test_a_system_filter(exim: EximInstance, policy: Path) -> None:
    """What it adds about the client, what its advice makes of that, and that it was not read."""
    before = exim.config.read_text()
    told = exim.root / "filter"
    telling = 'headers add "X-Who: $sender_host_address"'
    try:
        exim.config.write_text(f"system_filter = {told}\n{before}")
        live = replace(exim_config.read(exim.config, program(exim)), called=())
        assert f"system_filter = {told}" in exim_checks.unchecked(live)
        for text, code in ((telling, "headers-add"), ('headers add "X-Seen: yes"', ""),
                           ("headers remove received", "headers-remove")):  # fmt: skip
            told.write_text(f"# Exim filter\nif not first_delivery then finish endif\n{text}\n")
            assert codes(exim, policy) == {code} - {""}
        told.write_text(f"# Exim filter\n{telling}\n")
        (finding,) = exim_checks.check(live, settings(policy))
        told.write_text(f"# Exim filter\n{finding.change}\n")
        assert exim_checks.check(live, settings(policy)) == ()
    finally:
        exim.config.write_text(before)
        told.unlink(missing_ok=True)


def test_what_is_pasted_for_a_header_of_a_transport(exim: EximInstance, policy: Path) -> None:
    """Strangers' mail keeps the field, our own users' goes without, and that is right."""
    before = exim.config.read_text()
    try:
        exim.config.write_text(before.replace(OUT, OUT + "  headers_add = X-A: $sender_fullhost\n"))
        live = exim_config.read(exim.config, program(exim))
        (finding,) = exim_checks.check(live, settings(policy))
        exim.config.write_text(before.replace(OUT, f"{OUT}  {finding.change}\n"))
        assert codes(exim, policy) == set()
    finally:
        exim.config.write_text(before)


@pytest.mark.parametrize("key, value", [
    ("date", "utc"), ("networks", ["192.168.7.0/24"]),
    ("relay_logins", ["list@local.test"]), ("client_received", "keep"), ("local", "leave"),
    ("own_received", "proxy"), ("unknown_fields", "drop"), ("trace_keys", "/nowhere/bundle"),
    ("keep", []), ("second_pass_names", ["FILTERED"]),
])  # fmt: skip
def test_keys_that_exim_cannot_obey(
    key: str, value: object, exim: EximInstance, policy: Path
) -> None:  # fmt: skip
    """Each is named, and the line says what really holds."""
    live = exim_config.read(exim.config, program(exim))
    said = from_table(Settings, {"policy": {"listen": f"unix:{policy}"},
                                    "submission": {key: value}})  # fmt: skip
    (finding,) = exim_checks.check(live, said)
    assert (finding.code, finding.where) == ("not-obeyed", f"gatepost.toml, submission.{key}")
    line = finding.change.removeprefix("gatepost.toml: [submission] ")
    mended = from_table(Settings, {"policy": {"listen": f"unix:{policy}"},
                                      "submission": tomllib.loads(line)})  # fmt: skip
    assert exim_checks.check(live, mended) == ()


def test_message_ids_are_masked_where_exim_is_told(exim: EximInstance, policy: Path) -> None:
    said = from_table(Settings, {"policy": {"listen": f"unix:{policy}"},
                                    "submission": {"message_id": "mask-host"}})  # fmt: skip
    (finding,) = exim_checks.check(exim_config.read(exim.config, program(exim)), said)
    assert finding.where == "gatepost.toml, submission.message_id"
    file = exim.root / "gatepost-main.conf"
    before = file.read_text()
    line = finding.change.partition(" (")[0]
    try:
        file.write_text(re.sub(rf"^{line.partition(' =')[0]} = .*$", line, before, flags=re.M))
        assert exim_checks.check(exim_config.read(exim.config, program(exim)), said) == ()
    finally:
        file.write_text(before)


def test_nobody_listens(exim: EximInstance) -> None:
    assert "socket-unreachable" in codes(exim, free_port())


def test_plain_exim(exim_programs: mta_unpack.Programs, policy: Path) -> None:
    """An Exim that never heard of gatepost: everything is missing."""
    with EximInstance(exim_programs, policy, gatepost=False, run=False) as made:
        assert codes(made, policy) == {
            "remove-header", "received-header", "stage-rcpt", "stage-dkim", "stage-data",
            "router", "not-smtp",
        }  # fmt: skip


def test_over_inet_no_verdict_of_exim_is_believed(exim_programs: mta_unpack.Programs) -> None:
    """One line that says what is lost and what to write; none where the operator has said so."""
    listener = Listener()
    port = listener.port
    with EximInstance(exim_programs, port, run=False) as made:
        live = exim_config.read(made.config, program(made))
        (found,) = exim_checks.check(live, settings(port))
        assert exim_checks.check(live, settings(port, inet_verdicts=True)) == ()
        both = from_table(Settings, {"policy": {
            "listen": [f"inet:{port}@127.0.0.1", "unix:/run/x/policy.sock"],
        }})  # fmt: skip
        other = {f.code: f.change for f in exim_checks.check(live, both)}
    listener.close()
    assert found.code == "not-believed" and f"inet:127.0.0.1:{port}" in found.problem
    assert found.change.startswith(f"GATEPOST_POLICY = {exim_checks.SHIPPED}, after")
    listen = re.search(r"listen = (\[.*?\])", found.change)
    assert listen is not None
    mended = from_table(Settings, {"policy": tomllib.loads(listen[0])})
    assert [a.kind for a in mended.policy.listen] == ["inet", "unix"]
    assert other["not-believed"] == "GATEPOST_POLICY = /run/x/policy.sock"


def test_exims_user_may_not_connect(exim: EximInstance, policy: Path) -> None:
    policy.chmod(0o600)
    try:
        assert codes(exim, policy) == {"socket-user"}
    finally:
        policy.chmod(0o666)


def test_command_line(exim: EximInstance, policy: Path, tmp_path: Path) -> None:
    config = tmp_path / "gatepost.toml"
    other = tmp_path / "other.sock"
    for listen, code in ((policy, 0), (other, 1)):
        config.write_text(f'[policy]\nlisten = "unix:{listen}"\n')
        done = subprocess.run(
            [BIN / "milterctl", "--config", config, "check", "exim", "--exim-config", exim.config,
             "--exim", program(exim)], capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == code, (done.stdout, done.stderr)
        if code:
            assert f"GATEPOST_POLICY = {listen}" in done.stdout
