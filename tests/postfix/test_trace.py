"""X-Gatepost-Trace on mail that really went through Postfix: resolved from what was delivered."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import mta_modes
import mta_unpack
from canary import Canaries
from daemons import Daemon
from gatepost_policy import tracing
from gatepost_policy.tracing import FIELD, Keyring, Outcome
from mta_modes import BASE_CONFIG, SUBMISSION, TALKATIVE, Stack
from postfix_instance import LOGIN, PostfixInstance

pytestmark = [pytest.mark.postfix, pytest.mark.timeout(300)]

CONFIG = 'trace_keys = "{keys}/bundle"\ndate = "utc"\nmessage_id = "mask-host"\n'
TELLING = "Date: Fri, 20 Nov 2026 15:30:00 +0530\nMessage-ID: <1@laptop.lan>\n"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keys of this week, and (below old/) of a week that is over."""
    home = tmp_path_factory.mktemp("trace")
    tracing.make_keys(home / "keys", home / "bundle", 2, time.time())
    (home / "old").mkdir()
    tracing.make_keys(home / "old/keys", home / "old/bundle", 1, time.time() - 30 * 86_400)
    return home


@pytest.fixture(scope="module", params=["milter", "proxy"])
def running(
    milter_engine: str,
    request: pytest.FixtureRequest,
    postfix_programs: mta_unpack.Programs,
    keys: Path,
) -> Iterator[Stack]:
    table = SUBMISSION[request.param] or "[submission]\n"
    config = BASE_CONFIG + table + CONFIG.replace("{keys}", str(keys))
    with Daemon(config) as daemon:
        setup = mta_modes.setup(request.param, daemon.socket)
        with PostfixInstance(postfix_programs, setup) as postfix:
            yield Stack(postfix, daemon)


def send(postfix: PostfixInstance, told: str = "", body: str = "Hello.  \n.\nBob\n\n\n") -> bytes:
    canaries = Canaries.fresh("ipv4", LOGIN)
    message = (
        told + TELLING + "From: Alice <alice@local.test>\nTo: bob@local.test\nSubject: x\n\n" + body
    )
    client = postfix.submission(helo=canaries.helo, xclient=canaries.xclient)
    sent = client.send(message.encode(), "alice@local.test", ["bob@local.test"])
    assert sent.code == 250, (sent, postfix.log_text())
    (data,) = postfix.collect()
    assert canaries.found(data) == (), data.decode(errors="replace")
    return data


@pytest.mark.parametrize(
    "body", ["Hello.  \n.\nBob\n\n\n", "", "x" * 500 + "\n" * 3, "é\n" * 90_000]
)
def test_resolved(running: Stack, keys: Path, body: str) -> None:
    data = send(running.postfix, body=body)
    answer = tracing.resolve(data, Keyring(keys / "keys"))
    assert answer.outcome is Outcome.RESOLVED and answer.body_known, data[:2000].decode()
    assert answer.content is not None and answer.content.account == LOGIN
    assert answer.content.queue_id.encode() in data
    changed = data.replace(b"Subject: x\n\n", b"Subject: x\n\nMore.\n")
    assert tracing.resolve(changed, Keyring(keys / "keys")).outcome is Outcome.BODY_CHANGED


def test_a_field_of_the_clients_goes(running: Stack, keys: Path) -> None:
    data = send(running.postfix, f"{FIELD}: v1.0123456789abcdef.AAAA\n{FIELD}: x\n")
    assert data.lower().count(FIELD.lower().encode()) == 1
    assert tracing.resolve(data, Keyring(keys / "keys")).outcome is Outcome.RESOLVED


def test_nobody_elses_mail(running: Stack) -> None:
    """Inbound mail and what one of ours passes on get none, and keep what they have."""
    theirs = f"{FIELD}: v1.0123456789abcdef.AAAA\n".encode()
    sent = running.postfix.inbound().send(
        theirs + b"Subject: x\n\nx\n", "x@example.net", ["bob@local.test"]
    )
    assert sent.code == 250
    (data,) = running.postfix.collect()
    assert theirs in data
    passed = "ARC-Seal: i=1\n" + theirs.decode()
    data = send(running.postfix, passed)
    assert theirs in data and data.count(FIELD.encode()) == 1


def test_without_a_key_it_leaves_without(postfix_programs: mta_unpack.Programs, keys: Path) -> None:
    """The week is over, or the file is gone: said once in the log."""
    for path in (keys / "old", keys / "nowhere"):
        config = BASE_CONFIG + "[submission]\n" + CONFIG.replace("{keys}", str(path))
        with Daemon(config) as daemon:
            setup = mta_modes.setup("milter", daemon.socket)
            with PostfixInstance(postfix_programs, setup) as postfix:
                for _ in range(2):
                    assert FIELD.encode() not in send(postfix)
            said = daemon.text().count("event=no-trace-key")
            assert 1 <= said <= 2, daemon.text()  # the file, the week; not each message


def test_off_by_default(postfix_programs: mta_unpack.Programs) -> None:
    with Daemon(BASE_CONFIG) as daemon:
        setup = mta_modes.setup("milter", daemon.socket, TALKATIVE)
        with PostfixInstance(postfix_programs, setup) as postfix:
            assert FIELD.encode() not in send(postfix)
