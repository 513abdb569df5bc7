"""The ports of the tests' servers: nobody takes them before the server does."""

import socket
import subprocess
import sys
from pathlib import Path

import ports

TESTS = Path(__file__).parents[1]


def test_no_client_takes_them() -> None:
    """They are outside the range from which the kernel gives ports to clients."""
    first, last = map(int, ports.RANGE.read_text().split())
    assert all(not first <= ports.free_port() <= last for _ in range(50))


def test_no_other_run_takes_them() -> None:
    """Another process, at the same time, has other ones."""
    code = "import ports; print(*[ports.free_port() for _ in range(600)])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=TESTS, capture_output=True, check=True, timeout=60
    )
    ours = {ports.free_port() for _ in range(600)}
    assert not ours & {int(word) for word in done.stdout.split()}


def test_one_in_use_is_passed_over() -> None:
    """On either address: Postfix binds both."""
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with socket.socket(family, socket.SOCK_STREAM) as taken:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.bind((host, port := ports.free_port()))
            taken.listen()
            assert port not in {ports.free_port() for _ in range(2 * ports.BLOCK)}
