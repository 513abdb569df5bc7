"""Trap mail that could not be kept: seen in the log and in the figures, and never by the sender."""

import json
from pathlib import Path

import pytest

from daemons import Daemon
from gatepost_milter.mta import client
from gatepost_milter.mta.envelope import Envelope
from gatepost_policy import store, traps
from gatepost_policy.monitoring import worker_figures

pytestmark = pytest.mark.slow

CONFIG = """
[milter]
socket = "unix:{dir}/m.sock"
workers = 1
[store]
url = "sqlite:///{dir}/state/gatepost.sqlite"
[trap]
capture = "{dir}/file/kept"
[log]
format = "json"
"""
MESSAGE = b"From: a@example.org\r\nSubject: x\r\n\r\nHello\r\n"
TRAP = Envelope(sender="spam@example.com", recipients=("trap@example.net",))


@pytest.mark.milter
def test_each_is_counted_and_the_log_says_it_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no directory can be made here")
    (tmp_path / "state").mkdir()
    engine = store.open_url(f"sqlite:///{tmp_path}/state/gatepost.sqlite")
    with store.writing(engine) as connection:
        traps.add(connection, "trap@example.net", at=1.0)
    engine.dispose()
    daemon = Daemon(CONFIG, home=tmp_path)
    try:
        for _ in range(3):
            sent = client.send(f"unix:{tmp_path}/m.sock", MESSAGE, envelope=TRAP)
            assert sent.action == "reject"
        said = [json.loads(x) for x in daemon.text().splitlines() if "capture-failed" in x]
    finally:
        daemon.stop()
    total = worker_figures.read(tmp_path / "state")
    assert total is not None
    assert (total.captures_failed, total.exceptions) == (3, 0)
    (event,) = said
    assert (event["level"], event["why"]) == ("error", "Not a directory")
    assert "example" not in str(event) and "trap.capture" in event["hint"]
