"""What an approver signs (spec/signed-bytes.md): a statement about one request, or about a batch of them.

    statement = strict JSON of `Statement`, signed over pae(APPROVAL, statement)

With a passkey the signature is WebAuthn's, and its challenge is SHA-256 of those bytes. A batch is a Merkle tree over
request digests as RFC 9162 (2.1) hashes one, so that one statement approves many requests and each proves its place.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from adytum_wire import limits, strict_json
from adytum_wire.errors import Code
from adytum_wire.types import Digest, Hex32, Label, Milliseconds, Scheme, TenantId, Version, sha256

_NODE = Annotated[bytes, Meta(min_length=32, max_length=32)]


class RequestSubject(Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="request"):
    """`digest`: SHA-256 of the request's body."""

    digest: Hex32


class BatchSubject(Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="batch"):
    """`root`: of the tree over the digests of `size` requests, in the order that the approver saw."""

    root: Hex32
    size: Annotated[int, Meta(ge=1, le=2**32)]


class Statement(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`policy_version`: of the policy that the approver decided under; a newer one makes the approval void."""

    v: Literal[1]
    tenant: TenantId
    subject: RequestSubject | BatchSubject
    policy_version: Version
    decision: Literal["approve", "reject"]
    issued_at: Milliseconds
    expires_at: Milliseconds


class KeyProof(Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="key"):
    """A signature by one of the principal's stamp keys. Sizes: see `Scheme`."""

    scheme: Scheme
    public_key: bytes
    signature: bytes


class PasskeyProof(Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="passkey"):
    """A WebAuthn assertion (W3C WebAuthn Level 2, 6.3.3), each part as the browser gave it."""

    credential_id: Annotated[bytes, Meta(min_length=1, max_length=1023)]
    authenticator_data: Annotated[bytes, Meta(max_length=limits.MAX_AUTHENTICATOR_DATA)]
    client_data: Annotated[bytes, Meta(max_length=limits.MAX_CLIENT_DATA)]
    signature: Annotated[bytes, Meta(max_length=limits.MAX_ASSERTION_SIGNATURE)]


class Approval(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A statement with its proof. `index` and `path`: the request's place in the batch, 0 and () without one."""

    statement: Annotated[bytes, Meta(max_length=limits.MAX_STATEMENT)]
    proof: KeyProof | PasskeyProof
    index: Annotated[int, Meta(ge=0, lt=2**32)] = 0
    path: Annotated[tuple[_NODE, ...], Meta(max_length=limits.MAX_MERKLE_PATH)] = ()


class UsageReset(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the admin quorum signs (DSSE, type USAGE_RESET) to open limits after a start without a snapshot: what was
    used before counts as nothing. Bound to one boot, so that it cannot be used again."""

    v: Literal[1]
    tenant: TenantId
    boot_id: Annotated[str, Meta(pattern=r"\A[0-9a-f]{32}\Z")]
    limits: Annotated[list[Label], Meta(max_length=256)] | Literal["*"]


def parse_statement(data: bytes) -> Statement:
    """Errors: APPROVAL_INVALID with the field's path. Call only after the proof has verified."""
    return strict_json.decode(data, Statement, limit=limits.MAX_STATEMENT, code=Code.APPROVAL_INVALID)


def parse_usage_reset(data: bytes) -> UsageReset:
    """Errors: USAGE_INVALID with the field's path."""
    return strict_json.decode(data, UsageReset, limit=limits.MAX_POLICY, code=Code.USAGE_INVALID)


def leaf_hash(request_digest: bytes) -> Digest:
    """RFC 9162, 2.1.1: SHA-256(0x00 || leaf)."""
    return sha256(b"\x00" + request_digest)


def node_hash(left: bytes, right: bytes) -> Digest:
    """RFC 9162, 2.1.1: SHA-256(0x01 || left || right)."""
    return sha256(b"\x01" + left + right)
