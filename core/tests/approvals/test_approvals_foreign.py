"""Passkeys against libraries that we did not write: py_webauthn and python-fido2 verify what our stand-in makes, and we
verify what python-fido2's constructors make. Otherwise two halves of ours would only agree with each other."""

from __future__ import annotations

import os
import struct
from typing import Any

import pytest
from approval_cases import NOW, ORIGIN, RP_ID, Case, new_case, statement
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from adytum_sim.passkeys import BE, BS, ED, UP, UV, Passkey
from adytum_wire.approvals import Approval, PasskeyProof
from adytum_wire.pae import APPROVAL, pae
from adytum_wire.types import Scheme, sha256


def library(name: str) -> Any:
    """The module; in CI it must be there."""
    return __import__(name, fromlist=["_"]) if os.environ.get("CI") else pytest.importorskip(name)


def public(passkey: Passkey) -> Any:
    if passkey.scheme is Scheme.ED25519:
        return Ed25519PublicKey.from_public_bytes(passkey.public_key)
    return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), passkey.public_key)


def cose(passkey: Passkey) -> Any:
    module = library("fido2.cose")
    kind = module.EdDSA if passkey.scheme is Scheme.ED25519 else module.ES256
    return kind.from_cryptography_key(public(passkey))


VARIANTS: list[dict[str, Any]] = [
    {},
    {"members": {"other_keys_can_be_added_here": "x"}},
    {"flags": UP | UV | BE | BS, "counter": 0},
    {"flags": UP | UV | ED, "extensions": b"\xa1\x61a\xf5"},
]


@pytest.mark.parametrize("scheme", [Scheme.P256, Scheme.ED25519])
@pytest.mark.parametrize("changes", VARIANTS)
def test_py_webauthn_accepts_our_assertions(scheme: Scheme, changes: dict[str, Any]) -> None:
    webauthn, helpers = library("webauthn"), library("webauthn.helpers")
    cbor = library("fido2.cbor")
    passkey, text = Passkey.new(RP_ID, scheme=scheme), statement()
    proof = passkey.assertion(text, **changes)
    verified = webauthn.verify_authentication_response(
        credential={
            "id": helpers.bytes_to_base64url(proof.credential_id),
            "rawId": helpers.bytes_to_base64url(proof.credential_id),
            "type": "public-key",
            "clientExtensionResults": {},
            "response": {
                "authenticatorData": helpers.bytes_to_base64url(proof.authenticator_data),
                "clientDataJSON": helpers.bytes_to_base64url(proof.client_data),
                "signature": helpers.bytes_to_base64url(proof.signature),
            },
        },
        expected_challenge=sha256(pae(APPROVAL, text)),
        expected_rp_id=RP_ID,
        expected_origin=ORIGIN,
        credential_public_key=cbor.encode(dict(cose(passkey))),
        credential_current_sign_count=0,
        require_user_verification=True,
    )
    assert verified.new_sign_count == changes.get("counter", 1)
    assert verified.user_verified


@pytest.mark.parametrize("scheme", [Scheme.P256, Scheme.ED25519])
@pytest.mark.parametrize("changes", VARIANTS)
def test_python_fido2_reads_and_verifies_our_assertions(scheme: Scheme, changes: dict[str, Any]) -> None:
    webauthn = library("fido2.webauthn")
    passkey, text = Passkey.new(RP_ID, scheme=scheme), statement()
    proof = passkey.assertion(text, **changes)
    client, data = webauthn.CollectedClientData(proof.client_data), webauthn.AuthenticatorData(proof.authenticator_data)
    assert (client.type, client.origin, client.cross_origin) == ("webauthn.get", ORIGIN, False)
    assert client.challenge == sha256(pae(APPROVAL, text))
    assert data.rp_id_hash == sha256(RP_ID.encode())
    assert data.is_user_present()
    assert data.is_user_verified()
    cose(passkey).verify(proof.authenticator_data + client.hash, proof.signature)


def foreign(case: Case, text: bytes, *, counter: int, flags: int, extensions: Any = None) -> Approval:
    """An approval whose bytes python-fido2 made; only the private key is ours."""
    webauthn = library("fido2.webauthn")
    client = webauthn.CollectedClientData.create(
        type="webauthn.get", challenge=sha256(pae(APPROVAL, text)), origin=ORIGIN
    )
    data = webauthn.AuthenticatorData.create(sha256(RP_ID.encode()), flags, counter, b"", extensions)
    key = case.es256._key
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    proof = PasskeyProof(
        credential_id=case.es256.credential_id,
        authenticator_data=bytes(data),
        client_data=bytes(client),
        signature=key.sign(bytes(data) + client.hash, ec.ECDSA(hashes.SHA256())),
    )
    return Approval(statement=text, proof=proof)


@pytest.mark.parametrize("extensions", [None, {"hmac-secret": bytes(32)}, {"a": {"b": [1, -2, True, "x"]}}])
def test_we_accept_assertions_that_python_fido2_makes(extensions: Any) -> None:
    case = new_case()
    flags = UP | UV | (ED if extensions else 0)
    verified = case.verify(foreign(case, statement(), counter=77, flags=flags, extensions=extensions))
    assert verified.vote.principal_id == "alice"
    assert verified.sighting is not None
    assert (verified.sighting.counter, verified.sighting.issued_at) == (77, NOW - 1000)


def test_the_counter_is_big_endian() -> None:
    case = new_case()
    approval = case.es256.approval(statement(), counter=0x01020304)
    assert isinstance(approval.proof, PasskeyProof)
    assert struct.unpack(">I", approval.proof.authenticator_data[33:37]) == (0x01020304,)
    verified = case.verify(approval)
    assert verified.sighting is not None
    assert verified.sighting.counter == 0x01020304
