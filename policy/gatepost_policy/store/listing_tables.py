"""The tables of traps, trap hits and listings. `tables` exports them too, as the whole schema."""

from sqlalchemy import (
    Boolean,
    Float,
    ForeignKey,
    Index,
    Integer,
    String,
    Text,
    UniqueConstraint,
    text,
)

from gatepost_policy.store.schema import Base, BigKey, Mapped, Ordered, mapped_column, partial_index

NOUGHT = text("0")


class Listing(Base):
    """An identity that is, or was, listed. The next listing's length depends on its last one."""

    __tablename__ = "listing"

    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    value: Mapped[str] = mapped_column(Text)
    since: Mapped[float] = mapped_column(Float(53))
    until: Mapped[float] = mapped_column(Float(53), index=True)
    seconds: Mapped[int] = mapped_column(Integer)  # as given, before any lifting by hand
    reason: Mapped[str] = mapped_column(String(32))
    hits: Mapped[int] = mapped_column(Integer)
    by_hand: Mapped[bool] = mapped_column(Boolean, default=False)
    forgiven: Mapped[float | None] = mapped_column(Float(53))
    note: Mapped[str | None] = mapped_column(Text)
    # The /48 of an IPv6 prefix, or the organisational domain of a d=, to find related listings.
    network: Mapped[str | None] = mapped_column(Text)

    __table_args__ = (
        Index("ix_listing_kind_value_until", "kind", "value", "until"),
        partial_index(
            "ix_listing_network_since",
            "network",
            "since",
            where="network IS NOT NULL",
        ),
    )


class ListingChange(Base):
    """An identity whose listing began, ended early or was deleted, and must be published again.

    Read by `id`, so that publishing one change need not read all listings. Only the newest rows
    are kept (`listings.table.CHANGES_KEPT`).
    """

    __tablename__ = "listing_change"

    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    value: Mapped[str] = mapped_column(Text)


class Evidence(Base):
    """Why a listing exists: one trap hit by one message. At most EVIDENCE_MAX per listing."""

    __tablename__ = "evidence"

    listing_id: Mapped[int] = mapped_column(
        BigKey, ForeignKey("listing.id", ondelete="CASCADE"), primary_key=True
    )
    message_id: Mapped[int] = mapped_column(BigKey, primary_key=True, autoincrement=False)
    trap: Mapped[str] = mapped_column(Text, primary_key=True)
    at: Mapped[float] = mapped_column(Float(53))

    __table_args__ = (Index("ix_evidence_message_id", "message_id"),)


class TrapHit(Base):
    """One trap hit and its sender, needed to judge the next hit of the same sender.

    `whose` is the organisational domain of a proven d=, else the client prefix; `reason` is what
    the hit was judged as. Kept for `sender.listing_memory`.
    """

    __tablename__ = "trap_hit"

    message_id: Mapped[int] = mapped_column(BigKey, primary_key=True, autoincrement=False)
    whose: Mapped[str] = mapped_column(Ordered, primary_key=True)
    at: Mapped[float] = mapped_column(Float(53))
    reason: Mapped[str] = mapped_column(String(32))
    b_hash: Mapped[str | None] = mapped_column(String(16))
    prefix: Mapped[str | None] = mapped_column(String(50))
    host: Mapped[str | None] = mapped_column(Text)  # organisation of the client's verified name

    __table_args__ = (
        Index("ix_trap_hit_whose_at", "whose", "at"),
        Index("ix_trap_hit_prefix_at", "prefix", "at"),
        Index("ix_trap_hit_at", "at"),
        {"sqlite_with_rowid": False},
    )


class WaitingHit(Base):
    """A trap hit that is not judged yet: another host held the lock (`ingest.waiting_hits`)."""

    __tablename__ = "waiting_hit"

    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    host: Mapped[str] = mapped_column(Text)  # the journal that it comes from
    learned: Mapped[float] = mapped_column(Float(53))
    message_id: Mapped[int] = mapped_column(BigKey)
    hit: Mapped[str] = mapped_column(Text)  # JSON: the record


class TrapRow(Base):
    """One trap. `kind` is exact (an address), domain (`@example.org`) or pattern (a glob)."""

    __tablename__ = "trap"

    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    kind: Mapped[str] = mapped_column(String(8))
    key: Mapped[str] = mapped_column(Text)  # trap_key, `@domain`, or the pattern
    raw: Mapped[str] = mapped_column(Text)
    source: Mapped[str] = mapped_column(Text, default="")
    note: Mapped[str] = mapped_column(Text, default="")
    published: Mapped[str] = mapped_column(Text, default="")  # where it was published, if it was
    published_at: Mapped[float | None] = mapped_column(Float(53))
    added: Mapped[float] = mapped_column(Float(53))
    removed: Mapped[float | None] = mapped_column(Float(53))  # no longer a trap since then
    # 0: added by hand; else the number of its import, in force once the topic `generation` of the
    # table `revision` has reached that number.
    generation: Mapped[int] = mapped_column(Integer, default=0)
    live_at: Mapped[float | None] = mapped_column(Float(53))  # last seen as a sender or login
    live_as: Mapped[str] = mapped_column(Text, default="")  # sender, login, submission-sender

    __table_args__ = (UniqueConstraint("kind", "key"),)


class Act(Base):
    """One thing that an operator did by hand; `value` as in `identity`, `listing` or `trap`."""

    __tablename__ = "act"

    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    at: Mapped[float] = mapped_column(Float(53))
    actor: Mapped[str] = mapped_column(Text)  # as a proxy or the machine names them; '' is unknown
    name: Mapped[str] = mapped_column(String(16))  # a key of acts.NAMES
    value: Mapped[str] = mapped_column(Text, index=True)
    note: Mapped[str] = mapped_column(Text)
    undone: Mapped[float | None] = mapped_column(Float(53))
    undone_by: Mapped[str] = mapped_column(Text, default="", server_default=text("''"))
