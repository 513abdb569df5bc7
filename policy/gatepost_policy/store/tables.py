"""The store's tables, for SQLite and PostgreSQL alike.

Times are Unix seconds (UTC) as double precision. Every constraint has a name, so that a
migration can change it. `reversed` columns hold `address.reversed_domain`: a domain and its
subdomains are one range. Messages are written by the recorder, and by `milterctl import`.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Float,
    Index,
    Integer,
    String,
    Text,
    text,
)

# What no report reads is apart, to be loaded by who needs it: `whole_schema` has all.
from gatepost_policy.store.host_tables import Counter as Counter
from gatepost_policy.store.host_tables import JournalGap as JournalGap
from gatepost_policy.store.host_tables import JournalMark as JournalMark
from gatepost_policy.store.host_tables import Revision as Revision
from gatepost_policy.store.listing_tables import Act as Act
from gatepost_policy.store.listing_tables import Evidence as Evidence
from gatepost_policy.store.listing_tables import Listing as Listing
from gatepost_policy.store.listing_tables import ListingChange as ListingChange
from gatepost_policy.store.listing_tables import TrapHit as TrapHit
from gatepost_policy.store.listing_tables import TrapRow as TrapRow
from gatepost_policy.store.listing_tables import WaitingHit as WaitingHit
from gatepost_policy.store.schema import Base, BigKey, Mapped, Ordered, mapped_column, partial_index

NOUGHT = text("0")
# The domain of a recipient's key, with its `@`: from the last `@` on (a quoted local part may hold
# others); a key without `@` as a whole. An index uses this expression, so every query must use the
# same text; both databases have these functions.
AT_DOMAIN = "substr(trap_key, length(rtrim(trap_key, replace(trap_key, '@', ''))))"


class Message(Base):
    """One message that was seen: by the milter, by the policy service, or in an imported log.

    On PostgreSQL the rows are partitioned by month: the upper bits of `id` are the month in
    which gatepost learned of the message (`partitions.py`), so `id` alone finds the partition.
    """

    __tablename__ = "message"

    id: Mapped[int] = mapped_column(BigKey, primary_key=True, autoincrement=False)
    at: Mapped[float] = mapped_column(Float(53), index=True)  # received
    learned: Mapped[float] = mapped_column(Float(53))  # when gatepost learned of it; grows with id
    source: Mapped[str] = mapped_column(String(16))
    stage: Mapped[str] = mapped_column(String(8))  # end, or rcpt: only a RCPT TO was seen
    session: Mapped[str | None] = mapped_column(String(32))  # hash of client, port and sender
    queue_id: Mapped[str | None] = mapped_column(Text)
    direction: Mapped[str] = mapped_column(String(16))
    family: Mapped[str] = mapped_column(String(8))
    prefix: Mapped[str | None] = mapped_column(String(50))  # client as CIDR: /32, /64
    address: Mapped[str | None] = mapped_column(String(45))  # purged earlier than the prefix
    client_name: Mapped[str | None] = mapped_column(Text)
    helo: Mapped[str | None] = mapped_column(Text)
    sender: Mapped[str | None] = mapped_column(Text)  # as received; '' is the null sender
    sender_key: Mapped[str | None] = mapped_column(Text)
    header_from: Mapped[str | None] = mapped_column(Text)
    from_key: Mapped[str | None] = mapped_column(Text)
    size: Mapped[int | None] = mapped_column(BigInteger)
    message_id: Mapped[str | None] = mapped_column(Text)
    action: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str] = mapped_column(String(32))
    shadow: Mapped[str | None] = mapped_column(Text)  # reasons, comma-separated
    arc_cv: Mapped[str | None] = mapped_column(String(8))
    arc_reason: Mapped[str | None] = mapped_column(Text)
    relay: Mapped[bool] = mapped_column(Boolean, default=False)
    traps: Mapped[int] = mapped_column(Integer, default=0)  # recipients that are or were traps
    # SPF of MAIL FROM and of the HELO name; None: not evaluated, or by an earlier release.
    spf: Mapped[str | None] = mapped_column(String(16))
    spf_domain: Mapped[str | None] = mapped_column(Text)
    spf_mechanism: Mapped[str | None] = mapped_column(Text)
    spf_reason: Mapped[str | None] = mapped_column(String(32))
    helo_spf: Mapped[str | None] = mapped_column(String(16))
    helo_spf_domain: Mapped[str | None] = mapped_column(Text)
    helo_spf_mechanism: Mapped[str | None] = mapped_column(Text)
    helo_spf_reason: Mapped[str | None] = mapped_column(String(32))
    dmarc: Mapped[str | None] = mapped_column(String(16))
    dmarc_domain: Mapped[str | None] = mapped_column(Text)
    dmarc_organisation: Mapped[str | None] = mapped_column(Text)
    dmarc_policy: Mapped[str | None] = mapped_column(String(16))
    dmarc_aligned: Mapped[str | None] = mapped_column(String(16))  # dkim, spf; comma-separated
    dmarc_reason: Mapped[str | None] = mapped_column(String(32))
    trail: Mapped[str | None] = mapped_column(Text)  # JSON; the hops before ours, as claimed
    # What the header says it is (mail.marks), comma-separated; NULL is not known.
    marks: Mapped[str | None] = mapped_column(Text)
    delivered: Mapped[bool | None] = mapped_column(Boolean)  # False: a log says it was refused

    __table_args__ = (
        Index("ix_message_prefix_at", "prefix", "at"),
        partial_index(
            "ix_message_session",
            "session",
            where="session IS NOT NULL",
        ),
        # There is little trap mail, and reports list it by time.
        partial_index(
            "ix_message_trapped",
            "at",
            where="traps > 0",
        ),
        # Bounces have no sender domain, so `message_domain` does not have them.
        partial_index(
            "ix_message_bounced",
            "at",
            where="sender_key = ''",
        ),
    )


class MessageKey(Base):
    """The natural key of a message that may come to us twice (imported logs, `instance`)."""

    __tablename__ = "message_key"

    key: Mapped[str] = mapped_column(Ordered, primary_key=True)
    message_id: Mapped[int] = mapped_column(BigKey, autoincrement=False, index=True)
    # The import that brought it (`ImportRun`); NULL where it was seen live as well.
    import_id: Mapped[int | None] = mapped_column(BigKey)

    __table_args__ = (
        partial_index(
            "ix_message_key_import",
            "import_id",
            "message_id",
            where="import_id IS NOT NULL",
        ),
        {"sqlite_with_rowid": False},
    )


class MessageDomain(Base):
    """One key by which a message is found: its envelope sender, its header From, each d=.

    `reversed` is `org.example.` for a d= and `org.example.@local` for an address, so that both
    `example.org` with all below it (`org.example.` up to, not including, `org.example/`) and one
    address are one range of this primary key. A d= that an address of the same domain already
    covers has no row.

    `shared` is how many characters this key has in common with the message's next smaller key.
    A range that starts with `q` holds several keys of one message only next to each other, so
    `shared < length(q)` picks exactly one row a message: no DISTINCT is needed.
    """

    __tablename__ = "message_domain"

    reversed: Mapped[str] = mapped_column(Ordered, primary_key=True)
    at: Mapped[float] = mapped_column(Float(53), primary_key=True)
    message_id: Mapped[int] = mapped_column(BigKey, primary_key=True, autoincrement=False)
    shared: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)

    __table_args__ = {"sqlite_with_rowid": False}


class DomainDay(Base):
    """What one domain sent on one UTC day: sums for the sender report.

    `reversed` is the domain alone, '' for the sums of all messages; `shared` is as in
    `message_domain`, but among the message's domains. The sums always agree with the message rows:
    a purge of rows subtracts them here.
    """

    __tablename__ = "domain_day"

    reversed: Mapped[str] = mapped_column(Ordered, primary_key=True)
    day: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    family: Mapped[str] = mapped_column(String(8), primary_key=True)
    shared: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    messages: Mapped[int] = mapped_column(BigInteger)
    trap_messages: Mapped[int] = mapped_column(BigInteger)
    trap_hits: Mapped[int] = mapped_column(BigInteger)  # message x trap recipient
    first_at: Mapped[float] = mapped_column(Float(53))
    last_at: Mapped[float] = mapped_column(Float(53))
    # DKIM results, one a signature; `dkim_none` also counts messages without any.
    dkim_pass: Mapped[int] = mapped_column(BigInteger)
    dkim_fail: Mapped[int] = mapped_column(BigInteger)
    dkim_policy: Mapped[int] = mapped_column(BigInteger)
    dkim_neutral: Mapped[int] = mapped_column(BigInteger)
    dkim_temperror: Mapped[int] = mapped_column(BigInteger)
    dkim_permerror: Mapped[int] = mapped_column(BigInteger)
    dkim_none: Mapped[int] = mapped_column(BigInteger)
    # Messages by the results of SPF (MAIL FROM) and DMARC, where these were evaluated.
    spf_none: Mapped[int] = mapped_column(BigInteger, server_default=NOUGHT)
    spf_neutral: Mapped[int] = mapped_column(BigInteger, server_default=NOUGHT)
    spf_pass: Mapped[int] = mapped_column(BigInteger, server_default=NOUGHT)
    spf_fail: Mapped[int] = mapped_column(BigInteger, server_default=NOUGHT)
    spf_softfail: Mapped[int] = mapped_column(BigInteger, server_default=NOUGHT)
    spf_temperror: Mapped[int] = mapped_column(BigInteger, server_default=NOUGHT)
    spf_permerror: Mapped[int] = mapped_column(BigInteger, server_default=NOUGHT)
    dmarc_none: Mapped[int] = mapped_column(BigInteger, server_default=NOUGHT)
    dmarc_pass: Mapped[int] = mapped_column(BigInteger, server_default=NOUGHT)
    dmarc_fail: Mapped[int] = mapped_column(BigInteger, server_default=NOUGHT)
    dmarc_temperror: Mapped[int] = mapped_column(BigInteger, server_default=NOUGHT)
    dmarc_permerror: Mapped[int] = mapped_column(BigInteger, server_default=NOUGHT)

    __table_args__ = {"sqlite_with_rowid": False}


class DomainHost(Base):
    """How many messages of one domain one client sent. `host` is the address, later the prefix.

    Rows and `shared` as in `domain_day`.
    """

    __tablename__ = "domain_host"

    reversed: Mapped[str] = mapped_column(Ordered, primary_key=True)
    host: Mapped[str] = mapped_column(Ordered, primary_key=True)
    shared: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    family: Mapped[str] = mapped_column(String(8))
    name: Mapped[str | None] = mapped_column(Text)  # the newest verified host name
    messages: Mapped[int] = mapped_column(BigInteger)
    last_at: Mapped[float] = mapped_column(Float(53))

    __table_args__ = {"sqlite_with_rowid": False}


class MessageRecipient(Base):
    """One recipient of one message."""

    __tablename__ = "recipient"

    message_id: Mapped[int] = mapped_column(BigKey, primary_key=True, autoincrement=False)
    position: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    address: Mapped[str] = mapped_column(Text)  # as received
    trap_key: Mapped[str] = mapped_column(Ordered)  # address.Address.trap_key
    trap: Mapped[bool] = mapped_column(Boolean)  # was a trap when the mail came, or became one
    accepted: Mapped[bool] = mapped_column(Boolean)

    __table_args__ = (
        Index("ix_recipient_trap_key", "trap_key", "message_id"),
        Index("ix_recipient_domain", text(AT_DOMAIN), "message_id"),
        {"sqlite_with_rowid": False},
    )


class MessageSignature(Base):
    """One DKIM-Signature of one message; `position` counts from the top of the header."""

    __tablename__ = "signature"

    message_id: Mapped[int] = mapped_column(BigKey, primary_key=True, autoincrement=False)
    position: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    domain: Mapped[str | None] = mapped_column(Text)
    selector: Mapped[str | None] = mapped_column(Text)
    algorithm: Mapped[str | None] = mapped_column(Text)
    canonicalization: Mapped[str | None] = mapped_column(Text)
    key_bits: Mapped[int | None] = mapped_column(Integer)
    body_limit: Mapped[int | None] = mapped_column(BigInteger)
    unsigned_bytes: Mapped[int | None] = mapped_column(BigInteger)
    crypto: Mapped[str | None] = mapped_column(String(8))
    result: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str | None] = mapped_column(Text)
    flags: Mapped[str | None] = mapped_column(Text)  # comma-separated
    b_hash: Mapped[str | None] = mapped_column(String(16))  # of b=; NULL is not known
    addressed: Mapped[str | None] = mapped_column(String(9))  # mail.addressed; NULL: not known

    __table_args__ = {"sqlite_with_rowid": False}


class DkimKey(Base):
    """One signing key's history: when a domain was first and last seen with a selector."""

    __tablename__ = "dkim_key"

    reversed: Mapped[str] = mapped_column(Ordered, primary_key=True)
    selector: Mapped[str] = mapped_column(Ordered, primary_key=True)
    domain: Mapped[str] = mapped_column(Text)
    algorithm: Mapped[str | None] = mapped_column(Text)
    key_bits: Mapped[int | None] = mapped_column(Integer)
    previous_bits: Mapped[int | None] = mapped_column(Integer)  # before the last change
    changed: Mapped[float | None] = mapped_column(Float(53))
    first_seen: Mapped[float] = mapped_column(Float(53))
    last_seen: Mapped[float] = mapped_column(Float(53))
    learned: Mapped[float] = mapped_column(Float(53))  # when gatepost last learned of it
    messages: Mapped[int] = mapped_column(BigInteger)

    __table_args__ = {"sqlite_with_rowid": False}


