"""Content that nobody can understand: a digest or a message. A right of its own, `sign-raw`."""

from __future__ import annotations

from adytum_policy.content.decoded import Decoded
from adytum_wire.errors import AdytumError, Code
from adytum_wire.types import SigningScheme, sha256


def decode_digest(digest: bytes, scheme: SigningScheme) -> Decoded:
    """A 32-byte digest as it is. Errors: CONTENT_INVALID for Ed25519, which signs messages and hashes by itself."""
    if scheme is SigningScheme.ED25519:
        raise AdytumError(Code.CONTENT_INVALID, "$.scheme")
    return Decoded(payload=digest, facts=None, summary={"type": "raw-digest", "digest": digest.hex()})


def decode_message(message: bytes, scheme: SigningScheme) -> Decoded:
    """A message, of any length that the request allows: signed itself by Ed25519, its SHA-256 by the others."""
    digest = sha256(message)
    return Decoded(
        payload=message if scheme is SigningScheme.ED25519 else digest,
        facts=None,
        summary={"type": "raw-message", "length": str(len(message)), "sha256": digest.hex()},
    )
