"""The spine: keys and their envelopes, policies, requests, receipts, and the enclaves that signed them.

Receipts are append-only: a trigger refuses UPDATE, DELETE and TRUNCATE for everybody, the table's owner included. (An
owner can drop the trigger; the chain inside the receipts shows what was done then.)
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_STATUS = "status IN ('pending', 'active', 'disabled', 'pending_deletion', 'deleted', 'failed')"


def _created() -> sa.Column[object]:
    return sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False, server_default=sa.func.now())


def upgrade() -> None:
    op.create_table(
        "keys",
        sa.Column("key_id", sa.Text, primary_key=True),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("public_key", sa.Text, nullable=False),
        sa.Column("algorithm", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("labels", JSONB, nullable=False, server_default=sa.text("'[]'::jsonb")),
        sa.Column("description", sa.Text, nullable=False, server_default=""),
        _created(),
        sa.Column("updated_at", sa.TIMESTAMP(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("deletion_date", sa.TIMESTAMP(timezone=True)),
        sa.CheckConstraint(_STATUS, name="ck_keys_status"),
    )
    op.create_index("ix_keys_tenant_key_id", "keys", ["tenant", "key_id"])
    op.create_table(
        "key_envelopes",
        sa.Column("key_id", sa.Text, sa.ForeignKey("keys.key_id"), primary_key=True),
        sa.Column("node_id", sa.Text, primary_key=True),
        sa.Column("version", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("header", sa.LargeBinary, nullable=False),
        sa.Column("ciphertext_blob", sa.Text, nullable=False),
        sa.Column("data_key_ciphertext", sa.Text, nullable=False),
        sa.Column("kms_key_id", sa.Text, nullable=False),
        _created(),
    )
    op.execute(
        """
        CREATE VIEW sealed_keys AS
        SELECT DISTINCT ON (e.key_id, e.node_id)
               k.key_id, k.tenant, k.public_key, k.algorithm, k.status, e.node_id, e.kind, e.version,
               e.ciphertext_blob, e.data_key_ciphertext, e.kms_key_id, e.created_at
        FROM keys k JOIN key_envelopes e USING (key_id)
        ORDER BY e.key_id, e.node_id, e.version DESC
        """
    )
    op.create_table(
        "policies",
        sa.Column("tenant", sa.Text, primary_key=True),
        sa.Column("version", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("envelope", sa.LargeBinary, nullable=False),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        _created(),
    )
    op.create_table(
        "requests",
        sa.Column("tenant", sa.Text, primary_key=True),
        sa.Column("request_id", sa.Text, primary_key=True),
        sa.Column("body_hash", sa.LargeBinary, nullable=False),
        sa.Column("stamp_key", sa.LargeBinary, nullable=False),
        sa.Column("operation", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("result", sa.LargeBinary, nullable=False),
        sa.Column("code", sa.Text, nullable=False, server_default=""),
        sa.Column("field", sa.Text, nullable=False, server_default=""),
        sa.Column("receipt_chain", sa.Text, nullable=False),
        sa.Column("receipt_sequence", sa.BigInteger, nullable=False),
        _created(),
        sa.CheckConstraint("state IN ('done', 'refused')", name="ck_requests_state"),
        sa.CheckConstraint("(state = 'refused') = (code <> '')", name="ck_requests_code"),
    )
    op.create_table(
        "receipts",
        sa.Column("chain", sa.Text, primary_key=True),
        sa.Column("sequence", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("envelope", sa.LargeBinary, nullable=False),
        sa.Column("body_hash", sa.LargeBinary, nullable=False),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("request_id", sa.Text, nullable=False),
        sa.Column("time", sa.BigInteger, nullable=False),
        sa.Column("decision", sa.Text, nullable=False),
        sa.Column("code", sa.Text, nullable=False),
    )
    # Results and receipts are hex and signatures: compressing them on the way to the disk costs more than it saves.
    for table, column in (("requests", "result"), ("receipts", "envelope")):
        op.execute(f"ALTER TABLE {table} ALTER COLUMN {column} SET STORAGE EXTERNAL")
        op.execute(f"ALTER TABLE {table} SET (toast_tuple_target = 8160)")
    op.execute(
        """
        CREATE FUNCTION adytum_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION 'the table % is append-only', TG_TABLE_NAME USING ERRCODE = 'insufficient_privilege';
        END $$
        """
    )
    op.execute(
        """
        CREATE TRIGGER receipts_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON receipts
        FOR EACH STATEMENT EXECUTE FUNCTION adytum_append_only()
        """
    )
    op.execute("ALTER TABLE receipts ENABLE ALWAYS TRIGGER receipts_append_only")
    op.create_table(
        "enclaves",
        sa.Column("chain", sa.Text, primary_key=True),
        sa.Column("build", sa.Text, nullable=False),
        sa.Column("receipt_key", sa.Text, nullable=False),
        sa.Column("manifest_hash", sa.Text, nullable=False),
        sa.Column("first_seen", sa.TIMESTAMP(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("last_seen", sa.TIMESTAMP(timezone=True), nullable=False, server_default=sa.func.now()),
    )
    op.create_table(
        "attestations",
        sa.Column("chain", sa.Text, sa.ForeignKey("enclaves.chain"), primary_key=True),
        sa.Column("digest", sa.LargeBinary, primary_key=True),
        sa.Column("document", sa.LargeBinary, nullable=False),
        sa.Column("binding", sa.LargeBinary, nullable=False),
        sa.Column("verified_at", sa.BigInteger, nullable=False),
        _created(),
    )


def downgrade() -> None:
    """Undo. Destroys every record: sealed keys that exist nowhere else included."""
    op.drop_table("attestations")
    op.drop_table("enclaves")
    op.drop_table("receipts")
    op.execute("DROP FUNCTION adytum_append_only()")
    op.drop_table("requests")
    op.drop_table("policies")
    op.execute("DROP VIEW sealed_keys")
    op.drop_table("key_envelopes")
    op.drop_table("keys")
