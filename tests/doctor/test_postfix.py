"""`milterctl check postfix` names each broken set-up, and has nothing to say about a right one.

The configurations are real: the shipped recipes, read by the real postconf. A broken one is the
right one with a single thing changed, so the finding can only come from that.
"""

import json
import os
import re
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

import mta_unpack
from broken_postfix import Broken, Sockets, codes, findings, instance, paste, settings
from daemons import BIN
from gatepost_milter.doctor import postfix, postfix_around, postfix_config
from gatepost_milter.doctor.finding import Live
from open_socket import Listener
from ports import free_port
from postfix_instance import PostfixInstance, version
from postfix_recipes import shipped

pytestmark = [pytest.mark.postfix, pytest.mark.timeout(120)]

OURS = "-o smtpd_milters={@MILTER@,default_action=tempfail}"


BROKEN = (
    Broken("our name for strangers", "stranger-name",
           main={"milter_macro_daemon_name": "ORIGINATING"}),
    Broken("our name on port 25", "stranger-name", config={"daemon_names": ["OURS", "ORIGINATING"]},
           main={"milter_macro_daemon_name": "OURS"}),
    Broken("no version for the milter", "macro-version", main={"milter_macro_v": "$mail_name"}),
    Broken("no version on the listener", "macro-version",
           submission={"milter_macro_v": "Mailserver"}),
    Broken("listener without ORIGINATING", "daemon-name",
           drop="-o milter_macro_daemon_name=ORIGINATING"),
    Broken("default action accept on 587", "default-action",
           submission={"smtpd_milters": "{ @MILTER@, default_action=accept }"}),
    Broken("gatepost twice on 587", "milter-twice",
           submission={"smtpd_milters": "{ @MILTER@, default_action=tempfail }, @MILTER@"}),
    Broken("gatepost twice on 25", "milter-twice",
           main={"smtpd_milters": "{ @MILTER@, default_action=accept }, inet:127.0.0.1:9, "
                 "{ @MILTER@, default_action=accept }"}),
    Broken("milter_default_action=accept on 587", "default-action",
           submission={"smtpd_milters": "@MILTER@", "milter_default_action": "accept"}),
    Broken("milter only in non_smtpd_milters", "milter-missing", drop=OURS,
           main={"smtpd_milters": "", "non_smtpd_milters": "@MILTER@"},
           also=("submission-milter", "local-action")),  # the latter with 3.10.13's defaults
    Broken("submission without the milter", "submission-milter",
           submission={"smtpd_milters": ""}),
    Broken("policy service after reject_unlisted_recipient", "policy-order",
           main={"smtpd_recipient_restrictions": "reject_unlisted_recipient, "
                 "check_policy_service { @POLICY@, default_action=DUNNO }"}),
    Broken("policy service behind permit_auth_destination", "policy-order",
           main={"smtpd_recipient_restrictions": "permit_mynetworks, permit_auth_destination, "
                 "check_policy_service { @POLICY@, default_action=DUNNO }, reject"}),
    Broken("policy service without default_action", "policy-default",
           main={"smtpd_recipient_restrictions": "permit_mynetworks "
                 "check_policy_service @POLICY@ reject_non_fqdn_recipient"}),
    Broken("policy service with 451 as its default", "policy-default",
           main={"smtpd_recipient_restrictions": "check_policy_service { @POLICY@, "
                 "default_action = 451 4.3.0 later }"}),
    Broken("policy service at sender stage without default_action", "policy-default",
           main={"smtpd_sender_restrictions": "check_policy_service @POLICY@",
                 "smtpd_recipient_restrictions": "permit"}),
    Broken("another policy service that is dead", "policy-unreachable", by_hand=True,
           main={"smtpd_recipient_restrictions": "permit_mynetworks, check_policy_service "
                 "{ @POLICY@, default_action=DUNNO }, check_policy_service "
                 "inet:127.0.0.1:@DEAD@"}),
    Broken("our own people get 554", "relay-refused",
           main={"smtpd_relay_restrictions": "permit_mynetworks, permit_sasl_authenticated, "
                 "defer_unauth_destination", "smtpd_recipient_restrictions":
                 "check_policy_service { @POLICY@, default_action=DUNNO }, "
                 "reject_unauth_destination"}),
    Broken("our own people get 554, one listener", "relay-refused",
           inbound={"smtpd_relay_restrictions": "permit_mynetworks, reject_unauth_destination",
                    "smtpd_recipient_restrictions": "check_policy_service "
                    "{@POLICY@,default_action=DUNNO}, reject_unauth_destination, reject_rbl_client "
                    "bl.example"}),
    Broken("no non_smtpd_milters", "non-smtpd-milters", main={"non_smtpd_milters": ""}),
    Broken("a signer alone in non_smtpd_milters", "non-smtpd-milters",
           main={"non_smtpd_milters": "inet:127.0.0.1:8891"}),
    Broken("pickup without milters", "no-milters", services="pickup unix n - n 60 1 pickup\n"
           "  -o receive_override_options=no_header_body_checks,no_milters\n"),
    Broken("header_checks on Received", "header-checks",
           main={"header_checks": "regexp:@ETC@/privacy"},
           files={"privacy": "/^Received:/ IGNORE\n/^X-Originating-IP:/ IGNORE\n"}),
    Broken("header_checks on Received alone", "header-checks",
           main={"header_checks": "regexp:@ETC@/privacy"},
           files={"privacy": "/^Received: from .*/ REPLACE Received: from unknown\n"}),
    Broken("smtp_header_checks on Received", "header-checks",
           main={"smtp_header_checks": "regexp:@ETC@/out"},
           files={"out": "# old\n/^X-Foo:/ IGNORE\n/^Received: from .*ESMTPSA/ IGNORE\n"}),
    Broken("smtp_header_checks of one service", "header-checks",
           main={"smtp_header_checks": "regexp:@ETC@/none"},
           services="relay unix - - n - - smtp\n  -o smtp_header_checks=regexp:@ETC@/out\n",
           files={"out": "/^Received:/ IGNORE\n", "none": "/^X-Foo:/ IGNORE\n"}),
    Broken("PREPEND by $config_directory", "prepend",
           main={"smtpd_client_restrictions":
                 "check_client_access regexp:$config_directory/prepend"},
           files={"prepend": "/(.*)/ PREPEND X-Reputation: $1\n"}),
    Broken("PREPEND in a restriction class", "prepend",
           main={"smtpd_restriction_classes": "noted", "noted":
                 "check_client_access static:{PREPEND X-Reputation: a}",
                 "smtpd_sender_restrictions": "check_sender_access static:noted, noted"}),
    Broken("smtpd behind postscreen without gatepost", "milter-missing",
           services="smtpd pass - - n - - smtpd -o smtpd_milters=\n"),
    Broken("one listener with the signer alone", "milter-missing",
           services="127.0.0.1:2525 inet n - n - - smtpd -o smtpd_milters=inet:127.0.0.1:8891\n"),
    Broken("no_milters on one listener for strangers", "no-milters",
           inbound={"receive_override_options": "no_address_mappings,no_milters"}),
    Broken("mynetworks wider than networks", "networks",
           main={"mynetworks": "127.0.0.0/8 [::1]/128 192.168.7.0/24 !192.0.2.0/24"}),
    Broken("mynetworks wider than what is there", "networks",
           main={"mynetworks": "127.0.0.0/8 10.1.0.0/16"}, config={"networks": ["127.0.0.0/8"]}),
    Broken("mynetworks of the whole world", "public-networks",
           main={"mynetworks": "127.0.0.0/8 0.0.0.0/0 [::]/0"}, config={"networks": [
               "127.0.0.0/8"]}),
    Broken("mynetworks of the provider", "public-networks",
           main={"mynetworks": "[::1]/128, 192.0.2.0/24, 198.51.100.7, 2001:db8::/32"},
           config={"networks": ["::1/128", "198.51.100.0/29"]}),
    Broken("mynetworks of one listener", "public-networks", inbound={"mynetworks": "0.0.0.0/0"}),
    Broken("networks of the whole world", "public-networks",
           config={"networks": ["127.0.0.0/8", "::/0"]}),
    Broken("relays of the whole world", "public-networks",
           config={"trusted_relays": ["0.0.0.0/1"]}),
    Broken("smtpd_milter_maps for our own hosts", "milter-maps",
           inbound={"smtpd_milter_maps": "cidr:@ETC@/maps"},
           files={"maps": "127.0.0.0/8 DISABLE\n"}),
    Broken("another port with TLS from the start", "daemon-name",
           services="127.0.0.1:10465 inet n - n - - smtpd -o smtpd_tls_wrappermode=yes\n"
           "  -o smtpd_sasl_auth_enable=$logins\n", main={"logins": "yes"},
           also=("default-action",)),
    Broken("another port for logins alone", "daemon-name",
           services="127.0.0.1:10587 inet n - n - - smtpd -o smtpd_sasl_auth_enable=$logins\n"
           "  -o smtpd_client_restrictions=permit_sasl_authenticated,reject\n",
           main={"logins": "yes"}, also=("default-action",)),
    Broken("header_checks on Received of another cleanup", "header-checks",
           submission={"cleanup_service_name": "subcleanup"},
           services="subcleanup unix n - n - 0 cleanup -o header_checks=regexp:@ETC@/privacy\n",
           files={"privacy": "/^Received:/ IGNORE\n/^X-Originating-IP:/ IGNORE\n"}),
    Broken("amavis before the queue on 587", "proxy-filter",
           submission={"smtpd_proxy_filter": "127.0.0.1:10026"}),
    Broken("spampd before the queue everywhere", "proxy-filter",
           main={"smtpd_proxy_filter": "inet:127.0.0.1:10026"}),
    Broken("a filter hands back what gatepost takes for new", "second-pass",
           services="127.0.0.1:10025 inet n - n - - smtpd -o content_filter=\n"
           "  -o mynetworks=127.0.0.0/8 -o smtpd_recipient_restrictions=permit_mynetworks,reject\n"
           ),
    Broken("a filter hands back to gatepost and a signer", "second-pass",
           services="127.0.0.1:10025 inet n - n - - smtpd -o content_filter=\n"
           "  -o smtpd_milters=@MILTER@,inet:127.0.0.1:8891\n"),
    Broken("a policy port nobody meant", "policy-unreachable", by_hand=True,
           main={"smtpd_sender_restrictions": "check_policy_service inet:localhost:@DEAD@"}),
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
           files={"prepend": "/(.*)/ PREPEND X-Reputation: $1\n"}),
    Broken("PREPEND before 3.7.11", "prepend", main={
        "mail_version": "3.7.10",
        "smtpd_client_restrictions": "check_client_access static:{PREPEND Received-SPF: pass}, "
        "permit"}),
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
    Broken("smtpd_milter_maps name others", "milter-maps",
           main={"smtpd_milter_maps": "cidr:@ETC@/maps"},
           files={"maps": "# all\n10.0.0.0/8 inet:127.0.0.1:8891\n"}),
    Broken("smtpd_milter_maps nobody can read", "milter-maps",
           submission={"smtpd_milter_maps": "cidr:@ETC@/nowhere"}),
    Broken("smtpd_milter_maps without a file", "milter-maps",
           submission={"smtpd_milter_maps": "static:DISABLE"}),
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
def sockets() -> Iterator[Sockets]:
    milter, policy = Listener(), Listener()
    yield Sockets(str(milter.port), policy.port, free_port())
    milter.close()
    policy.close()


