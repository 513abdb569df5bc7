"""Who was written to in a domain, and bounces: found by an index instead of reading every row."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

# As of this revision; what `store.tables` says later is another one's matter.
AT_DOMAIN = "substr(trap_key, length(rtrim(trap_key, replace(trap_key, '@', ''))))"
NULL_SENDER = "sender_key = ''"


def upgrade() -> None:
    op.create_index("ix_recipient_domain", "recipient", [sa.text(AT_DOMAIN), "message_id"])
    op.create_index(
        "ix_message_bounced",
        "message",
        ["at"],
        sqlite_where=sa.text(NULL_SENDER),
        postgresql_where=sa.text(NULL_SENDER),
    )
