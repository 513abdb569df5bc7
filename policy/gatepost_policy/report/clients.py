"""Count the messages of many clients at once, as a report on each would: an overview has a hundred.

Only for clients with few messages, because all their rows are read; for others use `count`.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence

from sqlalchemy import Connection, func, select

from gatepost_policy.mail.results import DMARC_RESULTS, RESULTS, SPF_RESULTS
from gatepost_policy.report import rhythm
from gatepost_policy.report.conditions import conditions
from gatepost_policy.report.count import Counted, families, in_order
from gatepost_policy.report.selection import Selection
from gatepost_policy.report.summary import Summary
from gatepost_policy.store.sqltext import chunks
from gatepost_policy.store.tables import Message, MessageSignature


def count(
    connection: Connection, prefixes: Sequence[str], selection: Selection
) -> dict[str, Counted]:
    """{prefix: counts} of the selected messages of each of these clients (/32 or /64); clients
    without messages are left out.

    The summaries have no `hosts`: each is about one client. Raises TooWide, SQLAlchemyError.
    """
    found: dict[str, Counted] = {}
    chosen = conditions(connection, selection)
    for chunk in chunks(prefixes):
        of_these = [Message.prefix.in_(chunk), *chosen]
        times: dict[str, list[float]] = defaultdict(list)
        by_family: dict[str, Counter[str]] = defaultdict(Counter)
        trapped: Counter[str] = Counter()
        hits: Counter[str] = Counter()
        dkim: dict[str, Counter[str]] = defaultdict(Counter)
        spf: dict[str, Counter[str]] = defaultdict(Counter)
        dmarc: dict[str, Counter[str]] = defaultdict(Counter)
        for prefix, at, family, traps, stage, spf_word, dmarc_word in connection.execute(
            select(
                Message.prefix, Message.at, Message.family, Message.traps, Message.stage,
                Message.spf, Message.dmarc,
            ).where(*of_these)
        ):  # fmt: skip
            assert prefix is not None  # it is one of `chunk`
            times[prefix].append(at)
            by_family[prefix][family] += 1
            trapped[prefix] += traps > 0
            hits[prefix] += traps
            dkim[prefix]["none"] += stage == "end"
            if spf_word is not None:
                spf[prefix][spf_word] += 1
            if dmarc_word is not None:
                dmarc[prefix][dmarc_word] += 1
        row = MessageSignature
        for prefix, result, number, first in connection.execute(
            select(
                Message.prefix,
                row.result,
                func.count(),
                # Positions count from 0: each signed message has one signature there.
                func.count().filter(row.position == 0),
            )
            .join(row, row.message_id == Message.id)
            .where(*of_these)
            .group_by(Message.prefix, row.result)
        ):
            assert prefix is not None
            dkim[prefix]["none"] -= first
            dkim[prefix][result] += number
        for prefix, mine in times.items():
            beat = rhythm.of(mine)
            summary = Summary(
                messages=len(mine),
                first_seen=min(mine),
                last_seen=max(mine),
                families=families(by_family[prefix]),
                dkim=in_order(dkim[prefix], RESULTS),
                spf=in_order(spf[prefix], SPF_RESULTS),
                dmarc=in_order(dmarc[prefix], DMARC_RESULTS),
                trap_hits=hits[prefix],
                median_gap_days=None if beat is None else beat.median_gap,
            )
            found[prefix] = Counted(summary, beat, trapped[prefix], 1)
    return found