@pytest.mark.parametrize("mode", ["milter", "mta", "proxy", "hide"])
def test_nothing_to_say_about_a_right_one(
    mode: str, sockets: Sockets, postfix_programs: mta_unpack.Programs
) -> None:
    with instance(postfix_programs, Broken("right", "", mode), sockets) as made:
        unknown = mode == "hide" and version(postfix_programs) < (3, 10)
        assert codes(made, settings(mode, sockets)) == ["client-session"] * unknown


@pytest.mark.parametrize("broken", BROKEN, ids=lambda b: b.name.replace(" ", "-"))
def test_broken(broken: Broken, sockets: Sockets, postfix_programs: mta_unpack.Programs) -> None:
    """One line names the fault, and what it says to do mends it."""
    with instance(postfix_programs, broken, sockets) as made:
        live = settings(broken.mode, sockets, broken.config)
        found = findings(made, live)
        got = [f.code for f in found]
        assert got.count(broken.code) == 1, found
        # Nothing else is made up on the way.
        assert set(got) <= {broken.code, *broken.also}, found
        if broken.by_hand:
            return
        for _ in range(4):  # what else the same fault brings is pasted too
            for finding in found:
                live = paste(made, finding, live)
            found = findings(made, live)
        assert [(f.code, f.change) for f in found] == []