class SenderIdentity(Base):
    """One identity of a sender, with its history. `kind` as in `facts.IdentityKind`."""

    __tablename__ = "identity"

    kind: Mapped[str] = mapped_column(String(16), primary_key=True)
    value: Mapped[str] = mapped_column(Ordered, primary_key=True)
    reversed: Mapped[str | None] = mapped_column(Ordered)  # of domain-like values
    first_seen: Mapped[float] = mapped_column(Float(53))
    last_seen: Mapped[float] = mapped_column(Float(53))
    learned: Mapped[float] = mapped_column(Float(53))  # when gatepost last learned of it
    messages: Mapped[int] = mapped_column(BigInteger)
    trap_messages: Mapped[int] = mapped_column(BigInteger)
    days: Mapped[int] = mapped_column(Integer)  # distinct UTC days with a message
    ipv4: Mapped[int] = mapped_column(BigInteger)
    ipv6: Mapped[int] = mapped_column(BigInteger)
    repeat: Mapped[bool] = mapped_column(Boolean, default=False)
    note: Mapped[str | None] = mapped_column(Text)

    __table_args__ = (
        partial_index(
            "ix_identity_kind_reversed",
            "kind",
            "reversed",
            where="reversed IS NOT NULL",
        ),
        # Only identities that hit a trap are listed by time, and they are few.
        partial_index(
            "ix_identity_trapped",
            "last_seen",
            where="trap_messages > 0",
        ),
        {"sqlite_with_rowid": False},
    )


class WaitingSums(Base):
    """What one batch adds to the sums, stored for later because another host was adding to them."""

    __tablename__ = "waiting_sums"

    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    sums: Mapped[str] = mapped_column(Text)  # JSON: `ingest.waiting`


class SubmissionCount(Base):
    """How many submissions on one UTC day (days since 1970-01-01), and nothing else about them."""

    __tablename__ = "submission_count"
    day: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    direction: Mapped[str] = mapped_column(String(16), primary_key=True)
    family: Mapped[str] = mapped_column(String(8), primary_key=True)
    action: Mapped[str] = mapped_column(String(16), primary_key=True)
    reason: Mapped[str] = mapped_column(String(32), primary_key=True)
    messages: Mapped[int] = mapped_column(BigInteger)


class MessageCount(Base):
    """Inbound messages whose rows retention has turned into counts."""

    __tablename__ = "message_count"

    day: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    family: Mapped[str] = mapped_column(String(8), primary_key=True)
    action: Mapped[str] = mapped_column(String(16), primary_key=True)
    reason: Mapped[str] = mapped_column(String(32), primary_key=True)
    messages: Mapped[int] = mapped_column(BigInteger)
