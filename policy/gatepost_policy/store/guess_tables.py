"""The tables of guesses: recipients that do not exist, and hosts that try logins.

Each source has rows of its own, marked in `import_id`: the number of the import, or 0 for logs that
are followed live. To undo an import its rows are deleted; readers add the sources up
(`traps.mined`).
"""

from sqlalchemy import BigInteger, Float, String, Text

from gatepost_policy.store.schema import Base, BigKey, Mapped, Ordered, mapped_column

MAX_ROWS = 1_000_000  # most rows of each of the two tables; later guesses are left out
LIVE = 0  # `import_id` of rows from `milterctl watch`


class Mined(Base):
    """An address that was tried and does not exist.

    `kind`: rcpt (a recipient refused as unknown), backscatter (the same, of a bounce), login (a
    failed login), or accepted: the address once got mail, but that mail's rows were purged.
    """

    __tablename__ = "mined"

    address: Mapped[str] = mapped_column(Ordered, primary_key=True)  # address.Address.trap_key
    kind: Mapped[str] = mapped_column(String(12), primary_key=True)
    import_id: Mapped[int] = mapped_column(
        BigKey, primary_key=True, autoincrement=False, index=True
    )
    first_at: Mapped[float] = mapped_column(Float(53))
    last_at: Mapped[float] = mapped_column(Float(53))
    hits: Mapped[int] = mapped_column(BigInteger)
    hosts: Mapped[str] = mapped_column(Text)  # JSON: [prefix, first, last], at most 16
    learned: Mapped[float] = mapped_column(Float(53), index=True)

    __table_args__ = {"sqlite_with_rowid": False}


class Groper(Base):
    """A host (/32 or /64) that tries logins."""

    __tablename__ = "groper"

    prefix: Mapped[str] = mapped_column(String(50), primary_key=True)
    import_id: Mapped[int] = mapped_column(
        BigKey, primary_key=True, autoincrement=False, index=True
    )
    first_at: Mapped[float] = mapped_column(Float(53))
    last_at: Mapped[float] = mapped_column(Float(53))
    attempts: Mapped[int] = mapped_column(BigInteger)
    names: Mapped[int] = mapped_column(BigInteger)  # different ones
    learned: Mapped[float] = mapped_column(Float(53), index=True)

    __table_args__ = {"sqlite_with_rowid": False}
