"""The tables of journals, revisions and counters; `tables` exports them too."""

from sqlalchemy import BigInteger, Float, String, Text

from gatepost_policy.store.schema import Base, BigKey, Mapped, mapped_column


class JournalMark(Base):
    """The offset (octets) up to which a journal segment is stored. Deleted with the segment."""

    __tablename__ = "journal_mark"

    segment: Mapped[str] = mapped_column(String(64), primary_key=True)
    offset: Mapped[int] = mapped_column(BigInteger)
    host: Mapped[str] = mapped_column(Text)
    updated: Mapped[float] = mapped_column(Float(53))


class JournalGap(Base):
    """Records that were lost because the journal could not be written."""

    __tablename__ = "journal_gap"

    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    since: Mapped[float] = mapped_column(Float(53))
    until: Mapped[float] = mapped_column(Float(53))
    lost: Mapped[int] = mapped_column(BigInteger)


class Revision(Base):
    """One row for each topic: a number that only grows. See `store.revision` for most topics.

    `message`: the last message id given out (SQLite). `purge-*`: the last id that retention has
    looked at, for each class; `purge-clock`: the Unix time up to which it has purged.
    """

    __tablename__ = "revision"

    topic: Mapped[str] = mapped_column(String(16), primary_key=True)
    number: Mapped[int] = mapped_column(BigInteger)


class Counter(Base):
    """One counter of the metrics endpoint, for all hosts and restarts. `labels`: a JSON list."""

    __tablename__ = "counter"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    labels: Mapped[str] = mapped_column(String(200), primary_key=True)
    value: Mapped[int] = mapped_column(BigInteger)
