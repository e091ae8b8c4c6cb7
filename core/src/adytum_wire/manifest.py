"""The manifest: the operator's measured configuration (spec/manifest.md). Strict JSON.

PCR16 = extend(SHA-256 of the bytes), so another manifest is another PCR16 and KMS refuses it. Nothing in it is secret.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from adytum_wire import limits, signatures, strict_json
from adytum_wire.errors import AdytumError, Code
from adytum_wire.types import Digest, Hex, KeyArn, Label, PrincipalId, Scheme, TenantId, sha256

HostName = Annotated[str, Meta(pattern=r"\A[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?\Z")]


class Admin(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One policy administrator. Two admins never share a key."""

    id: PrincipalId
    scheme: Scheme
    public_key: Hex


class Tenant(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`threshold` distinct admins must sign a policy. New records are sealed under `kms_key`."""

    id: TenantId
    kms_key: KeyArn
    admins: Annotated[list[Admin], Meta(min_length=1, max_length=32)]
    threshold: Annotated[int, Meta(ge=1, le=32)]


class Kms(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where KMS is: TLS to `host` must chain to `roots` (PEM); it is reached through the host's pipe at `port`.

    `credentials`: `pushed` by the host, or fetched from the parent's metadata service through its pipe (`imds`)."""

    region: Annotated[str, Meta(pattern=r"\A[a-z0-9-]{1,32}\Z")]
    account: Annotated[str, Meta(pattern=r"\A[0-9]{12}\Z")]
    keys: Annotated[list[KeyArn], Meta(min_length=1, max_length=16)]
    host: HostName
    port: Annotated[int, Meta(ge=1, le=65535)]
    roots: Annotated[list[str], Meta(min_length=1, max_length=16)]
    credentials: Literal["pushed", "imds"]


class NoAnchor(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="none"):
    """Nothing outlives a start: each windowed limit is closed until its window has passed or admins reset it."""


class HostAnchor(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="host"):
    """The host keeps the sealed usage snapshots and presents the newest. It cannot read or change one, but it can
    present an old one: for hosts that are believed not to."""


class DynamoDbAnchor(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="dynamodb"):
    """Snapshots live in a DynamoDB table, written on condition that nobody wrote since, over TLS that ends in the
    enclave and is dialled through the host's pipe at `port`. `roots`: PEM, what `host` must chain to.

    `credentials`: those that the host pushes (`host`: for hosts that are believed not to write the table themselves),
    or those of a record of kind `anchor-credentials`, which only an attested enclave opens (`sealed`). With `sealed`
    the table is one of `kms.account`."""

    region: Annotated[str, Meta(pattern=r"\A[a-z0-9-]{1,32}\Z")]
    host: HostName
    port: Annotated[int, Meta(ge=1, le=65535)]
    roots: Annotated[list[str], Meta(min_length=1, max_length=16)]
    table: Annotated[str, Meta(pattern=r"\A[A-Za-z0-9_.-]{3,255}\Z")]
    credentials: Literal["host", "sealed"]


class Bounds(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`key_ttl_seconds` 0 is the strict mode: every request unseals again. `approval_past_ms`: how old a request may be
    that waited for approvals."""

    request_past_ms: Annotated[int, Meta(ge=1_000, le=3_600_000)]
    request_future_ms: Annotated[int, Meta(ge=0, le=600_000)]
    approval_past_ms: Annotated[int, Meta(ge=1_000, le=14 * 86_400_000)]
    key_ttl_seconds: Annotated[int, Meta(ge=0, le=86_400)]
    key_max_uses: Annotated[int, Meta(ge=1, le=1_000_000)]
    max_warm_keys: Annotated[int, Meta(ge=1, le=100_000)]


class Manifest(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    v: Literal[1]
    deployment: Label
    epoch: Annotated[int, Meta(ge=1, le=2**53)]
    debug: bool
    node_id: Label
    kms: Kms
    tenants: Annotated[list[Tenant], Meta(min_length=1, max_length=1024)]
    bounds: Bounds
    anchor: NoAnchor | HostAnchor | DynamoDbAnchor


def parse_manifest(data: bytes) -> Manifest:
    """Errors: MANIFEST_INVALID with the field's path."""
    manifest = strict_json.decode(data, Manifest, limit=limits.MAX_MANIFEST, code=Code.MANIFEST_INVALID)

    def refuse(field: str) -> AdytumError:
        return AdytumError(Code.MANIFEST_INVALID, field)

    prefix = f":kms:{manifest.kms.region}:{manifest.kms.account}:key/"
    if not all(prefix in arn for arn in manifest.kms.keys):
        raise refuse("$.kms.keys")
    if len({t.id for t in manifest.tenants}) != len(manifest.tenants):
        raise refuse("$.tenants[...].id")
    for tenant in manifest.tenants:
        if tenant.kms_key not in manifest.kms.keys:
            raise refuse("$.tenants[...].kms_key")
        if tenant.threshold > len(tenant.admins):
            raise refuse("$.tenants[...].threshold")
        if len({a.id for a in tenant.admins}) != len(tenant.admins):
            raise refuse("$.tenants[...].admins[...].id")
        if len({a.public_key for a in tenant.admins}) != len(tenant.admins):
            raise refuse("$.tenants[...].admins[...].public_key")
        if not all(signatures.is_public_key(a.scheme, bytes.fromhex(a.public_key)) for a in tenant.admins):
            raise refuse("$.tenants[...].admins[...].public_key")
    return manifest


def manifest_hash(data: bytes) -> Digest:
    """What PCR16 is extended with: SHA-256 of the manifest's bytes as they came."""
    return sha256(data)
