"""The first schema."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

ORDERED = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
BIG_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "counter",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("labels", sa.String(length=200), nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", "labels", name=op.f("pk_counter")),
    )
    op.create_table(
        "dkim_key",
        sa.Column("reversed", ORDERED, nullable=False),
        sa.Column("selector", ORDERED, nullable=False),
        sa.Column("domain", sa.Text(), nullable=False),
        sa.Column("algorithm", sa.Text(), nullable=True),
        sa.Column("key_bits", sa.Integer(), nullable=True),
        sa.Column("previous_bits", sa.Integer(), nullable=True),
        sa.Column("changed", sa.Float(precision=53), nullable=True),
        sa.Column("first_seen", sa.Float(precision=53), nullable=False),
        sa.Column("last_seen", sa.Float(precision=53), nullable=False),
        sa.Column("learned", sa.Float(precision=53), nullable=False),
        sa.Column("messages", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("reversed", "selector", name=op.f("pk_dkim_key")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "domain_day",
        sa.Column("reversed", ORDERED, nullable=False),
        sa.Column("day", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("family", sa.String(length=8), nullable=False),
        sa.Column("shared", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("messages", sa.BigInteger(), nullable=False),
        sa.Column("trap_messages", sa.BigInteger(), nullable=False),
        sa.Column("trap_hits", sa.BigInteger(), nullable=False),
        sa.Column("first_at", sa.Float(precision=53), nullable=False),
        sa.Column("last_at", sa.Float(precision=53), nullable=False),
        sa.Column("dkim_pass", sa.BigInteger(), nullable=False),
        sa.Column("dkim_fail", sa.BigInteger(), nullable=False),
        sa.Column("dkim_policy", sa.BigInteger(), nullable=False),
        sa.Column("dkim_neutral", sa.BigInteger(), nullable=False),
        sa.Column("dkim_temperror", sa.BigInteger(), nullable=False),
        sa.Column("dkim_permerror", sa.BigInteger(), nullable=False),
        sa.Column("dkim_none", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("reversed", "day", "family", "shared", name=op.f("pk_domain_day")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "domain_host",
        sa.Column("reversed", ORDERED, nullable=False),
        sa.Column("host", ORDERED, nullable=False),
        sa.Column("shared", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("family", sa.String(length=8), nullable=False),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("messages", sa.BigInteger(), nullable=False),
        sa.Column("last_at", sa.Float(precision=53), nullable=False),
        sa.PrimaryKeyConstraint("reversed", "host", "shared", name=op.f("pk_domain_host")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "identity",
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("value", ORDERED, nullable=False),
        sa.Column("reversed", ORDERED, nullable=True),
        sa.Column("first_seen", sa.Float(precision=53), nullable=False),
        sa.Column("last_seen", sa.Float(precision=53), nullable=False),
        sa.Column("learned", sa.Float(precision=53), nullable=False),
        sa.Column("messages", sa.BigInteger(), nullable=False),
        sa.Column("trap_messages", sa.BigInteger(), nullable=False),
        sa.Column("days", sa.Integer(), nullable=False),
        sa.Column("ipv4", sa.BigInteger(), nullable=False),
        sa.Column("ipv6", sa.BigInteger(), nullable=False),
        sa.Column("repeat", sa.Boolean(), nullable=False),
        sa.Column("note", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("kind", "value", name=op.f("pk_identity")),
        sqlite_with_rowid=False,
    )
    with op.batch_alter_table("identity", schema=None) as batch_op:
        batch_op.create_index(
            "ix_identity_kind_reversed",
            ["kind", "reversed"],
            unique=False,
            sqlite_where=sa.text("reversed IS NOT NULL"),
            postgresql_where=sa.text("reversed IS NOT NULL"),
        )
        batch_op.create_index(
            "ix_identity_trapped",
            ["last_seen"],
            unique=False,
            sqlite_where=sa.text("trap_messages > 0"),
            postgresql_where=sa.text("trap_messages > 0"),
        )

    op.create_table(
        "journal_gap",
        sa.Column("id", BIG_KEY, nullable=False),
        sa.Column("since", sa.Float(precision=53), nullable=False),
        sa.Column("until", sa.Float(precision=53), nullable=False),
        sa.Column("lost", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_journal_gap")),
    )
    op.create_table(
        "journal_mark",
        sa.Column("segment", sa.String(length=64), nullable=False),
        sa.Column("offset", sa.BigInteger(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("updated", sa.Float(precision=53), nullable=False),
        sa.PrimaryKeyConstraint("segment", name=op.f("pk_journal_mark")),
    )
    op.create_table(
        "listing",
        sa.Column("id", BIG_KEY, nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("since", sa.Float(precision=53), nullable=False),
        sa.Column("until", sa.Float(precision=53), nullable=False),
        sa.Column("seconds", sa.Integer(), nullable=False),
        sa.Column("reason", sa.String(length=32), nullable=False),
        sa.Column("hits", sa.Integer(), nullable=False),
        sa.Column("by_hand", sa.Boolean(), nullable=False),
        sa.Column("forgiven", sa.Float(precision=53), nullable=True),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("network", sa.String(length=50), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_listing")),
    )
    with op.batch_alter_table("listing", schema=None) as batch_op:
        batch_op.create_index(
            "ix_listing_kind_value_until", ["kind", "value", "until"], unique=False
        )
        batch_op.create_index(
            "ix_listing_network_since",
            ["network", "since"],
            unique=False,
            sqlite_where=sa.text("network IS NOT NULL"),
            postgresql_where=sa.text("network IS NOT NULL"),
        )
        batch_op.create_index(batch_op.f("ix_listing_until"), ["until"], unique=False)

    op.create_table(
        "message",
        sa.Column("id", BIG_KEY, autoincrement=False, nullable=False),
        sa.Column("at", sa.Float(precision=53), nullable=False),
        sa.Column("learned", sa.Float(precision=53), nullable=False),
        sa.Column("source", sa.String(length=16), nullable=False),
        sa.Column("stage", sa.String(length=8), nullable=False),
        sa.Column("session", sa.String(length=32), nullable=True),
        sa.Column("queue_id", sa.Text(), nullable=True),
        sa.Column("direction", sa.String(length=16), nullable=False),
        sa.Column("family", sa.String(length=8), nullable=False),
        sa.Column("prefix", sa.String(length=50), nullable=True),
        sa.Column("address", sa.String(length=45), nullable=True),
        sa.Column("client_name", sa.Text(), nullable=True),
        sa.Column("helo", sa.Text(), nullable=True),
        sa.Column("sender", sa.Text(), nullable=True),
        sa.Column("sender_key", sa.Text(), nullable=True),
        sa.Column("header_from", sa.Text(), nullable=True),
        sa.Column("from_key", sa.Text(), nullable=True),
        sa.Column("size", sa.BigInteger(), nullable=True),
        sa.Column("message_id", sa.Text(), nullable=True),
        sa.Column("action", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.String(length=32), nullable=False),
        sa.Column("shadow", sa.Text(), nullable=True),
        sa.Column("arc_cv", sa.String(length=8), nullable=True),
        sa.Column("arc_reason", sa.Text(), nullable=True),
        sa.Column("relay", sa.Boolean(), nullable=False),
        sa.Column("traps", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_message")),
        postgresql_partition_by="RANGE (id)",
    )
    with op.batch_alter_table("message", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_message_at"), ["at"], unique=False)
        batch_op.create_index("ix_message_prefix_at", ["prefix", "at"], unique=False)
        batch_op.create_index(
            "ix_message_session",
            ["session"],
            unique=False,
            sqlite_where=sa.text("session IS NOT NULL"),
            postgresql_where=sa.text("session IS NOT NULL"),
        )
        batch_op.create_index(
            "ix_message_trapped",
            ["at"],
            unique=False,
            sqlite_where=sa.text("traps > 0"),
            postgresql_where=sa.text("traps > 0"),
        )

    op.create_table(
        "message_count",
        sa.Column("day", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("family", sa.String(length=8), nullable=False),
        sa.Column("action", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.String(length=32), nullable=False),
        sa.Column("messages", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("day", "family", "action", "reason", name=op.f("pk_message_count")),
    )
    op.create_table(
        "message_domain",
        sa.Column("reversed", ORDERED, nullable=False),
        sa.Column("at", sa.Float(precision=53), nullable=False),
        sa.Column("message_id", BIG_KEY, autoincrement=False, nullable=False),
        sa.Column("shared", sa.Integer(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint(
            "reversed", "at", "message_id", "shared", name=op.f("pk_message_domain")
        ),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "message_key",
        sa.Column("key", ORDERED, nullable=False),
        sa.Column("message_id", BIG_KEY, autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_message_key")),
        sqlite_with_rowid=False,
    )
    with op.batch_alter_table("message_key", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_message_key_message_id"), ["message_id"], unique=False)

    op.create_table(
        "recipient",
        sa.Column("message_id", BIG_KEY, autoincrement=False, nullable=False),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("trap_key", ORDERED, nullable=False),
        sa.Column("trap", sa.Boolean(), nullable=False),
        sa.Column("accepted", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("message_id", "position", name=op.f("pk_recipient")),
        postgresql_partition_by="RANGE (message_id)",
        sqlite_with_rowid=False,
    )
    with op.batch_alter_table("recipient", schema=None) as batch_op:
        batch_op.create_index("ix_recipient_trap_key", ["trap_key", "message_id"], unique=False)

    op.create_table(
        "revision",
        sa.Column("topic", sa.String(length=16), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("topic", name=op.f("pk_revision")),
    )
    op.create_table(
        "signature",
        sa.Column("message_id", BIG_KEY, autoincrement=False, nullable=False),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("domain", sa.Text(), nullable=True),
        sa.Column("selector", sa.Text(), nullable=True),
        sa.Column("algorithm", sa.Text(), nullable=True),
        sa.Column("canonicalization", sa.Text(), nullable=True),
        sa.Column("key_bits", sa.Integer(), nullable=True),
        sa.Column("body_limit", sa.BigInteger(), nullable=True),
        sa.Column("unsigned_bytes", sa.BigInteger(), nullable=True),
        sa.Column("crypto", sa.String(length=8), nullable=True),
        sa.Column("result", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("flags", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("message_id", "position", name=op.f("pk_signature")),
        postgresql_partition_by="RANGE (message_id)",
        sqlite_with_rowid=False,
    )
    op.create_table(
        "submission_count",
        sa.Column("day", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("direction", sa.String(length=16), nullable=False),
        sa.Column("family", sa.String(length=8), nullable=False),
        sa.Column("action", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.String(length=32), nullable=False),
        sa.Column("messages", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint(
            "day", "direction", "family", "action", "reason", name=op.f("pk_submission_count")
        ),
    )
    op.create_table(
        "trap",
        sa.Column("id", BIG_KEY, nullable=False),
        sa.Column("kind", sa.String(length=8), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("raw", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("published", sa.Text(), nullable=False),
        sa.Column("published_at", sa.Float(precision=53), nullable=True),
        sa.Column("added", sa.Float(precision=53), nullable=False),
        sa.Column("removed", sa.Float(precision=53), nullable=True),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("live_at", sa.Float(precision=53), nullable=True),
        sa.Column("live_as", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_trap")),
        sa.UniqueConstraint("kind", "key", name=op.f("uq_trap_kind_key")),
    )
    op.create_table(
        "evidence",
        sa.Column("listing_id", BIG_KEY, nullable=False),
        sa.Column("message_id", BIG_KEY, autoincrement=False, nullable=False),
        sa.Column("trap", sa.Text(), nullable=False),
        sa.Column("at", sa.Float(precision=53), nullable=False),
        sa.ForeignKeyConstraint(
            ["listing_id"], ["listing.id"], name=op.f("fk_evidence_listing_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("listing_id", "message_id", "trap", name=op.f("pk_evidence")),
    )
    with op.batch_alter_table("evidence", schema=None) as batch_op:
        batch_op.create_index("ix_evidence_message_id", ["message_id"], unique=False)

    if op.get_context().dialect.name == "postgresql":
        # Shared by all hosts; SQLite has one writer, which counts in the table `revision`.
        op.execute("CREATE SEQUENCE message_seq AS bigint")
