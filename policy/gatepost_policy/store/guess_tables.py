"""The tables of those who guess: addresses that nobody has, and hosts that try logins.

Each source has rows of its own: an import its number, what is followed live 0. An import is taken
back by deleting its rows; whoever reads adds the sources up (`traps.mined`).
"""

from sqlalchemy import BigInteger, Float, String, Text

from gatepost_policy.store.schema import Base, BigKey, Mapped, Ordered, mapped_column

MAX_ROWS = 1_000_000  # addresses, and as many hosts: later ones are left out
LIVE = 0  # the source of what `milterctl watch` has followed


class Mined(Base):
    """An address that somebody tried and that does not exist.

    `kind`: rcpt (refused as unknown), backscatter (the same, of a bounce), login (a failed one), or
    accepted: one of these addresses once had mail, and its rows are gone.
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
