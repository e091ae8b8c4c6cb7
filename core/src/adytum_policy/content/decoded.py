"""What decoding content gives, whatever its format."""

from __future__ import annotations

from dataclasses import dataclass

from adytum_policy.facts import ContentFacts
from adytum_wire.errors import AdytumError, Code
from adytum_wire.paths import format_path


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What content says of a key that is derived from a seed: nothing is believed until the seed has said the same.

    `path`: indices from the root. `public_key`: 33 bytes, or 32 (the x coordinate alone). `fingerprint`: of the root,
    4 bytes (BIP-32).
    """

    path: tuple[int, ...]
    public_key: bytes
    fingerprint: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ToSign:
    """One signature to make. `payload`: a 32-byte digest for ECDSA and BIP-340, the message itself for Ed25519.

    `claim`: the key that signs, None for the one that the request names. `tweak`: what BIP-341 adds to its secret
    first, 32 bytes, or b"". `verifies_under`: the public key of the result, b"" for that of the signing key itself.
    """

    payload: bytes
    claim: Claim | None = None
    tweak: bytes = b""
    verifies_under: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """`payload`: what the key signs, when it signs once.
    `facts`: what rules may look at, None for raw content. `summary`: for people, and for the receipt."""

    payload: bytes
    facts: ContentFacts | None
    summary: dict[str, str]

    @property
    def to_sign(self) -> tuple[ToSign, ...]:
        """Every signature that the content asks for, in order. One, for every format but Bitcoin's."""
        return (ToSign(payload=self.payload),)

    @property
    def claims(self) -> tuple[Claim, ...]:
        """What was taken for ours on the content's word: keys of inputs and of change. All must be proven before the
        first signature."""
        return ()

    @property
    def signing_paths(self) -> frozenset[str]:
        """The paths, as in a request, of the derived keys that sign; none where the key that is asked for signs."""
        return frozenset(format_path(one.claim.path) for one in self.to_sign if one.claim is not None)

    @property
    def payloads(self) -> tuple[bytes, ...]:
        return tuple(one.payload for one in self.to_sign)

    def finish_all(self, signatures: tuple[bytes, ...]) -> dict[str, str]:
        """`finish` for as many signatures as there are to make. Errors: INTERNAL for another number."""
        if len(signatures) != 1:
            raise AdytumError(Code.INTERNAL, "signature")
        return self.finish(signatures[0])

    def finish(self, signature: bytes) -> dict[str, str]:
        """What a client can use beside the bare signature. Raw content has nothing to add."""
        return {}
