"""What the tests of docs/neighbours.md share: its lines, the programs, a Postfix with gatepost."""

import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import mta_unpack
import rings
from daemons import Daemon, Process
from mta_common import answers
from mta_modes import BASE_CONFIG, TALKATIVE, Stack
from postfix_instance import LOGIN, PostfixInstance, Setup
from postfix_recipes import adapted, shipped

DOCS = (Path(__file__).parents[1] / "docs/neighbours.md").read_text()
MESSAGE = (
    b"X-Mailer: Canary Mail 1\r\nFrom: alice@local.test\r\nTo: bob@local.test\r\nSubject: x\r\n"
    b"Date: Fri, 20 Nov 2026 10:00:00 +0000\r\nMessage-ID: <1@local.test>\r\n\r\nx\r\n"
)
# A list's members, and a message of a stranger to it.
MEMBERS = ("bob@local.test", "carol@local.test", "dave@example.org")
STRANGER = (
    b"Received: from desk.stranger.example (desk [192.0.2.44])\r\n\tby out.stranger.example with"
    b" ESMTPSA id x; Fri, 20 Nov 2026 09:59:58 +0000\r\nX-Mailer: Carols Mailer\r\n"
    b"From: carol@stranger.example\r\nTo: friends@local.test\r\nSubject: x\r\n"
    b"Date: Fri, 20 Nov 2026 10:00:00 +0000\r\nMessage-ID: <2@stranger.example>\r\n\r\nx\r\n"
)
CANARIES = (b"127.0.0.77", b"canary-laptop", b"Canary Mail", LOGIN.encode())


def unpacked(section: str, program: str, ring: str = "postfix") -> mta_unpack.Programs:
    """A neighbour's files; without them the test is skipped, or fails where `ring` is required."""
    try:
        return mta_unpack.neighbour(section, program)
    except mta_unpack.Unavailable as error:
        rings.missing(ring, str(error))


def shown(heading: str) -> list[str]:
    """The blocks of one section of docs/neighbours.md, without their indent."""
    section = DOCS.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"(?:^    .*\n)+", section, re.M)
    return [re.sub(r"^    ", "", block, flags=re.M) for block in blocks]


@contextmanager
def program(
    command: list[str | Path], programs: mta_unpack.Programs, output: Path, port: int
) -> Iterator[Process]:
    """A neighbour in the foreground, from when its port greets."""
    with _until(command, programs, output, lambda: answers(port)) as running:
        yield running


@contextmanager
def listening(
    command: list[str | Path], programs: mta_unpack.Programs, output: Path, port: int
) -> Iterator[Process]:
    """A neighbour that says nothing by itself, a milter, from when its port is open."""

    def there() -> bool:
        try:
            socket.create_connection(("127.0.0.1", port), 5).close()
        except OSError:
            return False
        return True

    with _until(command, programs, output, there) as running:
        yield running


@contextmanager
def _until(
    command: list[str | Path], programs: mta_unpack.Programs, output: Path,
    ready: Callable[[], bool],
) -> Iterator[Process]:  # fmt: skip
    libraries = programs.environment().get("LD_LIBRARY_PATH", "")
    running = Process(["env", f"LD_LIBRARY_PATH={libraries}", *command], output)
    try:
        end = time.monotonic() + 90
        while not ready():
            assert running.child.poll() is None and time.monotonic() < end, running.text()
            time.sleep(0.05)
        yield running
    finally:
        running.stop()


@contextmanager
def mail_server(
    programs: mta_unpack.Programs, services: str, config: str = "",
    main: Mapping[str, str] | None = None, behind: str = "", dns: str = "",
) -> Iterator[Stack]:  # fmt: skip
    """Postfix with gatepost on the shipped recipe, and a neighbour's services of master.cf.

    `behind`: a milter that stands behind gatepost on both listeners. `dns`: the address of a DNS
    that gatepost asks.
    """
    base = BASE_CONFIG
    if dns:
        base = base.replace("127.0.0.1:9", dns).replace("lookup_timeout_ms = 100", "")
    with Daemon(base + config) as daemon:
        milter = f"{{ {daemon.socket}, default_action=accept }}"
        milter += f", {behind}" if behind else ""
        setup = Setup(main={**TALKATIVE, "smtpd_milters": milter, **(main or {})},
                      recipe=adapted(shipped("master.cf.milter"), "@ETC@", daemon.socket),
                      submission={"smtpd_milters": f"{daemon.socket}, {behind}"} if behind else {},
                      services=adapted(services, "@ETC@", daemon.socket))  # fmt: skip
        with PostfixInstance(programs, setup) as postfix:
            yield Stack(postfix, daemon)
