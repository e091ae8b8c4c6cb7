"""Imports and exports under attack: wrong passwords, lifted blobs, other people's keys, hands held out too early."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from eth_account import Account
from office import outcomes, receipt_of
from outsider import open_record
from vault_files import GOOD_MNEMONIC, MNEMONIC, Vault, headed_share, keystore, legacy_share, open_vault
from wallet import SUITE, Wallet, allow_everything, made, refused

from adytum_sim.people import request_body
from adytum_wire import requests, results
from adytum_wire.errors import AdytumError, Code
from adytum_wire.messages import ExecuteReply

SECRET = bytes.fromhex("5e" * 31 + "01")


@pytest.fixture
async def vault(wallet: Wallet) -> Vault:
    return await open_vault(wallet)


async def assert_nothing_came_in(
    vault: Vault, field: str, kind: str, file: bytes, password: bytes = b"", **more: Any
) -> None:
    """Refused with IMPORT_INVALID and this field; the state is as before and the id is not spent."""
    before = await vault.wallet.state()
    name = "import-" + os.urandom(8).hex()
    refusal = refused(await vault.bring(kind, file, password, request_id=name, **more), Code.IMPORT_INVALID)
    assert refusal.field == field
    assert receipt_of(refusal).key_id == ""
    assert await vault.wallet.state() == before
    made(await vault.bring("keystore-v3", keystore(SECRET, "p"), b"p", request_id=name))


async def test_wrong_passwords(vault: Vault) -> None:
    for kind, file in (
        ("keystore-v3", keystore(SECRET, "right")),
        ("keystore-v3", keystore(SECRET, "right", kdf="pbkdf2")),
        ("mpcenc-v1", headed_share(b"share" * 8, b"right")),
        ("mpc-legacy", legacy_share(b"share" * 8, b"right")),
    ):
        await assert_nothing_came_in(vault, "$.sealed (password)", kind, file, b"wrong")


async def test_a_keystore_that_lies_about_its_address(vault: Vault) -> None:
    """The MAC does not cover it: without the check, one key would be stored under another's name."""
    file = json.loads(keystore(SECRET, "p"))
    file["address"] = Account.create().address[2:].lower()
    await assert_nothing_came_in(vault, "$.sealed (address)", "keystore-v3", json.dumps(file).encode(), b"p")


async def test_a_file_of_another_key_than_expected(vault: Vault) -> None:
    other = Account.create().address
    mine = Account.from_key(SECRET).address
    for expected in (other, mine.swapcase().replace("0X", "0x"), "02" + "11" * 32, "x"):
        await assert_nothing_came_in(vault, "$.expected", "keystore-v3", keystore(SECRET, "p"), b"p", expected=expected)
    await assert_nothing_came_in(vault, "$.expected", "bip39", GOOD_MNEMONIC.encode(), expected=other)
    share = legacy_share(b"s" * 32, b"p")
    await assert_nothing_came_in(vault, "$.expected", "mpc-legacy", share, b"p", expected=other)


async def test_what_is_not_in_the_form_that_was_named(vault: Vault) -> None:
    file = keystore(SECRET, "p")
    await assert_nothing_came_in(vault, "$.sealed (mnemonic)", "bip39", file, b"p")
    await assert_nothing_came_in(vault, "$.sealed (mnemonic checksum)", "bip39", MNEMONIC.encode())
    await assert_nothing_came_in(vault, "$.sealed (magic)", "mpcenc-v1", file, b"p")
    await assert_nothing_came_in(vault, "$.sealed (password)", "mpc-legacy", file, b"p")
    await assert_nothing_came_in(vault, "$.sealed (JSON)", "keystore-v3", b"\xff", b"p")
    await assert_nothing_came_in(vault, "$.sealed (KMS_KEK)", "mpcenc-v1", headed_share(b"s", b"p", mode=1), b"p")


async def test_a_kdf_that_would_eat_the_enclave(vault: Vault) -> None:
    file = json.loads(keystore(SECRET, "p"))
    for name, value in (("n", 2**24), ("r", 2**20), ("p", 2**20)):
        costly = json.loads(json.dumps(file))
        costly["crypto"]["kdfparams"][name] = value
        data = json.dumps(costly).encode()
        await assert_nothing_came_in(vault, "$.sealed (kdfparams too costly)", "keystore-v3", data, b"p")


async def test_a_sealed_file_lifted_into_another_request(vault: Vault) -> None:
    sealed = await vault.seal("import-of-mine-1", b"p", keystore(SECRET, "p"))
    reply = await vault.bring("keystore-v3", b"x", request_id="import-of-mine-2", sealed=sealed)
    assert refused(reply, Code.REQUEST_INVALID).field == "$.sealed"


async def test_a_password_longer_than_what_came(vault: Vault) -> None:
    wallet = vault.wallet
    for packed in (b"\xff\xff\xff\xff" + b"x" * 40, b"\0\0\0\x04pass", b"\0\0\0", b"\0\0\x04\x01" + b"x" * 2000):
        name = "import-" + os.urandom(8).hex()
        sealed = await wallet.seal("import_file", name, packed)
        reply = await vault.bring("keystore-v3", b"x", request_id=name, sealed=sealed)
        assert refused(reply, Code.IMPORT_INVALID).field == "$.sealed (length)"


