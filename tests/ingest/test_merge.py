"""A message that both doors saw is one message and one hit, in whatever order it is told."""

import itertools

import pytest
from sqlalchemy import Engine

import sums
from fix_store import AT, count, message, signature
from gatepost_policy import recorder, store
from gatepost_policy.config.settings import Settings
from gatepost_policy.ingest import merge
from gatepost_policy.journal import record
from gatepost_policy.mail.decision import Action, Reason
from gatepost_policy.mail.facts import Source

TRAP = "trap@home.example"


def rcpt(
    *traps: str, at: float = AT, port: int = 4000, instance: str | None = "1.2.3",
    to: tuple[str, ...] = (),
) -> record.Json:  # fmt: skip
    """What the policy service records of one RCPT TO."""
    return message(
        0, at=at, kind="rcpt", source=Source.POLICY, port=port, to=to, traps=traps,
        reason=Reason.TRAP, instance=instance, author=None,
    )  # fmt: skip


def finished(
    *traps: str, at: float = AT + 2, port: int = 4000, to: tuple[str, ...] = (), signed: bool = True
) -> record.Json:
    """What the milter records of the message."""
    return message(
        1, at=at, port=port, to=to, traps=traps, action=Action.REJECT, reason=Reason.TRAP,
        signatures=(signature(),) if signed else (),
    )  # fmt: skip


def tell(engine: Engine, settings: Settings, told: list[record.Json], together: bool) -> None:
    for batch in [told] if together else [[one] for one in told]:
        recorder.record_batch(engine, batch, settings)
    sums.check(engine)


TOGETHER = pytest.mark.parametrize("together", [True, False], ids=["one batch", "apart"])


@TOGETHER
@pytest.mark.parametrize("order", list(itertools.permutations(range(2))))
def test_one_hit(
    any_settings: Settings, any_engine: Engine, together: bool, order: tuple[int, ...]
) -> None:
    told = [rcpt(TRAP), finished(TRAP)]
    tell(any_engine, any_settings, [told[n] for n in order], together)
    assert count(any_engine, "message") == 1
    assert count(any_engine, "message", "source = 'milter' AND traps = 1") == 1
    assert count(any_engine, "identity", "messages <> 1 OR trap_messages <> 1") == 0
    # The signature proves who is to blame: what the RCPT TO had blamed is taken back.
    assert count(any_engine, "listing", "kind = 'dkim' AND hits = 1") == 1
    assert count(any_engine, "listing") == 1
    with store.reading(any_engine) as connection:
        linked = connection.exec_driver_sql(
            "SELECT count(*) FROM evidence e JOIN message m ON m.id = e.message_id"
        ).scalar_one()
    assert linked == count(any_engine, "evidence") == 1


@TOGETHER
def test_several_recipients_of_one_instance(
    any_settings: Settings, any_engine: Engine, together: bool
) -> None:
    told = [rcpt(TRAP), rcpt("b@home.example"), rcpt(TRAP), rcpt("c@home.example")]
    tell(any_engine, any_settings, told, together)
    assert count(any_engine, "message", "traps = 3 AND stage = 'rcpt'") == 1
    assert count(any_engine, "recipient") == 3
    assert count(any_engine, "listing", "hits = 1") == 1
    tell(any_engine, any_settings, [finished(TRAP, "b@home.example", "c@home.example")], together)
    assert count(any_engine, "message", "traps = 3 AND stage = 'end'") == 1
    assert count(any_engine, "message") == 1
    assert count(any_engine, "recipient") == 3
    # And what still comes of this instance belongs to the finished message.
    tell(any_engine, any_settings, [rcpt("d@home.example")], together)
    assert count(any_engine, "message", "traps = 4") == 1
    assert count(any_engine, "identity", "messages <> 1 OR trap_messages <> 1") == 0


@TOGETHER
def test_two_messages_of_one_session(
    any_settings: Settings, any_engine: Engine, together: bool
) -> None:
    """One sender, one connection, two messages to two traps: two messages."""
    told = [
        rcpt(TRAP, instance="1"),
        rcpt("b@home.example", at=AT + 3, instance="2"),
        finished(TRAP, at=AT + 2),
        finished("b@home.example", at=AT + 5),
    ]
    tell(any_engine, any_settings, told, together)
    assert count(any_engine, "message", "traps = 1 AND source = 'milter'") == 2
    assert count(any_engine, "message") == 2


OTHERS = (
    ("another port", {"port": 4001}),
    ("ten minutes later", {"at": AT + merge.WINDOW_S + 60}),
)


@TOGETHER
@pytest.mark.parametrize(("name", "change"), OTHERS, ids=[o[0] for o in OTHERS])
def test_another_session_is_another_message(
    any_settings: Settings, any_engine: Engine, together: bool, name: str, change: dict[str, float]
) -> None:
    later = finished(TRAP, **change)  # type: ignore[arg-type]
    tell(any_engine, any_settings, [rcpt(TRAP), later], together)
    assert count(any_engine, "message") == 2


@TOGETHER
def test_a_recipient_the_milter_never_saw_stays(
    any_settings: Settings, any_engine: Engine, together: bool
) -> None:
    """Refused at RCPT TO by the policy service: the milter's message has only the others."""
    told = [rcpt(TRAP), rcpt("b@home.example"), finished("b@home.example")]
    tell(any_engine, any_settings, told, together)
    assert count(any_engine, "message") == 2
    assert count(any_engine, "message", "traps = 1") == 2
    assert count(any_engine, "recipient") == 2


@TOGETHER
def test_without_an_instance_the_session_counts(
    any_settings: Settings, any_engine: Engine, together: bool
) -> None:
    told = [rcpt(TRAP, instance=None), rcpt(TRAP, instance=None), rcpt("b@home.example",
            instance=None)]  # fmt: skip
    tell(any_engine, any_settings, told, together)
    assert count(any_engine, "message", "traps = 2") == 1


@TOGETHER
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_a_transaction_without_a_message(
    any_settings: Settings, any_engine: Engine, together: bool, order: tuple[int, ...]
) -> None:
    """The policy service refused the trap: the milter saw a transaction end without a message."""
    refused = message(
        2, at=AT + 1, kind="rcpt", port=4000, to=(), traps=(TRAP,), refused=(TRAP,),
        action=Action.REJECT, reason=Reason.TRAP, author=None,
    )  # fmt: skip
    told = [rcpt(TRAP), refused, rcpt("b@home.example")]
    tell(any_engine, any_settings, [told[n] for n in order], together)
    assert count(any_engine, "message", "traps = 2") == 1
    assert count(any_engine, "message") == 1
    assert count(any_engine, "identity", "messages <> 1 OR trap_messages <> 1") == 0
    assert count(any_engine, "listing", "hits = 1") == 1


def test_a_trap_that_joins_makes_a_repeat_sender(
    any_settings: Settings, any_engine: Engine
) -> None:
    """The message is as old as its first RCPT TO, which a batch before has brought."""
    day = 86_400
    tell(any_engine, any_settings, [message(n, at=AT - n * 30 * day) for n in range(1, 6)], True)
    tell(any_engine, any_settings, [rcpt(to=("user@home.example",))], True)
    tell(any_engine, any_settings, [rcpt(TRAP, at=AT + 1)], True)
    with store.reading(any_engine) as connection:
        found = connection.exec_driver_sql("SELECT value FROM identity WHERE repeat").scalars()
        assert "news@sender.example" in set(found)
