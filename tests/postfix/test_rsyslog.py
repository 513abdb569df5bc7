"""conf/rsyslog beside a real Postfix: what own users' sessions tell is not in the mail log.

Debian's rsyslogd listens on a socket of its own, and Postfix, in a mount namespace, finds it as
/dev/log. The same sessions without the recipe are the counter-proof.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

import mta_modes
import mta_unpack
import rings
from daemons import Daemon, Process
from postfix_instance import LOGIN, PostfixInstance, Setup

pytestmark = [pytest.mark.postfix, pytest.mark.timeout(300)]
RECIPE = Path(__file__).parents[2] / "conf/rsyslog/30-gatepost.conf"
PATIENCE_S = 30
OWN_DEV = """\
dev=$1 socket=$2; shift 2
mount -t tmpfs tmpfs "$dev"
for n in null zero full random urandom tty; do
    touch "$dev/$n"; mount --bind "/dev/$n" "$dev/$n"
done
ln -s /proc/self/fd "$dev/fd"
ln -s "$socket" "$dev/log"
mount --rbind "$dev" /dev
exec "$@"
"""


class Logged(PostfixInstance):
    """A Postfix that logs to `socket` by syslog(3)."""

    def __init__(self, programs: mta_unpack.Programs, setup: Setup, socket: Path) -> None:
        self.socket = socket
        super().__init__(programs, setup)

    def launch(
        self, command: Sequence[str | Path], environ: Mapping[str, str], output: Path
    ) -> None:
        dev = self.root / "dev"
        dev.mkdir(exist_ok=True)
        super().launch(
            ["unshare", "--mount", "sh", "-ec", OWN_DEV, "sh", dev, self.socket, *command],
            environ, output,
        )  # fmt: skip


@contextmanager
def rsyslog(recipe: bool) -> Iterator[tuple[Path, Path]]:
    """A running rsyslogd: its socket, and the mail log that it writes."""
    try:
        programs = mta_unpack.rsyslog()
    except mta_unpack.Unavailable as error:
        rings.missing("postfix", str(error))
    with tempfile.TemporaryDirectory(prefix="gatepost-rsyslog-") as name:
        home = Path(name)
        home.chmod(0o755)
        log, socket, conf = home / "mail.log", home / "log", home / "rsyslog.conf"
        rules = RECIPE.read_text().replace("/var/log/mail.log", str(log)) if recipe else ""
        (home / "30-gatepost.conf").write_text(rules)
        conf.write_text(
            'module(load="imuxsock" SysSock.Use="off" SysSock.RateLimit.Interval="0")\n'
            f'input(type="imuxsock" Socket="{socket}" UseSysTimeStamp="off")\n'
            '$ActionFileDefaultTemplate RSYSLOG_FileFormat\n'
            f'include(file="{home}/30-gatepost.conf")\nmail.* {log}\n'
        )  # fmt: skip
        modules = next(programs.root.glob("usr/lib/*/rsyslog"))
        libraries = programs.environment().get("LD_LIBRARY_PATH", "")
        rsyslogd = programs.root / "usr/sbin/rsyslogd"
        checked = subprocess.run(
            [rsyslogd, "-N1", "-M", modules, "-f", conf],
            env={"LD_LIBRARY_PATH": libraries, "PATH": "/usr/bin:/bin"}, capture_output=True,
            text=True, check=False,
        )  # fmt: skip
        assert checked.returncode == 0, checked.stderr
        os.environ["LD_LIBRARY_PATH"], before = libraries, os.environ.get("LD_LIBRARY_PATH")
        try:
            daemon = Process(
                [rsyslogd, "-n", "-M", modules, "-f", conf, "-i", home / "pid"], home / "output"
            )
        finally:
            if before is None:
                del os.environ["LD_LIBRARY_PATH"]
            else:
                os.environ["LD_LIBRARY_PATH"] = before
        try:
            wait(socket.exists)
            yield socket, log
        finally:
            daemon.stop()


def wait(true: Callable[[], bool], what: str = "") -> None:
    end = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < end, what or "waited in vain"
        time.sleep(0.05)


def session(programs: mta_unpack.Programs, recipe: bool, mode: str = "milter") -> tuple[str, int]:
    """What stands in the mail log after users and strangers came; the source port of a user."""
    with (
        rsyslog(recipe) as (socket, log),
        Daemon(mta_modes.BASE_CONFIG + mta_modes.SUBMISSION[mode]) as daemon,
    ):
        setup = mta_modes.setup(
            mode, daemon.socket, {"maillog_file": "", "syslog_name": "postfix",
                                  "maillog_file_prefixes": "/var"},
            submission={"syslog_name": "postfix/submission",
                        **({} if mode == "mta" else {"cleanup_service_name": "subcleanup"})},
        )  # fmt: skip
        if mode != "mta":
            setup.services += (
                "subcleanup unix n - n - 0 cleanup -o syslog_name=postfix/subcleanup\n"
            )
        with Logged(programs, setup, socket) as postfix:
            user = partial(
                postfix.submission, helo="canary-laptop.example",
                xclient="ADDR=203.0.113.77 NAME=canary-home.example",
            )  # fmt: skip
            header = b"From: alice@local.test\r\nSubject: x\r\nMessage-ID: <1@%b>\r\n\r\nx\r\n"
            # As most mail programs write it: with the name of the machine.
            message = header % b"canary-laptop.example"
            sent = user(tls=True).send(message, "alice@local.test", ["bob@local.test"])
            assert sent.code == 250, sent
            port = sent.port
            # Refused at RCPT, at the end of the message (a field that no edit can address), and a
            # wrong password.
            user().send(message, "alice@local.test", ["nobody1@local.test"])
            user().send(b"X-Mailer : x\r\n" + message, "alice@local.test", ["bob@local.test"])
            user(password="wrong").send(message, "a@b.example", [])
            stranger = postfix.inbound(
                helo="stranger.example", xclient="ADDR=198.51.100.9 NAME=mx.stranger.example"
            )
            mail = header % b"stranger.example"
            assert stranger.send(mail, "x@stranger.example", ["bob@local.test"]).code == 250
            postfix.settle()
            wait(lambda: log.exists() and "disconnect from mx.stranger.example" in log.read_text(),
                 log.read_text() if log.exists() else "no log")  # fmt: skip
        return log.read_text(), port


CANARIES = ("203.0.113.77", "canary-home", "canary-laptop")


@pytest.mark.parametrize("mode", ["milter", "mta"])
def test_canaries(mode: str, postfix_programs: mta_unpack.Programs, tmp_path: Path) -> None:
    """mta is the token recipe, whose cleanup logs the whole Received field that it replaces."""
    text, _ = session(postfix_programs, recipe=True, mode=mode)
    failed = [line for line in text.splitlines() if "authentication failed" in line]
    rest = [line for line in text.splitlines() if "authentication failed" not in line]
    assert len(failed) == 1 and "canary-home.example[203.0.113.77]" in failed[0], text
    assert [line for line in rest if any(c in line for c in (*CANARIES, LOGIN))] == []
    # A submission is still known as one, and a stranger's lines are whole.
    assert "client=unknown[unknown], sasl_method=PLAIN, sasl_username=-" in text
    assert "client=mx.stranger.example[198.51.100.9]" in text
    assert "message-id=<1@stranger.example>" in text
    assert "reject: RCPT from unknown[unknown]: 550 5.1.1; from=<alice@local.test>" in text
    # Both as `milterctl import` reads them: a submission is counted, the stranger is recorded.
    log = tmp_path / "mail.log"
    log.write_text(text)
    (tmp_path / "gatepost.toml").write_text(f'[store]\nurl = "{tmp_path}/state/g.sqlite"\n')
    milterctl = [str(Path(sys.executable).with_name("milterctl"))]
    done = subprocess.run(
        [*milterctl, "--config", tmp_path / "gatepost.toml", "import", "postfix", log],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0 and "submission" in done.stdout, done


def test_without_the_recipe(postfix_programs: mta_unpack.Programs) -> None:
    """The counter-proof."""
    text, _ = session(postfix_programs, recipe=False)
    assert all(c in text for c in (*CANARIES, LOGIN)), text


def test_lines_of_other_services() -> None:
    """anvil's counts by client, and what no rule knows: dropped where it is a submission's."""
    import socket as sockets

    lines = [
        "postfix/anvil[1]: statistics: max connection rate 1/60s for (submission:203.0.113.77)",
        "postfix/anvil[1]: statistics: max message rate 1/60s for (192.0.2.1:587:203.0.113.77)",
        "postfix/anvil[1]: statistics: max connection rate 1/60s for (smtp:198.51.100.9) at x",
        "postfix/submissions/smtpd[2]: something new about canary-home.example[203.0.113.77]",
        "postfix/smtps/smtpd[2]: warning: hostname canary-home.example does not resolve to address"
        " 203.0.113.77",
        "postfix/subcleanup/cleanup[3]: 4Xyz: replace: header Received: from canary-laptop.example"
        " (canary-home.example [203.0.113.77])??by mx (tok) with ESMTPSA id 4Xyz; from local:"
        " Received: by mx (Postfix)",
        "postfix/submission/smtpd[2]: warning: connect to Milter service inet:127.0.0.1:8894:"
        " Connection refused",
        "postfix/smtpd[4]: connect from mx.stranger.example[198.51.100.9]",
    ]
    with rsyslog(recipe=True) as (socket, log):
        with sockets.socket(sockets.AF_UNIX, sockets.SOCK_DGRAM) as sender:
            sender.connect(str(socket))
            for line in lines:
                sender.send(("<22>Nov 28 07:00:00 " + line).encode())
        wait(lambda: log.exists() and "connect from mx.stranger" in log.read_text())
        text = log.read_text()
    assert not any(c in text for c in CANARIES), text
    assert "(smtp:198.51.100.9)" in text and "connect to Milter service" in text
    assert len(text.splitlines()) == 3
