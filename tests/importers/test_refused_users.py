"""A real Postfix refuses recipients of users and strangers on one port, and its log is read.

The service is not called submission, so that no line of a refusal says whose it was.
"""

import json
import re
import smtplib
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import Engine

import mta_unpack
from daemons import BIN
from gatepost_policy import store, traps
from gatepost_policy.config.settings import Settings
from postfix_instance import LOGIN, PASSWORD, PostfixInstance, Setup

pytestmark = [pytest.mark.postfix, pytest.mark.timeout(300)]

USER, STRANGER, GUESSER, PROXIED = "198.51.100.7", "203.0.113.7", "203.0.113.8", "198.51.100.8"
TRAP = "nobody-here@local.test"


@pytest.fixture
def postfix(postfix_programs: mta_unpack.Programs) -> Iterator[PostfixInstance]:
    inbound = {"smtpd_sasl_auth_enable": "yes", "smtpd_tls_auth_only": "no"}
    with PostfixInstance(postfix_programs, Setup(inbound=inbound)) as instance:
        yield instance


@contextmanager
def session(postfix: PostfixInstance, address: str, login: str = "") -> Iterator[smtplib.SMTP]:
    with smtplib.SMTP("127.0.0.1", postfix.inbound_port, "h.example", timeout=30) as client:
        client.ehlo()
        assert client.docmd(f"XCLIENT ADDR={address} {login}")[0] == 220
        client.ehlo(f"canary.{address}")
        yield client


def refused(client: smtplib.SMTP, sender: str, *to: str) -> None:
    client.mail(sender)
    for recipient in to:
        assert client.rcpt(recipient)[0] in (454, 550, 554)
    client.rset()


def milterctl(settings: Settings, home: Path, *words: str) -> list[str]:
    config = home / "gatepost.toml"
    config.write_text(
        f"store.url = {json.dumps(settings.store.url)}\n"
        f"store.journal = {json.dumps(settings.store.journal)}\n"
    )
    return [str(BIN / "milterctl"), "--config", str(config), *words]


def stored(engine: Engine) -> tuple[list[tuple[str, str]], int]:
    with store.reading(engine) as connection:
        rows = connection.exec_driver_sql("SELECT address, sender FROM message ORDER BY at, id")
        outside = [(str(row.address), str(row.sender)) for row in rows]
        ours = connection.exec_driver_sql("SELECT sum(messages) FROM submission_count").scalar()
    return outside, int(ours or 0)


def is_stored(engine: Engine, sender: str) -> bool:
    return (STRANGER, sender) in stored(engine)[0]


def wait(done: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not done():
        assert time.monotonic() < end
        time.sleep(0.05)


def no_user(home: Path, log: Path) -> None:
    """Nothing that was written names a user's address, HELO, sender or login."""
    # By another process: to close a file drops the locks that SQLite has on it in this one.
    words = [f"-e{word}" for word in ("198.51.100.", "canary.198", "user@", LOGIN)]
    found = subprocess.run(
        ["grep", "-rlaF", *words, f"--exclude={log.name}", str(home)],
        capture_output=True,
        text=True,
    )
    assert (found.returncode, found.stdout) == (1, ""), found


def all_sessions(postfix: PostfixInstance) -> None:
    """In this order: a refusal comes first of which only the session's end shows whose it was."""
    with session(postfix, USER) as client:
        refused(client, "user@local.test", "x@else.example")  # before the login
        client.login(LOGIN, PASSWORD)
        refused(client, "user@local.test", TRAP, "nobody2@local.test")
    with session(postfix, STRANGER) as client:
        refused(client, "stranger@spam.example", "x@else.example", TRAP)
    with session(postfix, GUESSER) as client:
        with pytest.raises(smtplib.SMTPAuthenticationError):
            client.login(LOGIN, "wrong")
        refused(client, "guesser@spam.example", TRAP)
    with session(postfix, PROXIED, "LOGIN=canary") as client:
        client.sendmail("user@local.test", ["bob@local.test"], b"Subject: x\n\nx\n")
        refused(client, "user@local.test", TRAP)
    with session(postfix, STRANGER) as client:  # nobody can tell that it was not logged in, too
        refused(client, "last@spam.example", TRAP)


def test_what_is_imported(
    settings: Settings, engine: Engine, postfix: PostfixInstance, tmp_path: Path
) -> None:
    with store.writing(engine) as connection:
        traps.add(connection, TRAP, at=0)
    all_sessions(postfix)
    postfix.settle()
    wait(lambda: postfix.log.read_text().count(" quit=1 commands=") == 5)
    log = tmp_path / "mail.log"
    # Without `postfix/` in front the lines are any program's.
    log.write_text(re.sub(r"\btest/", "mx/", postfix.log.read_text()))
    for _ in range(2):
        subprocess.run(
            milterctl(settings, tmp_path, "import", "postfix", str(log), "--zone", "UTC"),
            check=True,
        )
        outside, ours = stored(engine)
        assert outside == [
            (STRANGER, "stranger@spam.example"), (STRANGER, "stranger@spam.example"),
            (GUESSER, "guesser@spam.example"),
        ]  # fmt: skip
        # Three of the user; the proxied one's message, and its refusal, known by the address.
        assert ours == 5
        no_user(tmp_path, log)


def test_what_is_followed_while_a_session_lasts_and_a_kill_comes(
    settings: Settings, engine: Engine, postfix: PostfixInstance, tmp_path: Path
) -> None:
    with store.writing(engine) as connection:
        traps.add(connection, TRAP, at=0)
    words = milterctl(settings, tmp_path, "watch", str(postfix.log), "--zone", "UTC")
    with session(postfix, STRANGER) as client:
        refused(client, "early@spam.example", "x@else.example")
    with session(postfix, USER) as client:
        client.login(LOGIN, PASSWORD)
        refused(client, "user@local.test", TRAP)
        for sender in ("first@spam.example", "second@spam.example"):
            watch = subprocess.Popen(words, stdout=subprocess.PIPE)
            try:
                assert watch.stdout is not None and b"ready" in watch.stdout.readline()
                with session(postfix, STRANGER) as other:
                    refused(other, sender, TRAP)
                wait(partial(is_stored, engine, sender))
                # Postfix 3.10 names the login in the refusal, 3.7 only shows it at the end.
                told = "sasl_username=" in postfix.log_text()
                assert stored(engine)[1] == told, postfix.log_text()
                no_user(tmp_path, postfix.log)
            finally:
                watch.kill()
                watch.communicate()
    subprocess.run([*words, "--once"], check=True)
    outside, ours = stored(engine)
    assert outside == [(STRANGER, f"{name}@spam.example") for name in ("early", "first", "second")]
    assert ours == 1
    no_user(tmp_path, postfix.log)
    with store.reading(engine) as connection:
        listed = connection.exec_driver_sql("SELECT value FROM listing").scalars().all()
    assert listed == [f"{STRANGER}/32"]
