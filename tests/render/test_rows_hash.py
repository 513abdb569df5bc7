"""The hash below a page's messages is that of the CSV, and the command beside it says the same."""

import hashlib
import html
import re
import shlex
from pathlib import Path

import pytest
from sqlalchemy import Engine

from fix_cli import Run
from fix_store import AT, message
from gatepost_policy import recorder
from gatepost_policy.config.settings import Settings
from gatepost_policy.web import app

pytestmark = pytest.mark.slow

HASH = re.compile(r"<code>([0-9a-f]{64})</code>(?:; computed by <code>(.+?)</code>)?")


@pytest.fixture
def filled(engine: Engine, settings: Settings) -> Engine:
    senders = ["-news@sender.example", "=2+3@sender.example", "é@sender.example"]
    records = [message(n, sender=senders[n % 3]) for n in range(30)]
    recorder.record_batch(engine, records, settings)
    return engine


def said(page: str) -> tuple[str, str]:
    (found,) = HASH.findall(page)
    return found[0], html.unescape(found[1])


@pytest.mark.parametrize(
    "path",
    ["/", "/sender/sender.example?limit=7&family=ipv4", "/sender/-news@sender.example",
     "/host/192.0.2.7?decision=accept&since=2020-01-01"],
)  # fmt: skip
def test_the_page_the_csv_and_the_command_agree(
    filled: Engine, settings: Settings, run: Run, path: str, tmp_path: Path
) -> None:
    web = app.create(settings, lambda: filled, hosts=None, clock=lambda: AT + 40.5).test_client()
    page = web.get(path).get_data(as_text=True)
    digest, command = said(page)
    words = shlex.split(command)
    assert words[0] == "milterctl" and words[-2:] == ["|", "sha256sum"]
    out = tmp_path / "rows.csv"
    code, text = run(*words[1:-2], "-o", str(out))
    assert code == 0, text
    assert hashlib.sha256(out.read_bytes()).hexdigest() == digest
    (csv,) = re.findall(r'href="([^"]+)">CSV', page)
    assert hashlib.sha256(web.get(html.unescape(csv)).data).hexdigest() == digest


def test_an_older_piece_has_a_hash_and_no_command(filled: Engine, settings: Settings) -> None:
    web = app.create(settings, lambda: filled, hosts=None, clock=lambda: AT + 99).test_client()
    page = web.get("/sender/sender.example?limit=5&skip=5").get_data(as_text=True)
    digest, command = said(page)
    (csv,) = re.findall(r'href="([^"]+)">CSV', page)
    assert command == "" and "skip=5" in csv
    assert hashlib.sha256(web.get(html.unescape(csv)).data).hexdigest() == digest


def test_one_message_more_is_another_hash(filled: Engine, settings: Settings, run: Run) -> None:
    digest, _ = said(run("report", "sender.example", "--format", "html")[1])
    assert said(run("report", "sender.example", "--format", "html")[1])[0] == digest
    recorder.record_batch(filled, [message(99)], settings)
    assert said(run("report", "sender.example", "--format", "html")[1])[0] != digest
