"""What the sums should be: counted anew from the message rows of a store."""

from operator import attrgetter
from typing import Any

from sqlalchemy import Engine

from gatepost_policy import store
from gatepost_policy.ingest import deltas, rows, totals

KEYS = "SELECT reversed, at, message_id, shared FROM message_domain ORDER BY 1, 2, 3, 4"
DAYS = (
    "SELECT reversed, day, family, shared, messages, trap_messages, trap_hits, dkim_pass,"
    " dkim_fail, dkim_policy, dkim_neutral, dkim_temperror, dkim_permerror, dkim_none, spf_pass,"
    " spf_fail, spf_softfail, spf_neutral, spf_temperror, spf_permerror, spf_none, dmarc_pass,"
    " dmarc_fail, dmarc_temperror, dmarc_permerror, dmarc_none"
    " FROM domain_day ORDER BY 1, 2, 3, 4"
)
SPANS = (
    "SELECT reversed, day, family, shared, first_at, last_at FROM domain_day ORDER BY 1, 2, 3, 4"
)
HOSTS = "SELECT reversed, host, shared, family, messages FROM domain_host ORDER BY 1, 2, 3"


def check(engine: Engine, *, spans: bool = False) -> None:
    """Assert that keys and sums per domain are what the rows say.

    `spans`: the first and last times as well. A purge leaves those as they were.
    """
    with store.reading(engine) as connection:
        ids = connection.exec_driver_sql("SELECT id FROM message").scalars().all()
        found = rows.load(connection, ids)
        got: list[Any] = [
            [tuple(r) for r in connection.exec_driver_sql(sql)]
            for sql in (KEYS, DAYS, HOSTS, SPANS)
        ]
    sums = deltas.Sums()
    keys = []
    for row in found.values():
        assert row.traps == row.message.traps or not row.recipients
        own, names = row.keys()
        keys += [(key, row.at, row.id, shared) for key, shared in own]
        sums.add(row, names)
    results = attrgetter(
        *(f"dkim_{result}" for result in deltas.RESULTS),
        *(f"spf_{result}" for result in deltas.SPF_RESULTS),
        *(f"dmarc_{result}" for result in deltas.DMARC_RESULTS),
    )
    want_days = [
        (*key, day.messages, day.trap_messages, day.trap_hits, *results(day))
        for key, day in totals.by_key(sums.days)
    ]
    want_hosts = [(*key, host.family, host.messages) for key, host in totals.by_key(sums.hosts)]
    assert got[0] == sorted(keys)
    assert got[1] == want_days
    assert got[2] == want_hosts
    if spans:
        assert got[3] == [
            (*key, day.first_at, day.last_at) for key, day in totals.by_key(sums.days)
        ]
