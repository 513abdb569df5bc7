"""The trail in the report: each message's hops, and over which family they came; never of ours."""

from typing import Any

import pytest
from sqlalchemy import Engine

from fix_store import AT, message
from gatepost_policy import recorder, store
from gatepost_policy.config.settings import Settings
from gatepost_policy.report.history import tell
from gatepost_policy.report.report import Report
from gatepost_policy.report.selection import Selection


def told(engine: Engine, settings: Settings, **chosen: Any) -> Report:
    with store.reading(engine) as connection:
        return tell(connection, Selection(**chosen), settings, AT + 1e6)


@pytest.mark.parametrize("limit", [1, 100])
def test_the_trail_is_told(any_engine: Engine, any_settings: Settings, limit: int) -> None:
    rows = [message(n) for n in range(4)]
    rows[0]["trail"] = [["ipv4", "ESMTPSA"], [None, "HTTP"]]
    rows[1]["trail"] = [["ipv4", "ESMTP"]]
    rows[2]["trail"] = []
    recorder.record_batch(any_engine, rows, any_settings)
    got = told(any_engine, any_settings, sender="sender.example", limit=limit)
    assert got.came_over == {"ipv4": 2}
    if limit > 1:
        trails = [line["trail"] for line in reversed(got.json()["messages"])]
        assert trails == [
            [{"family": "ipv4", "protocol": "ESMTPSA"}, {"family": None, "protocol": "HTTP"}],
            [{"family": "ipv4", "protocol": "ESMTP"}],
            [],
            None,
        ]
    assert told(any_engine, any_settings).came_over == {}
