"""KMS as a hostile host can present it: forged, swapped, throttled, gone; and KMS refusing other images."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from wallet import Wallet, refused

from adytum.pipe import Pipe
from adytum_sim.enclave.measure import source_pcrs
from adytum_sim.kms.running import running_kms
from adytum_wire import limits
from adytum_wire.errors import AdytumError, Code
from adytum_wire.messages import Credentials, ExecuteReply, Refusal


async def generate(wallet: Wallet) -> ExecuteReply | Refusal:
    return await wallet.stack.ask(wallet.alice, "generate_key", algorithm="secp256k1", labels=["treasury"])


async def test_a_forged_kms_with_the_hosts_own_certificate_is_refused(wallet: Wallet) -> None:
    """The host pipes the enclave to a KMS of its own, which would choose every data key."""
    before = await wallet.state()
    async with running_kms(pki=wallet.stack.kms.pki) as impostor:
        await wallet.stack.pipe.close()
        (wallet.stack.directory / f"host_{limits.KMS_PORT}.sock").unlink(missing_ok=True)
        async with Pipe(
            wallet.stack.endpoint,
            limits.KMS_PORT,
            wallet.stack.kms.host,
            443,
            allow=frozenset({(wallet.stack.kms.host, 443)}),
            dial_to=("127.0.0.1", impostor.port),
        ):
            refused(await generate(wallet), Code.KMS_ANSWER_INVALID)
            refused(await wallet.sign(), Code.KMS_ANSWER_INVALID)
        assert len(impostor.trail) == 0
    assert await wallet.state() == before


@pytest.mark.parametrize("fault", ["plaintext_beside", "other_key_id", "wrong_recipient", "no_envelope"])
async def test_a_forged_answer_is_refused(wallet: Wallet, fault: str) -> None:
    before = await wallet.state()
    for attempt in (generate, wallet_sign):
        wallet.stack.kms.faults.reset()
        wallet.stack.kms.faults.set(**{fault: 1})
        refused(await attempt(wallet), Code.KMS_ANSWER_INVALID)
    assert await wallet.state() == before
    wallet.stack.kms.faults.reset()
    await wallet.assert_still_signs()


async def wallet_sign(wallet: Wallet) -> ExecuteReply | Refusal:
    return await wallet.sign()


async def test_a_data_key_of_the_attackers_choice_opens_nothing(wallet: Wallet) -> None:
    """Forged for Decrypt it meets the key commitment."""
    wallet.stack.kms.faults.set(forge=1)
    refused(await wallet.sign(), Code.RECORD_TAMPERED)
    assert len(wallet.stack.kms.faults.forged) == 1
    await wallet.assert_still_signs()


async def test_swapped_answers_are_refused(wallet: Wallet) -> None:
    other = await wallet.make()
    wallet.stack.kms.faults.set(swap=1)
    replies = await asyncio.gather(wallet.sign(), wallet.sign(other))
    for reply in replies:
        assert isinstance(reply, Refusal)
        assert reply.code in (Code.RECORD_TAMPERED.value, Code.KMS_ANSWER_INVALID.value)
    wallet.stack.kms.faults.reset()
    await wallet.assert_still_signs()


async def test_kms_gone_refuses_cold_keys_and_leaves_warm_ones(wallet: Wallet) -> None:
    cold = await wallet.make()
    await wallet.assert_still_signs()
    await wallet.stack.pipe.close()
    reply = await wallet.sign(cold)
    assert isinstance(reply, Refusal)
    refused(reply, Code.KMS_UNAVAILABLE)
    await wallet.assert_still_signs()


async def test_a_throttled_kms_is_waited_for_and_then_refused_in_time(wallet: Wallet) -> None:
    wallet.stack.kms.faults.set(throttle=1)
    await wallet.assert_still_signs()
    cold = await wallet.make()
    wallet.stack.kms.faults.set(throttle=1000)
    start = time.monotonic()
    refused(await wallet.sign(cold), Code.KMS_UNAVAILABLE)
    assert time.monotonic() - start < 10
    wallet.stack.kms.faults.reset()


async def test_another_image_is_refused_by_kms(wallet: Wallet) -> None:
    """The host starts an image of its own with the operator's manifest: PCR0 differs, and KMS says no."""
    await wallet.stack.restart_enclave(pcrs=source_pcrs("another image"))
    await wallet.stack.configure()
    await wallet.stack.put_policy(wallet.document)
    refused(await wallet.sign(), Code.KMS_DENIED)
    refused(await generate(wallet), Code.KMS_DENIED)


async def test_another_manifest_is_refused_by_kms(wallet: Wallet) -> None:
    """The host gives the real image a manifest in which it is the only admin: PCR16 differs, and KMS says no."""
    await wallet.stack.restart_enclave()
    text = wallet.stack.manifest.decode()
    for admin in wallet.stack.admins[:1]:
        text = text.replace(admin.public_key.hex(), wallet.mallory.public_key.hex())
    await wallet.stack.client.configure(text.encode(), wallet.stack.credentials)
    await wallet.stack.put_policy(wallet.document, wallet.mallory, *wallet.stack.admins[1:])
    refused(await wallet.sign(), Code.KMS_DENIED)


async def test_an_enclave_in_debug_mode_takes_no_production_manifest(open_short_wallet: Any) -> None:
    wallet = await open_short_wallet()
    zero = {index: bytes(48) for index in range(3)}
    await wallet.stack.restart_enclave(pcrs=zero)
    with pytest.raises(AdytumError) as caught:
        await wallet.stack.configure()
    assert caught.value.code is Code.MANIFEST_INVALID
    assert (await wallet.stack.client.hello()).phase == "awaiting-manifest"


async def test_foreign_credentials_are_refused_by_kms(wallet: Wallet) -> None:
    await wallet.stack.client.set_credentials(Credentials("AKIAATTACKER0000", "x" * 40, "", 0))
    refused(await wallet.sign(), Code.KMS_UNAVAILABLE)  # field `credentials`: new ones may come
    await wallet.stack.client.set_credentials(wallet.stack.credentials)
    await wallet.assert_still_signs()


async def test_a_second_manifest_is_refused(wallet: Wallet) -> None:
    before = await wallet.state()
    with pytest.raises(AdytumError) as caught:
        await wallet.stack.configure()
    assert caught.value.code is Code.PHASE_INVALID
    assert await wallet.state() == before
    await wallet.assert_still_signs()
