"""One passkey assertion: W3C WebAuthn Level 2, 7.2, with its step numbers. Counters are remembered elsewhere.

The signature (steps 19, 20) comes before the bytes that it covers are read: nothing is parsed before its signature
holds (S-3). Every other error therefore speaks of something that the passkey really signed.

Steps 1 to 4, 8 and 18 are the page's that asked; 14 (token binding) has no counterpart here, for the TLS connection
does not end in the enclave, and Level 3 dropped it.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence

from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from msgspec import Struct

from adytum_policy.approvals.authenticator_data import BE, BS, UP, UV, parse_authenticator_data
from adytum_policy.approvals.client_data import parse_client_data
from adytum_wire.approvals import PasskeyProof
from adytum_wire.errors import AdytumError, Code
from adytum_wire.types import Digest, Scheme, sha256

IsValid = Callable[[Scheme, bytes, bytes, bytes], bool]
CEREMONY = "webauthn.get"


class Sighting(Struct, frozen=True, kw_only=True):
    """A passkey was seen at `counter`. `assertion` says which assertion that was: SHA-256 of what the passkey signed,
    so that another spelling of the signature is no other assertion. `issued_at` (ms): the statement's."""

    credential_id: bytes
    counter: int
    issued_at: int
    assertion: Digest


def verify_assertion(
    proof: PasskeyProof,
    *,
    scheme: Scheme,
    public_key: bytes,
    challenge: bytes,
    rp_id: str,
    origins: Sequence[str],
    is_valid: IsValid,
) -> int:
    """The assertion's counter. `scheme`, `public_key`: of the credential (steps 5 to 7 are the caller's: the policy
    names each credential's owner). `challenge`: the 32 bytes that were to be signed.

    Errors, in this order: APPROVAL_SIGNATURE, APPROVAL_INVALID (client data), APPROVAL_TYPE, APPROVAL_CHALLENGE,
    APPROVAL_ORIGIN, APPROVAL_INVALID (authenticator data), APPROVAL_RP_ID, APPROVAL_FLAGS.
    """
    signed = proof.authenticator_data + sha256(proof.client_data)  # step 19
    if not is_valid(scheme, public_key, signed, _fixed_size(scheme, proof.signature)):  # step 20
        raise AdytumError(Code.APPROVAL_SIGNATURE)
    said = parse_client_data(proof.client_data)  # steps 9, 10
    if said.type != CEREMONY:  # step 11
        raise AdytumError(Code.APPROVAL_TYPE)
    if said.challenge != base64.urlsafe_b64encode(challenge).rstrip(b"=").decode():  # step 12
        raise AdytumError(Code.APPROVAL_CHALLENGE)
    if said.origin not in origins or said.is_framed:  # step 13; frames: Level 3, 7.2
        raise AdytumError(Code.APPROVAL_ORIGIN)
    data = parse_authenticator_data(proof.authenticator_data)
    if data.rp_id_hash != sha256(rp_id.encode()):  # step 15
        raise AdytumError(Code.APPROVAL_RP_ID)
    if data.flags & (UP | UV) != UP | UV:  # steps 16, 17
        raise AdytumError(Code.APPROVAL_FLAGS)
    if data.flags & BS and not data.flags & BE:  # Level 3, 7.2: backed up, but not eligible for it
        raise AdytumError(Code.APPROVAL_FLAGS)
    return data.counter  # step 21 is the memory's


def _fixed_size(scheme: Scheme, signature: bytes) -> bytes:
    """64 bytes as in `Scheme`, from what authenticators write (6.5.6): DER for ECDSA. Errors: APPROVAL_SIGNATURE."""
    if scheme is Scheme.ED25519:
        return signature
    try:
        r, s = decode_dss_signature(signature)
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")
    except (ValueError, OverflowError):
        raise AdytumError(Code.APPROVAL_SIGNATURE) from None
