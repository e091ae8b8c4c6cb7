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
    sa.Column("address", sa.Text, nullable=False, server_default=""),  # EIP-55, of secp256k1 keys
    sa.CheckConstraint(sa.column("status").in_(KEY_STATES), name="status"),
    sa.Index(None, "tenant", "key_id"),
    sa.Index(None, "tenant", "status", "key_id"),
    sa.Index(None, "labels", postgresql_using="gin"),
    sa.Index(None, "address", postgresql_where=sa.text("address <> ''")),
    sa.Index(None, "public_key", postgresql_where=sa.text("public_key <> ''")),
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

recovery_envelopes = sa.Table(
    "recovery_envelopes",
    metadata,
    sa.Column("key_id", sa.Text, primary_key=True),
    sa.Column("node_id", sa.Text, primary_key=True),
    sa.Column("version", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("envelope", sa.LargeBinary, nullable=False),  # as the enclave made it
    _created(),
    sa.ForeignKeyConstraint(
        ["key_id", "node_id", "version"],
        ["key_envelopes.key_id", "key_envelopes.node_id", "key_envelopes.version"],
        name="fk_recovery_envelopes_record",
        ondelete="CASCADE",  # what shreds a record shreds this
    ),
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

# A request that needs approvals is `pending` until it is one of the others.
REQUEST_STATES = ("pending", "done", "refused", "rejected", "cancelled", "expired")
_ENDED = "state IN ('refused', 'rejected', 'cancelled', 'expired')"

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
    sa.CheckConstraint(sa.column("state").in_(REQUEST_STATES), name="state"),
    sa.CheckConstraint("(state = 'done') = (code = '')", name="code"),
    sa.Index("ix_requests_pending", "tenant", "request_id", postgresql_where=sa.text("state = 'pending'")),
    sa.Index("ix_requests_ended", "tenant", "state", "request_id", postgresql_where=sa.text(_ENDED)),
)

# What a request that waits, or once waited, has beside its row in `requests`.
pending_requests = sa.Table(
    "pending_requests",
    metadata,
    sa.Column("tenant", sa.Text, primary_key=True),
    sa.Column("request_id", sa.Text, primary_key=True),
    sa.Column("body", sa.LargeBinary, nullable=False),  # as signed
    sa.Column("stamp", sa.LargeBinary, nullable=False),  # MessagePack, as it goes to the enclave
    sa.Column("issued_at", sa.BigInteger, nullable=False),  # ms, of the body
    sa.Column("expires_at", sa.BigInteger, nullable=False),  # ms: the enclave takes it no longer
    sa.Column("considered", sa.Integer, nullable=False, server_default="0"),  # how many approvals were weighed
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),  # that failed for want of an answer
    sa.Column("retry_at", sa.TIMESTAMP(timezone=True)),
    sa.Column("last_code", sa.Text, nullable=False, server_default=""),  # why it was not carried out last time
    sa.Column("claim", sa.Text, nullable=False, server_default=""),  # who carries it to the enclave now
    sa.Column("claimed_until", sa.TIMESTAMP(timezone=True)),
    _created(),
)

approvals = sa.Table(
    "approvals",
    metadata,
    sa.Column("tenant", sa.Text, primary_key=True),
    sa.Column("request_id", sa.Text, primary_key=True),
    sa.Column("principal", sa.Text, primary_key=True),  # whose key or passkey it is, by the policy of the moment
    sa.Column("digest", sa.LargeBinary, primary_key=True),  # SHA-256 of the statement
    sa.Column("approval", sa.LargeBinary, nullable=False),  # MessagePack (adytum_wire.approvals.Approval)
    sa.Column("decision", sa.Text, nullable=False),
    sa.Column("policy_version", sa.BigInteger, nullable=False),
    sa.Column("issued_at", sa.BigInteger, nullable=False),  # ms, of the statement
    sa.Column("expires_at", sa.BigInteger, nullable=False),
    _created(),
    sa.CheckConstraint(sa.column("decision").in_(("approve", "reject")), name="decision"),
)

