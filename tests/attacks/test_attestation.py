"""An enclave that is not what it should be, and documents that prove something else."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from wallet import Wallet

from adytum_sim.enclave.measure import source_pcrs
from adytum_verify import AllowList, AttestationError, verify_enclave


async def proof(wallet: Wallet, nonce: bytes) -> tuple[bytes, bytes]:
    reply = await wallet.stack.client.attest(nonce)
    return reply.document, reply.binding


def check(wallet: Wallet, document: bytes, binding: bytes, **changes: Any) -> None:
    verify_enclave(
        document,
        binding,
        **{
            "expected": wallet.stack.allow_list,
            "now_ms": wallet.stack.now_ms(),
            "nonce": b"n" * 32,
            "anchors": (wallet.stack.kms.anchor,),
        }
        | changes,
    )


async def assert_refused(wallet: Wallet, document: bytes, binding: bytes, code: str, **changes: Any) -> None:
    with pytest.raises(AttestationError) as caught:
        check(wallet, document, binding, **changes)
    assert caught.value.code.value == code


async def test_another_image_does_not_pass(wallet: Wallet) -> None:
    await wallet.stack.restart_enclave(pcrs=source_pcrs("another image"))
    await wallet.stack.configure()
    document, binding = await proof(wallet, b"n" * 32)
    await assert_refused(wallet, document, binding, "PCR_MISMATCH")


async def test_another_manifest_does_not_pass(wallet: Wallet) -> None:
    await wallet.stack.restart_enclave()
    await wallet.stack.client.configure(wallet.stack.manifest.replace(b'"epoch": 1', b'"epoch": 2'))
    document, binding = await proof(wallet, b"n" * 32)
    await assert_refused(wallet, document, binding, "PCR_MISMATCH")


async def test_a_replayed_document_does_not_pass(wallet: Wallet) -> None:
    document, binding = await proof(wallet, b"o" * 32)
    await assert_refused(wallet, document, binding, "NONCE_MISMATCH")
    document, binding = await proof(wallet, b"n" * 32)
    check(wallet, document, binding)
    late = wallet.stack.now_ms() + 10 * 60_000
    await assert_refused(wallet, document, binding, "TIMESTAMP_OLD", now_ms=late)


async def test_another_binding_does_not_pass(wallet: Wallet) -> None:
    """The host shows a receipt key or an HPKE key of its own beside a genuine document."""
    document, binding = await proof(wallet, b"n" * 32)
    forged = binding.replace(binding[-70:-6], hashlib.sha256(b"host").hexdigest().encode())
    assert forged != binding
    await assert_refused(wallet, document, forged, "USER_DATA_MISMATCH")


async def test_a_document_of_the_stand_in_does_not_pass_under_amazons_root(wallet: Wallet) -> None:
    from adytum_verify import AWS_ANCHOR

    document, binding = await proof(wallet, b"n" * 32)
    with pytest.raises(AttestationError):
        check(wallet, document, binding, anchors=(AWS_ANCHOR,))


async def test_an_empty_allow_list_allows_nothing() -> None:
    with pytest.raises(AttestationError):
        AllowList.parse([])
