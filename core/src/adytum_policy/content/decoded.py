"""What decoding content gives, whatever its format."""

from __future__ import annotations

from dataclasses import dataclass

from adytum_policy.facts import ContentFacts
from adytum_wire.errors import AdytumError, Code


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """`payload`: what the key signs: a 32-byte digest for ECDSA and BIP-340, the message itself for Ed25519.
    `facts`: what rules may look at, None for raw content. `summary`: for people, and for the receipt."""

    payload: bytes
    facts: ContentFacts | None
    summary: dict[str, str]

    @property
    def payloads(self) -> tuple[bytes, ...]:
        """All that the key signs, in order. One, for every format but Bitcoin's."""
        return (self.payload,)

    @property
    def tweak(self) -> bytes | None:
        """What BIP-341 adds to the private key before it signs, 32 bytes; None for the key as it is."""
        return None

    @property
    def verifying_key(self) -> bytes | None:
        """The public key that the signatures verify under, 33 bytes; None for the record's own."""
        return None

    def finish_all(self, signatures: tuple[bytes, ...]) -> dict[str, str]:
        """`finish` for as many signatures as there are payloads. Errors: INTERNAL for another number."""
        if len(signatures) != 1:
            raise AdytumError(Code.INTERNAL, "signature")
        return self.finish(signatures[0])

    def finish(self, signature: bytes) -> dict[str, str]:
        """What a client can use beside the bare signature. Raw content has nothing to add."""
        return {}
