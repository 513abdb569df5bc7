"""When gatepost cannot do its work, submitted mail gets a 4xx and inbound mail flows.

Each cause is made for real: a daemon that is gone, stopped, throws, or sits behind a Postfix that
it does not know. The log names the cause; the client is told nothing of it.
"""

import signal
from collections.abc import Iterator, Mapping

import pytest

import mta_modes
import mta_unpack
from canary import Canaries
from daemons import Daemon
from from_table import from_table
from mta_modes import BASE_CONFIG, SUBMISSION, TALKATIVE
from ports import free_port
from postfix_instance import LOGIN, PostfixInstance, Setup
from postfix_recipes import TOKEN
from smtp_client import Sent

pytestmark = [pytest.mark.postfix, pytest.mark.timeout(300)]

# Seconds that a test can wait for; the shipped values are longer.
IMPATIENT = "connect_timeout=3s, command_timeout=3s, content_timeout=3s"
# Where an exception is thrown: one step of the way a message takes.
BROKEN = (
    "gatepost_milter.filter.session:client_of",
    "gatepost_milter.filter.gate:facts",
    "gatepost_milter.filter.gate:judge",
    "gatepost_policy.scrub.scrubber:Scrubber.plan",
    "gatepost_policy.journal.writer:Writer.write",
)
BREAK = """\
import sys
import {module}
def boom(*_args, **_kwargs):
    raise RuntimeError("broken on purpose")
{module}.{name} = boom
from gatepost_milter.engine.daemon import main
sys.exit(main())
"""


@pytest.fixture(scope="module")
def postfix(postfix_programs: mta_unpack.Programs) -> Iterator[PostfixInstance]:
    with PostfixInstance(postfix_programs, Setup(main=TALKATIVE)) as running:
        yield running


def configure(
    postfix: PostfixInstance, socket: str, mode: str = "milter", main: Mapping[str, str] = {},
    submission: Mapping[str, str] = {}, files: Mapping[str, str] = {},
) -> None:  # fmt: skip
    for left in postfix.delivered():
        left.unlink()
    postfix.restart(
        mta_modes.setup(
            mode, socket,
            {**main, "smtpd_milters": f"{{ {socket}, default_action=accept, {IMPATIENT} }}"},
            files,
            submission={
                "smtpd_milters": f"{{ {socket}, default_action=tempfail, {IMPATIENT} }}",
                **submission,
            },
        )
    )  # fmt: skip


def submit(postfix: PostfixInstance) -> tuple[Canaries, Sent]:
    canaries = Canaries.fresh("ipv4", LOGIN)
    client = postfix.submission(helo=canaries.helo, xclient=canaries.xclient)
    return canaries, client.send(
        mta_modes.message(canaries), "alice@local.test", ["bob@local.test"]
    )


def refused(postfix: PostfixInstance) -> Sent:
    """A submission that must be refused for now and leave nothing in the queue."""
    canaries, sent = submit(postfix)
    assert 400 <= sent.code < 500, (sent, postfix.log_text())
    assert canaries.found(sent.final.encode()) == ()
    postfix.settle()
    assert [p.read_text() for p in postfix.delivered()] == [], postfix.log_text()
    return sent


def inbound_flows(postfix: PostfixInstance) -> None:
    sent = postfix.inbound().send(b"Subject: in\n\nx\n", "x@example.net", ["bob@local.test"])
    assert sent.code == 250, (sent, postfix.log_text())
    postfix.collect()


def test_all_is_well(postfix: PostfixInstance) -> None:
    """The same helper sees a 250 where nothing is broken: a refusal below means something."""
    with Daemon(BASE_CONFIG) as daemon:
        configure(postfix, daemon.socket)
        canaries, sent = submit(postfix)
        assert sent.code == 250, (sent, postfix.log_text())
        assert canaries.found(postfix.collect()[0]) == ()
        inbound_flows(postfix)


def test_milter_down(postfix: PostfixInstance) -> None:
    configure(postfix, f"inet:127.0.0.1:{free_port()}")
    refused(postfix)
    assert "Connection refused" in postfix.log_text()
    inbound_flows(postfix)


def test_milter_hung(postfix: PostfixInstance) -> None:
    with Daemon(BASE_CONFIG) as daemon:
        configure(postfix, daemon.socket)
        daemon.signal(signal.SIGSTOP)
        refused(postfix)
        assert "milter" in postfix.log_text()
        inbound_flows(postfix)


