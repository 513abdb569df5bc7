"""`milterctl setup postfix` on real, running Postfixes: who could send mail before still can.

Seven set-ups that people have. The same clients come before and after `--apply`, and are told the
same; a submission comes out clean; the doctor has nothing more to say; a second `--apply` changes
nothing; `--undo` gives the files back byte for byte.
"""

import os
import re
import subprocess
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import pytest

import mta_modes
import mta_unpack
from daemons import BIN, Daemon
from gatepost_milter.cli.setup import SUBMISSION_ENTRY
from gatepost_milter.doctor import postfix_config
from mta_modes import BASE_CONFIG, TALKATIVE, Case
from ports import free_port
from postfix_instance import LOGIN, PASSWORD, PostfixInstance, Setup
from sasl_stub import SaslStub

pytestmark = [pytest.mark.postfix, pytest.mark.timeout(300)]

RELAY = "permit_mynetworks permit_sasl_authenticated defer_unauth_destination"
STOCK = {
    "smtpd_relay_restrictions": RELAY,
    "smtpd_recipient_restrictions": "",
    "mynetworks": "127.0.0.0/8 [::ffff:127.0.0.0]/104 [::1]/128",
    "smtpd_sasl_auth_enable": "yes",
    "smtpd_tls_security_level": "may",
}
# As Debian ships it: comments, a value over several lines with a comment in it.
COMMENTS = """
# See /usr/share/postfix/main.cf.dist for a commented, more complete version
smtpd_banner = $myhostname ESMTP $mail_name (Debian/GNU)
biff = no
#append_dot_mydomain = no
proxy_read_maps =
    # a comment inside a value
    $virtual_mailbox_maps
    $transport_maps
# the end
"""
POSTSCREEN = """\
127.0.0.1:@PS@ inet n - n - 1 postscreen
smtpd pass - - n - - smtpd
dnsblog unix - - n - 0 dnsblog
tlsproxy unix - - n - 0 tlsproxy
"""
REINJECT = """\
127.0.0.1:@RE@ inet n - n - - smtpd
  -o content_filter=
  -o mynetworks=127.0.0.0/8
  -o smtpd_client_restrictions=permit_mynetworks,reject
  -o smtpd_recipient_restrictions=permit_mynetworks,reject
  -o receive_override_options=no_header_body_checks,no_unknown_recipient_checks
"""


@dataclass(frozen=True, slots=True)
class Before:
    """A mail server as somebody has it."""

    name: str
    main: Mapping[str, str] = field(default_factory=dict)
    services: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    chroot: bool = False
    proposed: tuple[str, ...] = ("127.0.0.0/8", "::1/128")


SETUPS = (
    Before("stock"),
    Before("block lists", {
        "smtpd_recipient_restrictions": "\n    permit_mynetworks\n    permit_sasl_authenticated\n"
        "    # block lists\n    check_client_access cidr:@ETC@/blocked\n"
        "    reject_unauth_destination\n    check_recipient_access static:{DUNNO}",
        "smtpd_sender_restrictions": "reject_non_fqdn_sender, check_sender_access "
        "regexp:@ETC@/senders",
        "milter_default_action": "accept",
        "smtpd_milters": "inet:127.0.0.1:@DEAD@",
        "non_smtpd_milters": "$smtpd_milters",
    }, files={"blocked": "203.0.113.66 REJECT listed here\n0.0.0.0/0 DUNNO\n",
              "senders": "/spam@/ REJECT bad sender\n"}),
    Before("own mail_name", {"mail_name": "Mailserver"}),
    Before("postscreen", {"postscreen_access_list": "permit_mynetworks",
                          "postscreen_greet_wait": "1s", "postscreen_cache_map": ""},
           services=POSTSCREEN),
    Before("chroot", {"smtpd_sasl_path": "private/auth"}, chroot=True),
    Before("re-injection", services=REINJECT),
    Before("LAN", {"mynetworks": "127.0.0.0/8 [::1]/128 192.168.7.0/24 198.51.100.0/28 "
                   "172.17.0.0/16 10.9.8.7/32"},
           proposed=("127.0.0.0/8", "::1/128", "192.168.7.0/24")),
)  # fmt: skip


@dataclass(slots=True)
class Server:
    """One running Postfix, one running gatepost, and the ports besides."""

    postfix: PostfixInstance
    gatepost: Daemon
    ports: dict[str, int]

    def setup(self, *options: str) -> "subprocess.CompletedProcess[str]":
        return self.milterctl("setup", "postfix", *self.where(), *options)

    def where(self) -> tuple[str, ...]:
        return ("-c", str(self.postfix.etc),
                "--command-directory", str(self.postfix.commands_for_check()))  # fmt: skip

    def milterctl(self, *words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [BIN / "milterctl", "--config", self.gatepost.config, *words],
            capture_output=True, text=True, check=False, timeout=120,
            env={**os.environ, "TZ": "UTC"},
        )  # fmt: skip

    def files(self) -> dict[str, bytes]:
        """Everything in Postfix's directory."""
        return {
            str(p.relative_to(self.postfix.etc)): p.read_bytes()
            for p in self.postfix.etc.rglob("*") if p.is_file()
        }  # fmt: skip


