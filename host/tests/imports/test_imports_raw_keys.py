"""A key in hex never goes in as a key of an algorithm that nobody named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from eth_account import Account

from adytum.imports import raw_keys
from adytum.imports.candidates import Candidate, examine, read, request_id
from adytum_wire.record import Header, encode_header
from adytum_wire.recovery import RecoveryEnvelope, encode_recovery
from adytum_wire.types import Algorithm, RecordKind

SECRET = bytes(31) + b"\x07"
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
KEYS = [Algorithm.SECP256K1, Algorithm.P256, Algorithm.ED25519]


def public(algorithm: Algorithm) -> str:
    """By `cryptography`."""
    if algorithm is Algorithm.ED25519:
        return Ed25519PrivateKey.from_private_bytes(SECRET).public_key().public_bytes_raw().hex()
    curve = ec.SECP256K1() if algorithm is Algorithm.SECP256K1 else ec.SECP256R1()
    key = ec.derive_private_key(7, curve).public_key()
    return key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint).hex()


def envelope(algorithm: Algorithm, public_key: str, kind: RecordKind = RecordKind.SIGNING_KEY) -> bytes:
    header = Header(
        key_id="key-" + "1" * 32, tenant="acme", node_id="node-1", kind=kind, algorithm=algorithm, version=1,
        public_key=public_key, labels=[], generation=1, state="active", delete_after=0,
        kms_key_arn="arn:aws:kms:us-east-1:111122223333:key/12345678-1234-1234-1234-123456789012", created_at=1,
    )  # fmt: skip
    parts = {"threshold": 2, "keys": (b"1" * 32, b"2" * 32), "sealed": bytes(100), "shares": (bytes(128),)}
    return encode_recovery(RecoveryEnvelope(header=encode_header(header), **parts))


def candidate(place: Path, secret: bytes = SECRET, **options: object) -> Candidate:
    path = place / "key.hex"
    path.write_text(secret.hex())
    return examine(path, **options)  # type: ignore[arg-type]


def test_32_bytes_alone_are_a_key_of_nothing(tmp_path: Path) -> None:
    assert candidate(tmp_path).problem == raw_keys.NAME_IT
    assert candidate(tmp_path, kind="raw-hex").problem == raw_keys.NAME_IT


@pytest.mark.parametrize("algorithm", KEYS)
def test_what_was_named_is_what_it_is(tmp_path: Path, algorithm: Algorithm) -> None:
    found = candidate(tmp_path, algorithm=algorithm)
    assert (found.problem, found.algorithm, found.public_key) == ("", algorithm, public(algorithm))
    assert candidate(tmp_path, algorithm=algorithm, expected=public(algorithm)).problem == ""
    for other in set(KEYS) - {algorithm}:
        assert candidate(tmp_path, algorithm=other, expected=public(algorithm)).problem == "it is not the expected key"


@pytest.mark.parametrize("algorithm", KEYS)
@pytest.mark.parametrize("name", ["key.recovery", "key.hex.recovery"])
def test_the_envelope_beside_it_says_what_it_is(tmp_path: Path, algorithm: Algorithm, name: str) -> None:
    (tmp_path / name).write_bytes(envelope(algorithm, public(algorithm)))
    found = candidate(tmp_path)
    assert (found.problem, found.algorithm, found.public_key) == ("", algorithm, public(algorithm))
    for other in set(KEYS) - {algorithm}:
        assert algorithm.value in candidate(tmp_path, algorithm=other).problem
    changed = SECRET[:-1] + b"\x08"
    assert "public key is not the one" in candidate(tmp_path, changed).problem


def test_an_envelope_that_does_not_help_is_no_consent(tmp_path: Path) -> None:
    (tmp_path / "key.recovery").write_bytes(b"no envelope")
    assert "no recovery envelope" in candidate(tmp_path, algorithm=Algorithm.SECP256K1).problem
    (tmp_path / "key.recovery").write_bytes(envelope(Algorithm.NONE, "", RecordKind.HD_SEED))
    assert "hd-seed" in candidate(tmp_path, algorithm=Algorithm.SECP256K1).problem


def test_an_ethereum_address_says_what_it_is(tmp_path: Path) -> None:
    own, other = Account.from_key(SECRET).address, Account.create().address
    for expected in (own, own.lower()):
        found = candidate(tmp_path, expected=expected)
        assert (found.problem, found.algorithm) == ("", Algorithm.SECP256K1)
    assert candidate(tmp_path, expected=own.swapcase().replace("X", "x")).problem == "it is not the expected key"
    assert candidate(tmp_path, expected=other).problem == "it is not the expected key"
    assert candidate(tmp_path, expected=own, algorithm=Algorithm.P256).problem == "it is not the expected key"
    named = tmp_path / f"{other}.hex"
    named.write_text(SECRET.hex())
    assert examine(named, expect_name=True).problem == "it is not the expected key"


@pytest.mark.parametrize("secret", [bytes(32), b"\xff" * 32, ORDER.to_bytes(32, "big")])
def test_what_is_no_private_key_is_said_before_it_is_sent(tmp_path: Path, secret: bytes) -> None:
    found = candidate(tmp_path, secret, algorithm=Algorithm.SECP256K1)
    assert found.problem == "not a private key of secp256k1"


def test_one_key_in_two_spellings_is_one_request(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    secret = os.urandom(32)
    one.write_text(secret.hex())
    two.write_text(f" 0x{secret.hex().upper()}\n")
    found = [examine(path, algorithm=Algorithm.ED25519) for path in (one, two)]
    names = {request_id("acme", each, [], b"") for each in found}
    assert len(names) == 1
    assert {request_id("acme", examine(one, algorithm=Algorithm.P256), [], b"")}.isdisjoint(names)
    assert bytes.fromhex(read(found[1]).decode()) == secret
    two.write_text(os.urandom(32).hex())
    with pytest.raises(ValueError, match="changed"):
        read(found[1])
