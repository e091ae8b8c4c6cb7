"""What decoding content gives, whatever its format."""

from __future__ import annotations

from dataclasses import dataclass

from adytum_policy.facts import ContentFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """`payload`: what the key signs: a 32-byte digest for ECDSA and BIP-340, the message itself for Ed25519.
    `facts`: what rules may look at, None for raw content. `summary`: for people, and for the receipt."""

    payload: bytes
    facts: ContentFacts | None
    summary: dict[str, str]

    def finish(self, signature: bytes) -> dict[str, str]:
        """What a client can use beside the bare signature. Raw content has nothing to add."""
        return {}
