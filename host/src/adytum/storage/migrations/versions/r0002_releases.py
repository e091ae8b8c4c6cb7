"""Releases: which images may run, which one gets the traffic; and what each host says of its enclaves.

Neither is believed by anybody but the hosts themselves: what an image may do with keys stands in the KMS key policy.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_STATE = "state IN ('planned', 'active', 'promoted', 'retiring', 'retired')"
_REPORTED = "state IN ('serving', 'proven', 'unproven')"


def _now(name: str) -> sa.Column[object]:
    return sa.Column(name, sa.TIMESTAMP(timezone=True), nullable=False, server_default=sa.func.now())


def upgrade() -> None:
    op.create_table(
        "releases",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("pcr0", sa.LargeBinary, nullable=False),
        sa.Column("pcr1", sa.LargeBinary, nullable=False),
        sa.Column("pcr2", sa.LargeBinary, nullable=False),
        sa.Column("pcr3", sa.LargeBinary),
        sa.Column("pcr8", sa.LargeBinary),
        sa.Column("pcr16", sa.LargeBinary),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("provenance", JSONB, nullable=False, server_default=sa.text("'{}'::jsonb")),
        _now("created_at"),
        _now("changed_at"),
        sa.CheckConstraint(_STATE, name="ck_releases_state"),
    )
    op.create_index(
        "ix_releases_one_promoted", "releases", ["state"], unique=True, postgresql_where=sa.text("state = 'promoted'")
    )
    op.create_table(
        "enclave_reports",
        sa.Column("host", sa.Text, primary_key=True),
        sa.Column("enclave", sa.Text, primary_key=True),
        sa.Column("boot_id", sa.Text, nullable=False),
        sa.Column("release", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("in_flight", sa.BigInteger, nullable=False),
        sa.Column("certificate_until", sa.BigInteger, nullable=False),
        _now("reported_at"),
        sa.CheckConstraint(_REPORTED, name="ck_enclave_reports_state"),
    )


def downgrade() -> None:
    """Undo. Which images may run stands in the settings alone again: retired ones that it names are accepted."""
    op.drop_table("enclave_reports")
    op.drop_table("releases")
