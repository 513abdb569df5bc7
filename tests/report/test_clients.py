"""Many clients counted at once come to what a report on each says."""

import random
from dataclasses import replace

from sqlalchemy import Engine

from fix_report import REAL, TRAP, Mail, fill, seconds, signature
from gatepost_policy.config.settings import Settings
from gatepost_policy.mail.facts import Family
from gatepost_policy.report import clients, count, selection
from gatepost_policy.report.selection import Selection
from gatepost_policy.store import reading

CLIENTS = ("192.0.2.1/32", "192.0.2.2/32", "2001:db8:1::/64", "2001:db8:2::/64", "192.0.2.99/32")
FROM = ("192.0.2.1", "192.0.2.2", "2001:db8:1::7", "2001:db8:1::8", "2001:db8:2::1", "192.0.2.3")


def test_as_the_report_on_each(any_engine: Engine, any_settings: Settings) -> None:
    source = random.Random(5)
    mails = [
        Mail(
            f"2026-0{source.randint(1, 6)}-0{source.randint(1, 9)}T12:00:{n % 60:02}",
            to=(source.choice([TRAP, REAL]),),
            client=source.choice(FROM),
            signatures=tuple(
                signature(name, source.choice(["pass", "fail", "permerror"]))
                for name in source.sample(["a.example", "b.example"], source.randint(0, 2))
            ),
        )
        for n in range(90)
    ]
    fill(any_engine, mails, any_settings)
    for chosen in (
        Selection(),
        Selection(since=seconds("2026-02-03T04:00:00"), until=seconds("2026-05-05T00:00:00")),
        Selection(family=Family.IPV6),
    ):
        with reading(any_engine) as connection:
            at_once = clients.count(connection, CLIENTS, chosen)
            for client in CLIENTS:
                alone = count.count(connection, replace(chosen, host=selection.host(client)))
                if not alone.summary.messages:
                    assert client not in at_once
                    continue
                got = at_once[client]
                want = replace(alone.summary, hosts=())
                assert (got.summary, got.rhythm) == (want, alone.rhythm), (client, chosen)
                assert got.trap_messages == alone.trap_messages
