"""List managers, OpenDKIM as a verifier and rspamd beside a real Postfix, with the lines of
docs/neighbours.md."""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import dkim
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

import mta_unpack
from canary import Canaries
from dns_server import DnsServer
from mta_modes import Stack
from neighbours import CANARIES, MEMBERS, MESSAGE, STRANGER, listening, mail_server, shown, unpacked
from ports import free_port
from postfix_instance import LOGIN
from postfix_recipes import main_cf
from signed_mail import nameserver, new_key, pem, record, signed

pytestmark = [
    pytest.mark.postfix, pytest.mark.neighbours, pytest.mark.one_engine, pytest.mark.timeout(300),
]  # fmt: skip


@pytest.fixture(scope="module")
def key() -> rsa.RSAPrivateKey:
    return new_key()


def from_user(stack: Stack, message: bytes = MESSAGE, to: str = "bob@local.test") -> None:
    client = stack.postfix.submission(helo="canary-laptop.example", source="127.0.0.77")
    sent = client.send(message, "alice@local.test", [to])
    assert sent.code == 250, (sent, client.transcript, stack.postfix.log_text())


def from_stranger(stack: Stack, message: bytes, to: str = "bob@local.test") -> None:
    client = stack.postfix.inbound(helo="stranger.example",
                                   xclient="NAME=stranger.example ADDR=192.0.2.7")  # fmt: skip
    sent = client.send(message, "carol@stranger.example", [to])
    assert sent.code == 250, (sent, client.transcript, stack.postfix.log_text())


def recorded(stack: Stack) -> list[tuple[str, str]]:
    """Direction and reason of each message that gatepost logged."""
    return re.findall(r"direction=(\S+).* reason=(\S+)", stack.gatepost.text())


# -- mlmmj ----------------------------------------------------------------------------------------


def mlmmj(files: mta_unpack.Programs, folder: Path, port: int) -> Path:
    """The list friends@local.test, which hands its posts in on `port`."""
    home = folder / "friends"
    for name in (
        "incoming",
        "queue/discarded",
        "archive",
        "text",
        "subconf",
        "unsubconf",
        "bounce",
        "control",
        "moderation",
        "subscribers.d",
        "digesters.d",
        "requeue",
        "nomailsubs.d",
    ):
        (home / name).mkdir(parents=True)  # fmt: skip
    (home / "index").write_text("0\n")
    for name, text in (("listaddress", "friends@local.test"), ("owner", "owner@local.test"),
                       ("relayhost", "127.0.0.1"), ("smtpport", str(port))):  # fmt: skip
        (home / "control" / name).write_text(text + "\n")
    (home / "control/customheaders").write_text("List-Id: <friends.local.test>\n")
    (home / "control/modnonsubposts").unlink(missing_ok=True)
    (home / "subscribers.d/x").write_text("".join(f"{m}\n" for m in MEMBERS))
    for path in (folder / "friends", *home.rglob("*")):
        os.chown(path, 65534, 65534)
    assert (files.root / "usr/bin/mlmmj-receive").exists()
    return home


