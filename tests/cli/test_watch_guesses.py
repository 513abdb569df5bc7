"""`milterctl watch` tells of unknown recipients at once, and of logins once it is sure."""

import subprocess
import time
from pathlib import Path

import pytest
from sqlalchemy import Engine

from daemons import BIN
from fix_store import count
from gatepost_policy import store
from gatepost_policy.config.settings import Settings
from gatepost_policy.monitoring import counters

pytestmark = pytest.mark.slow

GROPER, USER, LATE, WEBMAIL = "203.0.113.1", "203.0.113.2", "203.0.113.3", "127.0.0.1"


def stamp(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(at))


def failed(at: float, ip: str, name: str) -> str:
    return (
        f"{stamp(at)} mx postfix/smtpd[9]: warning: unknown[{ip}]: SASL LOGIN authentication"
        f" failed: UGFzc3dvcmQ6, sasl_username={name}"
    )


def refused(at: float, ip: str, name: str) -> str:
    to = f"{name}@home.example"
    return (
        f"{stamp(at)} mx postfix/smtpd[9]: NOQUEUE: reject: RCPT from unknown[{ip}]: 550 5.1.1"
        f" <{to}>: Recipient address rejected: User unknown in local recipient table;"
        f" from=<a@b.example> to=<{to}> proto=ESMTP helo=<h>"
    )


def test_followed_live(settings: Settings, engine: Engine, tmp_path: Path) -> None:
    directory = tmp_path / "log"
    directory.mkdir()
    log, config = directory / "mail.log", tmp_path / "gatepost.toml"
    config.write_text(
        f'store.url = "{settings.store.url}"\nstore.journal = "{settings.store.journal}"\n'
    )
    now = time.time()
    before = now - 7_300
    names = ("aaron", "UGFzc3dvcmQ6", "abby")
    lines = [failed(before + n, ip, name) for ip in (GROPER, USER, WEBMAIL)
             for n, name in enumerate(names)]  # fmt: skip
    lines += [failed(now - n, LATE, name) for n, name in enumerate(("zoe", "zora"))]
    success = f"client=home.example[{USER}], sasl_method=PLAIN, sasl_username=canary"
    lines.append(f"{stamp(before + 60)} mx postfix/smtpd[9]: 4ABCDE: {success}")
    lines.append(refused(now, "203.0.113.4", "heidi"))
    log.write_text("".join(f"{line}\n" for line in lines))
    words: list[str | Path] = [
        BIN / "milterctl",
        "--config",
        config,
        "watch",
        log,
        "--zone",
        "UTC",
        "--once",
    ]
    for _ in range(2):  # the second one has nothing to tell
        subprocess.run(words, capture_output=True, text=True, check=True)
        with store.reading(engine) as connection:
            sql = "SELECT kind, address, hits, hosts FROM mined ORDER BY kind, address"
            rows = [tuple(row) for row in connection.exec_driver_sql(sql)]
            sql = "SELECT prefix, attempts, names FROM groper"
            hosts = [tuple(row) for row in connection.exec_driver_sql(sql)]
        assert [row[:3] for row in rows] == [
            ("login", "aaron", 1), ("login", "abby", 1), ("rcpt", "heidi@home.example", 1),
        ]  # fmt: skip
        assert hosts == [(f"{GROPER}/32", 2, 2)]
        assert all(USER not in row[3] and LATE not in row[3] for row in rows)
    everything = b"".join(
        path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path != log
    )
    for word in (b"canary", b"UGFzc3dvcmQ6", b"ugfzc3dvcmq6", USER.encode(), b"zora"):
        assert word not in everything, word
    assert b"aaron" in everything and GROPER.encode() in everything, "the counter-proof"
    assert count(engine, "submission_count") == 0  # it is under way


def test_they_are_no_messages() -> None:
    told = [{"kind": kind} for kind in ("guess", "groper", "no-guess")]
    assert counters.tally(told) == {}