def test_milter_maps_that_keep_gatepost(
    sockets: Sockets, postfix_programs: mta_unpack.Programs
) -> None:
    """Each row has our socket, or it is a finding."""
    ours = sockets.postfix
    rows = f"10.0.0.0/8\t{ours}\n\n# else\n::/0 inet:127.0.0.1:8891, {ours}\n"
    live = settings("milter", sockets)
    for more, want in (("", []), ("127.0.0.1 inet:127.0.0.1:8891\n", ["milter-maps"])):
        broken = Broken("maps", "", submission={"smtpd_milter_maps": "cidr:@ETC@/maps"},
                        files={"maps": rows + more})  # fmt: skip
        with instance(postfix_programs, broken, sockets) as made:
            assert codes(made, live) == want


def test_nobody_listens(sockets: Sockets, postfix_programs: mta_unpack.Programs) -> None:
    dead = Sockets(str(sockets.dead), sockets.policy, sockets.dead)
    with instance(postfix_programs, Broken("dead", ""), dead) as made:
        assert codes(made, settings("milter", dead)) == ["socket-unreachable"]


def test_no_policy_service(sockets: Sockets, postfix_programs: mta_unpack.Programs) -> None:
    dead = Sockets(sockets.milter, sockets.dead, sockets.dead)
    with instance(postfix_programs, Broken("dead", ""), dead) as made:
        assert codes(made, settings("milter", dead)) == ["policy-unreachable"]


