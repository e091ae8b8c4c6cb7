"""Recovery envelopes: beside each sealed record the second one, which the tenant's recovery holders open together.

A row goes with its record: what shreds one shreds the other.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "recovery_envelopes",
        sa.Column("key_id", sa.Text, primary_key=True),
        sa.Column("node_id", sa.Text, primary_key=True),
        sa.Column("version", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("envelope", sa.LargeBinary, nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.ForeignKeyConstraint(
            ["key_id", "node_id", "version"],
            ["key_envelopes.key_id", "key_envelopes.node_id", "key_envelopes.version"],
            name="fk_recovery_envelopes_record",
            ondelete="CASCADE",
        ),
    )


def downgrade() -> None:
    """Undo. The envelopes are lost; a reseal makes new ones."""
    op.drop_table("recovery_envelopes")
