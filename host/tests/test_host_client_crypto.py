"""The client's own arithmetic and keys, against libsecp256k1, OpenSSL and eth-account."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from coincurve import PrivateKey, PublicKeyXOnly
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from adytum.client import hpke
from adytum.client.checks import is_signature
from adytum.client.policy import add_signature, read_policy, sign_policy
from adytum.client.secp256k1_check import is_bip340, recover
from adytum.client.signers import KeySigner, SignerError, load_signer
from adytum.service.admit import format_stamp, parse_stamp
from adytum_wire import signatures
from adytum_wire.errors import AdytumError, Code
from adytum_wire.requests import Stamp
from adytum_wire.types import Scheme, SigningScheme

N = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
digests = st.binary(min_size=32, max_size=32)


@settings(max_examples=25, deadline=None)
@given(digest=digests, secret=st.integers(1, N - 1))
def test_recover_agrees_with_libsecp256k1(digest: bytes, secret: int) -> None:
    key = PrivateKey.from_int(secret)
    signature = key.sign_recoverable(digest, hasher=None)
    assert recover(digest, signature) == key.public_key.format()
    flipped = signature[:64] + bytes([signature[64] ^ 1])
    assert recover(digest, flipped) != key.public_key.format()
    high_s = signature[:32] + (N - int.from_bytes(signature[32:64], "big")).to_bytes(32, "big") + flipped[64:]
    assert recover(digest, high_s) is None  # libsecp256k1 would recover the same key: malleable


@settings(max_examples=25, deadline=None)
@given(digest=digests, secret=st.integers(1, N - 1), at=st.integers(0, 511))
def test_bip340_agrees_with_libsecp256k1(digest: bytes, secret: int, at: int) -> None:
    key = PrivateKey.from_int(secret)
    public = key.public_key.format()
    signature = key.sign_schnorr(digest, b"\0" * 32)
    assert is_bip340(public, digest, signature)
    damaged = bytearray(signature)
    damaged[at // 8] ^= 1 << at % 8
    assert is_bip340(public, digest, bytes(damaged)) == PublicKeyXOnly(public[1:]).verify(bytes(damaged), digest)
    assert not is_bip340(public, hashlib.sha256(digest).digest(), signature)


# BIP-340's own test-vectors.csv: index 0, 1 (good), 5 (key not on the curve), 6 (R.y odd), 12 (r = p), 13 (s = n).
BIP340 = [
    (
        "F9308A019258C31049344F85F89D5229B531C845836F99B08601F113BCE036F9",
        "00" * 32,
        "E907831F80848D1069A5371B402410364BDF1C5F8307B0084C55F1CE2DCA8215"
        "25F66A4A85EA8B71E482A74F382D2CE5EBEEE8FDB2172F477DF4900D310536C0",
        True,
    ),
    (
        "DFF1D77F2A671C5F36183726DB2341BE58FEAE1DA2DECED843240F7B502BA659",
        "243F6A8885A308D313198A2E03707344A4093822299F31D0082EFA98EC4E6C89",
        "6896BD60EEAE296DB48A229FF71DFE071BDE413E6D43F917DC8DCF8C78DE3341"
        "8906D11AC976ABCCB20B091292BFF4EA897EFCB639EA871CFA95F6DE339E4B0A",
        True,
    ),
    (
        "EEFDEA4CDB677750A420FEE807EACF21EB9898AE79B9768766E4FAA04A2D4A34",
        "243F6A8885A308D313198A2E03707344A4093822299F31D0082EFA98EC4E6C89",
        "6CFF5C3BA86C69EA4B7376F31A9BCB4F74C1976089B2D9963DA2E5543E177769"
        "69E89B4C5564D00349106B8497785DD7D1D713A8AE82B32FA79D5F7FC407D39B",
        False,
    ),
    (
        "DFF1D77F2A671C5F36183726DB2341BE58FEAE1DA2DECED843240F7B502BA659",
        "243F6A8885A308D313198A2E03707344A4093822299F31D0082EFA98EC4E6C89",
        "FFF97BD5755EEEA420453A14355235D382F6472F8568A18B2F057A1460297556"
        "3CC27944640AC607CD107AE10923D9EF7A73C643E166BE5EBEAFA34B1AC553E2",
        False,
    ),
    (
        "DFF1D77F2A671C5F36183726DB2341BE58FEAE1DA2DECED843240F7B502BA659",
        "243F6A8885A308D313198A2E03707344A4093822299F31D0082EFA98EC4E6C89",
        "FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEFFFFFC2F"
        "69E89B4C5564D00349106B8497785DD7D1D713A8AE82B32FA79D5F7FC407D39B",
        False,
    ),
    (
        "DFF1D77F2A671C5F36183726DB2341BE58FEAE1DA2DECED843240F7B502BA659",
        "243F6A8885A308D313198A2E03707344A4093822299F31D0082EFA98EC4E6C89",
        "6CFF5C3BA86C69EA4B7376F31A9BCB4F74C1976089B2D9963DA2E5543E177769"
        "FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141",
        False,
    ),
]


@pytest.mark.parametrize(("key", "message", "signature", "good"), BIP340)
def test_bip340_vectors(key: str, message: str, signature: str, good: bool) -> None:
    public = b"\x02" + bytes.fromhex(key)
    assert is_bip340(public, bytes.fromhex(message), bytes.fromhex(signature)) is good


@given(signature=st.binary(max_size=80), public=st.binary(max_size=40), payload=st.binary(max_size=40))
@settings(max_examples=50, deadline=None)
def test_hostile_signatures_are_false_and_never_an_exception(signature: bytes, public: bytes, payload: bytes) -> None:
    for scheme in SigningScheme:
        assert is_signature(scheme, public, payload, signature) is False


def test_ed25519_and_p256_signatures() -> None:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature

    ed = Ed25519PrivateKey.generate()
    assert is_signature(SigningScheme.ED25519, ed.public_key().public_bytes_raw(), b"message", ed.sign(b"message"))
    p256 = ec.generate_private_key(ec.SECP256R1())
    digest = hashlib.sha256(b"message").digest()
    r, s = decode_dss_signature(p256.sign(digest, ec.ECDSA(Prehashed(hashes.SHA256()))))
    signature = r.to_bytes(32, "big") + s.to_bytes(32, "big")
    assert is_signature(SigningScheme.ECDSA_P256, KeySigner(p256).public_key, digest, signature)
    assert not is_signature(SigningScheme.ECDSA_P256, KeySigner(p256).public_key, digest[::-1], signature)


# --- HPKE


def test_hpke_opens_only_with_its_key_and_info() -> None:
    key, other = X25519PrivateKey.generate(), X25519PrivateKey.generate()
    enc, ciphertext = hpke.seal(key.public_key().public_bytes_raw(), b"secret", info=b"one")
    assert hpke.unseal(key, enc, ciphertext, info=b"one") == b"secret"
    for private, info, blob in ((other, b"one", ciphertext), (key, b"two", ciphertext), (key, b"one", ciphertext[:-1])):
        with pytest.raises(ValueError):
            hpke.unseal(private, enc, blob, info=info)
    with pytest.raises(ValueError):
        hpke.seal(b"\0" * 31, b"secret", info=b"")
    with pytest.raises(ValueError):
        hpke.seal(b"\0" * 32, b"secret", info=b"")  # small order: everybody could open it
    with pytest.raises(ValueError):
        hpke.unseal(key, b"", b"", info=b"one")


# --- signers and stamps


@pytest.mark.parametrize("make", [
    Ed25519PrivateKey.generate,
    lambda: ec.generate_private_key(ec.SECP256R1()),
    lambda: ec.generate_private_key(ec.SECP256K1()),
])  # fmt: skip
def test_signers_of_every_scheme_verify(make: Any, tmp_path: Path) -> None:
    key = make()
    path = tmp_path / "key.pem"
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"pw")))
    signer = load_signer(path, b"pw")
    assert signer.public_key == KeySigner(key).public_key
    signature = signer.sign(b"message")
    assert signatures.is_valid(signer.scheme, signer.public_key, b"message", signature)
    stamp = Stamp(signer.scheme, signer.public_key, signature)
    assert parse_stamp(format_stamp(stamp)) == stamp
    with pytest.raises(SignerError, match="password"):
        load_signer(path)


def test_keys_that_cannot_sign_are_said(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    with pytest.raises(SignerError, match="cannot be read"):
        load_signer(path)
    path.write_bytes(b"nonsense")
    with pytest.raises(SignerError, match="not a private key"):
        load_signer(path)
    key = rsa.generate_private_key(65537, 2048)
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(SignerError, match="want an Ed25519"):
        load_signer(path)
    with pytest.raises(SignerError):
        KeySigner(ec.generate_private_key(ec.SECP384R1()))


@given(text=st.text(max_size=300))
@settings(max_examples=100, deadline=None)
def test_a_stamp_header_parses_to_itself_or_is_refused(text: str) -> None:
    try:
        assert format_stamp(parse_stamp(text)) == text
    except AdytumError as error:
        assert error.code is Code.STAMP_INVALID


# --- policies


def test_signatures_are_added_to_the_same_payload_bytes() -> None:
    client = KeySigner(Ed25519PrivateKey.generate())
    keys = [{"scheme": "ed25519", "public_key": client.public_key.hex()}]
    people = [{"id": "alice", "keys": keys, "passkeys": [], "roles": ["ops"]}]
    document = {
        "v": 1,
        "tenant": "acme",
        "version": 1,
        "valid_until": 2**41,
        "records": {"generation": 1, "min_generation": 1},
        "recovery": "none",
        "passkeys": "none",
        "recipients": [],
        "limits": [],
        "principals": people,
        "rules": [],
    }
    payload = json.dumps(document).encode()
    alice = KeySigner(Ed25519PrivateKey.generate())
    bob = KeySigner(ec.generate_private_key(ec.SECP256R1()))
    envelope = add_signature(add_signature(sign_policy(payload, [alice]), bob), bob)
    found, policy, signed = read_policy(envelope)
    assert (found, policy.version, signed) == (payload, 1, [alice.public_key, bob.public_key])
    with pytest.raises(AdytumError) as caught:
        sign_policy(payload.replace(b'"v": 1', b'"v": 2'), [alice])
    assert caught.value.code is Code.POLICY_INVALID
    damaged = envelope.replace(alice.public_key.hex().encode(), bob.public_key.hex().encode())
    assert alice.public_key not in read_policy(damaged)[2]
    assert Scheme.P256 is bob.scheme
