"""One key, one signature, end to end, judged by libraries that we did not write."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from coincurve import PublicKey, PublicKeyXOnly
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from eth_account import Account
from eth_account.typed_transactions import TypedTransaction
from hexbytes import HexBytes
from wallet import SUITE, TO, TRANSFER, VALUE, Wallet, made

from adytum_verify import verify_chain, verify_receipt
from adytum_wire import requests, results
from adytum_wire.messages import ExecuteReply
from adytum_wire.types import RecordKind, Scheme, sha256


def result_of(reply: Any) -> Any:
    assert isinstance(reply, ExecuteReply), reply
    return results.parse_result(reply.result)


async def test_an_eip1559_transfer_is_signed_as_eth_account_expects(wallet: Wallet) -> None:
    result = result_of(await wallet.sign())
    raw = result.encoded["raw_transaction"]
    assert Account.recover_transaction(raw) == wallet.key.address
    decoded = TypedTransaction.from_bytes(HexBytes(raw)).as_dict()
    assert (decoded["chainId"], decoded["nonce"], decoded["value"]) == (1, TRANSFER["nonce"], VALUE)
    assert decoded["to"] == bytes.fromhex(TO[2:])


@pytest.mark.parametrize("scheme", list(Scheme))
async def test_clients_stamp_with_every_scheme(open_short_wallet: Any, scheme: Scheme) -> None:
    wallet = await open_short_wallet(client=scheme)
    await wallet.assert_still_signs()


async def test_every_algorithm_signs_and_other_libraries_verify(wallet: Wallet) -> None:
    message = b"adytum".ljust(32, b".")
    raw = {"content": {"type": "raw-message", "message": message.hex()}}
    digest = {"content": {"type": "raw-digest", "digest": message.hex()}}

    async def sign(algorithm: str, scheme: str, content: dict[str, Any]) -> tuple[bytes, bytes]:
        key = await wallet.make(algorithm)
        result = result_of(await wallet.sign(key, scheme=scheme, **content))
        assert result.public_key == key.public_key
        return bytes.fromhex(key.public_key), bytes.fromhex(result.signature)

    public, signature = await sign("secp256k1", "ecdsa-secp256k1", digest)
    assert PublicKey.from_signature_and_message(signature, message, hasher=None).format() == public
    public, signature = await sign("secp256k1", "bip340", digest)
    assert PublicKeyXOnly(public[1:]).verify(signature, message)
    public, signature = await sign("ed25519", "ed25519", raw)
    Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    public, signature = await sign("p256", "ecdsa-p256", raw)
    point = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), public)
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:64], "big")
    point.verify(encode_dss_signature(r, s), message, ec.ECDSA(hashes.SHA256()))


async def test_an_imported_key_signs_as_the_original(wallet: Wallet) -> None:
    original = Account.create()
    public = PublicKey.from_secret(bytes(original.key)).format().hex()
    sealed = await wallet.seal("import_key", "import-0001", bytes(original.key))
    reply = await wallet.stack.ask(
        wallet.alice,
        "import_key",
        request_id="import-0001",
        algorithm="secp256k1",
        labels=["treasury"],
        public_key=public,
        sealed=sealed,
    )
    key = made(reply)
    assert key.address == original.address
    signed = result_of(await wallet.sign(key)).encoded["raw_transaction"]
    assert signed == original.sign_transaction(TRANSFER).raw_transaction.to_0x_hex()  # RFC 6979: the same bytes


async def test_a_sealed_secret_comes_back_to_the_named_recipient_only(wallet: Wallet) -> None:
    secret, recipient = b"correct horse battery staple", X25519PrivateKey.generate()
    reply = await wallet.stack.ask(
        wallet.alice,
        "seal",
        request_id="seal-00001",
        labels=["treasury"],
        sealed=await wallet.seal("seal", "seal-00001", secret),
    )
    key = made(reply)
    assert secret not in key.record.ciphertext_blob
    answer = result_of(
        await wallet.stack.ask(
            wallet.alice,
            "unseal",
            request_id="unseal-001",
            key_id=key.key_id,
            recipient=recipient.public_key().public_bytes_raw().hex(),
            record=key.record,
        )
    )
    blob = bytes.fromhex(answer.enc + answer.ciphertext)
    info = requests.unseal_info("unseal", "acme", "unseal-001", key.key_id, RecordKind.SECRET)
    assert SUITE.decrypt(blob, recipient, info) == secret
    with pytest.raises(InvalidTag):
        SUITE.decrypt(blob, X25519PrivateKey.generate(), info)
    with pytest.raises(InvalidTag):
        SUITE.decrypt(blob, recipient, info.replace(b"unseal-001", b"unseal-002"))


async def test_reseal_keeps_the_key_and_changes_everything_else(wallet: Wallet) -> None:
    reply = await wallet.stack.ask(wallet.alice, "reseal", key_id=wallet.key.key_id, record=wallet.key.record)
    renewed = made(reply)
    old, new = json.loads(wallet.key.record.header), json.loads(renewed.record.header)
    assert new["version"] == old["version"] + 1
    assert {k: old[k] for k in old.keys() - {"version", "created_at"}} == {
        k: new[k] for k in new.keys() - {"version", "created_at"}
    }
    assert renewed.record.data_key_ciphertext != wallet.key.record.data_key_ciphertext
    first = result_of(await wallet.sign())
    second = result_of(await wallet.sign(renewed))
    assert first.signature == second.signature


async def test_a_warm_key_needs_no_kms_and_strict_mode_asks_every_time(open_short_wallet: Any) -> None:
    async def calls(wallet: Wallet) -> list[int]:
        seen = []
        for _ in range(3):
            await wallet.assert_still_signs()
            seen.append((await wallet.stack.client.health()).counters["kms_calls"])
        return seen

    warm = await open_short_wallet()
    assert await calls(warm) == [2, 2, 2]  # one to make the key, one to open it
    assert (await warm.stack.client.health()).warm_keys == 1
    strict = await open_short_wallet(bounds={"key_ttl_seconds": 0})
    assert await calls(strict) == [2, 3, 4]
    assert (await strict.stack.client.health()).warm_keys == 0


async def test_many_cold_requests_on_one_key_make_one_kms_call(wallet: Wallet) -> None:
    wallet.stack.kms.faults.set(delay_ms=300)
    replies = await asyncio.gather(*(wallet.sign() for _ in range(200)))
    assert all(isinstance(reply, ExecuteReply) for reply in replies)
    assert len({result_of(reply).signature for reply in replies}) == 1
    assert (await wallet.stack.client.health()).counters["kms_calls"] == 2


async def test_receipts_verify_alone_and_as_a_chain(wallet: Wallet) -> None:
    key = bytes.fromhex((await wallet.binding()).receipt_key)
    replies = [await wallet.sign() for _ in range(3)]
    replies.append(await wallet.stack.ask(wallet.mallory, "generate_key", algorithm="p256", labels=["treasury"]))
    for reply in replies:
        receipt = verify_receipt(reply.receipt, receipt_key=key).receipt
        if isinstance(reply, ExecuteReply):
            assert receipt.result_digest == sha256(reply.result).hex()
            assert receipt.summary["chain_id"] == "1"
    # the chain begins with the key that the fixture made, so it is not verified from its first receipt here
    assert [verify_receipt(r.receipt).receipt.sequence for r in replies] == [2, 3, 4, 5]
    report = verify_chain([r.receipt for r in replies], receipt_key=key, from_sequence=2)
    assert report is not None
