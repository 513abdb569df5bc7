"""`milterctl privacy test` against servers that answer oddly: one line with what to do, always."""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from gatepost_milter.cli import main
from gatepost_milter.doctor import privacy_probe, privacy_ways
from gatepost_milter.doctor.privacy_probe import ProbeError, Seen, Target
from gatepost_policy.config.settings import Settings

TARGET = Target("127.0.0.1", 0, "a@local.test", "b@local.test", tls="none", timeout=20)
SHORT = replace(TARGET, timeout=0.5)  # where the server never comes to an end
GREETING, EHLO = b"220 mx ESMTP\r\n", b"250-mx\r\n250 AUTH CRAM-MD5\r\n"


@contextmanager
def server(*answers: bytes) -> Iterator[int]:
    """Says each answer when a line comes, the first at once, and hangs up behind the last; nothing
    is said for an empty one."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            connection, _ = listener.accept()
            with connection, connection.makefile("rb") as lines:
                for number, answer in enumerate(answers):
                    if number and not lines.readline():
                        return
                    connection.sendall(answer)
                if answers and not answers[-1]:
                    lines.readline()  # hangs until the client has had enough

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(5)


@pytest.mark.parametrize("answers, target, said", [
    ((b"",), SHORT, "timed out"),
    ((GREETING,), TARGET, "Connection unexpectedly closed"),
    ((b"what do you want\r\n",), TARGET, "does --tls say"),
    ((b"\xff\xfe\x00\r\n",), TARGET, "does --tls say"),
    ((b"421 4.3.2 too busy\r\n",), TARGET, "421 4.3.2 too busy"),
    ((GREETING, b"250 mx\r\n"), replace(TARGET, login="a", password="b"), "AUTH"),
    ((GREETING, b"250 mx\r\n"), replace(TARGET, tls="starttls"), "STARTTLS"),
    ((GREETING, EHLO, b"334 ***\r\n"), replace(TARGET, login="a", password="b"), "127.0.0.1:"),
    ((GREETING, EHLO, b"334 AAAA\r\n"), replace(TARGET, login="a", password="\u00fc"),
     "the password is not in ASCII"),
    ((GREETING, b"250 mx\r\n"), replace(TARGET, sender="\u00fc@local.test"),
     "--sender is not in ASCII"),
    ((GREETING, b"250 mx\r\n", b"250 ok\r\n"), replace(TARGET, recipient="a@b\r\nDATA"),
     "127.0.0.1:"),
    ((GREETING, b"250 mx\r\n", b"250 ok\r\n", b"450 4.2.0 greylisted\r\n", b"250 ok\r\n"), TARGET,
     "450 4.2.0 greylisted; try again in some minutes"),
])  # fmt: skip
def test_one_line(answers: tuple[bytes, ...], target: Target, said: str) -> None:
    with server(*answers) as port:
        there = replace(target, port=port)
        probe = privacy_probe.make(replace(there, recipient="b@local.test"), Settings())
        with pytest.raises(ProbeError) as error:
            privacy_probe.send(there, probe)
    assert said in str(error.value) and "\n" not in str(error.value).strip()


@contextmanager
def talker(piece: bytes, pause: float, first: bytes = b"") -> Iterator[int]:
    """Says `first`, then `piece` again and again, until the client goes away."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                connection.sendall(first)
                while True:
                    connection.sendall(piece)
                    time.sleep(pause)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(5)
        assert not thread.is_alive()


@pytest.mark.parametrize("piece, pause, first, tls, said", [
    (b"2", 0.05, b"", "none", "timed out"),
    (b"x", 0.05, GREETING + b"250-", "none", "timed out"),
    (b"250-more\r\n", 0.05, GREETING, "none", "timed out"),
    (b"\x00", 0.05, b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc", "tls", "timed out"),
    (b"250-more\r\n" * 500, 0, GREETING, "none", "more than 1000 lines"),
])  # fmt: skip
def test_a_server_that_does_not_stop(
    piece: bytes, pause: float, first: bytes, tls: str, said: str
) -> None:
    """One that drips or floods takes as long as --timeout says, and no longer."""
    with talker(piece, pause, first) as port:
        there = replace(SHORT if said == "timed out" else TARGET, port=port, tls=tls)
        begun = time.monotonic()
        with pytest.raises(ProbeError) as error:
            privacy_probe.send(there, privacy_probe.make(there, Settings()))
        assert time.monotonic() - begun < 5
    assert said in str(error.value) and "\n" not in str(error.value).strip()


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe"])
def test_a_password_file_that_is_none(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "password"
    path.write_bytes(content)
    with pytest.raises(SystemExit) as ended:
        main(["privacy", "test", "--login", "a", "--password-file", str(path)])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1 and str(path) in said


HEADER = "From: <a@local.test>\nMIME-Version: 1.0\n"
TELLING = "X-Originating-IP: [203.0.113.9]\n"


@pytest.mark.parametrize("form", ["maildir", "mbox"])
def test_what_is_taken_for_the_probe(form: str, tmp_path: Path) -> None:
    """A bounce quotes the probe's header, and would look clean; of two copies the worse counts."""
    probe = privacy_probe.make(TARGET, Settings())
    subject = f"Subject: {probe.token}\n"
    bounce = f"{HEADER}Subject: Undelivered Mail\n\nIts header:\n\n{TELLING}{subject}\n"
    report = f"{HEADER}{subject}Content-Type: multipart/report; boundary=b\n\n--b--\n"
    answer = f"Auto-Submitted: auto-replied\n{HEADER}{subject}\nI am away.\n"
    wrapped = f"{HEADER}Subject: *SPAM* {probe.token}\n\n{TELLING}{subject}\n"
    clean, leaking = f"{HEADER}{subject}\nx\n", f"{HEADER}{TELLING}{subject}\nx\n"
    folder = tmp_path / form
    if form == "maildir":
        (folder / "new").mkdir(parents=True)

    def come(*texts: str) -> None:
        if form == "mbox":
            folder.write_text("".join(f"From a@b Mon Nov  2 11:22:33 2026\n{t}\n" for t in texts))
            return
        for number, text in enumerate(texts):
            (folder / "new" / str(number)).write_text(text)

    leaks = privacy_ways.leaks({}, Settings())
    look = privacy_ways.anywhere((folder, folder), probe)
    for text in (bounce, report, answer, wrapped):
        come(text)
        with pytest.raises(ProbeError, match="came that has it inside"):
            privacy_probe.wait(look, 0, leaks)
    come(bounce, clean)
    assert leaks(privacy_probe.wait(look, 0, leaks)) == 0
    for texts in ((clean, leaking), (leaking, clean)):
        come(*texts)
        assert leaks(privacy_probe.wait(look, 0, leaks)) == 1


@pytest.mark.parametrize("script, said", [
    ("echo fatal: no queue >&2; exit 75", "does not take the probe: fatal: no queue"),
    ("exit 75", "does not take the probe: it ended with status 75"),
    ("exec sleep 60", "has not taken the probe after 0.5 s; is the mail server running?"),
])  # fmt: skip
def test_a_sendmail_that_does_not_take_it(
    script: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Said in its words, and not as the command that was run."""
    program = tmp_path / "sendmail"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    tried = privacy_ways.by_sendmail(
        "alice@home.example", "bob@home.example", Settings(), lambda probe: lambda: Seen(), 0.5
    )
    assert tried.missed == f"{program} {said}"
