"""Reading the enclave's memory: no copy of a key or data key is left after an operation, nor after a refusal.

A production host cannot read it at all; this proves that a key does not outlive its use, so that a later defect has
less to give away.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

import msgspec
from coincurve import PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from memory import found, require_readable
from outsider import open_record
from wallet import Made, Wallet, ethereum, made, refused

from adytum_wire.errors import Code
from adytum_wire.messages import ExecuteReply


def secrets_of(wallet: Wallet, *records: Made) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for index, item in enumerate(records):
        found[f"data key {index}"], found[f"key {index}"] = open_record(wallet.stack, item.record)
    return found


async def imported(wallet: Wallet, secret: bytes) -> Made:
    return made(
        await wallet.stack.ask(
            wallet.alice,
            "import_key",
            request_id="import-memory-1",
            algorithm="secp256k1",
            labels=["treasury"],
            public_key=PublicKey.from_secret(secret).format().hex(),
            sealed=await wallet.seal("import_key", "import-memory-1", secret),
        )
    )


async def sealed_secret(wallet: Wallet) -> tuple[Made, bytes]:
    """A stored secret, and its 32 bytes."""
    secret = os.urandom(32)
    sealed = await wallet.seal("seal", "seal-memory-1", secret)
    reply = await wallet.stack.ask(wallet.alice, "seal", request_id="seal-memory-1", labels=["treasury"], sealed=sealed)
    return made(reply), secret


async def test_nothing_is_left_after_each_operation_in_strict_mode(open_short_wallet: Any) -> None:
    wallet = await open_short_wallet(bounds={"key_ttl_seconds": 0})
    require_readable(wallet)
    keys = [wallet.key, *[await wallet.make(algorithm) for algorithm in ("ed25519", "p256")]]
    keys.append(await imported(wallet, bytes.fromhex("7d" * 15 + "a1" * 17)))
    secrets = secrets_of(wallet, *keys)
    assert found(wallet, secrets) == []
    raw = {"type": "raw-message", "message": "ab"}
    for key, scheme, content in (
        (keys[0], "ecdsa-secp256k1", ethereum()),
        (keys[0], "bip340", raw),
        (keys[1], "ed25519", raw),
        (keys[2], "ecdsa-p256", raw),
        (keys[3], "ecdsa-secp256k1", ethereum()),
    ):
        reply = await wallet.sign(key, scheme=scheme, content=content)
        assert isinstance(reply, ExecuteReply), reply
        assert found(wallet, secrets) == []
    stored, plaintext = await sealed_secret(wallet)
    secrets |= secrets_of(wallet, stored) | {"secret": plaintext}
    assert found(wallet, secrets) == []
    reply = await wallet.stack.ask(
        wallet.alice,
        "unseal",
        key_id=stored.key_id,
        recipient=X25519PrivateKey.generate().public_key().public_bytes_raw().hex(),
        record=stored.record,
    )
    assert isinstance(reply, ExecuteReply), reply
    assert found(wallet, secrets) == []
    renewed = made(await wallet.stack.ask(wallet.alice, "reseal", key_id=keys[0].key_id, record=keys[0].record))
    assert found(wallet, secrets | secrets_of(wallet, renewed)) == []


async def test_nothing_is_left_after_each_refusal(open_short_wallet: Any) -> None:
    wallet = await open_short_wallet(bounds={"key_ttl_seconds": 0})
    require_readable(wallet)
    other = await wallet.make()
    secrets = secrets_of(wallet, wallet.key, other)
    record = wallet.key.record
    broken = {
        Code.RECORD_TAMPERED: msgspec.structs.replace(record, ciphertext_blob=other.record.ciphertext_blob),
        Code.RECORD_MISMATCH: other.record,
        Code.RECORD_INVALID: msgspec.structs.replace(record, ciphertext_blob=b""),
    }
    for code, bad in broken.items():
        refused(await wallet.sign(record=bad), code)
        assert found(wallet, secrets) == [], code
    refused(await wallet.sign(scheme="ed25519", content={"type": "raw-message", "message": "00"}), Code.REQUEST_INVALID)
    assert found(wallet, secrets) == []
    for fault, code in (("throttle", Code.KMS_UNAVAILABLE), ("wrong_recipient", Code.KMS_ANSWER_INVALID)):
        wallet.stack.kms.faults.set(**{fault: 100})
        refused(await wallet.sign(), code)
        refused(await wallet.stack.ask(wallet.alice, "reseal", key_id=wallet.key.key_id, record=record), code)
        wallet.stack.kms.faults.reset()
        assert found(wallet, secrets) == [], code


async def test_a_warm_key_is_in_the_arena_only_and_leaves_it(open_short_wallet: Any) -> None:
    wallet = await open_short_wallet(bounds={"key_ttl_seconds": 3})
    require_readable(wallet)
    await wallet.assert_still_signs()
    assert (await wallet.stack.client.health()).warm_keys == 1
    secrets = secrets_of(wallet, wallet.key)
    hits = found(wallet, secrets)
    # memfd_secret hides the arena even from root; a locked mapping shows the key once, in its native forms.
    assert {hit.name.split("/")[0] for hit in hits} <= {"key 0"}
    assert len({hit.address // 4096 for hit in hits}) <= 1
    await asyncio.sleep(5)
    assert (await wallet.stack.client.health()).warm_keys == 0
    assert found(wallet, secrets) == []


async def test_the_scan_finds_what_is_there(wallet: Wallet) -> None:
    """The check can fail: a public value that must lie in the enclave's memory is found."""
    require_readable(wallet)
    assert found(wallet, {"public": wallet.key.key_id.encode()[:32]}) != []
