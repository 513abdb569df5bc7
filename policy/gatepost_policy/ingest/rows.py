"""One message as the store keeps it: from a journal record, and back from the tables.

A `Row` holds the values of its `message` row in column order, so that a batch of them is handed
to the database as it is, and what is derived from them once. Texts are cleaned here: what stands
in a row can be stored by both databases.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from sqlalchemy import Connection, RowMapping, bindparam, select

from gatepost_policy.ingest import deltas
from gatepost_policy.journal.record import Json
from gatepost_policy.mail import dkim_reason, index_key
from gatepost_policy.mail.address import Address
from gatepost_policy.store.sqltext import chunks
from gatepost_policy.store.tables import Message, MessageRecipient, MessageSignature

MESSAGE_COLUMNS = tuple(c.name for c in Message.__table__.columns)
SIGNATURE_COLUMNS = tuple(c.name for c in MessageSignature.__table__.columns)
AT = {name: n for n, name in enumerate(MESSAGE_COLUMNS)}
MAX_INT = 2**63 - 1

Value = str | int | float | bool | None


@dataclass(slots=True)
class Row:
    """One message. `values` are its `message` row, `recipients` and `signatures` its others.

    `hit` is True where this is a trap hit nobody has counted yet; `merged` are the ids of rows of
    the other door that this one replaced; `stored` is True for what came from the tables.
    """

    values: list[Value]
    recipients: list[tuple[str, str, bool, bool]]  # address, trap_key, trap, accepted
    signatures: list[tuple[Value, ...]]  # from `domain` on
    sender: Address | None
    author: Address | None
    data: Json | None = None
    key: str | None = None
    session: str | None = None
    hit: bool = False
    merged: list[int] = field(default_factory=list)
    stored: bool = False

    @property
    def id(self) -> int:
        """The message's id; 0 before one was given."""
        return int(self.values[0] or 0)

    @property
    def at(self) -> float:
        """When it was received."""
        return float(self.values[1] or 0)

    @property
    def stage(self) -> str:
        """end or rcpt."""
        return str(self.values[_STAGE])

    @property
    def traps(self) -> int:
        """How many of its recipients are or were traps."""
        return sum(1 for r in self.recipients if r[2])

    def keys(self) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
        """Its keys in message_domain and in domain_day (`index_key.search_keys`)."""
        domains = tuple([s[0] for s in self.signatures])
        return index_key.search_keys(self.sender, self.author, domains)

    def add_to(
        self,
        sums: deltas.Sums,
        names: Sequence[tuple[str, int]],
        sign: int = 1,
        *,
        identities: bool = True,
    ) -> None:
        """Count this row in `sums` (or out of them); `names` as `keys` gives them."""
        values = self.values
        host = values[_ADDRESS]
        prefix = values[_PREFIX]
        sums.add(
            at=values[1],  # type: ignore[arg-type]
            stage=values[_STAGE],  # type: ignore[arg-type]
            direction=values[_DIRECTION],  # type: ignore[arg-type]
            family=values[_FAMILY],  # type: ignore[arg-type]
            prefix=prefix,  # type: ignore[arg-type]
            host=host if host is not None else prefix,  # type: ignore[arg-type]
            name=values[_NAME],  # type: ignore[arg-type]
            sender=self.sender,
            author=self.author,
            signatures=[_sum(s) for s in self.signatures],
            traps=values[_TRAPS],  # type: ignore[arg-type]
            names=names,
            sign=sign,
            identities=identities,
        )


_STAGE, _DIRECTION, _FAMILY = AT["stage"], AT["direction"], AT["family"]
_PREFIX, _ADDRESS, _NAME, _TRAPS = AT["prefix"], AT["address"], AT["client_name"], AT["traps"]


def _sum(s: tuple[Any, ...]) -> deltas.SignatureSum:
    domain, selector, algorithm, _, bits, limit, unsigned, crypto, result, _, flags = s
    proven = crypto == "pass" and deltas.proven(
        crypto, domain, algorithm, bits, limit, unsigned, tuple(flags.split(",")) if flags else ()
    )
    return domain, selector, algorithm, bits, crypto, result, proven


