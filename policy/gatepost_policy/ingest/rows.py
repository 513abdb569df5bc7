"""One message as the store keeps it: from a journal record, and back from the tables.

`MessageRow`, `RecipientRow` and `SignatureRow` have one field for each column, under its name; the
order in which a statement wants them comes from the tables alone (`message_values` and so on). A
`Row` is a message with all of its rows, and what is derived from them once. Texts are cleaned here,
so that both databases can store them.

Limits: values are taken as the record has them; `read` raises where a record is damaged.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from operator import attrgetter
from typing import Any

from sqlalchemy import Connection, RowMapping, bindparam, select

from gatepost_policy.ingest.row_values import MessageRow as MessageRow
from gatepost_policy.ingest.row_values import RecipientRow as RecipientRow
from gatepost_policy.ingest.row_values import Row as Row
from gatepost_policy.ingest.row_values import SignatureRow as SignatureRow
from gatepost_policy.journal.record import Json
from gatepost_policy.mail import dkim_reason, index_key
from gatepost_policy.mail.address import parse
from gatepost_policy.store.sqltext import chunks
from gatepost_policy.store.tables import Message, MessageRecipient, MessageSignature

MAX_INT = 2**63 - 1
UNNUMBERED = 0  # ids begin at 1


# The columns in the table's order, and a row's values in that order, for a statement.
_PLACE = 2  # message_id and position come first in `recipient` and `signature`
MESSAGE_COLUMNS = tuple(c.name for c in Message.__table__.columns)
RECIPIENT_COLUMNS = tuple(c.name for c in MessageRecipient.__table__.columns)[_PLACE:]
SIGNATURE_COLUMNS = tuple(c.name for c in MessageSignature.__table__.columns)[_PLACE:]
message_values = attrgetter(*MESSAGE_COLUMNS)
recipient_values = attrgetter(*RECIPIENT_COLUMNS)
signature_values = attrgetter(*SIGNATURE_COLUMNS)


@dataclass(slots=True)
class _ClientFields:
    """What a record says about the SMTP client; nothing for a message without one."""

    address: str | None = None
    prefix: str | None = None
    name: str | None = None
    helo: str | None = None
    session: str | None = None


def read(data: Json, learned: float) -> Row:
    """The row of a `message` or `rcpt` record, not yet numbered; `learned` is in Unix seconds.

    Raises KeyError, TypeError, ValueError or AttributeError for a damaged record.
    """
    at = float(data["at"])
    if not math.isfinite(at):
        raise ValueError("a time that is no number")
    sender = author = None
    text, author_text = data["sender"], data["header_from"]
    if text:
        text = index_key.clean(text)
        sender = index_key.read_address(text)
    if author_text is not None:
        author_text = index_key.clean(author_text)
        author = index_key.read_address(author_text)
    sender_key = "" if sender is None else sender.key
    client = _client(data["client"], sender_key)
    recipients = [_recipient(r) for r in data["recipients"]]
    traps = sum(1 for recipient in recipients if recipient.trap)
    end = data["kind"] == "message"
    arc = data["arc"] or (None, None)
    # A finished message keeps its session only where it is remarkable: see `merge`.
    kept = (
        not end
        or traps
        or data["reason"] != "no-bad-signal"
        or not all(recipient.accepted for recipient in recipients)
    )
    shadow = data["shadow"]
    # Made without values, which are then set by name: this takes a fifth of the time of so many
    # keyword arguments, and every record passes here. `message_values` fails for a field left out.
    message = MessageRow.__new__(MessageRow)
    message.id = UNNUMBERED
    message.at = at
    message.learned = learned
    message.source = data["source"]
    message.stage = "end" if end else "rcpt"
    message.session = client.session if kept else None
    message.queue_id = _own_text(data["queue_id"])
    message.direction = data["direction"]
    message.family = data["family"]
    message.prefix = client.prefix
    message.address = client.address
    message.client_name = client.name
    message.helo = client.helo
    message.sender = text
    message.sender_key = sender_key
    message.header_from = author_text
    message.from_key = None if author is None else author.key
    message.size = _bounded(data["size"])
    message.message_id = _own_text(data["message_id"])
    message.action = data["action"]
    message.reason = data["reason"]
    message.shadow = ",".join(shadow) if shadow else None
    message.arc_cv = arc[0]
    message.arc_reason = _text(arc[1])
    message.relay = bool(data.get("relay"))
    message.traps = traps
    _fill_checks(message, data)
    message.marks = data.get("marks")
    message.delivered = None  # only a followed log says it: see `merge`
    return Row(
        message=message,
        recipients=recipients,
        signatures=[_signature(s) for s in data["signatures"]],
        sender=sender,
        author=author,
        data=data,
        key=_key(data, client.session),
        session=client.session,
        hit=traps > 0 and data["direction"] == "inbound",
    )


def _fill_checks(message: MessageRow, data: Json) -> None:
    """SPF, DMARC and the trail. Records of logs, and of earlier releases, have none of them."""
    spf = data.get("spf")
    if spf is None:
        message.spf = message.spf_domain = message.spf_mechanism = message.spf_reason = None
        message.helo_spf = message.helo_spf_domain = None
        message.helo_spf_mechanism = message.helo_spf_reason = None
    else:
        sender, helo = spf["mail_from"], spf["helo"]
        message.spf = sender.get("result")
        message.spf_domain = _text(sender.get("domain"))
        message.spf_mechanism = _text(sender.get("mechanism"))
        message.spf_reason = sender.get("reason")
        message.helo_spf = helo.get("result")
        message.helo_spf_domain = _text(helo.get("domain"))
        message.helo_spf_mechanism = _text(helo.get("mechanism"))
        message.helo_spf_reason = helo.get("reason")
    dmarc = data.get("dmarc")
    if not dmarc:
        message.dmarc = message.dmarc_domain = message.dmarc_organisation = None
        message.dmarc_policy = message.dmarc_aligned = message.dmarc_reason = None
    else:
        message.dmarc = dmarc.get("result")
        message.dmarc_domain = _text(dmarc.get("domain"))
        message.dmarc_organisation = _text(dmarc.get("organisation"))
        message.dmarc_policy = dmarc.get("policy")
        message.dmarc_aligned = ",".join(dmarc.get("aligned", ())) or None
        message.dmarc_reason = dmarc.get("reason")
    trail = data.get("trail")
    message.trail = None if trail is None else _trail(tuple(map(tuple, trail)))


@lru_cache(maxsize=4096)
def _trail(hops: tuple[tuple[object, ...], ...]) -> str:
    """The trail as it is stored. Cached, because most mail has one of a few trails."""
    return json.dumps(hops, separators=(",", ":"))


def _client(client: Json | None, sender_key: str) -> _ClientFields:
    if client is None:
        return _ClientFields()
    found = _ClientFields(name=_text(client.get("name")), helo=_text(client.get("helo")))
    address = client.get("address")
    if address is not None:
        found.address, found.prefix = address, index_key.prefix_of(address)
        port = client.get("port")
        if port:
            raw = f"{address}|{port}|{sender_key}"
            found.session = blake2b(raw.encode("utf-8", "replace"), digest_size=16).hexdigest()
    return found


def _key(data: Json, session: str | None) -> str | None:
    """The key by which a record that is read a second time is recognised, or None."""
    key = data.get("key")
    instance = data.get("instance")
    if key is None and instance and data["kind"] != "message":
        key = f"policy:{session or ''}:{instance}"
    return None if key is None else index_key.fit(index_key.clean(key))


def _recipient(r: Json) -> RecipientRow:
    shown, key = _address(r["address"])
    return RecipientRow(shown, key, bool(r["trap"]), bool(r["accepted"]))


@lru_cache(maxsize=16_384)
def _address(text: str) -> tuple[str, str]:
    """(the recipient `text` as it is stored, its key). Cached: most people get more than one."""
    shown = index_key.clean(text)
    return shown, index_key.fit(parse(shown).trap_key)


# Cached: most texts of a message are names that other messages have as well.
@lru_cache(maxsize=16_384)
def _text(value: str | None) -> str | None:
    return None if value is None else index_key.clean(value)


def _own_text(value: str | None) -> str | None:
    """`_text` without the cache, for texts that no other message has."""
    return None if value is None else index_key.clean(value)


def _bounded(value: int | None) -> int | None:
    return value if value is None or value <= MAX_INT else MAX_INT


def _signature(s: Json) -> SignatureRow:
    get = s.get
    flags = get("flags")
    why = dkim_reason.read(get("reason"))
    signature = SignatureRow.__new__(SignatureRow)
    signature.domain = _text(get("domain"))
    signature.selector = _text(get("selector"))
    signature.algorithm = _text(get("algorithm"))
    signature.canonicalization = _text(get("canonicalization"))
    signature.key_bits = get("key_bits")
    signature.body_limit = _bounded(get("body_limit"))
    signature.unsigned_bytes = _bounded(get("unsigned_bytes"))
    signature.crypto = get("crypto")
    signature.result = s["result"]
    signature.reason = None if why is None else why.value
    signature.flags = ",".join(flags) if flags else None
    signature.b_hash = get("b_hash")
    signature.addressed = get("addressed")
    return signature


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
        for r in connection.execute(_RECIPIENTS, {"ids": part}).mappings():
            if r["message_id"] in found:
                recipient = RecipientRow(**{name: r[name] for name in RECIPIENT_COLUMNS})
                found[r["message_id"]].recipients.append(recipient)
        for s in connection.execute(_SIGNATURES, {"ids": part}).mappings():
            if s["message_id"] in found:
                signature = SignatureRow(**{name: s[name] for name in SIGNATURE_COLUMNS})
                found[s["message_id"]].signatures.append(signature)
    return found


def _loaded(m: RowMapping) -> Row:
    message = MessageRow(**{name: m[name] for name in MESSAGE_COLUMNS})
    return Row(
        message=message,
        recipients=[],
        signatures=[],
        sender=index_key.read_address(message.sender) if message.sender else None,
        author=None if message.header_from is None else index_key.read_address(message.header_from),
        session=message.session,
        stored=True,
    )


def columns(message: MessageRow) -> dict[str, Any]:
    """The values of `message` by column."""
    return dict(zip(MESSAGE_COLUMNS, message_values(message), strict=True))


def signature_columns(signature: SignatureRow) -> dict[str, Any]:
    """The values of `signature` by column."""
    return dict(zip(SIGNATURE_COLUMNS, signature_values(signature), strict=True))
