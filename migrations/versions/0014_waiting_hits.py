"""Trap hits that wait to be judged: hosts that share a store do not wait for one another."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

BIG_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "waiting_hit",
        sa.Column("id", BIG_KEY, nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("learned", sa.Float(53), nullable=False),
        sa.Column("message_id", BIG_KEY, nullable=False),
        sa.Column("hit", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_waiting_hit")),
    )
