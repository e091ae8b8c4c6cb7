"""The whole way of a data key against the stand-in KMS, with the stand-in NSM's documents and our own recipient key."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio

from adytum_enclave.core.recipient import RecipientKey
from adytum_enclave.core.secrets import Arena
from adytum_enclave.shell.kms import KmsClient
from adytum_enclave.shell.nsm import Nsm
from adytum_sim.kms import RunningKms, attested_key_policy, running_kms
from adytum_sim.nsm import SimNsm
from adytum_sim.pki import DevPki
from adytum_wire.errors import AdytumError, Code
from adytum_wire.messages import Credentials

NOW_MS = time.time_ns() // 1_000_000  # the stand-in's TLS certificates are of this machine's time, as boto3 needs them
MODULE_ID = "i-0123456789abcdef0-enc0123456789abcdef"
PCRS = {0: b"\x10" * 48, 1: b"\x11" * 48, 2: b"\x12" * 48}
CONTEXT = {"adytum:tenant": "acme", "adytum:key": "key-" + "0" * 32}


@dataclass
class Rig:
    kms: RunningKms
    client: KmsClient
    key_arn: str
    pki: DevPki

    def nsm(self, pcrs: dict[int, bytes] = PCRS) -> Nsm:
        return Nsm(SimNsm(self.pki, module_id=MODULE_ID, pcrs=pcrs, clock_ms=lambda: NOW_MS).request)


@pytest.fixture(scope="module")
def recipient() -> RecipientKey:
    return RecipientKey.generate()


@pytest_asyncio.fixture
async def rig() -> AsyncIterator[Rig]:
    pki = DevPki.create(NOW_MS)
    async with running_kms(pki=pki, now_ms=lambda: NOW_MS) as kms:

        async def dial() -> socket.socket:
            raw = socket.socket()
            raw.setblocking(False)
            await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", kms.port))
            return raw

        client = KmsClient(
            dial=dial,
            host=kms.host,
            region=kms.region,
            roots=[kms.ca_pem.decode()],
            credentials=lambda: Credentials(kms.access_key_id, kms.secret_access_key, kms.session_token, 0),
            now_ms=lambda: NOW_MS,
            jitter=lambda: 0.0,
        )
        policy = attested_key_policy(account=kms.account, role_arn=kms.role_arn, pcrs=PCRS)
        yield Rig(kms=kms, client=client, key_arn=kms.create_key(policy), pki=pki)
        await client.aclose()


async def test_a_data_key_is_made_and_opened_again(rig: Rig, recipient: RecipientKey) -> None:
    arena = Arena(4096)
    document = rig.nsm().attest(public_key=recipient.spki)
    made = await rig.client.generate_data_key(
        key_arn=rig.key_arn, context=CONTEXT, attestation_document=document, timeout_s=10
    )
    opened = await rig.client.decrypt(
        key_arn=rig.key_arn,
        ciphertext_blob=made.ciphertext_blob,
        context=CONTEXT,
        attestation_document=rig.nsm().attest(public_key=recipient.spki),
        timeout_s=10,
    )
    assert made.ciphertext_for_recipient != opened.ciphertext_for_recipient
    with (
        recipient.open(made.ciphertext_for_recipient, arena) as first,
        recipient.open(opened.ciphertext_for_recipient, arena) as second,
    ):
        assert bytes(first.view) == bytes(second.view) != bytes(32)
    assert arena.in_use == 0


async def refused(rig: Rig, code: Code, *, arn: str = "", **change: object) -> None:
    arguments = {
        "key_arn": arn or rig.key_arn,
        "ciphertext_blob": b"x",
        "context": CONTEXT,
        "timeout_s": 10,
        **change,
    }
    with pytest.raises(AdytumError) as caught:
        await rig.client.decrypt(**arguments)  # type: ignore[arg-type]
    assert caught.value.code is code


async def test_kms_refuses_what_was_swapped_or_is_not_attested(rig: Rig, recipient: RecipientKey) -> None:
    document = rig.nsm().attest(public_key=recipient.spki)
    made = await rig.client.generate_data_key(
        key_arn=rig.key_arn, context=CONTEXT, attestation_document=document, timeout_s=10
    )
    blob = made.ciphertext_blob
    moved = {**CONTEXT, "adytum:tenant": "evil"}
    bent = bytearray(blob)
    bent[-1] ^= 1
    await refused(rig, Code.RECORD_TAMPERED, ciphertext_blob=blob, context=moved, attestation_document=document)
    await refused(rig, Code.RECORD_TAMPERED, ciphertext_blob=bytes(bent), attestation_document=document)
    other_image = rig.nsm({**PCRS, 0: os.urandom(48)}).attest(public_key=recipient.spki)
    await refused(rig, Code.KMS_DENIED, ciphertext_blob=blob, attestation_document=other_image)
    other_root = SimNsm(DevPki.create(NOW_MS), module_id=MODULE_ID, pcrs=PCRS, clock_ms=lambda: NOW_MS)
    forged = Nsm(other_root.request).attest(public_key=recipient.spki)
    await refused(rig, Code.KMS_DENIED, ciphertext_blob=blob, attestation_document=forged)
    no_key = rig.nsm().attest()
    await refused(rig, Code.KMS_DENIED, ciphertext_blob=blob, attestation_document=no_key)
    other_arn = rig.kms.create_key(attested_key_policy(account=rig.kms.account, role_arn=rig.kms.role_arn, pcrs=PCRS))
    await refused(rig, Code.RECORD_TAMPERED, arn=other_arn, ciphertext_blob=blob, attestation_document=document)
    unknown = rig.key_arn[:-4] + "0000"
    await refused(rig, Code.KMS_DENIED, arn=unknown, ciphertext_blob=blob, attestation_document=document)


@pytest.mark.parametrize("fault", ["plaintext_beside", "other_key_id", "no_envelope"])
async def test_an_answer_that_kms_would_not_give_is_refused(rig: Rig, recipient: RecipientKey, fault: str) -> None:
    rig.kms.faults.set(**{fault: 1})
    document = rig.nsm().attest(public_key=recipient.spki)
    arguments = {"key_arn": rig.key_arn, "context": CONTEXT, "attestation_document": document, "timeout_s": 10}
    with pytest.raises(AdytumError) as caught:
        await rig.client.generate_data_key(**arguments)  # type: ignore[arg-type]
    assert caught.value.code is Code.KMS_ANSWER_INVALID
    await rig.client.generate_data_key(**arguments)  # type: ignore[arg-type]


async def test_an_answer_for_another_recipient_does_not_open(rig: Rig, recipient: RecipientKey) -> None:
    rig.kms.faults.set(wrong_recipient=1)
    made = await rig.client.generate_data_key(
        key_arn=rig.key_arn,
        context=CONTEXT,
        attestation_document=rig.nsm().attest(public_key=recipient.spki),
        timeout_s=10,
    )
    arena = Arena(4096)
    with pytest.raises(AdytumError) as caught:
        recipient.open(made.ciphertext_for_recipient, arena)
    assert caught.value.code is Code.KMS_ANSWER_INVALID
    assert arena.in_use == 0


@pytest.mark.parametrize("fault", ["throttle", "refuse", "hang_up"])
async def test_passing_trouble_is_ridden_out(rig: Rig, recipient: RecipientKey, fault: str) -> None:
    rig.kms.faults.set(**{fault: 2})
    await rig.client.generate_data_key(
        key_arn=rig.key_arn,
        context=CONTEXT,
        attestation_document=rig.nsm().attest(public_key=recipient.spki),
        timeout_s=10,
    )
