"""Waiting for a descriptor, also one with a number that select(2) refuses."""

import fcntl
import os
import resource
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

import gatepost_milter
import gatepost_policy
from gatepost_milter.engine.listener import Listener
from gatepost_policy.system.readable import among, readable
from gatepost_policy.system.socket_address import SocketAddress

HIGH = 1_500


@pytest.fixture(autouse=True)
def room() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 2 * HIGH)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_whatever_its_number() -> None:
    read, write = os.pipe()
    high = fcntl.fcntl(read, fcntl.F_DUPFD_CLOEXEC, HIGH)
    try:
        assert not readable(high, 0) and not readable(read, 0.01)
        os.write(write, b"x")
        assert readable(high, 0) and sorted(among((high, read), 0)) == [read, high]
        os.read(read, 1)
        assert not readable(high, 0)
        os.close(write)
        write = -1
        assert readable(high, 0), "at its end"
    finally:
        for descriptor in {read, write, high} - {-1}:
            os.close(descriptor)


def test_a_busy_worker_sees_what_its_sessions_have_said(tmp_path: Path) -> None:
    """Beyond a thousand sessions a command was taken for none: the worker would have left it."""
    path = str(tmp_path / "m")
    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as caller:
        listening.bind(path)
        listening.listen()
        caller.connect(path)
        accepted, _ = listening.accept()
        fillers = [os.dup(caller.fileno()) for _ in range(HIGH)]
        try:
            listener = Listener(SocketAddress.parse(f"unix:{path}"), listening.fileno(), -1)
            assert listener.sessions() == (1, 0)
            caller.send(b"x")
            assert listener.sessions() == (1, 1)
        finally:
            for descriptor in fillers:
                os.close(descriptor)
            accepted.close()


def test_nobody_uses_select() -> None:
    for package in (gatepost_policy, gatepost_milter):
        for file in Path(package.__path__[0]).rglob("*.py"):
            assert "select.select" not in file.read_text(), file
