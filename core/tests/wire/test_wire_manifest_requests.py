"""The manifest's validation table, and request bodies: what refuses, and where the refusal points."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from adytum_wire.errors import AdytumError, Code
from adytum_wire.manifest import manifest_hash, parse_manifest
from adytum_wire.requests import import_info, operation_of, parse_body, unseal_info
from adytum_wire.types import RecordKind, Scheme

ARN = "arn:aws:kms:eu-central-1:111122223333:key/"
KEYS = [Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32).public_key().public_bytes_raw().hex() for n in (1, 2, 3)]


def admin(name: str, key: str) -> dict[str, Any]:
    return {"id": name, "scheme": "ed25519", "public_key": key}


MANIFEST: dict[str, Any] = {
    "v": 1,
    "deployment": "prod",
    "epoch": 1,
    "debug": False,
    "node_id": "n1",
    "kms": {
        "region": "eu-central-1",
        "account": "111122223333",
        "keys": [ARN + "one", ARN + "two"],
        "host": "kms.eu-central-1.amazonaws.com",
        "port": 8000,
        "roots": ["-----BEGIN CERTIFICATE-----"],
        "credentials": "pushed",
    },
    "tenants": [
        {
            "id": "acme",
            "kms_key": ARN + "one",
            "admins": [admin("ada", KEYS[0]), admin("ben", KEYS[1])],
            "threshold": 2,
        },
        {"id": "beta", "kms_key": ARN + "two", "admins": [admin("ada", KEYS[0])], "threshold": 1},
    ],
    "bounds": {
        "request_past_ms": 300_000,
        "request_future_ms": 60_000,
        "approval_past_ms": 86_400_000,
        "key_ttl_seconds": 0,
        "key_max_uses": 1,
        "max_warm_keys": 1,
    },
    "anchor": {"kind": "none"},
}


def dump(value: Any) -> bytes:
    return json.dumps(value).encode()


def refused(data: bytes) -> str:
    with pytest.raises(AdytumError) as caught:
        parse_manifest(data)
    assert caught.value.code is Code.MANIFEST_INVALID
    return caught.value.field


def objects(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict):
        yield path
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, part in parts:
        yield from objects(part, (*path, step))


def at(value: Any, path: tuple[Any, ...]) -> Any:
    for step in path:
        value = value[step]
    return value


def test_a_manifest_parses_and_its_hash_is_of_the_bytes() -> None:
    manifest = parse_manifest(dump(MANIFEST))
    assert [tenant.id for tenant in manifest.tenants] == ["acme", "beta"]
    assert manifest_hash(dump(MANIFEST)) == hashlib.sha256(dump(MANIFEST)).digest()


def test_unknown_and_missing_fields_anywhere() -> None:
    checked = 0
    for path in objects(MANIFEST):
        extra = copy.deepcopy(MANIFEST)
        at(extra, path)["comment"] = 1
        refused(dump(extra))
        for name in at(MANIFEST, path):
            less = copy.deepcopy(MANIFEST)
            del at(less, path)[name]
            refused(dump(less))
            checked += 1
    assert checked > 30


T0 = ("tenants", 0)


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        (("v",), 2, "$.v"),
        (("deployment",), "Prod", "$.deployment"),
        (("epoch",), 0, "$.epoch"),
        (("debug",), 0, "$.debug"),
        (("node_id",), "n 1", "$.node_id"),
        (("kms", "region"), "eu-central-2", "$.kms.keys"),
        (("kms", "account"), "111122223334", "$.kms.keys"),
        (("kms", "account"), "1111", "$.kms.account"),
        (("kms", "keys"), [], "$.kms.keys"),
        (("kms", "keys", 1), ARN + "three/x", "$.kms.keys[1]"),
        (("kms", "host"), "kms.example/x", "$.kms.host"),
        (("kms", "host"), "kms.example:443", "$.kms.host"),
        (("kms", "port"), 0, "$.kms.port"),
        (("kms", "port"), 65_536, "$.kms.port"),
        (("kms", "roots"), [], "$.kms.roots"),
        (("tenants",), [], "$.tenants"),
        ((*T0, "id"), "beta", "$.tenants[...].id"),
        ((*T0, "kms_key"), ARN + "three", "$.tenants[...].kms_key"),
        ((*T0, "admins"), [], "$.tenants[0].admins"),
        ((*T0, "threshold"), 0, "$.tenants[0].threshold"),
        ((*T0, "threshold"), 3, "$.tenants[...].threshold"),
        ((*T0, "threshold"), True, "$.tenants[0].threshold"),
        ((*T0, "admins", 1, "id"), "ada", "$.tenants[...].admins[...].id"),
        ((*T0, "admins", 1, "public_key"), KEYS[0], "$.tenants[...].admins[...].public_key"),
        ((*T0, "admins", 1, "public_key"), KEYS[0].upper(), "$.tenants[0].admins[1].public_key"),
        ((*T0, "admins", 1, "public_key"), "01" + "00" * 31, "$.tenants[...].admins[...].public_key"),
        ((*T0, "admins", 1, "public_key"), "", "$.tenants[...].admins[...].public_key"),
        ((*T0, "admins", 1, "scheme"), "p256", "$.tenants[...].admins[...].public_key"),
        ((*T0, "admins", 1, "scheme"), "none", "$.tenants[0].admins[1].scheme"),
        (("bounds", "request_past_ms"), 999, "$.bounds.request_past_ms"),
        (("bounds", "request_past_ms"), 3_600_001, "$.bounds.request_past_ms"),
        (("bounds", "request_future_ms"), 600_001, "$.bounds.request_future_ms"),
        (("bounds", "key_ttl_seconds"), -1, "$.bounds.key_ttl_seconds"),
        (("bounds", "key_max_uses"), 0, "$.bounds.key_max_uses"),
        (("bounds", "max_warm_keys"), 0, "$.bounds.max_warm_keys"),
    ],
)
def test_the_validation_table(path: tuple[Any, ...], value: Any, field: str) -> None:
    manifest = copy.deepcopy(MANIFEST)
    at(manifest, path[:-1])[path[-1]] = value
    assert refused(dump(manifest)) == field


@settings(max_examples=150)
@given(st.binary(max_size=120) | st.tuples(st.integers(0, 900), st.binary(max_size=4)).map(lambda cut: _patched(*cut)))
def test_arbitrary_manifests_parse_or_are_refused(data: bytes) -> None:
    try:
        parse_manifest(data)
    except AdytumError as error:
        assert error.code is Code.MANIFEST_INVALID


def _patched(place: int, patch: bytes) -> bytes:
    good = dump(MANIFEST)
    return good[:place] + patch + good[place + len(patch) :]


# --- request bodies

BASE = {"v": 1, "tenant": "acme", "request_id": "r-00000001", "issued_at": 1}
KEY_ID = "key-" + "0" * 32
SEALED = {"enc": "00" * 32, "ciphertext": "00"}
BODIES: dict[str, dict[str, Any]] = {
    "generate_key": {"algorithm": "secp256k1", "labels": ["a"]},
    "import_key": {"algorithm": "ed25519", "labels": [], "public_key": "00" * 32, "sealed": SEALED},
    "sign": {
        "key_id": KEY_ID,
        "path": "",
        "scheme": "ecdsa-secp256k1",
        "content": {"type": "ethereum-transaction", "unsigned": "02"},
    },
    "seal": {"labels": [], "sealed": SEALED},
    "unseal": {"key_id": KEY_ID, "recipient": "00" * 32},
    "reseal": {"key_id": KEY_ID},
}


def body_of(operation: str, /, **changes: Any) -> bytes:
    return dump({"operation": operation, **BASE, **BODIES[operation], **changes})


def body_refused(data: bytes) -> str:
    with pytest.raises(AdytumError) as caught:
        parse_body(data)
    assert caught.value.code is Code.REQUEST_INVALID
    return caught.value.field


@pytest.mark.parametrize("operation", list(BODIES))
def test_bodies_parse_and_every_field_is_required(operation: str) -> None:
    assert operation_of(parse_body(body_of(operation))) == operation
    body_refused(body_of(operation, extra=1))
    whole = json.loads(body_of(operation))
    for path in objects(whole):
        for name in at(whole, path):
            less = copy.deepcopy(whole)
            del at(less, path)[name]
            body_refused(dump(less))


@pytest.mark.parametrize(
    "content", [{"type": "raw-digest", "digest": "00" * 32}, {"type": "raw-message", "message": "00"}]
)
def test_raw_content_is_another_operation(content: dict[str, Any]) -> None:
    """Not by a field that a sender could set, but by what is to be signed."""
    assert operation_of(parse_body(body_of("sign", content=content))) == "sign-raw"
    body_refused(body_of("sign", content=content | {"unsigned": "02"}))
    assert body_refused(body_of("sign", operation="sign-raw", content=content)).startswith("$")


@pytest.mark.parametrize(
    ("operation", "changes"),
    [
        ("sign", {"operation": "export"}),
        ("sign", {"v": 2}),
        ("sign", {"tenant": "Acme"}),
        ("sign", {"request_id": "short"}),
        ("sign", {"request_id": "r-0000001\n"}),
        ("sign", {"issued_at": -1}),
        ("sign", {"issued_at": 1.0}),
        ("sign", {"key_id": "key-" + "0" * 31}),
        ("sign", {"scheme": "rsa"}),
        ("sign", {"content": {"type": "other", "unsigned": "02"}}),
        ("sign", {"content": {"type": "raw-digest", "digest": "00" * 31}}),
        ("sign", {"content": {"type": "raw-message", "message": "0"}}),
        ("sign", {"content": {"type": "raw-message", "message": "AA"}}),
        ("sign", {"content": {"type": "raw-message", "message": "00" * 24_577}}),
        ("seal", {"sealed": {"enc": "00" * 32, "ciphertext": "00" * 16_401}}),
        ("generate_key", {"algorithm": "rsa"}),
        ("generate_key", {"labels": ["a"] * 17}),
        ("unseal", {"recipient": "00" * 31}),
    ],
)
def test_bodies_out_of_shape(operation: str, changes: dict[str, Any]) -> None:
    body_refused(body_of(operation, **changes))


def test_a_body_too_large() -> None:
    assert body_refused(body_of("reseal") + b" " * 65_536) == "$ (too large)"


@given(st.binary(max_size=150))
def test_arbitrary_bodies_are_refused(data: bytes) -> None:
    body_refused(data)


def test_the_info_of_sealed_bytes_as_the_spec_writes_it() -> None:
    """S-13 and S-25, byte by byte."""
    info = import_info("import_key", "acme", "r-1", Scheme.P256, b"\x02" + b"k" * 32)
    assert info == (
        b"adytum/import/v2\x00\x00\x0aimport_key\x00\x04acme\x00\x03r-1\x00\x04p256\x00\x21\x02" + b"k" * 32
    )
    info = unseal_info("export", "acme", "r-1", "key-7", RecordKind.HD_SEED)
    assert info == b"adytum/unseal/v2\x00\x00\x06export\x00\x04acme\x00\x03r-1\x00\x05key-7\x00\x07hd-seed"


_parts = st.tuples(*[st.text("ab\0\1", max_size=3)] * 3, st.sampled_from(Scheme), st.binary(max_size=3))


@given(_parts, _parts)
def test_import_info_has_one_reading(one: Any, other: Any) -> None:
    """Also for names that no body may have."""
    assert (import_info(*one) == import_info(*other)) == (one == other)


@given(*[st.tuples(*[st.text("ab\0\1", max_size=3)] * 4, st.sampled_from(RecordKind))] * 2)
def test_unseal_info_has_one_reading(one: Any, other: Any) -> None:
    assert (unseal_info(*one) == unseal_info(*other)) == (one == other)
    assert import_info(*one[:3], Scheme.P256, b"") != unseal_info(*one)