@pytest.mark.parametrize("what", ["as documented", "on the port for strangers"])
def test_mlmmj(
    what: str, postfix_programs: mta_unpack.Programs, folder: Path, key: rsa.RSAPrivateKey
) -> None:
    files = unpacked("mlmmj", "usr/bin/mlmmj-receive", "neighbours")
    main, services, config = shown("List managers")[:3]
    back = free_port()
    services = services.replace("10028", str(back)).replace("/usr/bin/", f"{files.root}/usr/bin/")
    services = services.replace("/var/spool/mlmmj/friends", str(folder / "friends"))
    services = services.replace("user=mlmmj", "user=nobody")
    more = main_cf(main)
    documented = what == "as documented"
    if not documented:
        config = ""
        more["mynetworks"] = "127.0.0.0/8"
        more["smtpd_relay_restrictions"] = "permit_mynetworks, reject_unauth_destination"
    with (
        nameserver(key) as dns,
        mail_server(postfix_programs, services, config, more, dns=dns) as stack,
    ):
        mlmmj(files, folder, back if documented else stack.postfix.inbound_port)
        from_user(stack, MESSAGE.replace(b"To: bob", b"To: friends"), "friends@local.test")
        posts = stack.postfix.collect(len(MEMBERS))
        for data in posts:
            assert b"List-Id: <friends.local.test>" in data
            assert [c for c in CANARIES if c in data] == [], data.decode(errors="replace")
        from_stranger(stack, signed(STRANGER, key), "friends@local.test")
        for data in stack.postfix.collect(len(MEMBERS)):
            assert all(w in data for w in (b"192.0.2.7", b"192.0.2.44", b"Carols Mailer")), data
            # What we said when it came is what the members read: nothing else in our name.
            said = re.findall(rb"Authentication-Results: mx\.local\.test;[^:]*?dkim=(\w+)", data)
            assert said == [b"pass"], data.decode(errors="replace")
        log = stack.gatepost.text()
        # On the port for strangers the queue id in the trace that mlmmj keeps proves the same.
        assert recorded(stack) == [("submission", "scrubbed"), ("inbound", "no-bad-signal")], log
        assert log.count("event=second-pass") == 2 * len(MEMBERS), log


# -- OpenDKIM -------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["Mode s", "Mode sv, the same name", "Mode sv, another name"])
def test_opendkim(
    what: str, postfix_programs: mta_unpack.Programs, folder: Path, key: rsa.RSAPrivateKey
) -> None:
    """As a verifier it deletes what bears its own name; ours stays where that is another."""
    home = mta_unpack.cache() / f"opendkim-{os.getpid()}-n"
    home.mkdir(mode=0o700, exist_ok=True)
    port = free_port()
    (home / "key.pem").write_bytes(pem(key))
    (home / "key.pem").chmod(0o600)
    with nameserver(key) as dns:
        text = (
            f"Socket inet:{port}@127.0.0.1\nDomain local.test\nSelector s1\n"
            f"KeyFile {home}/key.pem\nBackground no\nSyslog no\nInternalHosts 192.0.2.250\n"
            f"MTA ORIGINATING\nOverSignHeaders From\nNameservers {dns}\n"
        )
        mode, _, name = what.partition(", ")
        theirs = "mx.local.test" if name == "the same name" else "dkim.local.test"
        text += f"{mode}\nAuthservID {theirs}\nAlwaysAddARHeader yes\n"
        (home / "opendkim.conf").write_text(text)
        command: list[str | Path] = ["/usr/sbin/opendkim", "-f", "-x", home / "opendkim.conf"]
        with (
            mail_server(postfix_programs, "", dns=dns, behind=f"inet:127.0.0.1:{port}") as stack,
            listening(command, mta_unpack.Programs(Path("/"), ()), folder / "opendkim.log", port),
        ):
            from_stranger(stack, signed(STRANGER, key))
            (data,) = stack.postfix.collect()
            # Nobody else's field has an SPF result.
            names = re.findall(rb"^Authentication-Results: (\S+);", data, re.M)
            ours = b"spf=none smtp.mailfrom=stranger.example" in data
            assert (names, ours) == {
                "Mode s": ([b"mx.local.test"], True),
                "Mode sv, the same name": ([b"mx.local.test"], False),
                "Mode sv, another name": ([b"dkim.local.test", b"mx.local.test"], True),
            }[what], data.decode(errors="replace")
            from_user(stack)
            (out,) = stack.postfix.collect()
            assert b"DKIM-Signature:" in out
            assert [c for c in CANARIES if c in out] == [], out.decode(errors="replace")
            assert dkim.verify(out.replace(b"\n", b"\r\n"),
                               dnsfunc=lambda *_a, **_k: record(key).encode())  # fmt: skip


# -- rspamd ---------------------------------------------------------------------------------------


