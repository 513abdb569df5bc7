"""The tables that say what each import of a log has brought, so that it can be taken back.

Which messages an import brought stands beside their keys (`message_key.import_id`).
"""

from sqlalchemy import BigInteger, Boolean, Float, Integer, String, Text

from gatepost_policy.store.schema import Base, BigKey, Mapped, Ordered, mapped_column


class ImportRun(Base):
    """One run of `milterctl import`. Gone once it has been taken back."""

    __tablename__ = "import_run"

    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    mta: Mapped[str] = mapped_column(String(16))
    files: Mapped[str] = mapped_column(Text)  # JSON: the paths as they were given
    began: Mapped[float] = mapped_column(Float(53))
    ended: Mapped[float | None] = mapped_column(Float(53))  # NULL: under way, or stopped half-way
    lines: Mapped[int] = mapped_column(BigInteger)
    # What it brought and still has: messages, and submissions that are numbers.
    messages: Mapped[int] = mapped_column(BigInteger)
    submissions: Mapped[int] = mapped_column(BigInteger)
    counted: Mapped[int] = mapped_column(BigInteger)  # messages that retention turned into numbers
    undoing: Mapped[bool] = mapped_column(Boolean)
    live: Mapped[str] = mapped_column(Text)  # JSON: traps it saw as senders, and what was there

    # A number that was given is never given again: somebody may have written it down.
    __table_args__ = {"sqlite_autoincrement": True}


class ImportAgain(Base):
    """A key that this import has told, too, when it belonged to an earlier one already."""

    __tablename__ = "import_again"

    key: Mapped[str] = mapped_column(Ordered, primary_key=True)
    import_id: Mapped[int] = mapped_column(
        BigKey, primary_key=True, autoincrement=False, index=True
    )
    counted: Mapped[str | None] = mapped_column(Text)  # JSON: where a submission was counted

    __table_args__ = {"sqlite_with_rowid": False}


class ImportCount(Base):
    """What an import has added to `submission_count`."""

    __tablename__ = "import_count"

    import_id: Mapped[int] = mapped_column(BigKey, primary_key=True, autoincrement=False)
    day: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    direction: Mapped[str] = mapped_column(String(16), primary_key=True)
    family: Mapped[str] = mapped_column(String(8), primary_key=True)
    action: Mapped[str] = mapped_column(String(16), primary_key=True)
    reason: Mapped[str] = mapped_column(String(32), primary_key=True)
    messages: Mapped[int] = mapped_column(BigInteger)


class ImportTouched(Base):
    """Whose first and last times have to be found anew, while an import is being taken back.

    `kind` is day, host, domain or sender; `since` and `until` span what was taken out.
    """

    __tablename__ = "import_touched"

    import_id: Mapped[int] = mapped_column(BigKey, primary_key=True, autoincrement=False)
    kind: Mapped[str] = mapped_column(String(8), primary_key=True)
    value: Mapped[str] = mapped_column(Ordered, primary_key=True)
    since: Mapped[float] = mapped_column(Float(53))
    until: Mapped[float] = mapped_column(Float(53))

    __table_args__ = {"sqlite_with_rowid": False}


class WatchPosition(Base):
    """How far `milterctl watch` has read a log, and what it remembers of messages under way."""

    __tablename__ = "watch_position"

    host: Mapped[str] = mapped_column(String(255), primary_key=True)
    name: Mapped[str] = mapped_column(Text, primary_key=True)  # the log's path, or journal
    state: Mapped[str] = mapped_column(Text)  # JSON
    at: Mapped[float] = mapped_column(Float(53))  # when it was there
