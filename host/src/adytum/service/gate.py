"""The gate: sensitive operations go through only while the enclave has proven itself with a fresh document.

It asks at start, at least every ten minutes, at 80 % of the shortest certificate lifetime, whenever the boot
changes, and soon again after a failure. While a check fails the gate is closed: sensitive operations answer
ATTESTATION_FAILED, reads and audit go on.

Which images it expects may change while it runs (`expect`): a release is added, another is retired. A proof of a
retired image ends at once.

What it protects against is the wrong image, deployed by mistake. The parent is no judge of itself: clients verify the
same documents with the same package.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from adytum.releases.images import Images
from adytum.service.metrics import EnclaveMetrics
from adytum.service.ports import Enclave, NowMs, RandomBytes
from adytum.storage.database import Database
from adytum.storage.reads import StoredAttestation, put_attestation
from adytum_verify import Anchor, AttestationCode, AttestationError, VerifiedEnclave, verify_enclave
from adytum_wire.errors import AdytumError, Code

log = logging.getLogger("adytum.gate")

NONCE_BYTES = 32
RETRY_S = 2.0
_SHARE_OF_CERTIFICATE = 0.8


@dataclass(frozen=True, slots=True)
class Proof:
    """A verified document and when (ms, host clock) it was verified."""

    verified: VerifiedEnclave
    document: bytes
    binding: bytes
    at_ms: int

    @property
    def boot_id(self) -> str:
        return self.verified.binding.boot_id


class _RefusedImageError(Exception):
    """It is what it says, and it is not wanted: a retired release. `reason` is a code."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Gate:
    """Run `watch` as a task; ask `require` before, and `confirm` after, each sensitive operation."""

    def __init__(
        self,
        *,
        enclave: Enclave,
        database: Database,
        images: Images,
        anchors: Sequence[Anchor],
        manifest_hash: bytes | None,
        now_ms: NowMs,
        random_bytes: RandomBytes,
        metrics: EnclaveMetrics,
        interval_s: float = 600,
        timeout_s: float = 5,
    ) -> None:
        self._enclave = enclave
        self._database = database
        self._images = images
        self._anchors = tuple(anchors)
        self._manifest_hash = manifest_hash
        self._now_ms = now_ms
        self._random_bytes = random_bytes
        self._metrics = metrics
        self._interval_s = interval_s
        self._timeout_s = timeout_s
        self._proof: Proof | None = None
        self._unsaved: Proof | None = None
        self._stored = ""
        self._reason = Code.ATTESTATION_FAILED.value
        self._checking = asyncio.Lock()
        self._wake = asyncio.Event()
        self._open = asyncio.Event()

    @property
    def proof(self) -> Proof | None:
        """The proof that holds, None while the gate is closed."""
        proof = self._proof
        if proof is None or self._now_ms() >= proof.at_ms + self._valid_ms(proof):
            return None
        return proof

    @property
    def stored(self) -> str:
        """The boot whose document is in the database, where clients find it for receipts of this boot; "" at first."""
        return self._stored

    @property
    def reason(self) -> str:
        """Why it is closed: the code of the last failure; "" while it is open."""
        return "" if self.proof is not None else self._reason

    def expect(self, images: Images) -> None:
        """From now on these images. A proof that does not fit them ends at once; a closed gate tries again."""
        known, self._images = self._images.is_known, images
        proof = self._proof
        refusal = "" if proof is None else images.refusal(proof.verified.document.pcrs)
        if refusal:
            log.warning("the enclave's proof no longer holds: %s", refusal)
            self.close(refusal)
        elif not known:
            self._wake.set()

    async def opened(self) -> None:
        """Wait until it is open."""
        await self._open.wait()

    def require(self) -> None:
        """Errors: ATTESTATION_FAILED."""
        if self.proof is None:
            raise AdytumError(Code.ATTESTATION_FAILED, retry_after_ms=int(RETRY_S * 1000))

    async def confirm(self, chain: str) -> None:
        """The receipt that came back must be of the boot that was verified. If it is not, verify the enclave anew.

        Errors: ATTESTATION_FAILED. The receipt is durable by then, so a repeat of the request yields the same bytes.
        """
        proof = self._proof
        if proof is not None and proof.boot_id == chain:
            return
        await self.check()
        proof = self._proof
        if proof is None or proof.boot_id != chain:
            raise AdytumError(Code.ATTESTATION_FAILED, retry_after_ms=int(RETRY_S * 1000))

    def close(self, reason: str) -> None:
        """Close the gate until the next check: the enclave is gone, or another has come."""
        self._proof = None
        self._reason = reason
        self._show()
        self._wake.set()

    async def check(self) -> bool:
        """Ask for a document with a fresh nonce and verify it. True when the gate is open afterwards.

        Without expected measurements nothing is allowed, and the gate does not open.
        """
        async with self._checking:
            try:
                self._proof = await self._prove()
            except AttestationError as error:
                self._fail(f"{error.code.value} {error.field}".strip(), error.code.value)
            except AdytumError as error:
                self._fail(error.code.value, error.code.value)
            except _RefusedImageError as error:
                self._fail(error.reason, error.reason)
            else:
                self._reason = ""
                self._unsaved = self._proof
                document = self._proof.verified.document
                self._metrics.attestation("", verified_ms=self._proof.at_ms, expires_ms=document.valid_until_ms)
            self._show()
        await self._save()
        return self._proof is not None

    async def watch(self) -> None:
        """Check for ever. Cancel to stop."""
        while not self._images.is_known:
            self._wake.clear()
            await self._wake.wait()
        while True:
            try:
                await self.check()
            except Exception as error:  # a fault of ours must not leave an old proof standing unwatched
                self._fail(type(error).__name__, Code.INTERNAL.value)
            self._wake.clear()
            try:
                await asyncio.wait_for(self._wake.wait(), self._pause_s())
            except TimeoutError:
                continue
            await asyncio.sleep(0.1)  # closed by somebody: do not spin

    async def _prove(self) -> Proof:
        if not self._images.is_known:  # the database has not said yet which releases are retired
            raise AdytumError(Code.ATTESTATION_FAILED)
        expected = self._images.allowed
        if expected is None:
            raise AttestationError(AttestationCode.POLICY_EMPTY)
        nonce = self._random_bytes(NONCE_BYTES)
        reply = await self._enclave.attest(nonce, timeout_s=self._timeout_s)
        now_ms = self._now_ms()
        verified = verify_enclave(
            reply.document,
            reply.binding,
            expected=expected,
            now_ms=now_ms,
            nonce=nonce,
            anchors=self._anchors,
            manifest_hash=self._manifest_hash,
        )
        refusal = self._images.refusal(verified.document.pcrs)  # what is expected now, not when we asked
        if refusal:
            raise _RefusedImageError(refusal)
        return Proof(verified, reply.document, reply.binding, now_ms)

    def _fail(self, reason: str, code: str) -> None:
        if reason != self._reason:
            log.warning("the enclave did not prove itself: %s", reason)
        self._proof = None
        self._reason = reason
        self._metrics.attestation(code)
        self._show()

    def _show(self) -> None:
        self._metrics.gate(self._proof is not None)
        if self._proof is not None:
            self._open.set()
        else:
            self._open.clear()

    async def _save(self) -> None:
        """Keep the document with its boot, so that exported receipts can be verified. Tried again while it fails."""
        proof = self._unsaved
        if proof is None:
            return
        stored = StoredAttestation(document=proof.document, binding=proof.binding, verified_at=proof.at_ms)
        try:
            await put_attestation(self._database, proof.verified.binding, stored)
        except AdytumError as error:
            log.warning("the attestation document could not be stored: %s", error.code.value)
            return
        self._stored = proof.boot_id
        if self._unsaved is proof:
            self._unsaved = None

    def _valid_ms(self, proof: Proof) -> int:
        """How long a proof stands: the interval and its grace, never past the certificate."""
        left = proof.verified.document.valid_until_ms - proof.at_ms
        return int(min(self._interval_s * 1000 + 2 * self._timeout_s * 1000 + 5_000, left))

    def _pause_s(self) -> float:
        if self._proof is None or self._unsaved is not None:
            return RETRY_S
        left_s = (self._proof.verified.document.valid_until_ms - self._proof.at_ms) / 1000
        return max(RETRY_S, min(self._interval_s, _SHARE_OF_CERTIFICATE * left_s))