async def test_who_may_not_import(wallet: Wallet) -> None:
    """The ordinary rule of the wallet grants `import_key`, not this."""
    vault = Vault.__new__(Vault)
    object.__setattr__(vault, "office", type("Bare", (), {"wallet": wallet})())
    refused(await vault.bring("keystore-v3", keystore(SECRET, "p"), b"p"), Code.POLICY_DENIED)


# --- export


def export_info(result: results.ExportResult) -> bytes:
    return requests.unseal_info("export", "acme", result.request_id, result.key_id, result.kind)


@pytest.fixture
async def rescue(vault: Vault) -> X25519PrivateKey:
    """The private key of the recipient that the policy now names."""
    private = X25519PrivateKey.generate()
    await vault.office.put(recipients=[{"id": "rescue", "public_key": private.public_key().public_bytes_raw().hex()}])
    return private


def export_body(vault: Vault, **fields: Any) -> bytes:
    asked = {"key_id": vault.wallet.key.key_id, "recipient": "rescue"} | fields
    return request_body("acme", "export", vault.office.now_ms(), **asked)


async def approved(vault: Vault, body: bytes, **options: Any) -> Any:
    office = vault.office
    text = office.statement(body)
    return await office.send(body, office.bob.approval(text), office.carol.approval(text), **options)


async def test_nothing_is_exported_by_default(wallet: Wallet) -> None:
    reply = await wallet.stack.ask(
        wallet.alice, "export", key_id=wallet.key.key_id, recipient="rescue", record=wallet.key.record
    )
    refused(reply, Code.POLICY_DENIED)


async def test_a_policy_cannot_allow_export_without_a_quorum(vault: Vault) -> None:
    office = vault.office
    before = await vault.wallet.state()
    with pytest.raises(AdytumError) as caught:
        await office.put(rules=[allow_everything("hand-over", operations=["export"])])
    assert (caught.value.code, caught.value.field) == (Code.POLICY_INVALID, "$.rules[0].approvals")
    assert await vault.wallet.state() == before


async def test_an_export_needs_its_approvals_and_goes_to_whom_the_policy_names(
    vault: Vault, rescue: X25519PrivateKey
) -> None:
    office, wallet = vault.office, vault.wallet
    body = export_body(vault)
    text = office.statement(body)
    for given in ((), (office.bob.approval(text),)):
        await office.assert_refused(Code.APPROVALS_MISSING, body, *given)
    unnamed = export_body(vault, recipient="somebody")
    assert refused(await approved(vault, unnamed), Code.REQUEST_INVALID).field == "$.recipient"

    reply = await approved(vault, body)
    assert isinstance(reply, ExecuteReply), reply
    assert reply.record is None
    result = results.parse_result(reply.result)
    assert isinstance(result, results.ExportResult)
    info = export_info(result)
    blob = bytes.fromhex(result.enc + result.ciphertext)
    assert SUITE.decrypt(blob, rescue, info) == open_record(wallet.stack, wallet.key.record)[1]
    receipt = receipt_of(reply)
    assert (receipt.operation, receipt.key_id, receipt.decision) == ("export", wallet.key.key_id, "allow")
    assert [outcome for _, outcome in outcomes(receipt)] == ["approve", "approve"]
    with pytest.raises(InvalidTag):
        SUITE.decrypt(blob, X25519PrivateKey.generate(), info)
    with pytest.raises(InvalidTag):
        SUITE.decrypt(blob, rescue, info.replace(result.request_id.encode(), b"x" * len(result.request_id)))


async def test_seeds_and_shares_are_exported_as_what_they_are(vault: Vault, rescue: X25519PrivateKey) -> None:
    share = os.urandom(100)
    for kind, stored in (
        ("hd-seed", made(await vault.bring("bip39", GOOD_MNEMONIC.encode(), b"TREZOR"))),
        ("share", made(await vault.bring("mpc-legacy", legacy_share(share, b"p"), b"p"))),
    ):
        reply = await approved(vault, export_body(vault, key_id=stored.key_id), made=stored)
        assert isinstance(reply, ExecuteReply), reply
        result = results.parse_result(reply.result)
        assert isinstance(result, results.ExportResult)
        info = export_info(result)
        plaintext = SUITE.decrypt(bytes.fromhex(result.enc + result.ciphertext), rescue, info)
        assert (result.kind, plaintext) == (kind, open_record(vault.wallet.stack, stored.record)[1])


async def test_a_disabled_key_and_a_secret_are_not_exported(vault: Vault, rescue: X25519PrivateKey) -> None:
    wallet = vault.wallet
    disabled = made(
        await wallet.stack.ask(wallet.alice, "disable_key", key_id=wallet.key.key_id, record=wallet.key.record)
    )
    refused(await approved(vault, export_body(vault), made=disabled), Code.KEY_STATE)
    stored = made(
        await wallet.stack.ask(
            wallet.alice,
            "seal",
            request_id="seal-for-export",
            labels=["treasury"],
            sealed=await wallet.seal("seal", "seal-for-export", b"s" * 32),
        )
    )
    refused(await approved(vault, export_body(vault, key_id=stored.key_id), made=stored), Code.RECORD_MISMATCH)


async def test_a_recipient_of_small_order_is_no_recipient(vault: Vault) -> None:
    with pytest.raises(AdytumError) as caught:
        await vault.office.put(recipients=[{"id": "rescue", "public_key": "00" * 32}])
    assert (caught.value.code, caught.value.field) == (Code.POLICY_INVALID, "$.recipients[0].public_key")
