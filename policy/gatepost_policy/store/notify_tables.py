"""The tables of `milterctl notify`. `tables` exports them too, as the whole schema."""

from sqlalchemy import BigInteger, Float, Index, String, Text

from gatepost_policy.store.schema import Base, BigKey, Mapped, mapped_column


class Notice(Base):
    """One event that people are told of; `kind` as in `config.notify_values.EVENTS`.

    More of the same that comes soon after is added to this row (`number`, `last`, `data`) and makes
    no new event.
    """

    __tablename__ = "notice"

    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    who: Mapped[str] = mapped_column(Text)  # a domain or a client, '' where the event has none
    at: Mapped[float] = mapped_column(Float(53))
    last: Mapped[float] = mapped_column(Float(53))
    number: Mapped[int] = mapped_column(BigInteger)  # messages, or records that were lost
    data: Mapped[str] = mapped_column(Text)  # JSON; what else there is to say

    # An id is never used twice: `NotifyState` keeps the last id that was told, for each way.
    __table_args__ = (Index("ix_notice_last", "last"), {"sqlite_autoincrement": True})


class NotifyState(Base):
    """How far `milterctl notify` has looked for events, and told them in each way."""

    __tablename__ = "notify_state"

    name: Mapped[str] = mapped_column(Text, primary_key=True)
    state: Mapped[str] = mapped_column(Text)  # JSON
