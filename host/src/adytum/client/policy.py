"""Build and sign a policy: a DSSE envelope whose payload is the policy's JSON bytes, signed by the tenant's admins.

The payload is never encoded again: each admin signs the same bytes, adds a signature to the envelope, and passes it on.

    envelope = sign_policy(Path("policy.json").read_bytes(), [alice, bob])
    envelope = add_signature(envelope, carol)
"""

from __future__ import annotations

from collections.abc import Sequence

from adytum.client.signers import Signer
from adytum_policy.document import Policy, parse_policy
from adytum_wire import dsse, limits, signatures
from adytum_wire.errors import AdytumError, Code
from adytum_wire.pae import POLICY, pae
from adytum_wire.types import Scheme

MAX_ENVELOPE = 2 * limits.MAX_POLICY


def sign_policy(payload: bytes, signers: Sequence[Signer]) -> bytes:
    """The envelope of `payload` with one signature of each signer. Errors: POLICY_INVALID for an invalid policy."""
    parse_policy(payload)
    return dsse.build(POLICY, payload, [(s.public_key, s.sign(pae(POLICY, payload))) for s in signers])


def add_signature(envelope: bytes, signer: Signer) -> bytes:
    """`envelope` with the signer's signature beside those it has. A second one by the same key replaces the first.

    Errors: POLICY_INVALID.
    """
    payload, found = _parse(envelope)
    parse_policy(payload)
    others = [(key, signature) for key, signature in found if key != signer.public_key]
    return dsse.build(POLICY, payload, [*others, (signer.public_key, signer.sign(pae(POLICY, payload)))])


def read_policy(envelope: bytes) -> tuple[bytes, Policy, list[bytes]]:
    """(payload, policy, public keys whose signature verifies under some scheme). Says nothing of who they are: the
    manifest does. Errors: POLICY_INVALID."""
    payload, found = _parse(envelope)
    message = pae(POLICY, payload)
    verified = [
        key
        for key, signature in found
        if any(signatures.is_valid(scheme, key, message, signature) for scheme in Scheme)
    ]
    return payload, parse_policy(payload), verified


def _parse(envelope: bytes) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    if len(envelope) > MAX_ENVELOPE:
        raise AdytumError(Code.POLICY_INVALID, "$ (too large)")
    return dsse.parse(envelope, POLICY, limit=MAX_ENVELOPE, code=Code.POLICY_INVALID)
