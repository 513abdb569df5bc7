"""What SPF and DMARC said of a message, its trail, and the sums of both results by domain and day.

Messages of before were not evaluated: their columns are NULL and count nowhere.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

SPF = ("none", "neutral", "pass", "fail", "softfail", "temperror", "permerror")
DMARC = ("none", "pass", "fail", "temperror", "permerror")


def upgrade() -> None:
    columns = [
        sa.Column("spf", sa.String(length=16), nullable=True),
        sa.Column("spf_domain", sa.Text(), nullable=True),
        sa.Column("spf_mechanism", sa.Text(), nullable=True),
        sa.Column("spf_reason", sa.String(length=32), nullable=True),
        sa.Column("helo_spf", sa.String(length=16), nullable=True),
        sa.Column("helo_spf_domain", sa.Text(), nullable=True),
        sa.Column("helo_spf_mechanism", sa.Text(), nullable=True),
        sa.Column("helo_spf_reason", sa.String(length=32), nullable=True),
        sa.Column("dmarc", sa.String(length=16), nullable=True),
        sa.Column("dmarc_domain", sa.Text(), nullable=True),
        sa.Column("dmarc_organisation", sa.Text(), nullable=True),
        sa.Column("dmarc_policy", sa.String(length=16), nullable=True),
        sa.Column("dmarc_aligned", sa.String(length=16), nullable=True),
        sa.Column("dmarc_reason", sa.String(length=32), nullable=True),
        sa.Column("trail", sa.Text(), nullable=True),
    ]
    # Added in place: a table of millions of rows is not written anew.
    for column in columns:
        op.add_column("message", column)
    names = [f"spf_{result}" for result in SPF] + [f"dmarc_{result}" for result in DMARC]
    for name in names:
        op.add_column(
            "domain_day",
            sa.Column(name, sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        )
