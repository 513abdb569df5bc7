"""Addresses that somebody tried and nobody has, and hosts that try logins."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

ORDERED = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
BIG_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "mined",
        sa.Column("address", ORDERED, nullable=False),
        sa.Column("kind", sa.String(length=12), nullable=False),
        sa.Column("import_id", BIG_KEY, autoincrement=False, nullable=False),
        sa.Column("first_at", sa.Float(precision=53), nullable=False),
        sa.Column("last_at", sa.Float(precision=53), nullable=False),
        sa.Column("hits", sa.BigInteger(), nullable=False),
        sa.Column("hosts", sa.Text(), nullable=False),
        sa.Column("learned", sa.Float(precision=53), nullable=False),
        sa.PrimaryKeyConstraint("address", "kind", "import_id", name=op.f("pk_mined")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "groper",
        sa.Column("prefix", sa.String(length=50), nullable=False),
        sa.Column("import_id", BIG_KEY, autoincrement=False, nullable=False),
        sa.Column("first_at", sa.Float(precision=53), nullable=False),
        sa.Column("last_at", sa.Float(precision=53), nullable=False),
        sa.Column("attempts", sa.BigInteger(), nullable=False),
        sa.Column("names", sa.BigInteger(), nullable=False),
        sa.Column("learned", sa.Float(precision=53), nullable=False),
        sa.PrimaryKeyConstraint("prefix", "import_id", name=op.f("pk_groper")),
        sqlite_with_rowid=False,
    )
    for table in ("mined", "groper"):
        for column in ("import_id", "learned"):
            op.create_index(f"ix_{table}_{column}", table, [column])