def test_milter_dies_in_the_session(postfix: PostfixInstance) -> None:
    """Accepted connection, then kill -9 before the message: nothing leaves unscrubbed."""
    with Daemon(BASE_CONFIG) as daemon:
        configure(postfix, daemon.socket)
        _, sent = submit(postfix)
        assert sent.code == 250
        postfix.collect()
        daemon.signal(signal.SIGKILL)
        daemon.child.wait(15)
        refused(postfix)
        inbound_flows(postfix)


def test_unverified_postfix(postfix: PostfixInstance) -> None:
    with Daemon(BASE_CONFIG) as daemon:
        configure(postfix, daemon.socket, main={"mail_version": "4.0.1"})
        refused(postfix)
        assert "own_received" in daemon.text(), daemon.text()
        # Said once, however often it happens.
        refused(postfix)
        assert daemon.text().count("own_received") == 1, daemon.text()
        inbound_flows(postfix)


def test_token_missing_in_postfix(postfix: PostfixInstance) -> None:
    """gatepost.toml wants a token, and the listener does not call itself by it."""
    with Daemon(BASE_CONFIG + SUBMISSION["mta"]) as daemon:
        configure(postfix, daemon.socket, "milter")
        refused(postfix)
        assert "mta_token" in daemon.text(), daemon.text()
        inbound_flows(postfix)


def test_token_table_missing(postfix: PostfixInstance) -> None:
    with Daemon(BASE_CONFIG + SUBMISSION["mta"]) as daemon:
        configure(postfix, daemon.socket, "mta")
        (postfix.etc / "submission_received").unlink()
        refused(postfix)
        assert "submission_received" in postfix.log_text()
        inbound_flows(postfix)


def test_token_table_empty(postfix: PostfixInstance) -> None:
    """The table is there and does nothing: the milter sees its mark missing."""
    with Daemon(BASE_CONFIG + SUBMISSION["mta"]) as daemon:
        configure(postfix, daemon.socket, "mta", files={"submission_received": ""})
        refused(postfix)
        assert "token table" in daemon.text(), daemon.text()
        inbound_flows(postfix)


def test_token_table_empty_without_the_marking_field(postfix: PostfixInstance) -> None:
    """A recipe without smtpd_data_restrictions cannot tell; then the milter sweeps as well."""
    with Daemon(BASE_CONFIG + SUBMISSION["mta"]) as daemon:
        configure(postfix, daemon.socket, "mta", submission={"smtpd_data_restrictions": ""},
                  files={"submission_received": ""})  # fmt: skip
        canaries, sent = submit(postfix)
        assert sent.code == 250, (sent, postfix.log_text())
        (data,) = postfix.collect()
        assert canaries.found(data) == () and TOKEN.encode() not in data, data.decode()


def test_token_table_empty_is_found_by_check(postfix: PostfixInstance) -> None:
    """`check` tries the table, before any mail comes."""
    from gatepost_milter.doctor import postfix as postfix_checks
    from gatepost_milter.doctor import postfix_config
    from gatepost_policy.config.settings import Settings

    with Daemon(BASE_CONFIG + SUBMISSION["mta"]) as daemon:
        settings = from_table(Settings, {
            "milter": {"socket": f"inet:{daemon.port}@127.0.0.1"},
            "submission": {"own_received": "mta", "mta_token": TOKEN},
        })  # fmt: skip
        for text, wanted in ((None, False), ("", True)):
            files = {} if text is None else {"submission_received": text}
            configure(postfix, daemon.socket, "mta", files=files)
            live = postfix_config.read(postfix.etc, postfix.commands_for_check())
            found = postfix_checks.check(live, settings)
            assert ("token-table" in {f.code for f in found}) is wanted, found


@pytest.mark.parametrize("broken", BROKEN)
def test_exception_in_the_milter(postfix: PostfixInstance, broken: str) -> None:
    module, _, name = broken.partition(":")
    prelude = BREAK.format(module=module, name=name)
    with Daemon(BASE_CONFIG, prelude=prelude) as daemon:
        configure(postfix, daemon.socket)
        refused(postfix)
        assert "RuntimeError" in daemon.text(), daemon.text()
        inbound_flows(postfix)
