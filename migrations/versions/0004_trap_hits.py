"""Two witnesses: what a header says it is, whom a signature addresses, and the memory of trap hits.

Rows from before know none of it: their columns stay NULL, which is "not known", and the memory of
hits begins empty. A suspect may be an organisation now: `listing.network` takes a domain.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

ORDERED = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
BIG_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.add_column("message", sa.Column("marks", sa.Text(), nullable=True))
    op.add_column("signature", sa.Column("b_hash", sa.String(length=16), nullable=True))
    op.add_column("signature", sa.Column("addressed", sa.String(length=9), nullable=True))
    # SQLite writes the table anew and drops the old one, and with it, by ON DELETE CASCADE, all
    # evidence: it is put aside.
    sqlite = op.get_context().dialect.name == "sqlite"
    if sqlite:
        op.execute("CREATE TEMPORARY TABLE evidence_kept AS SELECT * FROM evidence")
    with op.batch_alter_table("listing") as batch:
        batch.alter_column(
            "network", existing_type=sa.String(length=50), type_=sa.Text(), existing_nullable=True
        )
    if sqlite:
        op.execute("INSERT OR IGNORE INTO evidence SELECT * FROM evidence_kept")
        op.execute("DROP TABLE evidence_kept")
    op.create_table(
        "trap_hit",
        sa.Column("message_id", BIG_KEY, autoincrement=False, nullable=False),
        sa.Column("whose", ORDERED, nullable=False),
        sa.Column("at", sa.Float(precision=53), nullable=False),
        sa.Column("reason", sa.String(length=32), nullable=False),
        sa.Column("b_hash", sa.String(length=16), nullable=True),
        sa.Column("prefix", sa.String(length=50), nullable=True),
        sa.Column("host", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("message_id", "whose", name=op.f("pk_trap_hit")),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_trap_hit_whose_at", "trap_hit", ["whose", "at"])
    op.create_index("ix_trap_hit_prefix_at", "trap_hit", ["prefix", "at"])
    op.create_index("ix_trap_hit_at", "trap_hit", ["at"])
