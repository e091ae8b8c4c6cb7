"""Keys can be found by label, state and address; each key says which public address it has."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("keys", sa.Column("address", sa.Text, nullable=False, server_default=""))
    op.create_index("ix_keys_labels", "keys", ["labels"], postgresql_using="gin")
    op.create_index("ix_keys_tenant_status_key_id", "keys", ["tenant", "status", "key_id"])
    op.create_index("ix_keys_address", "keys", ["address"], postgresql_where=sa.text("address <> ''"))


def downgrade() -> None:
    """Undo. Loses nothing that is not derived."""
    op.drop_index("ix_keys_address", "keys")
    op.drop_index("ix_keys_tenant_status_key_id", "keys")
    op.drop_index("ix_keys_labels", "keys")
    op.drop_column("keys", "address")