def read(data: Json, learned: float) -> Row:
    """The row of a `message` or `rcpt` record, not yet numbered.

    Raises KeyError, TypeError, ValueError or AttributeError for a record that is none.
    """
    at = float(data["at"])
    if not math.isfinite(at):
        raise ValueError("a time that is no number")
    client = data["client"]
    address = prefix = name = helo = session = None
    sender = author = None
    text, author_text = data["sender"], data["header_from"]
    if text:
        text = index_key.clean(text)
        sender = index_key.read_address(text)
    if author_text is not None:
        author_text = index_key.clean(author_text)
        author = index_key.read_address(author_text)
    sender_key = "" if sender is None else sender.key
    if client is not None:
        name, helo = _text(client.get("name")), _text(client.get("helo"))
        address = client.get("address")
        if address is not None:
            prefix = index_key.prefix_of(address)
            port = client.get("port")
            if port:
                raw = f"{address}|{port}|{sender_key}"
                session = blake2b(raw.encode("utf-8", "replace"), digest_size=16).hexdigest()
    recipients = [_recipient(r) for r in data["recipients"]]
    traps = sum(1 for r in recipients if r[2])
    end = data["kind"] == "message"
    arc = data["arc"] or (None, None)
    key = data.get("key")
    instance = data.get("instance")
    if key is None and instance and not end:
        key = f"policy:{session or ''}:{instance}"
    kept = session is not None and (
        not end or traps or data["reason"] != "no-bad-signal" or not all(r[3] for r in recipients)
    )
    shadow = data["shadow"]
    return Row(
        values=[
            None,
            at,
            learned,
            data["source"],
            "end" if end else "rcpt",
            session if kept else None,
            _text(data["queue_id"]),
            data["direction"],
            data["family"],
            prefix,
            address,
            name,
            helo,
            text,
            sender_key,
            author_text,
            None if author is None else author.key,
            _bounded(data["size"]),
            _text(data["message_id"]),
            data["action"],
            data["reason"],
            ",".join(shadow) if shadow else None,
            arc[0],
            _text(arc[1]),
            bool(data.get("relay")),
            traps,
        ],
        recipients=recipients,
        signatures=[_signature(s) for s in data["signatures"]],
        sender=sender,
        author=author,
        data=data,
        key=None if key is None else index_key.fit(index_key.clean(key)),
        session=session,
        hit=traps > 0 and data["direction"] == "inbound",
    )


def _recipient(r: Json) -> tuple[str, str, bool, bool]:
    shown = index_key.clean(r["address"])
    key = index_key.fit(index_key.read_address(shown).trap_key)
    return shown, key, bool(r["trap"]), bool(r["accepted"])


def _text(value: str | None) -> str | None:
    return None if value is None else index_key.clean(value)


def _bounded(value: int | None) -> int | None:
    return value if value is None or value <= MAX_INT else MAX_INT


def _signature(s: Json) -> tuple[Value, ...]:
    get = s.get
    flags = get("flags")
    why = dkim_reason.read(get("reason"))
    return (
        _text(get("domain")),
        _text(get("selector")),
        _text(get("algorithm")),
        _text(get("canonicalization")),
        get("key_bits"),
        _bounded(get("body_limit")),
        _bounded(get("unsigned_bytes")),
        get("crypto"),
        s["result"],
        None if why is None else why.value,
        ",".join(flags) if flags else None,
    )


_MESSAGES = select(Message.__table__).where(Message.id.in_(bindparam("ids", expanding=True)))
_RECIPIENTS = (
    select(MessageRecipient.__table__)
    .where(MessageRecipient.message_id.in_(bindparam("ids", expanding=True)))
    .order_by(MessageRecipient.message_id, MessageRecipient.position)
)
_SIGNATURES = (
    select(MessageSignature.__table__)
    .where(MessageSignature.message_id.in_(bindparam("ids", expanding=True)))
    .order_by(MessageSignature.message_id, MessageSignature.position)
)


def load(connection: Connection, ids: Iterable[int]) -> dict[int, Row]:
    """The rows of these messages, as they are in the tables now; missing ones are left out."""
    found: dict[int, Row] = {}
    for part in chunks(ids):
        for m in connection.execute(_MESSAGES, {"ids": part}).mappings():
            found[m["id"]] = _loaded(m)
        for r in connection.execute(_RECIPIENTS, {"ids": part}):
            if r.message_id in found:
                found[r.message_id].recipients.append((r.address, r.trap_key, r.trap, r.accepted))
        for s in connection.execute(_SIGNATURES, {"ids": part}):
            if s.message_id in found:
                found[s.message_id].signatures.append(tuple(s)[2:])
    return found


def _loaded(m: RowMapping) -> Row:
    sender, author = m["sender"], m["header_from"]
    return Row(
        values=[m[name] for name in MESSAGE_COLUMNS],
        recipients=[],
        signatures=[],
        sender=index_key.read_address(sender) if sender else None,
        author=None if author is None else index_key.read_address(author),
        session=m["session"],
        stored=True,
    )
