"""What a followed log says of a message that we took: that it was refused behind us."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("message", sa.Column("delivered", sa.Boolean(), nullable=True))
