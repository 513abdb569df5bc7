"""The policy service's own words for Exim's DKIM outcomes become those of docs/dkim.md.

Without this a history that is half live and half imported counts one cause twice.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

FORMER = {
    "body-hash": "body-hash-mismatch",
    "signature": "bad-signature",
    "key-syntax": "bad-key-record",
}
# The words at this revision. What an ACL had written into $dkim_verify_reason is none of them.
WORDS = (
    "body-hash-mismatch", "bad-signature", "syntax", "signature-too-long", "version",
    "unknown-algorithm", "unknown-canonicalization", "unknown-query", "bad-domain",
    "bad-selector", "public-suffix", "bad-identity", "from-not-signed",
    "too-many-signed-fields", "bad-base64", "bad-length", "body-too-short", "bad-timestamp",
    "future-timestamp", "expired", "no-key", "no-key-record", "bad-key-record",
    "key-record-too-long", "key-version", "key-revoked", "key-type", "key-hash", "key-service",
    "key-strict", "bad-key", "key-too-large", "several-keys", "dns-timeout", "dns-servfail",
    "dns-truncated", "dns-busy", "dns-cname-loop", "dns-unusable", "key-unavailable",
    "weak-hash", "weak-key", "partial", "testing-key", "skipped", "internal-error",
    "unspecified",
)  # fmt: skip


def upgrade() -> None:
    signature = sa.table("signature", sa.column("reason", sa.Text))
    op.execute(
        signature.update()
        .where(signature.c.reason.is_not(None), signature.c.reason.not_in(WORDS))
        .values(reason=sa.case(FORMER, value=signature.c.reason, else_="unspecified"))
    )