def test_unix_sockets(sockets: Sockets, postfix_programs: mta_unpack.Programs) -> None:
    """Outside the chroot; not readable by postfix; and right."""
    there = Sockets("unix:@SPOOL@/gatepost/m.sock", sockets.policy, sockets.dead)
    with instance(postfix_programs, Broken("right", ""), there) as made:
        inside = made.spool / "gatepost"
        inside.mkdir()
        for name in ("main.cf", "master.cf"):
            path = made.etc / name
            path.write_text(path.read_text().replace("@SPOOL@", str(made.spool)))
        listener = Listener(str(inside / "m.sock"))
        live = settings("milter", Sockets(f"unix:{inside}/m.sock", sockets.policy, sockets.dead))
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


def test_socket_outside_the_chroot(
    sockets: Sockets, postfix_programs: mta_unpack.Programs
) -> None:  # fmt: skip
    path = f"/tmp/gatepost-check-{os.getpid()}.sock"
    there = Sockets(f"unix:{path}", sockets.policy, sockets.dead)
    listener = Listener(path)
    os.chmod(path, 0o666)
    try:
        with instance(postfix_programs, Broken("outside", ""), there) as made:
            live = settings("milter", there)
            assert codes(made, live) == []
            _chroot(made)
            assert codes(made, live) == ["socket-chroot"]  # one line, not one a listener
    finally:
        listener.close()
        os.unlink(path)


def _chroot(made: PostfixInstance) -> None:
    path = made.etc / "master.cf"
    path.write_text(path.read_text().replace(" inet n - n - - smtpd", " inet n - y - - smtpd")
                    .replace("inet n       -       n ", "inet n       -       y "))  # fmt: skip


def test_command_line(
    sockets: Sockets, postfix_programs: mta_unpack.Programs, tmp_path: Path
) -> None:
    """Exit 0 on a right one; 1 with the exact line on a broken one; JSON has the same."""
    config = tmp_path / "gatepost.toml"
    config.write_text(f'[milter]\nsocket = "inet:{sockets.milter}@127.0.0.1"\n'
                      f'[policy]\nlisten = "inet:{sockets.policy}@127.0.0.1"\n')  # fmt: skip
    broken = Broken("x", "", submission={"smtpd_milters": "{ @MILTER@, default_action=accept }"})
    for fault, code in ((Broken("right", ""), 0), (broken, 1)):
        with instance(postfix_programs, fault, sockets) as made:
            command: list[str | Path] = [
                       BIN / "milterctl", "--config", config, "check", "postfix",
                       "-c", made.etc, "--command-directory", made.commands_for_check(),
            ]  # fmt: skip
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == code, (done.stdout, done.stderr)
            if code:
                line = f"/smtpd_milters={{{sockets.postfix},default_action=tempfail}}"
                assert line in done.stdout
                done = subprocess.run([*command, "--format", "json"], capture_output=True,
                                      text=True, check=False)  # fmt: skip
                assert {f["code"] for f in json.loads(done.stdout)} == {"default-action"}
            else:
                assert "listener" in done.stdout and "nothing to change" in done.stdout


def test_port_587_of_another_program(
    sockets: Sockets, postfix_programs: mta_unpack.Programs
) -> None:
    """Dovecot on 587: found in Postfix's own configuration, said to be not looked at elsewhere."""
    with (
        instance(postfix_programs, Broken("right", ""), sockets) as made,
        socket.create_server(("127.0.0.1", 0)) as dovecot,
    ):

        def greet() -> None:
            with suppress(OSError):  # the test is over, and has closed the socket
                while True:
                    with dovecot.accept()[0] as connection:
                        connection.sendall(b"220 mx.local.test Dovecot ready.\r\n")

        threading.Thread(target=greet, daemon=True).start()
        config = postfix_config.read(made.etc, made.commands_for_check())
        live = settings("milter", sockets)
        ports = {str(dovecot.getsockname()[1]): "submission"}
        assert list(postfix_around.foreign_submission(Live(config, live), (), ports)) == []
        assert any("587" in one for one in postfix.unchecked(config, live))
        own = Live(replace(config, called=("postconf",)), live)
        (finding,) = postfix_around.foreign_submission(own, (), ports)
        assert "submission_relay_trusted = yes" in finding.change
        (entry,) = re.findall(r"postconf -M '([^']*)'", finding.change)
        subprocess.run([made.commands_for_check() / "postconf", "-c", made.etc, "-M", entry],
                       check=True)  # fmt: skip
        # With the listener that it names, gatepost knows these users; only the milter is missing
        # there, as on any new listener, and that is said with the line.
        assert codes(made, live) in ([], ["default-action"])
