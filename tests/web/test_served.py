"""`milterctl web` as a program: it answers whatever else its process has open."""

import sys
import urllib.request
from pathlib import Path

import pytest

from daemons import Process
from ports import free_port

# What select(2) can look at ends at descriptor 1023.
MANY = """
import os, sys
from gatepost_milter.cli import main
kept = [os.dup(0) for _ in range(1100)]
main(sys.argv[1:])
"""


@pytest.mark.slow
def test_descriptors_beyond_what_select_can_look_at(tmp_path: Path) -> None:
    port = free_port()
    config = tmp_path / "gatepost.toml"
    config.write_text(f'[store]\nurl = "sqlite:///{tmp_path}/gatepost.sqlite"\n')
    options = ["--config", str(config), "web", "--listen", f"inet:{port}@127.0.0.1"]
    served = Process([sys.executable, "-c", MANY, *options], tmp_path / "log")
    try:
        served.wait_for()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as answer:
            assert answer.status == 200 and b"gatepost" in answer.read()
    finally:
        served.stop()
