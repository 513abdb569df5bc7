"""Who becomes a repeat sender by a batch of old mail: those in it, whoever else might be one."""

import pytest
from sqlalchemy import Engine, event

from fix_store import AT, message
from gatepost_policy import listings, recorder, store
from gatepost_policy.config.settings import Settings
from gatepost_policy.journal.record import Json
from gatepost_policy.mail.decision import Action, Reason

DAY = 86_400
NAMES = ("a", "b", "c")


def hit(name: str, number: int, at: float) -> Json:
    """A trap hit of one sender, from a client of its own."""
    return message(
        number, at=at, client=f"192.0.2.{ord(name)}", sender=f"{name}@{name}.example",
        author=None, to=(), traps=("trap@home.example",), action=Action.REJECT,
        reason=Reason.TRAP,
    )  # fmt: skip


@pytest.mark.parametrize("many", [1, 500], ids=["more than are read", "few"])
def test_only_those_of_the_batch(
    any_engine: Engine, any_settings: Settings, monkeypatch: pytest.MonkeyPatch, many: int
) -> None:
    monkeypatch.setattr("gatepost_policy.listings.repeats.MANY", many)
    told = [hit(name, n, AT - n * 20 * DAY) for name in NAMES for n in range(4)]
    recorder.record_batch(any_engine, told, any_settings)
    with store.writing(any_engine) as connection:
        assert len(listings.repeating(connection)) == 3 * len(NAMES)
        # As those are who may not be called so: shared clients, large mail services.
        connection.exec_driver_sql("UPDATE identity SET repeat = false")
    reads: list[str] = []

    @event.listens_for(any_engine, "before_cursor_execute")
    def note(*call: object) -> None:
        statement = str(call[2])
        if "FROM identity" in statement and "messages >= " in statement:
            reads.append(statement)

    recorder.record_batch(any_engine, [hit("b", 9, AT - 300 * DAY)], any_settings)
    # With millions of messages in the store, all of them are tens of thousands for each batch.
    assert reads
    assert all("LIMIT" in one or " IN (" in one for one in reads)
    with store.reading(any_engine) as connection:
        assert sorted(listings.repeating(connection)) == [
            ("prefix", "192.0.2.98/32"), ("sender", "b@b.example"), ("sender-domain", "b.example"),
        ]  # fmt: skip


def test_the_mail_of_many_clients_is_read_at_once(
    any_engine: Engine, any_settings: Settings
) -> None:
    names = "abcdefghijkl"
    told = [hit(name, n, AT - n * 20 * DAY) for name in names for n in range(4)]
    recorder.record_batch(any_engine, told, any_settings)
    statements: list[str] = []
    with store.writing(any_engine) as connection:
        connection.exec_driver_sql("UPDATE identity SET repeat = false")
        event.listen(
            any_engine, "before_cursor_execute", lambda *call: statements.append(str(call[2]))
        )
        assert listings.flag_repeat(connection, AT - 300 * DAY, any_settings)
        assert len(listings.repeating(connection)) == 3 * len(names)
    # Of each client its windows; candidates, messages, recipients, signatures, the flags: one each.
    others = [one for one in statements if "ORDER BY at DESC" not in one]
    assert len(others) <= 8, others
