"""Counters for the metrics endpoint, kept in the store beside what they count.

The recorder adds the counts of a batch of journal records in the transaction that stores the batch:
so a counter is right with any number of workers, after restarts, and whichever process records.
Labels are words from fixed lists (families, actions, reasons, results), never an address.
"""

import json
from collections import Counter as Tally
from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, select

from gatepost_policy.store import sqltext, tables

Key = tuple[str, tuple[str, ...]]

# name -> (help, label names). The endpoint adds the prefix `gatepost_` and the suffix `_total`.
COUNTERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "messages": ("Messages that were finished", ("direction", "family", "action", "reason")),
    "dkim_signatures": ("DKIM signatures verified, by RFC 8601 result", ("result",)),
    "unsigned_messages": ("Inbound messages without a DKIM signature", ()),
    "trap_hits": ("Trap recipients of inbound messages", ("family",)),
    "own_user_trap_hits": ("Submissions to a trap: an account may be stolen", ()),
    "unknown_fields": ("Fields on no list that submissions lost, by name", ("name",)),
    "untraced_submissions": ("Submissions that left without a trace for want of a key", ()),
    "shadow_decisions": ("Decisions a rule in shadow mode would have made", ("reason",)),
    "log_records": ("Records that milterctl watch has read in logs", ("kind",)),
    "journal_lost": ("Records the journal could not take", ()),
}


def tally(records: Iterable[dict[str, Any]]) -> Tally[Key]:
    """What a batch of journal records (`record.message`, `.count`, `.gap`) adds."""
    out: Tally[Key] = Tally()
    for record in records:
        kind = record["kind"]
        if kind == "gap":
            out["journal_lost", ()] += int(record["lost"])
            continue
        if kind in ("live-trap", "watch", "guess", "groper", "no-guess"):
            continue
        if record.get("watched"):
            # The milter or the policy service may count the same message.
            out["log_records", (str(kind),)] += 1
            continue
        if kind != "rcpt":
            labels = (record["direction"], record["family"], record["action"], record["reason"])
            out["messages", tuple(map(str, labels))] += 1
        if record["reason"] == "own-user-trap":
            out["own_user_trap_hits", ()] += 1
        if record.get("untraced"):
            out["untraced_submissions", ()] += 1
        for name in record.get("dropped", ()):
            out["unknown_fields", (str(name),)] += 1
        for reason in record.get("shadow", ()):
            out["shadow_decisions", (str(reason),)] += 1
        if record["direction"] != "inbound" or kind == "count":
            continue
        hits = sum(1 for r in record["recipients"] if r["trap"])
        if hits:
            out["trap_hits", (str(record["family"]),)] += hits
        if kind == "message":
            for signature in record["signatures"]:
                out["dkim_signatures", (signature["result"],)] += 1
            if not record["signatures"]:
                out["unsigned_messages", ()] += 1
    return out


_ADD = sqltext.upsert("counter", "value+")


def add(connection: Connection, amounts: Tally[Key]) -> None:
    """Add `amounts` in the caller's transaction. Sorted, so that two hosts lock rows in the same
    order and cannot deadlock. Raises SQLAlchemyError."""
    if not amounts:
        return
    rows = [
        (name, json.dumps(labels, separators=(",", ":")), value)
        for (name, labels), value in sorted(amounts.items())
    ]
    sqltext.many(connection, _ADD, rows)


def read(connection: Connection) -> dict[Key, int]:
    """{(name, label values): count} of all counters that this release knows."""
    found = connection.execute(
        select(tables.Counter.name, tables.Counter.labels, tables.Counter.value)
    )
    return {
        (name, tuple(json.loads(labels))): value
        for name, labels, value in found
        if name in COUNTERS
    }
