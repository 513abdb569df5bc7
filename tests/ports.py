"""Loopback ports for servers that cannot bind port 0 themselves."""

import functools
import itertools
import socket
from collections.abc import Iterator
from pathlib import Path

# A port from the kernel's own range is free only until somebody connects from it: each client of
# each test takes one there, and a server that is started a moment later cannot bind it.
RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
LOWEST = 10_240  # below are services that a machine may have
BLOCK = 512  # so many ports are a process's own


def free_port() -> int:
    """A TCP port, free on 127.0.0.1 and ::1, that neither a client nor other tests take.

    Raises `OSError` where there is none.
    """
    ports = _block()[1]
    for port in itertools.islice(ports, BLOCK):
        if _binds(port):
            return port
    raise OSError("each port of this process's block is in use")


@functools.cache
def _block() -> tuple[socket.socket, Iterator[int]]:
    """Ports below those that the kernel gives to clients, round and round.

    The socket bears the block's number for as long as this process runs: no other has the block.
    """
    end = int(RANGE.read_text().split()[0])
    for first in range(LOWEST, end - BLOCK, BLOCK):
        keeper = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            keeper.bind(f"\0gatepost-tests-ports-{first}")
        except OSError:
            keeper.close()
        else:
            return keeper, itertools.cycle(range(first, first + BLOCK))
    raise OSError(f"no free block of ports from {LOWEST} to {end}")


def _binds(port: int) -> bool:
    """True where nobody has the port on either loopback address."""
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        try:
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                # As servers do: what an ended connection has left does not count.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((host, port))
        except OSError:
            if family == socket.AF_INET or Path("/proc/net/if_inet6").exists():
                return False
    return True
