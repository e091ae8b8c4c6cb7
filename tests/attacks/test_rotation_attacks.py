"""What a host may try around a rotation: use what was rotated away, move what was resealed, lie about generations."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from wallet import Made, Wallet, allow_everything, made, refused

from adytum_sim.people import Person
from adytum_wire import results
from adytum_wire.errors import Code
from adytum_wire.messages import ExecuteReply
from adytum_wire.record import Record, parse_header
from adytum_wire.results import RotationStatementResult

OPERATIONS = [
    "sign", "sign-raw", "generate_key", "import_key", "seal", "unseal", "reseal", "derive_key", "generate_seed",
    "disable_key", "enable_key", "schedule_deletion", "rotation_statement",
]  # fmt: skip


async def generation(wallet: Wallet, number: int, floor: int = 1) -> None:
    """Admins publish the next policy: new and resealed records get `number`, older than `floor` are refused."""
    wallet.document["version"] += 1
    wallet.document["records"] = {"generation": number, "min_generation": floor}
    wallet.document["rules"] = [
        allow_everything(operations=OPERATIONS, labels="*"),
        allow_everything("export", operations=["export"], labels="*", approvals={"role": "approver", "count": 1}),
    ]
    if len(wallet.document["principals"]) == 2:
        wallet.document["principals"].append(Person.new("carol").as_principal("approver"))
    await wallet.stack.put_policy(wallet.document)


async def reseal(wallet: Wallet, key: Made) -> Made:
    return made(await wallet.stack.ask(wallet.alice, "reseal", key_id=key.key_id, record=key.record))


def edited(record: Record, **changes: Any) -> Record:
    header = json.loads(record.header) | changes
    return msgspec.structs.replace(record, header=json.dumps(header, separators=(",", ":")).encode())


async def test_a_record_below_the_floor_is_refused_for_everything_but_reseal(wallet: Wallet) -> None:
    await generation(wallet, 1)
    seed = made(await wallet.stack.ask(wallet.alice, "generate_seed", labels=["treasury"]))
    request_id = "seal-00000001"
    sealed = await wallet.seal("seal", request_id, b"a secret")
    secret = made(
        await wallet.stack.ask(wallet.alice, "seal", request_id=request_id, labels=["treasury"], sealed=sealed)
    )
    await generation(wallet, 2, floor=2)
    before = await wallet.state()
    refused(await wallet.sign(), Code.RECORD_RETIRED)
    tries: list[tuple[str, Made, dict[str, Any]]] = [
        ("unseal", secret, {"recipient": "11" * 32}),
        ("derive_key", seed, {"path": "m/44'/60'/0'/0/0", "algorithm": "secp256k1"}),
        ("export", wallet.key, {"recipient": "vault"}),
        ("disable_key", wallet.key, {}),
        ("schedule_deletion", wallet.key, {"waiting_days": 7}),
    ]
    for operation, key, fields in tries:
        reply = await wallet.stack.ask(wallet.alice, operation, record=key.record, key_id=key.key_id, **fields)
        refused(reply, Code.RECORD_RETIRED)
    assert await wallet.state() == before
    for key in (wallet.key, seed, secret):
        renewed = await reseal(wallet, key)
        header = parse_header(renewed.record.header)
        assert (header.generation, header.version) == (2, 2)
    wallet.key = await reseal(wallet, wallet.key)
    await wallet.assert_still_signs()


async def test_a_resealed_record_keeps_its_identity(wallet: Wallet) -> None:
    await generation(wallet, 2)
    old, new = parse_header(wallet.key.record.header), parse_header((await reseal(wallet, wallet.key)).record.header)
    assert (new.version, new.generation) == (old.version + 1, 2)
    for name in ("tenant", "key_id", "node_id", "kind", "algorithm", "public_key", "labels", "state", "kms_key_arn"):
        assert getattr(new, name) == getattr(old, name)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"key_id": "key-" + "0" * 32}, Code.RECORD_MISMATCH),
        ({"tenant": "other"}, Code.RECORD_MISMATCH),
        ({"node_id": "node-2"}, Code.RECORD_MISMATCH),
        ({"generation": 3}, Code.RECORD_TAMPERED),
        ({"generation": 1}, Code.RECORD_TAMPERED),
        ({"version": 3}, Code.RECORD_TAMPERED),
        ({"labels": ["hot"]}, Code.RECORD_TAMPERED),
    ],
)
async def test_a_moved_or_relabelled_resealed_record_is_refused(
    wallet: Wallet, change: dict[str, Any], code: Code
) -> None:
    await generation(wallet, 2)
    wallet.key = await reseal(wallet, wallet.key)
    before = await wallet.state()
    refused(await wallet.sign(record=edited(wallet.key.record, **change)), code)
    assert await wallet.state() == before
    await wallet.assert_still_signs()


async def test_an_old_record_that_claims_the_new_generation_is_refused(wallet: Wallet) -> None:
    """The host lifts a retired record over the floor by writing another number into its header."""
    await generation(wallet, 2, floor=2)
    before = await wallet.state()
    refused(await wallet.sign(record=edited(wallet.key.record, generation=2)), Code.RECORD_TAMPERED)
    assert await wallet.state() == before


async def test_a_resealed_header_over_the_old_ciphertext_is_refused(wallet: Wallet) -> None:
    await generation(wallet, 2, floor=2)
    old = wallet.key.record
    wallet.key = await reseal(wallet, wallet.key)
    mixed = msgspec.structs.replace(old, header=wallet.key.record.header)
    refused(await wallet.sign(record=mixed), Code.RECORD_TAMPERED)
    swapped = msgspec.structs.replace(wallet.key.record, ciphertext_blob=old.ciphertext_blob)
    refused(await wallet.sign(record=swapped), Code.RECORD_TAMPERED)
    await wallet.assert_still_signs()


async def test_going_back_to_the_older_envelope_is_refused_in_this_boot_and_after_the_floor_in_every_boot(
    wallet: Wallet,
) -> None:
    await generation(wallet, 2)
    old = wallet.key
    wallet.key = await reseal(wallet, old)
    await wallet.assert_still_signs()  # the newer version has opened
    refused(await wallet.sign(record=old.record), Code.RECORD_ROLLBACK)
    await generation(wallet, 2, floor=2)
    refused(await wallet.sign(record=old.record), Code.RECORD_RETIRED)
    await wallet.stack.restart_enclave()
    wallet.stack.reconnect()
    await wallet.stack.configure()
    await wallet.stack.put_policy(wallet.document)
    refused(await wallet.sign(record=old.record), Code.RECORD_RETIRED)
    await wallet.assert_still_signs()


async def test_nobody_without_the_right_reseals_or_gets_a_statement(wallet: Wallet) -> None:
    await generation(wallet, 2)
    mallory = wallet.mallory
    before = await wallet.state()
    reply = await wallet.stack.ask(mallory, "reseal", key_id=wallet.key.key_id, record=wallet.key.record)
    refused(reply, Code.POLICY_DENIED)
    refused(await wallet.stack.ask(mallory, "rotation_statement"), Code.POLICY_DENIED)
    assert await wallet.state() == before


async def test_the_statement_counts_only_what_this_enclave_resealed(wallet: Wallet) -> None:
    """The host cannot make it say more: it says the floor in force and a number, and nothing of the database."""
    await generation(wallet, 3, floor=2)
    await reseal(wallet, wallet.key)
    refused(
        await wallet.stack.ask(
            wallet.alice, "reseal", key_id=wallet.key.key_id, record=edited(wallet.key.record, version=9)
        ),
        Code.RECORD_TAMPERED,
    )
    reply = await wallet.stack.ask(wallet.alice, "rotation_statement")
    assert isinstance(reply, ExecuteReply)
    said = results.parse_result(reply.result)
    assert isinstance(said, RotationStatementResult)
    assert (said.generation, said.min_generation, said.resealed) == (3, 2, 1)
    assert (said.policy_version, said.kms_key_arn) == (wallet.document["version"], wallet.stack.key_arn)
