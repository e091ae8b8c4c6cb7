"""The canary: proves, again and again, that KMS refuses whom it must refuse.

    1 unattested   Decrypt with the host's credentials and no attestation document: AccessDeniedException
    2 retired      while an enclave of a retired release still answers, it is asked to unseal: KMS_DENIED

Both are asked for the canary secret, a record that protects nothing: should KMS say yes, nothing of value was opened.
`unseal` is never served from a warm key, so the enclave must ask KMS. Only the expected refusals are good. Success is
an alarm; and a canary that could not run is not good either, because nobody knows then.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from adytum.client.signers import Signer
from adytum.releases.images import Images
from adytum.releases.kms_probe import KmsProbe, KmsUnansweredError
from adytum.service.admit import admit, format_stamp
from adytum.service.carry import carry
from adytum.service.gate import NONCE_BYTES
from adytum.service.metrics import Metrics
from adytum.service.ports import Enclave, NowMs, RandomBytes
from adytum.storage.batcher import AuditBatcher
from adytum.storage.lookup import Lookup, Question
from adytum_verify import AllowList, Anchor, AttestationError, verify_enclave
from adytum_wire.errors import AdytumError, Code
from adytum_wire.pae import REQUEST, pae
from adytum_wire.record import Record, encryption_context, parse_header
from adytum_wire.requests import Stamp, Unseal
from adytum_wire.strict_json import encode
from adytum_wire.types import RecordKind

log = logging.getLogger("adytum.canary")

REFUSED: Final = "AccessDeniedException"
RETRY_S: Final = 10.0  # after a round that could not run


class Alert(StrEnum):
    """Stable codes; alerts and logs carry them."""

    NONE = ""
    UNATTESTED_ALLOWED = "CANARY_UNATTESTED_ALLOWED"
    RETIRED_ALLOWED = "CANARY_RETIRED_ALLOWED"
    NOT_RUN = "CANARY_NOT_RUN"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """`unattested`: what KMS said ("" is yes). `retired`: enclave -> what it said ("" is yes). `problem`: why a part
    could not run."""

    alert: Alert
    unattested: str = ""
    retired: Mapping[str, str] = field(default_factory=dict)
    problem: str = ""
    at_ms: int = 0

    @property
    def ok(self) -> bool:
        return self.alert is Alert.NONE

    def as_json(self) -> dict[str, Any]:
        return {
            "ok": self.ok,
            "alert": self.alert.value,
            "unattested": self.unattested,
            "retired": dict(self.retired),
            "problem": self.problem,
            "at": self.at_ms,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """The canary's record, and who may unseal it."""

    tenant: str
    key_id: str
    signer: Signer


