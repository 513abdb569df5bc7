"""Mailman 3 beside a real Postfix, with the lines of docs/neighbours.md."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import mta_unpack
from daemons import Process
from mta_modes import Stack
from neighbours import CANARIES, MEMBERS, MESSAGE, STRANGER, mail_server, program, shown, unpacked
from ports import free_port
from postfix_recipes import main_cf

pytestmark = [
    pytest.mark.postfix, pytest.mark.neighbours, pytest.mark.one_engine, pytest.mark.timeout(300),
]  # fmt: skip
# What an installation has in other places.
PLACES = """\
[mailman]
layout: here
[paths.here]
var_dir: {folder}/var
bin_dir: /usr/lib/mailman3/bin
[webservice]
port: {port}
"""
UNUSED = ("archive", "bounces", "command", "digest", "nntp", "rest", "retry", "task", "virgin")
MAKE_LIST = """\
import sys
from mailman.core.initialize import initialize
initialize(sys.argv[1])
from mailman.app.lifecycle import create_list
from mailman.config import config
from mailman.interfaces.action import Action
from mailman.interfaces.domain import IDomainManager
from mailman.interfaces.usermanager import IUserManager
from zope.component import getUtility
getUtility(IDomainManager).add("local.test")
made = create_list("friends@local.test", ["owner@local.test"])
made.anonymous_list = sys.argv[2] == "anonymous"
made.send_welcome_message = False
made.default_nonmember_action = made.default_member_action = Action.accept
for address in sys.argv[3:]:
    made.subscribe(getUtility(IUserManager).create_address(address))
config.db.store.commit()
"""


@contextmanager
def mailman(
    files: mta_unpack.Programs, folder: Path, lines: str, kind: str, port: int
) -> Iterator[Process]:
    """Mailman's core with the list friends@local.test, listening for LMTP on `port`."""
    folder.chmod(0o755)
    config, make = folder / "mailman.cfg", folder / "make.py"
    off = "".join(f"[runner.{name}]\nstart: no\n" for name in UNUSED)
    config.write_text(PLACES.format(folder=folder, port=free_port()) + off + lines)
    make.write_text(MAKE_LIST)
    (folder / "var").mkdir()
    os.chown(folder / "var", 65534, 65534)
    put = f"mount -t overlay overlay -o lowerdir={files.root}/usr:/usr /usr"
    as_nobody = "setpriv --reuid=65534 --regid=65534 --clear-groups"
    command: list[str | Path] = [
        "unshare", "--mount", "sh", "-ec",
        f"{put}; cd {folder}; {as_nobody} /usr/bin/python3 {make} {config} {kind}"
        f" {' '.join(MEMBERS)}; exec {as_nobody} /usr/bin/python3 /usr/lib/mailman3/bin/master"
        f" -C {config}",
    ]  # fmt: skip
    with program(command, files, folder / "output", port) as running:
        yield running


def from_stranger(stack: Stack) -> None:
    client = stack.postfix.inbound(helo="stranger.example",
                                   xclient="NAME=stranger.example ADDR=192.0.2.7")  # fmt: skip
    sent = client.send(STRANGER, "carol@stranger.example", ["friends@local.test"])
    assert sent.code == 250, (sent, client.transcript, stack.postfix.log_text())


def from_user(stack: Stack) -> None:
    client = stack.postfix.submission(helo="canary-laptop.example", source="127.0.0.77")
    message = MESSAGE.replace(b"To: bob", b"To: friends")
    sent = client.send(message, "alice@local.test", ["friends@local.test"])
    assert sent.code == 250, (sent, client.transcript, stack.postfix.log_text())


@pytest.mark.parametrize("what, kind", [
    ("as documented", "anonymous"), ("on the port for strangers", "open"),
    ("on the port for strangers", "anonymous"),
])  # fmt: skip
def test_mailman(what: str, kind: str, postfix_programs: mta_unpack.Programs, folder: Path) -> None:
    files = unpacked("mailman3", "usr/lib/mailman3/bin/master", "neighbours")
    _, services, config, main, lines = shown("List managers")[:5]
    back, port = free_port(), free_port()
    services = re.sub(r"^mlmmj.*\n(?: .*\n)*", "", services, flags=re.M).replace("10028", str(back))
    more = main_cf(main.replace("8024", str(port)))
    documented = what == "as documented"
    if not documented:
        config = ""
        more["mynetworks"] = "127.0.0.0/8"
        more["smtpd_relay_restrictions"] = "permit_mynetworks, reject_unauth_destination"
    with mail_server(postfix_programs, services, config, more) as stack:
        listener = back if documented else stack.postfix.inbound_port
        lines = lines.replace("8024", str(port)).replace("10028", str(listener))
        with mailman(files, folder, lines, kind, port) as running:
            from_user(stack)
            for data in stack.postfix.collect(len(MEMBERS)):
                assert b"List-Id: <friends.local.test>" in data, (data.decode(), running.text())
                assert [c for c in CANARIES if c in data] == [], data.decode(errors="replace")
            from_stranger(stack)
            for data in stack.postfix.collect(len(MEMBERS)):
                # An anonymous list removes the trace: that is its purpose.
                told = [w in data for w in (b"192.0.2.7", b"192.0.2.44", b"Carols Mailer")]
                assert told == [kind == "open"] * 3, data.decode(errors="replace")
                assert data.count(b"Authentication-Results: mx.local.test;") == 1, data.decode()
            log = stack.gatepost.text()
            recorded = re.findall(r"direction=(\S+) .* reason=(\S+)", log)
            clients = set(re.findall(r" client=(\S+)", log))
    posts = [("submission", "scrubbed"), ("inbound", "no-bad-signal")]
    if kind == "open" or documented:
        # One message for each domain of members.
        assert (recorded, log.count("event=second-pass")) == (posts, 4), log
        assert clients == {"192.0.2.7"}
    else:
        # Nothing in them shows that gatepost had the post before: from this host, so nobody is
        # listed for them.
        assert len(recorded) == 2 + 4 and set(recorded) == set(posts), log
        assert clients == {"192.0.2.7", "127.0.0.1"}, log