@contextmanager
def server(programs: mta_unpack.Programs, before: Before) -> Iterator[Server]:
    ports = {"@PS@": free_port(), "@RE@": free_port(), "@DEAD@": free_port()}

    def put(text: str) -> str:
        for name, value in ports.items():
            text = text.replace(name, str(value))
        return text

    with ExitStack() as stack:
        main = {k: put(v) for k, v in {**TALKATIVE, **STOCK, **before.main}.items()}
        setup = Setup(main=main, services=put(before.services), files=before.files)
        postfix = stack.enter_context(PostfixInstance(programs, setup, run=False))
        # What `postfix check` looks after: the queue of this instance, and no file of the system.
        etc, share = programs.root / "etc/postfix", programs.root / "usr/share/postfix"  # Debian 14
        files = next(f for d in (etc, share) if (f := d / "postfix-files").exists())
        every = files.read_text().splitlines(True)
        (postfix.etc / "postfix-files").write_text(
            "".join(line for line in every if line.startswith("$queue_directory"))
        )
        with (postfix.etc / "main.cf").open("a") as stream:
            stream.write(COMMENTS)
        config = BASE_CONFIG
        if before.chroot:
            folder = postfix.spool / "gatepost"
            folder.mkdir()
            folder.chmod(0o755)
            config = config.replace("inet:{port}@127.0.0.1", f"unix:{folder}/milter.sock")
            config = config.replace("workers = 1", 'workers = 1\nsocket_group = "postfix"')
            master = postfix.etc / "master.cf"
            master.write_text(re.sub(r" inet n - n (- - smtpd)", r" inet n - y \1",
                                     master.read_text()))  # fmt: skip
            sasl = SaslStub(postfix.spool / "private/auth", LOGIN, PASSWORD)
            stack.callback(sasl.stop)
        gatepost = stack.enter_context(Daemon(config, "milterctl"))
        postfix.start()
        yield Server(postfix, gatepost, ports)


def clients(there: Server) -> dict[str, str]:
    """What each client is told, without what differs from mail to mail."""
    postfix, said = there.postfix, dict[str, str]()
    message = b"From: alice@local.test\r\nSubject: x\r\n\r\nx\r\n"

    def come(
        name: str, sender: str, recipient: str, port: int = 0, host: str = "127.0.0.1",
        login: str = "", password: str = PASSWORD, address: str = "",
    ) -> None:  # fmt: skip
        client = postfix.inbound(host, login=login, password=password)
        client.port = port or client.port
        if address:
            client.xclient = f"ADDR={address} NAME=[UNAVAILABLE]"
        sent = client.send(message, sender, [recipient])
        answers = " | ".join([*sent.rcpt.values(), sent.final])
        said[name] = re.sub(r"queued as \w+", "queued", answers)

    stranger, far = "198.51.100.200", "carol@far.test"
    sub = postfix.submission_port
    come("stranger", "x@y.example", "bob@local.test", address=stranger)
    come("stranger, IPv6", "x@y.example", "bob@local.test", address="IPV6:2001:db8::7")
    come("unknown user", "x@y.example", "nobody1@local.test", address=stranger)
    come("relaying", "x@y.example", far, address=stranger)
    come("web mail on this host", "alice@local.test", far)
    come("web mail on this host, IPv6", "alice@local.test", far, host="::1")
    come("LAN", "alice@local.test", far, address="192.168.7.9")
    come("login on port 25", "alice@local.test", far, login=LOGIN, address=stranger)
    come("login on 587", "alice@local.test", far, sub, login=LOGIN, address=stranger)
    come("wrong password", "alice@local.test", far, sub, login=LOGIN, password="no")
    come("587 without a login", "alice@local.test", far, sub, address=stranger)
    come("block list", "x@y.example", "bob@local.test", address="203.0.113.66")
    come("bad sender", "spam@y.example", "bob@local.test", address=stranger)
    come("bounce", "", "bob@local.test", address=stranger)
    master = (postfix.etc / "master.cf").read_text()
    if "postscreen" in master:
        come("postscreen", "alice@local.test", far, there.ports["@PS@"])
    if "content_filter" in master:
        come("handed back", "x@y.example", "bob@local.test", there.ports["@RE@"])
    said["sendmail"] = postfix.command(
        "sendmail", "-f", "alice@local.test", "bob@local.test", stdin=message
    ).decode()
    postfix.settle()
    for path in postfix.delivered():
        path.unlink()
    return said


