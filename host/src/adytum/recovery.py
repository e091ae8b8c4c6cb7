"""Opening recovery envelopes offline: without a service, without KMS, without an enclave (docs/how-to/recover.md).

    secret = open_recovery(parse_recovery(data), private_keys)
    is_proven(header, secret)      # does the public key in the header belong to it?

Everything is done with `cryptography`; the secret is ordinary memory of this process. Run it on a machine that you
would let hold the key.
"""

from __future__ import annotations

import hmac
import math
from collections.abc import Mapping, Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from adytum.client import hpke
from adytum_wire.record import Header
from adytum_wire.recovery import RecoveryEnvelope, bound_header, layer_info, subsets
from adytum_wire.types import Algorithm, RecordKind, sha256

_SALT = b"adytum/envelope/v1"
_COMMITMENT, _NONCE = 32, 12
_CURVES: dict[Algorithm, ec.EllipticCurve] = {Algorithm.SECP256K1: ec.SECP256K1(), Algorithm.P256: ec.SECP256R1()}


class RecoveryError(Exception):
    """An envelope that does not open. `str()` says why, in a sentence of ours."""


def holders_of(envelope: RecoveryEnvelope, keys: Sequence[X25519PrivateKey]) -> dict[int, X25519PrivateKey]:
    """Which places in `envelope.keys` these private keys are."""
    places = {public: place for place, public in enumerate(envelope.keys)}
    found: dict[int, X25519PrivateKey] = {}
    for key in keys:
        place = places.get(key.public_key().public_bytes_raw())
        if place is not None:
            found[place] = key
    return found


def open_recovery(envelope: RecoveryEnvelope, keys: Sequence[X25519PrivateKey]) -> bytes:
    """The record's secret. Errors: RecoveryError (too few of these keys are holders', or a layer does not open)."""
    held = holders_of(envelope, keys)
    if len(held) < envelope.threshold:
        raise RecoveryError(f"{len(held)} of the {envelope.threshold} holders' keys that are needed were given")
    chosen = tuple(sorted(held)[: envelope.threshold])
    share = envelope.shares[subsets(len(envelope.keys), envelope.threshold).index(chosen)]
    return unseal(envelope, peel(envelope, chosen, held, share))


def peel(
    envelope: RecoveryEnvelope, chosen: tuple[int, ...], held: Mapping[int, X25519PrivateKey], share: bytes
) -> bytes:
    """Open the layers of a share, outermost first; the recovery key. Errors: RecoveryError."""
    for layer, place in enumerate(chosen):
        key = held.get(place)
        if key is None:
            raise RecoveryError("a holder's key is missing")
        info = layer_info(envelope.header, chosen, layer)
        try:
            share = hpke.unseal(key, share[: hpke.ENC_BYTES], share[hpke.ENC_BYTES :], info=info)
        except ValueError:
            raise RecoveryError("a share does not open: the envelope was changed or is another record's") from None
    return share


def unseal(envelope: RecoveryEnvelope, key: bytes) -> bytes:
    """The secret under the recovery key, by E-3 and E-4 of spec/envelope.md. Errors: RecoveryError."""
    bound = bound_header(envelope.header)
    derived = HKDF(SHA256(), 64, _SALT, sha256(bound)).derive(key)
    commitment, nonce = envelope.sealed[:_COMMITMENT], envelope.sealed[_COMMITMENT : _COMMITMENT + _NONCE]
    try:
        if not hmac.compare_digest(commitment, derived[32:]):
            raise ValueError
        return AESGCM(derived[:32]).decrypt(nonce, envelope.sealed[_COMMITMENT + _NONCE :], bound)
    except (InvalidTag, ValueError):
        raise RecoveryError("the secret does not open: the envelope was changed or is another record's") from None


def is_proven(header: Header, secret: bytes) -> bool | None:
    """True when `secret` is the private key of the header's public key, False when not, None for kinds that have no
    public key: of those an envelope proves only that it opens."""
    if header.kind is not RecordKind.SIGNING_KEY:
        return None
    try:
        return public_key(header.algorithm, secret).hex() == header.public_key
    except ValueError:
        return False


def public_key(algorithm: Algorithm, secret: bytes) -> bytes:
    """As `Algorithm` says. Errors: ValueError for what is no private key."""
    if algorithm is Algorithm.ED25519:
        return Ed25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()
    curve = _CURVES.get(algorithm)
    if curve is None or len(secret) != 32:
        raise ValueError("no private key")
    point = ec.derive_private_key(int.from_bytes(secret, "big"), curve).public_key()
    return point.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)


def describe(envelope: RecoveryEnvelope) -> str:
    """How many of how many, for people."""
    count = len(envelope.keys)
    return f"{envelope.threshold} of {count} ({math.comb(count, envelope.threshold)} sets of holders)"
