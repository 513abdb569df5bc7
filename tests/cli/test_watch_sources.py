"""`milterctl watch` follows Exim's log, one that nobody knows, and the journal."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from gatepost_policy.config.settings import Settings
from watcher import Watcher, append, found, postfix

pytestmark = pytest.mark.slow


@pytest.fixture
def log(tmp_path: Path) -> Path:
    directory = tmp_path / "log"
    directory.mkdir()
    return directory / "mail.log"


def exim(n: int) -> Iterator[str]:
    head = f"{time.strftime('%Y-%m-%d %H:%M:%S +0000', time.gmtime())} 1QFOdo-0001zq-{n:02}"
    yield f"{head} <= a{n}@b.example H=mx.b.example [192.0.2.7] P=smtp S=1"
    yield f"{head} => x@home.example R=r T=t"
    yield f"{head} Completed"


def test_exim_and_a_log_that_nobody_knows(
    settings: Settings, engine: Engine, tmp_path: Path, log: Path
) -> None:
    append(log, list(exim(1)) + list(exim(2))[:1])
    other = log.with_name("app.log")
    other.write_text("hello\n")
    missing = log.with_name("comes.later")
    watcher = Watcher(settings, tmp_path, log, other, missing)
    watcher.once()
    assert set(found(engine)[0]) == {"a1@b.example"}
    append(log, list(exim(2))[1:])
    missing.write_text("".join(f"{line}\n" for line in exim(3)))
    watcher.once()
    watcher.once()
    assert found(engine)[0] == Counter({f"a{n}@b.example": 1 for n in (1, 2, 3)})
    for path in (log, missing):
        path.write_text("replaced\n")
    assert "lines before this one may be missing" in watcher.once()


def test_the_journal(settings: Settings, engine: Engine, tmp_path: Path) -> None:
    """A stand-in for journalctl: this machine has no journal."""
    stub = tmp_path / "bin" / "journalctl"
    stub.parent.mkdir()
    entries: list[dict[str, str]] = []
    for number in (0, 1):
        for line in postfix(number, time.time()):
            program, _, text = line.split(" ", 2)[2].partition("[")
            entries.append(
                {
                    "__CURSOR": f"c{len(entries)}",
                    "__REALTIME_TIMESTAMP": str(int(time.time() * 1e6)),
                    "SYSLOG_IDENTIFIER": program,
                    "SYSLOG_PID": "1",
                    "_HOSTNAME": "mx",
                    "MESSAGE": text.partition("]: ")[2],
                }
            )
    (tmp_path / "entries").write_text("".join(json.dumps(e) + "\n" for e in entries))
    stub.write_text(
        f"#!{sys.executable}\n"
        "import json, sys\n"
        "after = [w.partition('=')[2] for w in sys.argv if w.startswith('--after-cursor=')]\n"
        "assert 'SYSLOG_FACILITY=2' in sys.argv\n"
        f"lines = open({str(tmp_path / 'entries')!r}).readlines()\n"
        "start = 1 + int(after[0][1:]) if after else 0\n"
        "sys.stdout.write(''.join(lines[start:][:7]))\n"
    )
    stub.chmod(0o755)
    watcher = Watcher(settings, tmp_path, words="--journal")
    environment = os.environ | {"PATH": f"{stub.parent}:{os.environ['PATH']}"}
    for senders in (1, 2, 2):
        subprocess.run([*watcher.words, "--once"], env=environment, check=True)
        assert len(found(engine)[0]) == senders
