"""The life of a request: those that wait for approvals, what approvers signed about them, and how they may end.

`approvals` is append-only, like `receipts`: what somebody signed stays, whether it counted or not.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_STATE = "state IN ('pending', 'done', 'refused', 'rejected', 'cancelled', 'expired')"


def _created() -> sa.Column[object]:
    return sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False, server_default=sa.func.now())


def upgrade() -> None:
    op.drop_constraint("ck_requests_code", "requests", type_="check")
    op.drop_constraint("ck_requests_state", "requests", type_="check")
    op.create_check_constraint("ck_requests_state", "requests", _STATE)
    op.create_check_constraint("ck_requests_code", "requests", "(state = 'done') = (code = '')")
    op.create_index(
        "ix_requests_pending",
        "requests",
        ["tenant", "request_id"],
        postgresql_where=sa.text("state = 'pending'"),
    )
    op.create_table(
        "pending_requests",
        sa.Column("tenant", sa.Text, primary_key=True),
        sa.Column("request_id", sa.Text, primary_key=True),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("stamp", sa.LargeBinary, nullable=False),
        sa.Column("issued_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sa.Column("considered", sa.Integer, nullable=False, server_default="0"),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
        sa.Column("retry_at", sa.TIMESTAMP(timezone=True)),
        sa.Column("last_code", sa.Text, nullable=False, server_default=""),
        sa.Column("claim", sa.Text, nullable=False, server_default=""),
        sa.Column("claimed_until", sa.TIMESTAMP(timezone=True)),
        _created(),
    )
    op.create_table(
        "approvals",
        sa.Column("tenant", sa.Text, primary_key=True),
        sa.Column("request_id", sa.Text, primary_key=True),
        sa.Column("principal", sa.Text, primary_key=True),
        sa.Column("digest", sa.LargeBinary, primary_key=True),
        sa.Column("approval", sa.LargeBinary, nullable=False),
        sa.Column("decision", sa.Text, nullable=False),
        sa.Column("policy_version", sa.BigInteger, nullable=False),
        sa.Column("issued_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        _created(),
        sa.CheckConstraint("decision IN ('approve', 'reject')", name="ck_approvals_decision"),
    )
    op.execute(
        """
        CREATE TRIGGER approvals_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON approvals
        FOR EACH STATEMENT EXECUTE FUNCTION adytum_append_only()
        """
    )
    op.execute("ALTER TABLE approvals ENABLE ALWAYS TRIGGER approvals_append_only")


def downgrade() -> None:
    """Undo. Requests that were not carried out are forgotten, and so is every approval; the receipts stay."""
    op.drop_table("approvals")
    op.drop_table("pending_requests")
    op.drop_index("ix_requests_pending", "requests")
    op.drop_constraint("ck_requests_code", "requests", type_="check")
    op.drop_constraint("ck_requests_state", "requests", type_="check")
    op.execute("DELETE FROM requests WHERE state IN ('pending', 'cancelled', 'expired')")
    op.execute("UPDATE requests SET state = 'refused' WHERE state = 'rejected'")
    op.create_check_constraint("ck_requests_state", "requests", "state IN ('done', 'refused')")
    op.create_check_constraint("ck_requests_code", "requests", "(state = 'refused') = (code <> '')")