class Canary:
    """`secret` and `probe` None: not configured, so never good. `enclaves`: every one that may still answer."""

    def __init__(
        self,
        *,
        secret: Secret | None,
        probe: KmsProbe | None,
        enclaves: Mapping[str, Enclave],
        images: Callable[[], Images],
        lookup: Lookup,
        batcher: AuditBatcher,
        anchors: Sequence[Anchor],
        now_ms: NowMs,
        random_bytes: RandomBytes,
        metrics: Metrics | None = None,
        timeout_s: float = 5,
    ) -> None:
        self._secret = secret
        self._probe = probe
        self._enclaves = dict(enclaves)
        self._images = images
        self._lookup = lookup
        self._batcher = batcher
        self._anchors = tuple(anchors)
        self._now_ms = now_ms
        self._random_bytes = random_bytes
        self._metrics = metrics
        self._timeout_s = timeout_s
        self.last: Verdict | None = None

    async def watch(self, interval_s: float) -> None:
        """Run for ever, every `interval_s` seconds. Cancel to stop."""
        if self._secret is None:
            log.warning("alert=%s problem=NOT_CONFIGURED", Alert.NOT_RUN.value)
            return
        while True:
            verdict = await self.run()
            await asyncio.sleep(min(interval_s, RETRY_S) if verdict.alert is Alert.NOT_RUN else interval_s)

    async def run(self) -> Verdict:
        """One round. Nothing is raised; the metric and the log say the same as the verdict."""
        try:
            verdict = await self._run()
        except AdytumError as error:
            verdict = self._not_run(error.code.value)
        except KmsUnansweredError as error:
            verdict = self._not_run(error.reason)
        except Exception as error:  # a fault of ours is not a good sign either
            verdict = self._not_run(type(error).__name__)
        if self._metrics is not None:
            self._metrics.canary(verdict.ok, now_ms=verdict.at_ms)
        if not verdict.ok:
            log.error("alert=%s problem=%s retired=%s", verdict.alert.value, verdict.problem, dict(verdict.retired))
        elif self.last is None or not self.last.ok:
            log.info("the canary is well")
        self.last = verdict
        return verdict

    def _not_run(self, problem: str) -> Verdict:
        return Verdict(alert=Alert.NOT_RUN, problem=problem, at_ms=self._now_ms())

    async def _run(self) -> Verdict:
        if self._secret is None or self._probe is None:
            return self._not_run("NOT_CONFIGURED")
        if not self._images().is_known:
            return self._not_run("RELEASES_UNKNOWN")
        record = await self._record(self._secret)
        header = parse_header(record.header)
        unattested = await self._probe.decrypt(
            header.kms_key_arn, record.data_key_ciphertext, encryption_context(header)
        )
        retired = await self._ask_retired(self._secret, record)
        alert, problem = Alert.NONE, ""
        wrong = {said for said in retired.values() if said not in ("", Code.KMS_DENIED.value)}
        if unattested == "":
            alert = Alert.UNATTESTED_ALLOWED
        elif "" in retired.values():
            alert = Alert.RETIRED_ALLOWED
        elif unattested != REFUSED or wrong:
            alert, problem = Alert.NOT_RUN, unattested if unattested != REFUSED else min(wrong)
        return Verdict(alert=alert, unattested=unattested, retired=retired, problem=problem, at_ms=self._now_ms())

    async def _record(self, secret: Secret) -> Record:
        """Errors: NOT_FOUND; RECORD_MISMATCH when it is not a secret of that tenant (a wallet key, say)."""
        record = (await self._lookup.find(Question(secret.tenant, "", secret.key_id))).record
        if record is None:
            raise AdytumError(Code.NOT_FOUND)
        header = parse_header(record.header)
        if (header.tenant, header.key_id, header.kind) != (secret.tenant, secret.key_id, RecordKind.SECRET):
            raise AdytumError(Code.RECORD_MISMATCH)
        return record

    # --- retired enclaves

    async def _ask_retired(self, secret: Secret, record: Record) -> dict[str, str]:
        """What each enclave of a retired release that still answers says to an unseal."""
        images = tuple(release.policy for release in self._images().releases if release.state == "retired")
        if not images:
            return {}
        names = list(self._enclaves)
        found = await asyncio.gather(*(self._is_retired(self._enclaves[name], AllowList(images)) for name in names))
        old = [name for name, retired in zip(names, found, strict=True) if retired]
        said = await asyncio.gather(*(self._unseal(self._enclaves[name], secret, record) for name in old))
        return dict(zip(old, said, strict=True))

    async def _is_retired(self, enclave: Enclave, retired: AllowList) -> bool:
        """By its own attestation document. One that cannot be reached any more, or is another, is not asked further."""
        nonce = self._random_bytes(NONCE_BYTES)
        try:
            reply = await enclave.attest(nonce, timeout_s=self._timeout_s)
            verify_enclave(
                reply.document,
                reply.binding,
                expected=retired,
                now_ms=self._now_ms(),
                nonce=nonce,
                anchors=self._anchors,
            )
        except (AdytumError, AttestationError):
            return False
        return True

    async def _unseal(self, enclave: Enclave, secret: Secret, record: Record) -> str:
        """The code of its refusal, "" when it unsealed. Its receipt is stored as every other."""
        body = Unseal(
            v=1,
            tenant=secret.tenant,
            request_id=f"canary-{self._random_bytes(12).hex()}",
            issued_at=self._now_ms(),
            key_id=secret.key_id,
            recipient=X25519PrivateKey.generate().public_key().public_bytes_raw().hex(),  # nobody keeps the key
        )
        raw = encode(body)
        signer = secret.signer
        stamp = Stamp(signer.scheme, signer.public_key, signer.sign(pae(REQUEST, raw)))
        admitted = admit(raw, format_stamp(stamp), frozenset({"unseal"}))
        try:
            carried = await carry(enclave, admitted, record, timeout_s=self._timeout_s)
        except AdytumError as error:
            return error.code.value
        if carried.outcome is not None:
            await self._batcher.commit(carried.outcome)
        return "" if carried.error is None else carried.error.code.value
