"""The tables that record what each import of a log has added, so that it can be undone.

Which messages an import added is recorded with their keys (`message_key.import_id`).
"""

from sqlalchemy import BigInteger, Boolean, Float, Integer, String, Text

from gatepost_policy.store.schema import Base, BigKey, Mapped, Ordered, mapped_column


class ImportRun(Base):
    """One run of `milterctl import`. Deleted once it has been undone."""

    __tablename__ = "import_run"

    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    mta: Mapped[str] = mapped_column(String(16))
    files: Mapped[str] = mapped_column(Text)  # JSON: the paths as they were given
    began: Mapped[float] = mapped_column(Float(53))
    ended: Mapped[float | None] = mapped_column(Float(53))  # NULL: running, or it was interrupted
    lines: Mapped[int] = mapped_column(BigInteger)
    # What it has added and is still there: rows of messages, and submissions (only counted).
    messages: Mapped[int] = mapped_column(BigInteger)
    submissions: Mapped[int] = mapped_column(BigInteger)
    counted: Mapped[int] = mapped_column(BigInteger)  # messages that retention turned into numbers
    undoing: Mapped[bool] = mapped_column(Boolean)
    live: Mapped[str] = mapped_column(Text)  # JSON: traps it saw as senders, and their old values

    # An id is never used twice: an operator may have noted it for --undo.
    __table_args__ = {"sqlite_autoincrement": True}


class ImportAgain(Base):
    """The key of a message that this import also has, but an earlier import had added."""

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
    """A sum whose first and last times must be computed again while an import is being undone.

    `kind` is day, host, domain or sender; `since` and `until` are the times of what was removed.
    """

    __tablename__ = "import_touched"

    import_id: Mapped[int] = mapped_column(BigKey, primary_key=True, autoincrement=False)
    kind: Mapped[str] = mapped_column(String(8), primary_key=True)
    value: Mapped[str] = mapped_column(Ordered, primary_key=True)
    since: Mapped[float] = mapped_column(Float(53))
    until: Mapped[float] = mapped_column(Float(53))

    __table_args__ = {"sqlite_with_rowid": False}


class WatchPosition(Base):
    """How far `milterctl watch` has read a log, and its unfinished messages."""

    __tablename__ = "watch_position"

    host: Mapped[str] = mapped_column(String(255), primary_key=True)
    name: Mapped[str] = mapped_column(Text, primary_key=True)  # the log's path, or journal
    state: Mapped[str] = mapped_column(Text)  # JSON
    at: Mapped[float] = mapped_column(Float(53))  # when the position was saved
