"""One attestation document for the KMS calls of some seconds: shared, renewed, dropped, never kept after a failure."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from adytum_enclave.core.counters import Counters
from adytum_enclave.core.effects import NewDataKey, OpenDataKey
from adytum_enclave.shell.kms import KmsAnswer
from adytum_enclave.shell.kms_document import Documents
from adytum_enclave.shell.perform import Performer
from adytum_wire.errors import AdytumError, Code

ARN = "arn:aws:kms:us-east-1:111122223333:key/k"


class Maker:
    """Makes documents b"1", b"2", ...; waits for `gate` and fails as told."""

    def __init__(self) -> None:
        self.made = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.fail = False

    async def __call__(self) -> bytes:
        self.made += 1
        number = self.made
        await self.gate.wait()
        if self.fail:
            raise AdytumError(Code.INTERNAL)
        return b"%d" % number


async def test_one_document_serves_until_its_time_is_over() -> None:
    maker, clock = Maker(), [0.0]
    documents = Documents(maker, monotonic=lambda: clock[0], lifetime_s=5)
    assert [await documents.get() for _ in range(3)] == [b"1"] * 3
    clock[0] = 4.999
    assert await documents.get() == b"1"
    clock[0] = 5.0
    assert await documents.get() == b"2"


async def test_callers_that_come_together_share_one_call_and_one_that_leaves_spoils_nothing() -> None:
    maker = Maker()
    maker.gate.clear()
    documents = Documents(maker, monotonic=lambda: 0.0)
    waiting = [asyncio.create_task(documents.get()) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    maker.gate.set()
    assert await asyncio.gather(*waiting[1:]) == [b"1", b"1"]
    assert maker.made == 1


async def test_a_failure_is_told_and_not_kept() -> None:
    maker = Maker()
    maker.fail = True
    documents = Documents(maker, monotonic=lambda: 0.0)
    with pytest.raises(AdytumError):
        await documents.get()
    maker.fail = False
    assert await documents.get() == b"2"


async def test_a_dropped_document_is_not_used_again_and_another_one_is_not_dropped_for_it() -> None:
    documents = Documents(Maker(), monotonic=lambda: 0.0)
    first = await documents.get()
    documents.drop(b"another")
    assert await documents.get() == first
    documents.drop(first)
    second = await documents.get()
    assert second != first
    documents.drop()
    assert await documents.get() not in (first, second)


class Nsm:
    def __init__(self) -> None:
        self.made = 0

    def attest(self, **_fields: Any) -> bytes:
        self.made += 1
        return b"document %d" % self.made


class Kms:
    """Refuses the documents in `refused` as KMS refuses one whose certificate has ended."""

    def __init__(self) -> None:
        self.refused: set[bytes] = set()
        self.code = "ValidationException"
        self.seen: list[bytes] = []

    async def generate_data_key(self, *, attestation_document: bytes, **_fields: Any) -> KmsAnswer:
        self.seen.append(attestation_document)
        if attestation_document in self.refused:
            raise AdytumError(Code.KMS_DENIED, self.code)
        return KmsAnswer(ciphertext_for_recipient=b"cms", ciphertext_blob=b"blob", key_id=ARN)

    decrypt = generate_data_key


@pytest.fixture
def parts() -> Any:
    nsm, kms, counters = Nsm(), Kms(), Counters()
    executor = ThreadPoolExecutor(1)
    performer = Performer(
        nsm=nsm,  # type: ignore[arg-type]
        executor=executor,
        kms=lambda: kms,  # type: ignore[arg-type, return-value]
        recipient_spki=b"spki",
        counters=counters,
        anchor=lambda: None,  # type: ignore[arg-type, return-value]
        monotonic=lambda: 0.0,
    )
    yield performer, nsm, kms, counters
    executor.shutdown()


def effects() -> list[NewDataKey | OpenDataKey]:
    return [
        NewDataKey(key_arn=ARN, context={}),
        OpenDataKey(key_arn=ARN, context={}, ciphertext_blob=b"blob", shared=False),
    ]


async def test_calls_of_one_moment_carry_one_document(parts: Any) -> None:
    performer, nsm, kms, counters = parts
    deadline = asyncio.get_running_loop().time() + 5
    for effect in effects():
        await performer(effect, deadline)
    assert (nsm.made, kms.seen) == (1, [b"document 1"] * 2)
    assert counters.snapshot()["documents"] == 1


async def test_a_document_that_kms_no_longer_takes_is_replaced_once(parts: Any) -> None:
    performer, nsm, kms, _ = parts
    deadline = asyncio.get_running_loop().time() + 5
    await performer(effects()[0], deadline)
    kms.refused = {b"document 1"}
    await performer(effects()[1], deadline)
    assert kms.seen == [b"document 1", b"document 1", b"document 2"]
    kms.refused = {b"document 2", b"document 3"}  # nothing of ours helps: the refusal is passed on, after one more try
    with pytest.raises(AdytumError) as refused:
        await performer(effects()[0], deadline)
    assert refused.value.code is Code.KMS_DENIED
    assert nsm.made == 3


async def test_another_refusal_is_not_repeated(parts: Any) -> None:
    performer, nsm, kms, _ = parts
    kms.refused, kms.code = {b"document 1"}, "AccessDeniedException"
    with pytest.raises(AdytumError):
        await performer(effects()[0], asyncio.get_running_loop().time() + 5)
    assert (nsm.made, len(kms.seen)) == (1, 1)
