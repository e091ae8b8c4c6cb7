"""What a host may try with the records that it stores: swap, edit, move, roll back."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from wallet import Wallet, made, refused

from adytum_wire.errors import Code
from adytum_wire.record import Record


def edited(record: Record, **changes: Any) -> Record:
    header = json.loads(record.header) | changes
    return msgspec.structs.replace(record, header=json.dumps(header, separators=(",", ":")).encode())


def flipped(data: bytes, index: int) -> bytes:
    return data[:index] + bytes([data[index] ^ 1]) + data[index + 1 :]


async def test_swapped_rows_are_refused(wallet: Wallet) -> None:
    other = await wallet.make()
    before = await wallet.state()
    refused(await wallet.sign(record=other.record), Code.RECORD_MISMATCH)
    assert await wallet.state() == before
    await wallet.assert_still_signs()


async def test_swapped_ciphertext_is_refused(wallet: Wallet) -> None:
    other = await wallet.make()
    swapped = msgspec.structs.replace(wallet.key.record, ciphertext_blob=other.record.ciphertext_blob)
    before = await wallet.state()
    refused(await wallet.sign(record=swapped), Code.RECORD_TAMPERED)
    assert await wallet.state() == before
    await wallet.assert_still_signs()


async def test_swapped_data_keys_are_refused_by_kms(wallet: Wallet) -> None:
    other = await wallet.make()
    swapped = msgspec.structs.replace(wallet.key.record, data_key_ciphertext=other.record.data_key_ciphertext)
    before = await wallet.state()
    refused(await wallet.sign(record=swapped), Code.RECORD_TAMPERED)
    assert await wallet.state() == before
    await wallet.assert_still_signs()


async def test_ciphertext_and_data_key_swapped_together_are_refused(wallet: Wallet) -> None:
    other = await wallet.make()
    moved = msgspec.structs.replace(other.record, header=wallet.key.record.header)
    refused(await wallet.sign(record=moved), Code.RECORD_TAMPERED)
    await wallet.assert_still_signs()


@pytest.mark.parametrize("part", ["ciphertext_blob", "data_key_ciphertext"])
@pytest.mark.parametrize("where", [0, 40, -1])
async def test_one_flipped_bit_is_refused(wallet: Wallet, part: str, where: int) -> None:
    data = getattr(wallet.key.record, part)
    broken = msgspec.structs.replace(wallet.key.record, **{part: flipped(data, where % len(data))})
    before = await wallet.state()
    refused(await wallet.sign(record=broken), Code.RECORD_TAMPERED)
    assert await wallet.state() == before
    await wallet.assert_still_signs()


async def test_a_truncated_record_is_refused(wallet: Wallet) -> None:
    for length in (0, 31, 44, 59):
        broken = msgspec.structs.replace(wallet.key.record, ciphertext_blob=wallet.key.record.ciphertext_blob[:length])
        refused(await wallet.sign(record=broken), Code.RECORD_INVALID)
    await wallet.assert_still_signs()


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"tenant": "other"}, Code.RECORD_MISMATCH),
        ({"key_id": "key-" + "0" * 32}, Code.RECORD_MISMATCH),
        ({"node_id": "node-2"}, Code.RECORD_MISMATCH),
        ({"kind": "secret"}, Code.RECORD_MISMATCH),
        ({"kms_key_arn": "arn:aws:kms:us-east-1:111122223333:key/attacker"}, Code.RECORD_MISMATCH),
        ({"kms_key_arn": "arn:aws:kms:us-east-1:444455556666:key/attacker"}, Code.RECORD_MISMATCH),
        ({"labels": ["treasury", "hot"]}, Code.RECORD_TAMPERED),
        ({"public_key": "02" + "11" * 32}, Code.RECORD_TAMPERED),
        ({"algorithm": "p256"}, Code.RECORD_TAMPERED),
        ({"version": 2}, Code.RECORD_TAMPERED),
        ({"created_at": 1}, Code.RECORD_TAMPERED),
        ({"extra": 1}, Code.RECORD_INVALID),
    ],
)
async def test_an_edited_header_is_refused(wallet: Wallet, change: dict[str, Any], code: Code) -> None:
    before = await wallet.state()
    refused(await wallet.sign(record=edited(wallet.key.record, **change)), code)
    assert await wallet.state() == before
    await wallet.assert_still_signs()


async def test_a_label_that_the_host_wrote_does_not_open_a_key_of_another_label(wallet: Wallet) -> None:
    """The policy decides on labels; the header that names them is believed only after it has opened."""
    wallet.document["version"] += 1
    wallet.document["rules"][0]["labels"] = ["treasury", "cold"]
    await wallet.stack.put_policy(wallet.document)
    cold = await wallet.make(labels=("cold",))
    wallet.document["version"] += 1
    wallet.document["rules"][0]["labels"] = ["treasury"]
    await wallet.stack.put_policy(wallet.document)
    refused(await wallet.sign(cold), Code.POLICY_DENIED)
    refused(await wallet.sign(cold, record=edited(cold.record, labels=["treasury"])), Code.RECORD_TAMPERED)


async def test_the_same_header_written_differently_is_refused(wallet: Wallet) -> None:
    spaced = msgspec.structs.replace(wallet.key.record, header=wallet.key.record.header.replace(b":", b": ", 1))
    refused(await wallet.sign(record=spaced), Code.RECORD_INVALID)


async def test_an_older_record_is_refused_once_the_newer_has_opened(wallet: Wallet) -> None:
    renewed = made(await wallet.stack.ask(wallet.alice, "reseal", key_id=wallet.key.key_id, record=wallet.key.record))
    await wallet.sign(renewed)
    before = await wallet.state()
    refused(await wallet.sign(record=wallet.key.record), Code.RECORD_ROLLBACK)
    again = await wallet.stack.ask(wallet.alice, "reseal", key_id=wallet.key.key_id, record=wallet.key.record)
    refused(again, Code.RECORD_ROLLBACK)
    assert await wallet.state() == before
    wallet.key = renewed
    await wallet.assert_still_signs()


async def test_a_request_without_its_record_and_one_with_a_record_too_many_are_refused(wallet: Wallet) -> None:
    body = {"key_id": wallet.key.key_id}
    refused(await wallet.stack.ask(wallet.alice, "reseal", **body), Code.RECORD_MISSING)
    extra = await wallet.stack.ask(
        wallet.alice, "generate_key", algorithm="p256", labels=["treasury"], record=wallet.key.record
    )
    refused(extra, Code.RECORD_MISMATCH)