@pytest.mark.parametrize("before", SETUPS, ids=lambda b: b.name.replace(" ", "-"))
def test_before_and_after(before: Before, postfix_programs: mta_unpack.Programs) -> None:
    with server(postfix_programs, before) as there:
        postfix = there.postfix
        # Counter-proof: without gatepost this mail tells.
        canaries, (data,) = mta_modes.submit(postfix, Case("v4"))
        assert canaries.found(data)
        was, files = clients(there), there.files()
        assert was["stranger"].count("250") == 2 and was["web mail on this host"].count("250") == 2
        assert was["login on port 25"].count("250") == 2, was
        assert was["relaying"].startswith("4") and was["unknown user"].startswith("550")

        shown = there.setup()
        assert shown.returncode == 0, shown
        assert there.files() == files  # shown, not done
        line = re.search(r"networks = \[(.*)\]", shown.stdout)
        assert line and tuple(re.findall(r'"([^"]+)"', line.group(1))) == before.proposed, shown

        done = there.setup("--apply")
        assert done.returncode == 0, (done.stdout, done.stderr)
        assert "Postfix reloaded" in done.stdout
        commands = [c for c in shown.stdout.splitlines() if not c.startswith("#")]
        assert commands[-1].endswith("reload") and set(commands[:-1]) <= set(
            done.stdout.splitlines()
        )
        assert clients(there) == was

        canaries, (data,) = mta_modes.submit(postfix, Case("v4"))
        assert canaries.found(data) == (), data.decode(errors="replace")
        checked = there.milterctl("check", "postfix", *there.where())
        problems = re.findall(r"\[([a-z-]+)\]$", checked.stdout, re.M)
        # What is for the owner to say, and what was there before: nothing else.
        assert set(problems) <= {"networks", "public-networks", "login-port"}, checked.stdout
        if before.name == "stock":
            after = there.files()
            again = there.setup("--apply")
            assert again.returncode == 0 and "nothing to change" in again.stdout
            assert there.files() == after

        undone = there.setup("--undo")
        assert undone.returncode == 0, undone
        assert there.files() == files
        assert clients(there) == was
        assert there.setup("--undo").returncode == 1


def test_nothing_that_stood_there_is_gone(postfix_programs: mta_unpack.Programs) -> None:
    """Block lists, sender checks and the other milter, in their order."""
    with server(postfix_programs, SETUPS[1]) as there:
        assert there.setup("--apply").returncode == 0
        live = postfix_config.read(there.postfix.etc, there.postfix.commands_for_check())
        value = live.get("smtpd_recipient_restrictions")
        assert re.search(
            r"permit_mynetworks,? permit_sasl_authenticated, check_policy_service \{[^}]*\}, "
            r"check_client_access cidr:\S+/blocked,? reject_unauth_destination,? "
            r"check_recipient_access static:\{DUNNO\}", value,
        ), value  # fmt: skip
        milters = live.get("smtpd_milters")
        assert re.fullmatch(r"\{ inet:[^}]*default_action=accept[^}]*\}, inet:\S+", milters)
        assert live.raw("non_smtpd_milters") == "$smtpd_milters"


def test_users_are_permitted_before_the_policy_service(
    postfix_programs: mta_unpack.Programs,
) -> None:
    """Where a list refuses relaying before it permits who logs in."""
    before = {"smtpd_recipient_restrictions": "permit_mynetworks, reject_unauth_destination"}
    with server(postfix_programs, Before("users refused", before)) as there:
        assert there.setup("--apply").returncode == 0
        live = postfix_config.read(there.postfix.etc, there.postfix.commands_for_check())
        assert re.fullmatch(
            r"permit_mynetworks, permit_sasl_authenticated, check_policy_service \{[^}]*\}, "
            r"reject_unauth_destination", live.get("smtpd_recipient_restrictions"),
        )  # fmt: skip


def test_no_submission_listener_is_said(postfix_programs: mta_unpack.Programs) -> None:
    """As Debian ships it: what is printed makes the listener, and the next run takes it in."""
    with server(postfix_programs, SETUPS[0]) as there:
        master = there.postfix.etc / "master.cf"
        assert "no listener for submissions" not in there.setup().stdout
        listeners = re.compile(r"^\S+ +inet\b.*\n(?:[ \t].*\n)*", re.M)
        names = re.compile(r"daemon_name|sasl_auth_enable|^\S*(?:submission|587|465)", re.M)
        master.write_text(
            listeners.sub(
                lambda entry: "" if names.search(entry[0]) else entry[0], master.read_text()
            )
        )
        said = there.setup().stdout
        assert "# no listener for submissions: " in said
        assert f"# {SUBMISSION_ENTRY}" in said
        (entry,) = re.findall(r"'(.*)'", SUBMISSION_ENTRY)
        with master.open("a") as stream:
            stream.write(entry + "\n")
        said = there.setup().stdout
        assert "no listener for submissions" not in said
        assert "submission/inet/milter_macro_daemon_name=ORIGINATING" in said


