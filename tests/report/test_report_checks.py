"""SPF and DMARC in the history: each message, the summary from sums and from rows, the identity."""

import random
from typing import Any

import pytest
from sqlalchemy import Engine, select

import sums
from fix_store import AT, message
from gatepost_policy import recorder, store
from gatepost_policy.config.settings import Settings
from gatepost_policy.ingest import deltas
from gatepost_policy.listings import dossier
from gatepost_policy.report.history import tell
from gatepost_policy.report.report import Report
from gatepost_policy.report.selection import Selection
from gatepost_policy.store.tables import SenderIdentity

DAY = 86_400.0


def checked(number: int, spf: str | None, dmarc: str | None, **more: Any) -> dict[str, Any]:
    data = message(number, **more)
    if spf is not None:
        data["spf"] = {
            "mail_from": {"result": spf, "domain": "sender.example", "mechanism": "mx"},
            "helo": {"result": "temperror", "domain": "mx.example", "reason": "dns-timeout"},
        }
    if dmarc is not None:
        data["dmarc"] = {
            "result": dmarc, "domain": "sender.example", "organisation": "sender.example",
            "policy": "reject", "aligned": ["spf"] if dmarc == "pass" else [], "reason": None,
        }  # fmt: skip
    return data


def told(engine: Engine, settings: Settings, **chosen: Any) -> Report:
    with store.reading(engine) as connection:
        return tell(connection, Selection(**chosen), settings, AT + 400 * DAY)


def test_a_message_tells_its_results(any_engine: Engine, any_settings: Settings) -> None:
    rows = [checked(1, "pass", "pass"), checked(2, None, None, at=AT - 1)]
    recorder.record_batch(any_engine, rows, any_settings)
    first, second = told(any_engine, any_settings, sender="sender.example").json()["messages"]
    assert first["spf"] == {
        "mail_from": {
            "result": "pass", "domain": "sender.example", "mechanism": "mx", "reason": None,
        },
        "helo": {
            "result": "temperror", "domain": "mx.example", "mechanism": None,
            "reason": "dns-timeout",
        },
    }  # fmt: skip
    assert first["dmarc"] == {
        "result": "pass", "domain": "sender.example", "organisation": "sender.example",
        "policy": "reject", "aligned": ["spf"], "reason": None,
    }  # fmt: skip
    assert (second["spf"], second["dmarc"]) == (None, None)


def test_the_summary_is_the_same_from_sums_and_from_rows(
    any_engine: Engine, any_settings: Settings
) -> None:
    source = random.Random(5)
    rows = [
        checked(
            n, source.choice([*deltas.SPF_RESULTS, None]),
            source.choice([*deltas.DMARC_RESULTS, None]), at=AT + n * DAY / 3,
        )
        for n in range(60)
    ]  # fmt: skip
    recorder.record_batch(any_engine, rows, any_settings)
    sums.check(any_engine)
    whole = told(any_engine, any_settings, sender="sender.example").summary
    narrow = told(any_engine, any_settings, sender="sender.example", since=AT - 1).summary
    assert (dict(whole.spf), dict(whole.dmarc)) == (dict(narrow.spf), dict(narrow.dmarc))
    assert whole.spf == {
        result: count
        for result in deltas.SPF_RESULTS
        if (
            count := sum(
                (r.get("spf") or {}).get("mail_from", {}).get("result") == result for r in rows
            )
        )
    }
    assert whole.dmarc == {
        result: count
        for result in deltas.DMARC_RESULTS
        if (count := sum((r.get("dmarc") or {}).get("result") == result for r in rows))
    }


@pytest.mark.parametrize("result", ["pass", "fail", "softfail"])
def test_a_pass_is_an_identity_that_lists_nobody(
    any_engine: Engine, any_settings: Settings, result: str
) -> None:
    """Months of trap hits: the domain that SPF let through is known, and never listed for it."""
    rows = [
        checked(n, result, "pass", at=AT + n * 30 * DAY, traps=("trap@home.example",), to=())
        for n in range(5)
    ]
    recorder.record_batch(any_engine, rows, any_settings)
    with store.reading(any_engine) as connection:
        found = connection.execute(
            select(SenderIdentity.value, SenderIdentity.messages, SenderIdentity.repeat).where(
                SenderIdentity.kind == "spf"
            )
        ).all()
        listed = dossier.listings(connection, AT + 150 * DAY)
    assert [tuple(row) for row in found] == (
        [("sender.example", 5, False)] if result == "pass" else []
    )
    assert {entry.kind for entry in listed} <= {"prefix"}


def test_a_row_of_the_overview_tells_them(any_engine: Engine, any_settings: Settings) -> None:
    rows = [
        checked(n, "fail" if n else "pass", "fail" if n > 1 else None, at=AT + n * 30 * DAY,
                traps=("trap@home.example",), to=())
        for n in range(5)
    ]  # fmt: skip
    recorder.record_batch(any_engine, rows, any_settings)
    row = told(any_engine, any_settings).json()["senders"][0]
    assert (row["spf"], row["dmarc"]) == ({"pass": 1, "fail": 4}, {"fail": 3})
