"""The tables with which hosts keep the store going; `tables` has them too."""

from sqlalchemy import BigInteger, Float, String, Text

from gatepost_policy.store.schema import Base, BigKey, Mapped, mapped_column


class JournalMark(Base):
    """How far a journal segment has been ingested. Gone once the segment is gone."""

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
    """One row a topic: a number that only grows.

    `traps`, `listings`, `repeat`: one more with every change. `message`: the last id given out
    (SQLite). `purge-*`: the last id that retention has looked at, for each class; `purge-clock`:
    up to which time it has forgotten.
    """

    __tablename__ = "revision"

    topic: Mapped[str] = mapped_column(String(16), primary_key=True)
    number: Mapped[int] = mapped_column(BigInteger)


class Counter(Base):
    """One counter of the metrics endpoint, over all hosts and restarts. `labels` is a JSON list."""

    __tablename__ = "counter"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    labels: Mapped[str] = mapped_column(String(200), primary_key=True)
    value: Mapped[int] = mapped_column(BigInteger)