def test_undo_refuses_what_was_edited(postfix_programs: mta_unpack.Programs) -> None:
    with server(postfix_programs, SETUPS[0]) as there:
        files = there.files()
        assert there.setup("--apply").returncode == 0
        path = there.postfix.etc / "main.cf"
        after = path.read_bytes()
        path.write_bytes(after + b"# mine\nmessage_size_limit = 12345678\n")
        undone = there.setup("--undo")
        assert undone.returncode == 1
        assert "+message_size_limit = 12345678" in undone.stdout
        assert path.read_bytes().endswith(b"message_size_limit = 12345678\n")
        path.write_bytes(after)
        assert there.setup("--undo").returncode == 0
        assert there.files() == files


def test_what_fails_is_undone(postfix_programs: mta_unpack.Programs) -> None:
    """A postconf that breaks in the middle; a gatepost that does not run; a reload that fails."""
    with server(postfix_programs, SETUPS[0]) as there:
        files = there.files()
        folder = there.postfix.commands_for_check()
        for name, fault in (
            ("postconf", 'case "$*" in *"-P "*/*) echo "postconf: fatal: no" >&2; exit 1;; esac'),
            ("postfix", 'case "$*" in *check*) echo "postfix: fatal: bad" >&2; exit 1;; esac'),
        ):
            program = folder / name
            right = program.read_text()
            program.write_text(right.replace("#!/bin/sh\n", f"#!/bin/sh\n{fault}\n"))
            done = subprocess.run(
                [BIN / "milterctl", "--config", there.gatepost.config, "setup", "postfix",
                 "-c", there.postfix.etc, "--command-directory", folder, "--apply"],
                capture_output=True, text=True, check=False, timeout=120,
            )  # fmt: skip
            assert done.returncode == 1 and "everything is as it was" in done.stderr, done
            assert len(done.stderr.splitlines()) == 1
            assert there.files() == files
            program.write_text(right)
        there.gatepost.stop()
        done = there.setup("--apply")
        assert done.returncode == 3 and "start gatepost-milter first" in done.stderr
        assert there.files() == files


@pytest.mark.parametrize("mode", ["proxy", "hide"])
def test_the_other_modes(mode: str, postfix_programs: mta_unpack.Programs) -> None:
    """proxy: the second hop is made. mta on a release that cannot hide the client: said."""
    with server(postfix_programs, SETUPS[0]) as there:
        config = there.gatepost.config
        config.write_text(config.read_text() + mta_modes.SUBMISSION[mode])
        if mode == "hide":
            shown = there.setup()
            if "smtpd_hide_client_session" not in there.postfix.command("postconf", "-d").decode():
                assert "does not know smtpd_hide_client_session" in shown.stdout
                assert "smtpd_hide_client_session=yes" not in shown.stdout
            else:
                assert "smtpd_hide_client_session=yes" in shown.stdout
            return
        there.gatepost.start_again()
        done = there.setup("--apply")
        assert done.returncode == 0, done
        canaries, (data,) = mta_modes.submit(there.postfix, Case("v4"))
        assert canaries.found(data) == (), data.decode(errors="replace")
        assert there.setup("--apply").stdout.count("nothing to change") == 1


def test_own_domains_are_proposed(postfix_programs: mta_unpack.Programs) -> None:
    """What Postfix takes mail for, of lists and files; not where the operator has named them."""
    with server(postfix_programs, SETUPS[0]) as there:
        (there.postfix.etc / "domains").write_text("two.example  # ours\n\nthree.example\n")
        with (there.postfix.etc / "main.cf").open("a") as stream:
            stream.write("mydomain = one.example\nmydestination = $mydomain, localhost\n"
                         f"virtual_alias_domains = {there.postfix.etc}/domains\n"
                         "relay_domains = pcre:/nowhere/relay\n")  # fmt: skip
        said = there.setup().stdout
        line = next(x for x in said.splitlines() if "own_domains = [" in x)
        names = tomllib.loads(line.rpartition("] ")[2])["own_domains"]
        assert {"one.example", "two.example", "three.example"} <= set(names)
        assert "# not read, and may name more of them: pcre:/nowhere/relay" in said
        with there.gatepost.config.open("a") as stream:
            stream.write(f"[sender]\n{line.rpartition('] ')[2]}\n")
        assert "own_domains" not in there.setup().stdout
