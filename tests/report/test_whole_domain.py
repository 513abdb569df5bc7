"""`--trap @example.net`: everybody in a domain is looked up once, and the answer stays the same."""

import pytest
from sqlalchemy import Engine, event

from fix_store import AT, message, signature
from gatepost_policy import recorder, store
from gatepost_policy.config.settings import Settings
from gatepost_policy.mail import address
from gatepost_policy.report import conditions, history
from gatepost_policy.report.report import Report
from gatepost_policy.report.selection import Selection

CHOSEN = Selection(trap=address.parse("@home.example"))


def tell(engine: Engine, settings: Settings) -> Report:
    with store.reading(engine) as connection:
        return history.tell(connection, CHOSEN, settings, AT + 99)


def test_found_once_and_the_same(
    any_engine: Engine, any_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    to = ("user@home.example", "trap@home.example", "a@sub.home.example", "b@elsewhere.example")
    records = [
        message(n, to=(to[n % 4],), traps=("trap2@home.example",) if n % 5 == 0 else (),
                signatures=(signature(),) if n % 2 else ())
        for n in range(20)
    ]  # fmt: skip
    recorder.record_batch(any_engine, records, any_settings)
    reading: list[str] = []

    @event.listens_for(any_engine, "before_cursor_execute")
    def _seen(*given: object) -> None:
        if "length(rtrim(trap_key" in str(given[2]):
            reading.append(str(given[2]))

    named = tell(any_engine, any_settings)
    assert len(reading) == 1, reading
    monkeypatch.setattr(conditions, "IDS_MAX", 1)
    searched = tell(any_engine, any_settings)
    assert len(reading) > 3, "of very many each query finds them by itself"
    assert named == searched and named.summary.messages == 12
    # What comes later is seen by the next report.
    recorder.record_batch(any_engine, [message(77, to=("new@home.example",))], any_settings)
    monkeypatch.undo()
    assert tell(any_engine, any_settings).summary.messages == 13