@contextmanager
def rspamd(
    files: mta_unpack.Programs, folder: Path, port: int, local: Mapping[str, str]
) -> Iterator[None]:
    """One rspamd as a milter on `port`, with these files in local.d."""
    etc = folder / "etc/rspamd/local.d"
    etc.mkdir(parents=True)
    for name in ("state", "run"):
        (folder / name).mkdir()
        os.chown(folder / name, 65534, 65534)
    (folder / "tld").write_text("example\n")
    dns = DnsServer({})
    own = {
        # Compiling what finds bad addresses in bodies takes minutes, and nobody asks it here.
        "options.inc": f'dns {{ nameserver = ["{dns.address}:53"]; timeout = 1s; }}\n'
        f'disable_hyperscan = true;\nurl_tld = "{folder}/tld";\n',
        "rbl.conf": "enabled = false;\n",
        "worker-proxy.inc": f'bind_socket = "127.0.0.1:{port}";\nmilter = yes;\ncount = 1;\n'
        'upstream "local" { default = yes; self_scan = yes; }\n',
        "worker-normal.inc": "enabled = false;\n",
        "worker-controller.inc": "enabled = false;\n",
        "worker-fuzzy.inc": "enabled = false;\n",
        "logging.inc": 'type = "console";\n',
    }
    for name, text in {**own, **local}.items():
        (etc / name).write_text(text)
    root = files.root
    put = (f"mount -t overlay overlay -o lowerdir={root}/usr:/usr /usr;"
           f" mount -t overlay overlay -o lowerdir={folder}/etc:{root}/etc:/etc /etc")  # fmt: skip
    command: list[str | Path] = [
        "unshare", "--mount", "sh", "-ec",
        f'{put}; exec /usr/bin/rspamd -f -u nobody -g nogroup --var=DBDIR={folder}/state'
        f" --var=RUNDIR={folder}/run --var=LOGDIR={folder}/state",
    ]  # fmt: skip
    try:
        with listening(command, files, folder / "output", port):
            yield
    finally:
        dns.stop()


@pytest.mark.parametrize("what", ["as documented", "as its users have it"])
def test_rspamd(
    what: str, postfix_programs: mta_unpack.Programs, folder: Path, key: rsa.RSAPrivateKey
) -> None:
    """Behind gatepost it takes the listener's name for its own, and deletes everybody's results."""
    files = unpacked("rspamd", "usr/bin/rspamd", "neighbours")
    (text,) = shown("rspamd")
    documented = what == "as documented"
    if not documented:
        text = 'use = ["authentication-results"];\n' + text.partition("authenticated_headers")[0]
        text += 'authenticated_headers = ["authentication-results"];\n'
    port = free_port()
    behind = f"inet:127.0.0.1:{port}"
    with (
        nameserver(key) as dns,
        mail_server(postfix_programs, "", dns=dns, behind=behind) as stack,
        rspamd(files, folder, port, {"milter_headers.conf": text}),
    ):
        canaries = Canaries.fresh("ipv4", LOGIN)
        client = stack.postfix.submission(helo=canaries.helo, xclient=canaries.xclient)
        sent = client.send(MESSAGE, "alice@local.test", ["bob@local.test"])
        assert sent.code == 250, (sent, client.transcript)
        (data,) = stack.postfix.collect()
        theirs = re.search(rb"^Authentication-Results: ORIGINATING;(?:.*\n(?:\s.*\n)*)", data, re.M)
        if documented:
            assert theirs is None and canaries.found(data) == (), data.decode()
        else:
            assert theirs is not None and LOGIN.encode() in theirs[0], data.decode()
        from_stranger(stack, signed(STRANGER, key))
        (data,) = stack.postfix.collect()
        ours = b"spf=none smtp.mailfrom=stranger.example;" in data
        assert ours is documented, data.decode(errors="replace")
        assert b"X-Spamd-Bar" in data or not documented, data.decode(errors="replace")