usage_snapshots = sa.Table(
    "usage_snapshots",
    metadata,
    sa.Column("tenant", sa.Text, primary_key=True),
    sa.Column("version", sa.BigInteger, nullable=False),  # only a higher one replaces it
    sa.Column("chain", sa.Text, nullable=False),  # boot id of the enclave that sealed it
    sa.Column("snapshot", sa.LargeBinary, nullable=False),  # sealed; presented as it is after a start
    sa.Column("stored_at", sa.TIMESTAMP(timezone=True), nullable=False, server_default=sa.func.now()),
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

checkpoints = sa.Table(
    "checkpoints",
    metadata,
    sa.Column("chain", sa.Text, primary_key=True),
    sa.Column("sequence", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("envelope", sa.LargeBinary, nullable=False),  # as the enclave sent it
    sa.Column("time", sa.BigInteger, nullable=False),  # ms, the enclave's clock
    _created(),
)

audit_cursors = sa.Table(
    "audit_cursors",
    metadata,
    sa.Column("sink", sa.Text, primary_key=True),
    sa.Column("chain", sa.Text, primary_key=True),
    sa.Column("sequence", sa.BigInteger, nullable=False),  # the sink has everything up to here
    sa.Column("updated_at", sa.TIMESTAMP(timezone=True), nullable=False, server_default=sa.func.now()),
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

JOB_STATES = ("running", "paused", "cancelled", "complete", "incomplete", "finished")


def _count(name: str) -> sa.Column[object]:
    return sa.Column(name, sa.BigInteger, nullable=False, server_default=sa.text("0"))


# One row a rotation. PgQueuer's own tables, which hand its batches to workers, are in the schema `adytum_queue`.
jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("generation", sa.BigInteger, nullable=False),  # every record is to have it, or a later one
    sa.Column("kms_key_id", sa.Text, nullable=False),  # and to be under this key
    sa.Column("policy_version", sa.BigInteger, nullable=False),  # that said so when the job was made
    sa.Column("selection", JSONB, nullable=False),
    sa.Column("rate", sa.Float(53), nullable=False),  # records a second for all workers together; 0: no bound
    sa.Column("tokens", sa.Float(53), nullable=False),  # of the bucket, as of `tokens_at`
    sa.Column("tokens_at", sa.TIMESTAMP(timezone=True), nullable=False, server_default=sa.func.now()),
    sa.Column("problem", sa.Text, nullable=False, server_default=""),  # a code
    _count("rounds"),
    _count("shredded"),  # old versions that `finish` removed
    sa.Column("statement", sa.LargeBinary, nullable=False, server_default=sa.text("''::bytea")),
    sa.Column("statement_body", sa.LargeBinary, nullable=False, server_default=sa.text("''::bytea")),
    sa.Column("statement_receipt", sa.LargeBinary, nullable=False, server_default=sa.text("''::bytea")),
    _created(),
    sa.Column("changed_at", sa.TIMESTAMP(timezone=True), nullable=False, server_default=sa.func.now()),
    sa.Column("ended_at", sa.TIMESTAMP(timezone=True)),
    sa.CheckConstraint(sa.column("state").in_(JOB_STATES), name="state"),
    sa.CheckConstraint("rate >= 0", name="rate"),
    sa.Index(
        "ix_jobs_one_active",
        "tenant",
        unique=True,
        postgresql_where=sa.text("state IN ('running', 'paused')"),
    ),
)

job_batches = sa.Table(
    "job_batches",
    metadata,
    sa.Column("job_id", sa.Text, sa.ForeignKey("jobs.id"), primary_key=True),
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("items", JSONB, nullable=False),  # [[key id, version], ...]
    _count("issued_at"),  # ms, in the requests of this batch: a repeat sends the same bytes. 0: not begun
    _count("resealed"),
    _count("skipped"),
    _count("failed"),
    sa.Column("finished_at", sa.TIMESTAMP(timezone=True)),
)

job_failures = sa.Table(
    "job_failures",
    metadata,
    sa.Column("job_id", sa.Text, sa.ForeignKey("jobs.id"), primary_key=True),
    sa.Column("key_id", sa.Text, primary_key=True),
    sa.Column("code", sa.Text, nullable=False),
    sa.Column("field", sa.Text, nullable=False),
    sa.Column("failed_at", sa.TIMESTAMP(timezone=True), nullable=False, server_default=sa.func.now()),
)
