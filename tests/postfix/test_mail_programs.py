"""What mail programs write about their users, through a real Postfix, in each way of hiding.

With `message_id = "mask-host"` and `date = "utc"` nothing of the client is left in the header; the
body arrives octet for octet. The same mail without gatepost tells all of it.
"""

import re
from collections.abc import Iterator

import pytest

import mta_modes
import mta_unpack
from canary import Canaries
from mail_programs import BODY, PROGRAMS, message
from mta_modes import MODES, Stack
from postfix_instance import LOGIN, PostfixInstance

pytestmark = [pytest.mark.postfix, pytest.mark.timeout(300)]

CONFIG = '[submission]\nmessage_id = "mask-host"\ndate = "utc"\n'
# In mode mta and proxy there is a table [submission] already.
MORE = CONFIG.partition("\n")[2]


@pytest.fixture(scope="module", params=(*MODES, "own mail_name"))
def running(
    milter_engine: str, request: pytest.FixtureRequest, postfix_programs: mta_unpack.Programs
) -> Iterator[PostfixInstance]:
    mode, main = request.param, {}
    if mode == "own mail_name":
        mode, main = "milter", {"mail_name": "Mailserver"}
    config = CONFIG if mode == "milter" else MORE
    with mta_modes.stack(postfix_programs, mode, main, config) as stack:
        yield stack.postfix


@pytest.fixture(scope="module")
def bare(postfix_programs: mta_unpack.Programs) -> Iterator[Stack]:
    with mta_modes.plain(postfix_programs) as stack:
        yield stack


def through(postfix: PostfixInstance, program: str) -> tuple[Canaries, bytes]:
    canaries = Canaries.fresh("ipv6" if program == "Mutt" else "ipv4", LOGIN)
    client = postfix.submission(helo=canaries.helo, xclient=canaries.xclient)
    sent = client.send(message(program, canaries), "alice@local.test", ["bob@local.test"])
    assert sent.code == 250, (program, sent, postfix.log_text())
    (data,) = postfix.collect()
    return canaries, data


@pytest.mark.parametrize("program", PROGRAMS)
def test_nothing_is_left(running: PostfixInstance, bare: Stack, program: str) -> None:
    canaries, data = through(running, program)
    header, _, body = data.partition(b"\n\n")
    assert canaries.found(header) == (), header.decode(errors="replace")
    word = canaries.helo.partition(".")[0].encode()
    assert word not in header and not re.search(rb"\+0530|de-AT|Outlook|Mutt|Alpine", header)
    assert body == BODY

    canaries, data = through(bare.postfix, program)
    assert len(canaries.found(data)) >= 3, data.decode(errors="replace")
    assert data.partition(b"\n\n")[2] == BODY
