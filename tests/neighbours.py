"""What the tests of docs/neighbours.md share: its lines, the programs, a Postfix with gatepost."""

import re
import time
from collections.abc import Iterator, Mapping
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
    """A neighbour in the foreground, until its port greets."""
    libraries = programs.environment().get("LD_LIBRARY_PATH", "")
    running = Process(["env", f"LD_LIBRARY_PATH={libraries}", *command], output)
    try:
        end = time.monotonic() + 30
        while not answers(port):
            assert running.child.poll() is None and time.monotonic() < end, running.text()
            time.sleep(0.05)
        yield running
    finally:
        running.stop()


@contextmanager
def mail_server(
    programs: mta_unpack.Programs, services: str, config: str = "",
    main: Mapping[str, str] | None = None,
) -> Iterator[Stack]:  # fmt: skip
    """Postfix with gatepost on the shipped recipe, and a neighbour's services of master.cf."""
    with Daemon(BASE_CONFIG + config) as daemon:
        milter = f"{{ {daemon.socket}, default_action=accept }}"
        setup = Setup(main={**TALKATIVE, "smtpd_milters": milter, **(main or {})},
                      recipe=adapted(shipped("master.cf.milter"), "@ETC@", daemon.socket),
                      services=adapted(services, "@ETC@", daemon.socket))  # fmt: skip
        with PostfixInstance(programs, setup) as postfix:
            yield Stack(postfix, daemon)
