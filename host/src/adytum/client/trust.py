"""Which enclaves are believed, and why: attestation documents, verified here with the caller's own expectations.

The enclave that serves now is verified with a fresh nonce. An answer that was stored under an earlier boot (a repeated
request) is checked with that boot's document, at its own time; the service keeps it, and nobody needs to believe the
service for that: the document is signed by AWS and names an image that the caller allows.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence

import msgspec

from adytum.client.errors import RefusedError, UntrustedError
from adytum.client.steps import Call, Retries, Steps, fetch
from adytum_verify import (
    AllowList,
    Anchor,
    AttestationError,
    PcrPolicy,
    VerifiedEnclave,
    verify_archived_enclave,
    verify_enclave,
)
from adytum_wire.errors import AdytumError, Code

_MAX_REMEMBERED = 64


class _Attestation(msgspec.Struct):
    document: str
    binding: str


class Trust:
    """`expected`: images that are allowed. `manifest_hash` (32 bytes): where given, only that configuration is."""

    def __init__(
        self,
        *,
        expected: AllowList | PcrPolicy,
        anchors: Sequence[Anchor],
        manifest_hash: bytes | None,
        now_ms: Callable[[], int],
        random_bytes: Callable[[int], bytes],
        retries: Retries,
    ) -> None:
        self._expected = expected
        self._anchors = tuple(anchors)
        self._manifest_hash = manifest_hash
        self._now_ms = now_ms
        self._random_bytes = random_bytes
        self._retries = retries
        self._current: VerifiedEnclave | None = None
        self._known: dict[str, bytes] = {}  # boot id -> receipt key

    def attest(self) -> Steps[VerifiedEnclave]:
        """Verify the enclave that serves now. Errors: UntrustedError; what was believed before stays as it was."""
        nonce = self._random_bytes(32)
        document, binding = yield from self._fetch(f"/v1/attestation?nonce={nonce.hex()}")
        try:
            verified = verify_enclave(
                document,
                binding,
                expected=self._expected,
                now_ms=self._now_ms(),
                nonce=nonce,
                anchors=self._anchors,
                manifest_hash=self._manifest_hash,
            )
        except AttestationError as error:
            raise _untrusted(error) from error
        self._current = verified
        self._remember(verified)
        return verified

    def current(self) -> Steps[VerifiedEnclave]:
        """The enclave that was verified last, verified anew once its certificate has ended."""
        found = self._current
        if found is None or self._now_ms() >= found.document.valid_until_ms:
            found = yield from self.attest()
        return found

    def receipt_key(self, chain: str) -> Steps[bytes]:
        """The key (32 bytes) that signs the receipts of `chain`. Errors: UntrustedError when no allowed image has
        it."""
        if chain not in self._known:
            yield from self.attest()
        if chain not in self._known:
            yield from self._archived(chain)
        return self._known[chain]

    def _archived(self, chain: str) -> Steps[None]:
        try:
            document, binding = yield from self._fetch(f"/v1/chains/{chain}")
            verified = verify_archived_enclave(
                document,
                binding,
                expected=self._expected,
                anchors=self._anchors,
                manifest_hash=self._manifest_hash,
            )
        except AttestationError as error:
            raise _untrusted(error) from error
        except RefusedError as error:
            raise UntrustedError(Code.RECEIPT_INVALID, "$.chain (unknown)") from error
        if verified.binding.boot_id != chain:
            raise UntrustedError(Code.RECEIPT_INVALID, "$.chain")
        self._remember(verified)

    def _remember(self, verified: VerifiedEnclave) -> None:
        if len(self._known) >= _MAX_REMEMBERED:
            self._known.pop(next(iter(self._known)))
        self._known[verified.binding.boot_id] = bytes.fromhex(verified.binding.receipt_key)

    def _fetch(self, path: str) -> Steps[tuple[bytes, bytes]]:
        found = yield from fetch(Call(method="GET", path=path), self._retries, _Attestation)
        try:
            return base64.b64decode(found.document, validate=True), base64.b64decode(found.binding, validate=True)
        except ValueError:
            raise UntrustedError(Code.ATTESTATION_FAILED, "base64") from None


def _untrusted(error: AttestationError) -> AdytumError:
    return UntrustedError(Code.ATTESTATION_FAILED, f"{error.code.value} {error.field}".strip())
