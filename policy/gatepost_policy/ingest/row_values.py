"""Rows of the store as values with named fields, one for each column."""

from dataclasses import dataclass, field
from functools import lru_cache

from gatepost_policy.journal.record import Json
from gatepost_policy.mail import index_key
from gatepost_policy.mail.address import Address
from gatepost_policy.mail.facts import Signature


@dataclass(slots=True)
class MessageRow:
    """One row of `message`; `store.tables` says what the columns mean. Times are Unix seconds."""

    id: int
    at: float
    learned: float
    source: str
    stage: str
    session: str | None
    queue_id: str | None
    direction: str
    family: str
    prefix: str | None
    address: str | None
    client_name: str | None
    helo: str | None
    sender: str | None
    sender_key: str | None
    header_from: str | None
    from_key: str | None
    size: int | None
    message_id: str | None
    action: str
    reason: str
    shadow: str | None
    arc_cv: str | None
    arc_reason: str | None
    relay: bool
    traps: int
    spf: str | None
    spf_domain: str | None
    spf_mechanism: str | None
    spf_reason: str | None
    helo_spf: str | None
    helo_spf_domain: str | None
    helo_spf_mechanism: str | None
    helo_spf_reason: str | None
    dmarc: str | None
    dmarc_domain: str | None
    dmarc_organisation: str | None
    dmarc_policy: str | None
    dmarc_aligned: str | None
    dmarc_reason: str | None
    trail: str | None
    marks: str | None
    delivered: bool | None


@dataclass(slots=True)
class RecipientRow:
    """One row of `recipient` without its place: `message_id` and `position`."""

    address: str
    trap_key: str
    trap: bool
    accepted: bool


@dataclass(slots=True)
class SignatureRow:
    """One row of `signature` without its place: `message_id` and `position`."""

    domain: str | None
    selector: str | None
    algorithm: str | None
    canonicalization: str | None
    key_bits: int | None
    body_limit: int | None
    unsigned_bytes: int | None
    crypto: str | None
    result: str
    reason: str | None
    flags: str | None
    b_hash: str | None
    addressed: str | None

    @property
    def proven(self) -> bool:
        """`facts.Signature.proven` of this signature."""
        return self.crypto == "pass" and _proven(
            self.domain,
            self.algorithm,
            self.key_bits,
            self.body_limit,
            self.unsigned_bytes,
            self.result,
            self.flags,
        )


@lru_cache(maxsize=16_384)
def _proven(
    domain: str | None,
    algorithm: str | None,
    key_bits: int | None,
    body_limit: int | None,
    unsigned_bytes: int | None,
    result: str,
    flags: str | None,
) -> bool:
    """`SignatureRow.proven` where `crypto` is pass. Cached, because the same signers come again."""
    return Signature(
        domain=domain,
        algorithm=algorithm,
        key_bits=key_bits,
        body_limit=body_limit,
        unsigned_bytes=unsigned_bytes,
        crypto="pass",
        result=result,
        flags=tuple(flags.split(",")) if flags else (),
    ).proven


@dataclass(slots=True)
class Row:
    """One message: its `message` row, its recipients and signatures in their order.

    `hit` is True where this is a trap hit that has not been counted yet; `merged` are the ids of
    rows of the other source that this one replaced; `stored` is True for what came from the tables.
    `session` is set while the batch is merged, also where the stored row keeps none.
    """

    message: MessageRow
    recipients: list[RecipientRow]
    signatures: list[SignatureRow]
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
        """The message's id; UNNUMBERED before one was given."""
        return self.message.id

    @property
    def at(self) -> float:
        """When it was received, in Unix seconds."""
        return self.message.at

    @property
    def stage(self) -> str:
        """end or rcpt."""
        return self.message.stage

    @property
    def traps(self) -> int:
        """How many of its recipients are or were traps."""
        return sum(1 for recipient in self.recipients if recipient.trap)

    def keys(self) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
        """Its keys in message_domain and in domain_day (`index_key.search_keys`)."""
        domains = tuple([signature.domain for signature in self.signatures])
        return index_key.search_keys(self.sender, self.author, domains)
