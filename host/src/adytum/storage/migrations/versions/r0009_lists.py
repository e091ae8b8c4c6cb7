"""Lists stay fast: requests that ended badly by their state, keys by their public key."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Nearly all requests are `done`, and those are found by the primary key; `pending` has its index already.
    op.create_index(
        "ix_requests_ended",
        "requests",
        ["tenant", "state", "request_id"],
        postgresql_where=sa.text("state IN ('refused', 'rejected', 'cancelled', 'expired')"),
    )
    op.create_index("ix_keys_public_key", "keys", ["public_key"], postgresql_where=sa.text("public_key <> ''"))


def downgrade() -> None:
    """Undo. Loses nothing."""
    op.drop_index("ix_keys_public_key", "keys")
    op.drop_index("ix_requests_ended", "requests")
