"""Checkpoints: what the enclaves signed about where their chains stood, and how far each second copy has got.

Checkpoints are append-only as receipts are: the same trigger, for everybody. A cursor is bookkeeping and believed by
nobody: put back, it makes a copy hold lines twice; put forward, the copy lacks lines, and its holder sees a gap.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def _now(name: str) -> sa.Column[object]:
    return sa.Column(name, sa.TIMESTAMP(timezone=True), nullable=False, server_default=sa.func.now())


def upgrade() -> None:
    op.create_table(
        "checkpoints",
        sa.Column("chain", sa.Text, primary_key=True),
        sa.Column("sequence", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("envelope", sa.LargeBinary, nullable=False),
        sa.Column("time", sa.BigInteger, nullable=False),
        _now("created_at"),
    )
    op.execute(
        """
        CREATE TRIGGER checkpoints_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON checkpoints
        FOR EACH STATEMENT EXECUTE FUNCTION adytum_append_only()
        """
    )
    op.execute("ALTER TABLE checkpoints ENABLE ALWAYS TRIGGER checkpoints_append_only")
    op.create_table(
        "audit_cursors",
        sa.Column("sink", sa.Text, primary_key=True),
        sa.Column("chain", sa.Text, primary_key=True),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        _now("updated_at"),
    )


def downgrade() -> None:
    """Undo. Checkpoints that were copied elsewhere stay there."""
    op.drop_table("audit_cursors")
    op.drop_table("checkpoints")
