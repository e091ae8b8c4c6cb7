"""The tables, as SQLAlchemy Core metadata: the picture that the migrations must arrive at (a test compares them).

Column names of `keys` and of the view `sealed_keys` keep those of the Go service that Adytum replaces, so that its
tools go on reading them. Times are `timestamptz`, set by the host, for people; the time that counts is in the receipt.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

metadata = sa.MetaData(
    naming_convention={"ix": "ix_%(table_name)s_%(column_0_N_name)s", "ck": "ck_%(table_name)s_%(constraint_name)s"}
)


def _created() -> sa.Column[object]:
    return sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False, server_default=sa.func.now())


KEY_STATES = ("pending", "active", "disabled", "pending_deletion", "deleted", "failed")

keys = sa.Table(
    "keys",
    metadata,
    sa.Column("key_id", sa.Text, primary_key=True),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("public_key", sa.Text, nullable=False),  # hex, "" for kind `secret`
    sa.Column("algorithm", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("labels", JSONB, nullable=False, server_default=sa.text("'[]'::jsonb")),
    sa.Column("description", sa.Text, nullable=False, server_default=""),
    _created(),
    sa.Column("updated_at", sa.TIMESTAMP(timezone=True), nullable=False, server_default=sa.func.now()),
    sa.Column("deletion_date", sa.TIMESTAMP(timezone=True)),
    sa.CheckConstraint(sa.column("status").in_(KEY_STATES), name="status"),
    sa.Index(None, "tenant", "key_id"),
)

key_envelopes = sa.Table(
    "key_envelopes",
    metadata,
    sa.Column("key_id", sa.Text, sa.ForeignKey("keys.key_id"), primary_key=True),
    sa.Column("node_id", sa.Text, primary_key=True),
    sa.Column("version", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("header", sa.LargeBinary, nullable=False),  # canonical JSON, the AAD
    sa.Column("ciphertext_blob", sa.Text, nullable=False),  # base64
    sa.Column("data_key_ciphertext", sa.Text, nullable=False),  # base64
    sa.Column("kms_key_id", sa.Text, nullable=False),
    _created(),
)

policies = sa.Table(
    "policies",
    metadata,
    sa.Column("tenant", sa.Text, primary_key=True),
    sa.Column("version", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("envelope", sa.LargeBinary, nullable=False),  # DSSE, as it was put
    sa.Column("digest", sa.LargeBinary, nullable=False),  # SHA-256 of the payload, as the enclave said it
    _created(),
)

requests = sa.Table(
    "requests",
    metadata,
    sa.Column("tenant", sa.Text, primary_key=True),
    sa.Column("request_id", sa.Text, primary_key=True),
    sa.Column("body_hash", sa.LargeBinary, nullable=False),  # SHA-256 of the signed bytes
    sa.Column("stamp_key", sa.LargeBinary, nullable=False),  # the public key that the enclave authenticated
    sa.Column("operation", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("result", sa.LargeBinary, nullable=False),  # the answer's bytes, empty when refused
    sa.Column("code", sa.Text, nullable=False, server_default=""),
    sa.Column("field", sa.Text, nullable=False, server_default=""),
    sa.Column("receipt_chain", sa.Text, nullable=False),
    sa.Column("receipt_sequence", sa.BigInteger, nullable=False),  # written in the same transaction
    _created(),
    sa.CheckConstraint(sa.column("state").in_(("done", "refused")), name="state"),
    sa.CheckConstraint("(state = 'refused') = (code <> '')", name="code"),
)

receipts = sa.Table(
    "receipts",
    metadata,
    sa.Column("chain", sa.Text, primary_key=True),
    sa.Column("sequence", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("envelope", sa.LargeBinary, nullable=False),  # as the enclave sent it
    sa.Column("body_hash", sa.LargeBinary, nullable=False),  # SHA-256 of the receipt's body: two bodies are a fork
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("request_id", sa.Text, nullable=False),
    sa.Column("time", sa.BigInteger, nullable=False),  # ms, the enclave's clock
    sa.Column("decision", sa.Text, nullable=False),
    sa.Column("code", sa.Text, nullable=False),
)

enclaves = sa.Table(
    "enclaves",
    metadata,
    sa.Column("chain", sa.Text, primary_key=True),  # boot id
    sa.Column("build", sa.Text, nullable=False),
    sa.Column("receipt_key", sa.Text, nullable=False),
    sa.Column("manifest_hash", sa.Text, nullable=False),
    sa.Column("first_seen", sa.TIMESTAMP(timezone=True), nullable=False, server_default=sa.func.now()),
    sa.Column("last_seen", sa.TIMESTAMP(timezone=True), nullable=False, server_default=sa.func.now()),
)

attestations = sa.Table(
    "attestations",
    metadata,
    sa.Column("chain", sa.Text, sa.ForeignKey("enclaves.chain"), primary_key=True),
    sa.Column("digest", sa.LargeBinary, primary_key=True),  # SHA-256 of the document
    sa.Column("document", sa.LargeBinary, nullable=False),
    sa.Column("binding", sa.LargeBinary, nullable=False),
    sa.Column("verified_at", sa.BigInteger, nullable=False),  # ms, the host's clock
    _created(),
)

RELEASE_STATES = ("planned", "active", "promoted", "retiring", "retired")

releases = sa.Table(
    "releases",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("pcr0", sa.LargeBinary, nullable=False),  # 48 bytes each
    sa.Column("pcr1", sa.LargeBinary, nullable=False),
    sa.Column("pcr2", sa.LargeBinary, nullable=False),
    sa.Column("pcr3", sa.LargeBinary),
    sa.Column("pcr8", sa.LargeBinary),
    sa.Column("pcr16", sa.LargeBinary),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("provenance", JSONB, nullable=False, server_default=sa.text("'{}'::jsonb")),
    _created(),
    sa.Column("changed_at", sa.TIMESTAMP(timezone=True), nullable=False, server_default=sa.func.now()),
    sa.CheckConstraint(sa.column("state").in_(RELEASE_STATES), name="state"),
    sa.Index("ix_releases_one_promoted", "state", unique=True, postgresql_where=sa.text("state = 'promoted'")),
)

enclave_reports = sa.Table(
    "enclave_reports",
    metadata,
    sa.Column("host", sa.Text, primary_key=True),  # one running service
    sa.Column("enclave", sa.Text, primary_key=True),  # its name in the settings
    sa.Column("boot_id", sa.Text, nullable=False),  # "" while nothing is proven
    sa.Column("release", sa.Text, nullable=False),  # "" when only the settings allow the image
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),  # why it is unproven, a code
    sa.Column("in_flight", sa.BigInteger, nullable=False),
    sa.Column("certificate_until", sa.BigInteger, nullable=False),  # ms, 0 while nothing is proven
    sa.Column("reported_at", sa.TIMESTAMP(timezone=True), nullable=False, server_default=sa.func.now()),
    sa.CheckConstraint(sa.column("state").in_(("serving", "proven", "unproven")), name="state"),
)
