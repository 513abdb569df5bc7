"""Imports that can be taken back: which messages each one has brought.

What was imported before belongs to no import: its `import_id` stays NULL.
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

ORDERED = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
BIG_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.add_column("message_key", sa.Column("import_id", BIG_KEY, nullable=True))
    op.create_index(
        "ix_message_key_import",
        "message_key",
        ["import_id", "message_id"],
        sqlite_where=sa.text("import_id IS NOT NULL"),
        postgresql_where=sa.text("import_id IS NOT NULL"),
    )
    op.create_table(
        "import_run",
        sa.Column("id", BIG_KEY, nullable=False),
        sa.Column("mta", sa.String(length=16), nullable=False),
        sa.Column("files", sa.Text(), nullable=False),
        sa.Column("began", sa.Float(precision=53), nullable=False),
        sa.Column("ended", sa.Float(precision=53), nullable=True),
        sa.Column("lines", sa.BigInteger(), nullable=False),
        sa.Column("messages", sa.BigInteger(), nullable=False),
        sa.Column("submissions", sa.BigInteger(), nullable=False),
        sa.Column("counted", sa.BigInteger(), nullable=False),
        sa.Column("undoing", sa.Boolean(), nullable=False),
        sa.Column("live", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_import_run")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "import_again",
        sa.Column("key", ORDERED, nullable=False),
        sa.Column("import_id", BIG_KEY, autoincrement=False, nullable=False),
        sa.Column("counted", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("key", "import_id", name=op.f("pk_import_again")),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_import_again_import_id", "import_again", ["import_id"])
    op.create_table(
        "import_count",
        sa.Column("import_id", BIG_KEY, autoincrement=False, nullable=False),
        sa.Column("day", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("direction", sa.String(length=16), nullable=False),
        sa.Column("family", sa.String(length=8), nullable=False),
        sa.Column("action", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.String(length=32), nullable=False),
        sa.Column("messages", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint(
            "import_id", "day", "direction", "family", "action", "reason",
            name=op.f("pk_import_count"),
        ),
    )  # fmt: skip
    op.create_table(
        "import_touched",
        sa.Column("import_id", BIG_KEY, autoincrement=False, nullable=False),
        sa.Column("kind", sa.String(length=8), nullable=False),
        sa.Column("value", ORDERED, nullable=False),
        sa.Column("since", sa.Float(precision=53), nullable=False),
        sa.Column("until", sa.Float(precision=53), nullable=False),
        sa.PrimaryKeyConstraint("import_id", "kind", "value", name=op.f("pk_import_touched")),
        sqlite_with_rowid=False,
    )
