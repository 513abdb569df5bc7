"""`milterctl check postfix` names each broken set-up, and has nothing to say about a right one.

The configurations are real: the shipped recipes, read by the real postconf. A broken one is the
right one with a single thing changed, so the finding can only come from that.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import mta_unpack
from daemons import BIN
from gatepost_milter.doctor import postfix, postfix_config
from gatepost_policy.config.settings import Settings
from mta_modes import RECIPES
from open_socket import Listener
from postfix_instance import PostfixInstance, Setup
from postfix_recipes import TOKEN, adapted, main_cf, shipped

pytestmark = [pytest.mark.postfix, pytest.mark.timeout(120)]

OURS = "-o smtpd_milters={@MILTER@,default_action=tempfail}"


@dataclass(frozen=True, slots=True)
class Broken:
    """One fault: what is changed, and the code of the finding that must come."""

    name: str
    code: str
    mode: str = "milter"
    main: dict[str, str] = field(default_factory=dict)
    drop: str = ""  # a line of the recipe that is missing
    submission: dict[str, str] = field(default_factory=dict)
    inbound: dict[str, str] = field(default_factory=dict)
    files: dict[str, str | None] = field(default_factory=dict)
    also: tuple[str, ...] = ()  # findings that the same fault brings with it


BROKEN = (
    Broken("listener without ORIGINATING", "daemon-name",
           drop="-o milter_macro_daemon_name=ORIGINATING"),
    Broken("default action accept on 587", "default-action",
           submission={"smtpd_milters": "{ @MILTER@, default_action=accept }"}),
    Broken("milter_default_action=accept on 587", "default-action",
           submission={"smtpd_milters": "@MILTER@", "milter_default_action": "accept"}),
    Broken("milter only in non_smtpd_milters", "milter-missing", drop=OURS,
           main={"smtpd_milters": "", "non_smtpd_milters": "@MILTER@"}),
    Broken("submission without the milter", "submission-milter",
           submission={"smtpd_milters": ""}),
    Broken("policy service after reject_unlisted_recipient", "policy-order",
           main={"smtpd_recipient_restrictions": "reject_unlisted_recipient, "
                 "check_policy_service inet:127.0.0.1:10040, reject_unauth_destination"}),
    Broken("reject_unlisted_recipient at sender stage", "policy-order",
           main={"smtpd_sender_restrictions": "reject_unlisted_recipient"}),
    Broken("unverified version", "postfix-version", main={"mail_version": "4.0.1"}),
    Broken("unverified version of another name", "postfix-version",
           submission={"mail_name": "Somefix", "mail_version": "4.0.1"}),
    Broken("token table empty", "token-table", mode="mta", files={"submission_received": ""}),
    Broken("token table missing", "token-table", mode="mta",
           files={"submission_received": None}),
    Broken("token table for another token", "token-table", mode="mta",
           files={"submission_received": shipped("submission_received").replace("@TOKEN@", "x")}),
    Broken("listener without the token", "token-name", mode="mta",
           submission={"mail_name": "Postfix"}),
    Broken("nested_header_checks left alone", "nested-checks", mode="mta",
           drop="-o nested_header_checks="),
    Broken("header completion for strangers", "header-completion",
           main={"remote_header_rewrite_domain": "domain.invalid"}),
    Broken("missing headers added for strangers", "header-completion",
           main={"always_add_missing_headers": "yes"}),
    Broken("header rewriting for everybody", "header-completion",
           main={"local_header_rewrite_clients": "static:all"}),
    Broken("milter_header_checks touch Received", "milter-header-checks",
           main={"milter_header_checks": "regexp:@ETC@/milter_checks"},
           files={"milter_checks": "/^Received:/ IGNORE\n"}),
    Broken("milter_mail_macros without auth_authen", "mail-macros",
           main={"milter_mail_macros": "i {mail_addr} {mail_host} {mail_mailer}"}),
    Broken("milter_connect_macros without v", "connect-macros",
           main={"milter_connect_macros": "j {daemon_name} _"}),
    Broken("no_milters on 587", "no-milters",
           submission={"receive_override_options": "no_milters"}),
    Broken("no_milters everywhere", "no-milters", main={"receive_override_options": "no_milters"}),
    Broken("PREPEND naming the client", "prepend",
           main={"smtpd_client_restrictions": "check_client_access regexp:@ETC@/prepend"},
           files={"prepend": "/(.*)/ PREPEND X-Client-Name: $1\n"}),
    Broken("PREPEND before 3.7.11", "prepend", main={
        "mail_version": "3.7.10",
        "smtpd_client_restrictions": "check_client_access static:{PREPEND Received-SPF: pass}"}),
    Broken("PREPEND Received in mode mta", "prepend", mode="mta",
           submission={"smtpd_helo_restrictions": "check_helo_access static:{PREPEND Received: x}"}
           ),
    Broken("signer before gatepost", "chain-order",
           submission={"smtpd_milters": "inet:127.0.0.1:8891, @MILTER@"}),
    Broken("signer before gatepost, inbound", "chain-order",
           main={"smtpd_milters": "inet:127.0.0.1:8891, @MILTER@"}),
    Broken("no leading space", "leading-space", main={"milter_protocol": "4"}),
    Broken("smtpd_milter_maps switch it off", "milter-maps",
           main={"smtpd_milter_maps": "cidr:@ETC@/maps"},
           files={"maps": "10.0.0.0/8 DISABLE\n"}),
    Broken("users may log in on port 25", "login-port", main={"smtpd_sasl_auth_enable": "yes"}),
    Broken("second hop over TCP", "proxy-tcp", mode="proxy",
           submission={"smtpd_proxy_filter": "127.0.0.1:@INBOUND@"},
           also=("daemon-name", "default-action")),
    Broken("speed_adjust", "speed-adjust", mode="proxy",
           submission={"smtpd_proxy_options": "speed_adjust"}),
    Broken("login not passed on", "proxy-login", mode="proxy",
           drop="-o smtpd_sasl_authenticated_header=yes"),
    Broken("no second hop", "proxy-missing", mode="proxy", submission={"smtpd_proxy_filter": ""}),
    Broken("Postfix without client hiding", "client-session", mode="hide",
           submission={"smtpd_hide_client_session": "no"}),
)  # fmt: skip


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    listener = Listener(("127.0.0.1", 0))
    yield int(listener.sock.getsockname()[1])
    listener.close()


def settings(mode: str, milter_socket: str) -> Settings:
    submission: dict[str, str] = {
        "milter": {},
        "mta": {"own_received": "mta", "mta_token": TOKEN},
        "hide": {"own_received": "mta"},
        "proxy": {"own_received": "proxy"},
    }[mode]
    return Settings.model_validate({"milter": {"socket": milter_socket}, "submission": submission})


def instance(programs: mta_unpack.Programs, broken: Broken, milter: str) -> PostfixInstance:
    """The shipped recipe of the mode with the one fault put in."""

    def put(values: dict[str, str]) -> dict[str, str]:
        return {k: v.replace("@MILTER@", milter) for k, v in values.items()}

    recipe = adapted(shipped(RECIPES[broken.mode]), "@ETC@", milter)
    if broken.drop:
        line = broken.drop.replace("@MILTER@", milter)
        assert recipe.count(line) >= 1, (broken.name, recipe)
        recipe = recipe.replace(f"  {line}\n", "", 1)
    files = {"submission_received": adapted(shipped("submission_received"), "@ETC@", milter)}
    main = main_cf(adapted(shipped("main.cf"), "@ETC@", milter))
    setup = Setup(main={**main, **put(broken.main)}, recipe=recipe,
                  submission=put(broken.submission), inbound=put(broken.inbound),
                  files={**files, **{k: v for k, v in broken.files.items() if v is not None}},
                  )  # fmt: skip
    made = PostfixInstance(programs, setup, run=False)
    for name, text in broken.files.items():
        if text is None:
            (made.etc / name).unlink()
    master = (made.etc / "master.cf").read_text()
    (made.etc / "master.cf").write_text(master.replace("@INBOUND@", str(made.inbound_port)))
    return made


def codes(made: PostfixInstance, live: Settings) -> list[str]:
    config = postfix_config.read(made.etc, made.commands_for_check())
    return [f.code for f in postfix.check(config, live)]


@pytest.mark.parametrize("mode", ["milter", "mta", "proxy", "hide"])
def test_nothing_to_say_about_a_right_one(
    mode: str, port: int, postfix_programs: mta_unpack.Programs
) -> None:
    with instance(postfix_programs, Broken("right", "", mode), f"inet:127.0.0.1:{port}") as made:
        assert codes(made, settings(mode, f"inet:{port}@127.0.0.1")) == []


@pytest.mark.parametrize("broken", BROKEN, ids=lambda b: b.name.replace(" ", "-"))
def test_broken(broken: Broken, port: int, postfix_programs: mta_unpack.Programs) -> None:
    with instance(postfix_programs, broken, f"inet:127.0.0.1:{port}") as made:
        got = codes(made, settings(broken.mode, f"inet:{port}@127.0.0.1"))
        assert broken.code in got, got
        # Nothing else is made up on the way.
        assert set(got) <= {broken.code, *broken.also, "submission-milter"}, got


def test_nobody_listens(postfix_programs: mta_unpack.Programs) -> None:
    from ports import free_port

    dead = free_port()
    with instance(postfix_programs, Broken("dead", ""), f"inet:127.0.0.1:{dead}") as made:
        assert codes(made, settings("milter", f"inet:{dead}@127.0.0.1")) == ["socket-unreachable"]


def test_unix_sockets(postfix_programs: mta_unpack.Programs) -> None:
    """Outside the chroot; not readable by postfix; and right."""
    with instance(postfix_programs, Broken("right", ""), "unix:@SPOOL@/gatepost/m.sock") as made:
        inside = made.spool / "gatepost"
        inside.mkdir()
        for name in ("main.cf", "master.cf"):
            path = made.etc / name
            path.write_text(path.read_text().replace("@SPOOL@", str(made.spool)))
        listener = Listener(str(inside / "m.sock"))
        live = settings("milter", f"unix:{inside}/m.sock")
        try:
            (inside / "m.sock").chmod(0o666)
            assert codes(made, live) == []
            (inside / "m.sock").chmod(0o600)
            assert codes(made, live) == ["socket-permission"]
            (inside / "m.sock").chmod(0o666)
            inside.chmod(0o700)
            assert codes(made, live) == ["socket-permission"]
            inside.chmod(0o755)
            _chroot(made)
            # Within the queue directory a chrooted smtpd sees it; by this name it does not.
            assert codes(made, live) == []
        finally:
            listener.close()


def test_socket_outside_the_chroot(postfix_programs: mta_unpack.Programs) -> None:
    path = f"/tmp/gatepost-check-{os.getpid()}.sock"
    listener = Listener(path)
    os.chmod(path, 0o666)
    try:
        with instance(postfix_programs, Broken("outside", ""), f"unix:{path}") as made:
            live = settings("milter", f"unix:{path}")
            assert codes(made, live) == []
            _chroot(made)
            assert set(codes(made, live)) == {"socket-chroot"}
    finally:
        listener.close()
        os.unlink(path)


def _chroot(made: PostfixInstance) -> None:
    path = made.etc / "master.cf"
    path.write_text(path.read_text().replace(" inet n - n - - smtpd", " inet n - y - - smtpd")
                    .replace("inet n       -       n ", "inet n       -       y "))  # fmt: skip


def test_command_line(port: int, postfix_programs: mta_unpack.Programs, tmp_path: Path) -> None:
    """Exit 0 on a right one; 1 with the exact line on a broken one; JSON has the same."""
    config = tmp_path / "gatepost.toml"
    config.write_text(f'[milter]\nsocket = "inet:{port}@127.0.0.1"\n')
    broken = Broken("x", "", submission={"smtpd_milters": "{ @MILTER@, default_action=accept }"})
    for fault, code in ((Broken("right", ""), 0), (broken, 1)):
        with instance(postfix_programs, fault, f"inet:127.0.0.1:{port}") as made:
            command: list[str | Path] = [
                       BIN / "milterctl", "--config", config, "check", "postfix",
                       "--config-directory", made.etc,
                       "--command-directory", made.commands_for_check()]  # fmt: skip
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == code, (done.stdout, done.stderr)
            if code:
                line = f"-o smtpd_milters={{inet:127.0.0.1:{port},default_action=tempfail}}"
                assert line in done.stdout
                done = subprocess.run([*command, "--format", "json"], capture_output=True,
                                      text=True, check=False)  # fmt: skip
                assert {f["code"] for f in json.loads(done.stdout)} == {"default-action"}
