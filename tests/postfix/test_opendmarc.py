"""gatepost and OpenDMARC in one Postfix: nobody outside may write what OpenDMARC believes.

An unsigned spoof of a p=reject domain brings forged results along in every spelling that the fuzz
makes. Without gatepost in front OpenDMARC believes them: the counter-proof.
"""

import random
import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

import mta_unpack
import opendmarc_instance
import rings
from daemons import Daemon
from mta_modes import BASE_CONFIG
from opendmarc_instance import AUTHSERV
from ports import free_port
from postfix_instance import PostfixInstance, Setup
from result_readers import MX, spelling

pytestmark = [pytest.mark.postfix, pytest.mark.timeout(300)]
DNS = {"_dmarc.bank.example": "v=DMARC1; p=reject"}
EACH, MESSAGES = 100, 12
PLAIN = f"Authentication-Results: {MX}; dkim=pass header.d=bank.example\n"


@dataclass(frozen=True)
class Chain:
    """Postfix with OpenDMARC behind gatepost, and the same without gatepost."""

    whole: PostfixInstance
    bare: PostfixInstance


@pytest.fixture(scope="module")
def chain(
    milter_engine: str,
    postfix_programs: mta_unpack.Programs,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Chain]:
    try:
        programs = mta_unpack.opendmarc()
    except mta_unpack.Unavailable as error:
        rings.missing("postfix", str(error))
    home: Path = tmp_path_factory.mktemp("opendmarc")
    port = free_port()
    # A small limit on fields makes more of the forged ones stand beyond it.
    config = BASE_CONFIG.replace("[dkim]\n", f'[dkim]\nauthserv_id = "{MX}"\n')
    with ExitStack() as stack:
        stack.enter_context(opendmarc_instance.serving(programs, home, DNS, MX, port))
        daemon = stack.enter_context(Daemon(config))
        behind = f"inet:127.0.0.1:{port}"
        both = {"smtpd_milters": f"{{ {daemon.socket}, default_action=accept }}, {behind}"}
        whole = PostfixInstance(postfix_programs, Setup(main=both, sasl=False))
        stack.enter_context(whole)
        bare = PostfixInstance(postfix_programs, Setup(main={"smtpd_milters": behind}, sasl=False))
        yield Chain(whole, stack.enter_context(bare))


def verdict(postfix: PostfixInstance, fields: str) -> tuple[str, bytes]:
    """OpenDMARC's word on an unsigned message of the bank, and the message as delivered."""
    text = fields + "From: service@bank.example\nTo: bob@local.test\nSubject: x\n\nHello\n"
    # OpenDMARC leaves mail of 127.0.0.1 alone.
    client = postfix.inbound(source="127.83.17.31")
    sent = client.send(text.encode(), "x@evil.example", ["bob@local.test"])
    assert sent.code == 250, sent
    (data,) = postfix.collect()
    found = re.search(rb"Authentication-Results: %s; dmarc=(\w+)" % AUTHSERV.encode(), data)
    assert found is not None, (data[:700], data[-300:])
    return found[1].decode(), data


def made(rng: random.Random) -> str:
    values = (spelling(rng).decode().replace("\r\n", "\n") for _ in range(EACH))
    return "".join(f"Authentication-Results:{value}\n" for value in values)


def test_no_spelling_is_believed(chain: Chain) -> None:
    rng = random.Random(7)
    believed = 0
    for number in range(MESSAGES):
        fields = made(rng)
        said, data = verdict(chain.whole, fields)
        assert said == "fail", (number, data.decode(errors="replace"))
        if number < 3:
            believed += verdict(chain.bare, fields)[0] == "pass"
    assert believed == 3  # OpenDMARC believes at least one of each hundred


@pytest.mark.parametrize(
    "fields",
    [
        PLAIN,
        PLAIN.replace(":", " :", 1),
        PLAIN.replace("Authentication-Results", "AUTHENTICATION-RESULTS"),
        PLAIN + "X-Pad: y\n" * 5001,
        "X-Pad: y\n" * 5001 + PLAIN,
        PLAIN + ("X-Pad: " + "y" * 900 + "\n") * 1300 + PLAIN,
    ],
    ids=["plain", "blank before the colon", "upper case", "first of 5001", "last of 5001", "1 MB"],
)
def test_nor_is_one_that_stands_beyond_a_limit(chain: Chain, fields: str) -> None:
    said, data = verdict(chain.whole, fields)
    assert said == "fail"
    top = data[: data.index(b"From: service")]
    assert top.lower().count(b"authentication-results") == 2, top[:500]  # ours and OpenDMARC's
    assert verdict(chain.bare, fields)[0] == "pass"
