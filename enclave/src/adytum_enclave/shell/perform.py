"""Performs the core's effects: the NSM on one thread, KMS over its own TLS, one call for equal ones in flight."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor

from adytum_enclave.core.counters import Counters
from adytum_enclave.core.effects import (
    Answer,
    DataKeyAnswer,
    Effect,
    GetDocument,
    InTurn,
    Measure,
    NewDataKey,
    OpenDataKey,
    ReadAnchor,
    ReadPcr,
    Stretch,
    Together,
    WriteAnchor,
)
from adytum_enclave.shell.anchor import Anchor
from adytum_enclave.shell.kms import KmsAnswer, KmsClient
from adytum_enclave.shell.kms_document import Documents
from adytum_enclave.shell.nsm import Nsm
from adytum_enclave.shell.together import Runs
from adytum_enclave.shell.turns import Turns
from adytum_wire.errors import AdytumError, Code

MANIFEST_PCR = 16
MAX_PCRS = 32


class Performer:
    """`kms`: the client, once there is a manifest. `recipient_spki`: our RSA key, DER, for KMS to answer to.
    `executor`: one thread, since the NSM driver serialises its calls anyway. `anchor`: a tenant's, where the manifest
    names one."""

    def __init__(
        self,
        *,
        nsm: Nsm,
        executor: Executor,
        kms: Callable[[], KmsClient],
        recipient_spki: bytes,
        counters: Counters,
        anchor: Callable[[str], Anchor],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._nsm = nsm
        self._executor = executor
        self._kms = kms
        self._spki = recipient_spki
        self._counters = counters
        self._monotonic = monotonic
        self._documents = Documents(self._document, monotonic=monotonic)
        self._shared: dict[tuple[str, bytes], asyncio.Task[DataKeyAnswer]] = {}
        self._stretching = asyncio.Lock()
        self._anchor = anchor
        self._runs = Runs(self)
        self._turns = Turns(self)

    async def __call__(self, effect: Effect, deadline: float) -> Answer:
        """Carry out `effect` before `deadline` (loop time). Errors: `AdytumError`."""
        match effect:
            case ReadPcr():
                return await self._on_thread(lambda: self._nsm.describe_pcr(effect.index).data)
            case Measure():
                self._documents.drop()  # it no longer says what is measured
                return await self._on_thread(lambda: self._measure(effect.data))
            case GetDocument():
                return await self._on_thread(
                    lambda: self._nsm.attest(
                        nonce=effect.nonce, user_data=effect.user_data, public_key=effect.public_key
                    )
                )
            case ReadAnchor():
                self._counters.add("anchor_reads")
                return await self._anchor(effect.tenant).read(effect.tenant, timeout_s=_left(deadline))
            case WriteAnchor():
                self._counters.add("anchor_writes")
                return await self._anchor(effect.tenant).write(
                    effect.tenant, effect.expected, effect.anchored, timeout_s=_left(deadline)
                )
            case Together():
                await self._runs.join(effect, deadline)
                return None
            case InTurn():
                await self._turns.run(effect, deadline)
                return None
            case Stretch():
                return await self._stretch(effect, deadline)
            case NewDataKey():
                return await self._new_data_key(effect, deadline)
            case OpenDataKey():
                return (
                    await self._open_shared(effect, deadline) if effect.shared else await self._open(effect, deadline)
                )

    async def _on_thread(self, call: Callable[[], bytes]) -> bytes:
        return await asyncio.get_running_loop().run_in_executor(self._executor, call)

    async def _stretch(self, effect: Stretch, deadline: float) -> bytes:
        """One at a time: each may take `limits.MAX_SCRYPT_MEMORY`."""
        async with self._stretching:
            _left(deadline)
            await asyncio.to_thread(effect.work)
        return b""

    def _measure(self, data: bytes) -> bytes:
        pcr16 = self._nsm.extend_pcr(MANIFEST_PCR, data)
        self._nsm.lock_pcrs(MAX_PCRS)
        return pcr16

    async def _document(self) -> bytes:
        self._counters.add("documents")
        return await self._on_thread(lambda: self._nsm.attest(nonce=None, user_data=None, public_key=self._spki))

    async def _ask(self, call: Callable[[bytes], Awaitable[KmsAnswer]]) -> DataKeyAnswer:
        """`call` with a document; once more with a new one when KMS will not have a document that is not new."""
        begun = self._monotonic()
        document = await self._documents.get()
        self._counters.add("kms_calls")
        try:
            answer = await call(document)
        except AdytumError as error:
            if (error.code, error.field) != (Code.KMS_DENIED, "ValidationException"):
                raise
            self._documents.drop(document)
            renewed = await self._documents.get()
            if renewed == document:
                raise
            self._counters.add("kms_calls")
            answer = await call(renewed)
        finally:
            self._counters.add("kms_us", int((self._monotonic() - begun) * 1e6))
        return DataKeyAnswer(
            ciphertext_for_recipient=answer.ciphertext_for_recipient, ciphertext_blob=answer.ciphertext_blob
        )

    async def _new_data_key(self, effect: NewDataKey, deadline: float) -> DataKeyAnswer:
        return await self._ask(
            lambda document: self._kms().generate_data_key(
                key_arn=effect.key_arn,
                context=effect.context,
                attestation_document=document,
                timeout_s=_left(deadline),
            )
        )

    async def _open(self, effect: OpenDataKey, deadline: float) -> DataKeyAnswer:
        return await self._ask(
            lambda document: self._kms().decrypt(
                key_arn=effect.key_arn,
                ciphertext_blob=effect.ciphertext_blob,
                context=effect.context,
                attestation_document=document,
                timeout_s=_left(deadline),
            )
        )

    async def _open_shared(self, effect: OpenDataKey, deadline: float) -> DataKeyAnswer:
        # The context is a function of the record that the blob belongs to, but a hostile host chooses both:
        # only calls that are equal in everything KMS looks at may share an answer.
        same = (
            effect.key_arn + "\0" + "\0".join(f"{k}={v}" for k, v in effect.context.items()),
            effect.ciphertext_blob,
        )
        task = self._shared.get(same)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._open(effect, deadline))
            self._shared[same] = task
            task.add_done_callback(lambda _done: self._shared.pop(same, None))
        try:
            async with asyncio.timeout_at(deadline):
                return await asyncio.shield(task)
        except TimeoutError:
            raise AdytumError(Code.DEADLINE_EXCEEDED) from None


def _left(deadline: float) -> float:
    left = deadline - asyncio.get_running_loop().time()
    if left <= 0:
        raise AdytumError(Code.DEADLINE_EXCEEDED)
    return left
