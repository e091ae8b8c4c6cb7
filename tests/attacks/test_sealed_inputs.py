"""What a client seals to the enclave travels through the host: lifted into another operation, under another's stamp,
back from the other direction. And what the enclave seals outwards, passed off as something else."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from coincurve import PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from vault_files import GOOD_MNEMONIC, open_vault
from wallet import SUITE, Wallet, allow_everything, made, refused

from adytum.client.imports import open_export
from adytum_sim.people import Person, request_body
from adytum_sim.sessions import open_session
from adytum_wire import results
from adytum_wire.errors import Code
from adytum_wire.messages import ExecuteReply, Refusal
from adytum_wire.types import RecordKind, Scheme

SECRET = bytes.fromhex("5e" * 31 + "01")
ACCESS = b'{"access_key_id":"AKIAIOSFODNN7EXAMPLE","secret_access_key":"wJalrXUtnFEMI/K7MDENG/bPxRfiCY00"}'
# What each operation would take: so that only what the blob was sealed for can refuse it.
PLAINTEXTS = {
    "import_key": SECRET,
    "import_file": bytes(4) + GOOD_MNEMONIC.encode(),
    "seal": SECRET,
    "seal_anchor": ACCESS,
    "open_session": SECRET,
}
LABELS = {"labels": ["treasury"]}


def info(operation: str, request_id: str, person: Person) -> bytes:
    """S-13, from its words alone."""
    parts = [operation.encode(), b"acme", request_id.encode(), str(person.scheme).encode(), person.public_key]
    found = b"adytum/import/v2\0"
    for part in parts:
        found += bytes([len(part) // 256, len(part) % 256]) + part
    return found


async def sealed(wallet: Wallet, plaintext: bytes, name: bytes) -> dict[str, str]:
    """By the `cryptography` package's HPKE. `name`: the info."""
    key = X25519PublicKey.from_public_bytes(bytes.fromhex((await wallet.binding()).hpke_key))
    blob = SUITE.encrypt(plaintext, key, name)
    return {"enc": blob[:32].hex(), "ciphertext": blob[32:].hex()}


def body(wallet: Wallet, operation: str, request_id: str, blob: dict[str, str]) -> bytes:
    now = wallet.stack.now_ms()
    fields: dict[str, Any] = {
        "import_key": LABELS | {"algorithm": "secp256k1", "public_key": PublicKey.from_secret(SECRET).format().hex()},
        "import_file": LABELS | {"format": "bip39", "expected": ""},
        "seal": LABELS,
        "seal_anchor": LABELS,
        "open_session": {"expires_at": now + 60_000},
    }[operation]
    return request_body("acme", operation, now, request_id=request_id, sealed=blob, **fields)


async def send(wallet: Wallet, person: Person, raw: bytes) -> ExecuteReply | Refusal:
    return await wallet.stack.client.execute(raw, person.stamp(raw))


async def assert_not_opened(wallet: Wallet, reply: ExecuteReply | Refusal, before: Any) -> None:
    refusal = refused(reply, Code.REQUEST_INVALID)
    assert refusal.field == "$.sealed"
    assert json.loads(json.loads(refusal.receipt)["body"])["key_id"] == ""
    assert await wallet.state() == before


@pytest.fixture
async def open_to_all(wallet: Wallet) -> Wallet:
    """Alice and Mallory may do the same things here."""
    document = wallet.stack.policy(
        [wallet.alice.as_principal("signer"), wallet.mallory.as_principal("signer")],
        [
            allow_everything("in", operations=list(PLAINTEXTS), labels="*"),
            allow_everything("out", operations=["unseal"], labels="*"),
        ],
        version=wallet.document["version"] + 1,
    )
    await wallet.stack.put_policy(document)
    wallet.document = document
    return wallet


@pytest.mark.parametrize("used_as", list(PLAINTEXTS))
async def test_a_withheld_blob_under_an_insiders_stamp_does_not_open(open_to_all: Wallet, used_as: str) -> None:
    """The host withholds Alice's request. Mallory, who may do the same, sends what she sealed as his own."""
    wallet, plaintext = open_to_all, PLAINTEXTS[used_as]
    session = await open_session(wallet.stack, wallet.mallory)
    for made_for in PLAINTEXTS:
        name = f"blob-{made_for}"
        blob = await sealed(wallet, plaintext, info(made_for, name, wallet.alice))
        raw = body(wallet, used_as, name, blob)
        before = await wallet.state()
        await assert_not_opened(wallet, await send(wallet, wallet.mallory, raw), before)
        if used_as != "open_session":
            await assert_not_opened(wallet, await wallet.stack.client.execute(raw, session.stamp(raw)), before)
        own = await send(wallet, wallet.alice, raw)
        if made_for != used_as:
            await assert_not_opened(wallet, own, before)  # nor is it good for anything else of hers
            good = await sealed(wallet, plaintext, info(used_as, name, wallet.alice))
            own = await send(wallet, wallet.alice, body(wallet, used_as, name, good))
        assert isinstance(own, ExecuteReply), own  # good all the time, and the id is not spent


async def test_a_wallet_key_lifted_into_seal_is_not_unsealed(open_to_all: Wallet) -> None:
    """The whole theft: Alice's `import_key` as Mallory's `seal`, and then his `unseal`."""
    wallet, name = open_to_all, "alice-import-1"
    blob = await wallet.seal("import_key", name, SECRET)
    before = await wallet.state()
    reply = await send(wallet, wallet.mallory, body(wallet, "seal", name, blob))
    await assert_not_opened(wallet, reply, before)
    imported = made(await send(wallet, wallet.alice, body(wallet, "import_key", name, blob)))
    assert imported.public_key == PublicKey.from_secret(SECRET).format().hex()


async def test_a_blob_of_another_tenant_request_scheme_or_key_does_not_open(open_to_all: Wallet) -> None:
    wallet, name = open_to_all, "r-00000001"
    good = info("seal", name, wallet.alice)
    before = await wallet.state()
    for old, new in (
        (b"\0\4acme", b"\0\4emca"),
        (name.encode(), b"r-00000002"),
        (b"\0\7ed25519", b"\0\4p256"),
        (wallet.alice.public_key, Person.new("alice").public_key),
        (b"import/v2", b"import/v1"),
        (b"import/v2", b"unseal/v2"),
        (b"\0\4seal", b"\0\4sea\0"),
    ):
        assert old in good
        blob = await sealed(wallet, SECRET, good.replace(old, new))
        await assert_not_opened(wallet, await send(wallet, wallet.alice, body(wallet, "seal", name, blob)), before)
    for older in (b"adytum/import/v1\0acme\0" + name.encode(), b""):
        blob = await sealed(wallet, SECRET, older)
        await assert_not_opened(wallet, await send(wallet, wallet.alice, body(wallet, "seal", name, blob)), before)
    blob = await sealed(wallet, SECRET, good)
    made(await send(wallet, wallet.alice, body(wallet, "seal", name, blob)))


async def test_the_second_key_of_the_same_principal_does_not_open_what_the_first_sealed(open_to_all: Wallet) -> None:
    wallet, second = open_to_all, Person.new("alice", Scheme.SECP256K1)
    principal = wallet.alice.as_principal("signer")
    principal["keys"] += second.as_principal()["keys"]
    document = wallet.document | {"version": wallet.document["version"] + 1, "principals": [principal]}
    await wallet.stack.put_policy(document)
    before = await wallet.state()
    raw = body(wallet, "seal", "r-00000001", await wallet.seal("seal", "r-00000001", SECRET))
    await assert_not_opened(wallet, await send(wallet, second, raw), before)
    made(await send(wallet, wallet.alice, raw))
    own = await sealed(wallet, SECRET, info("seal", "r-00000002", second))
    made(await send(wallet, second, body(wallet, "seal", "r-00000002", own)))


async def test_what_is_sealed_for_a_key_opens_under_a_session_that_it_opened(open_to_all: Wallet) -> None:
    wallet = open_to_all
    session = await open_session(wallet.stack, wallet.alice)
    for operation in ("import_key", "import_file", "seal", "seal_anchor"):
        name = "blob-" + operation
        blob = await sealed(wallet, PLAINTEXTS[operation], info(operation, name, wallet.alice))
        raw = body(wallet, operation, name, blob)
        made(await wallet.stack.client.execute(raw, session.stamp(raw)))


async def test_an_unsealed_secret_sent_back_in_does_not_open(open_to_all: Wallet) -> None:
    """The enclave itself as the recipient, and its answer as somebody's sealed input."""
    wallet, name = open_to_all, "r-00000003"
    blob = await wallet.seal("seal", "r-00000002", SECRET, by=wallet.mallory)
    stored = made(await send(wallet, wallet.mallory, body(wallet, "seal", "r-00000002", blob)))
    recipient = (await wallet.binding()).hpke_key
    reply = await wallet.stack.ask(
        wallet.mallory, "unseal", request_id=name, key_id=stored.key_id, recipient=recipient, record=stored.record
    )
    assert isinstance(reply, ExecuteReply), reply
    result = results.parse_result(reply.result)
    assert isinstance(result, results.UnsealResult)
    before = await wallet.state()
    back = {"enc": result.enc, "ciphertext": result.ciphertext}
    reply = await send(wallet, wallet.alice, body(wallet, "seal", name, back))
    assert isinstance(reply, Refusal)
    assert reply.code == Code.REQUEST_CONFLICT.value  # the id was Mallory's
    await assert_not_opened(wallet, await send(wallet, wallet.alice, body(wallet, "seal", "r-00000004", back)), before)


async def test_an_export_passed_off_as_another_does_not_open(wallet: Wallet) -> None:
    """Its recipient opens it offline, without the receipt: what it is of is sealed into it."""
    vault, rescue = await open_vault(wallet), X25519PrivateKey.generate()
    public = rescue.public_key().public_bytes_raw()
    await vault.office.put(recipients=[{"id": "rescue", "public_key": public.hex()}])
    now = vault.office.now_ms()
    raw = request_body("acme", "export", now, request_id="export-0001", key_id=wallet.key.key_id, recipient="rescue")
    text = vault.office.statement(raw)
    reply = await vault.office.send(raw, vault.office.bob.approval(text), vault.office.carol.approval(text))
    assert isinstance(reply, ExecuteReply), reply
    result = results.parse_result(reply.result)
    assert isinstance(result, results.ExportResult)
    assert PublicKey.from_secret(open_export(result, rescue)).format().hex() == wallet.key.public_key
    changes: tuple[dict[str, Any], ...] = (
        {"key_id": "key-" + "0" * 32},
        {"kind": RecordKind.SHARE},
        {"request_id": "export-0002"},
        {"tenant": "evil"},
    )
    for change in changes:
        with pytest.raises(ValueError, match="do not open"):
            open_export(msgspec.structs.replace(result, **change), rescue)
    # S-25, from its words alone
    name = b"adytum/unseal/v2\0"
    for part in (b"export", b"acme", b"export-0001", wallet.key.key_id.encode(), b"signing-key"):
        name += bytes([0, len(part)]) + part
    assert SUITE.decrypt(bytes.fromhex(result.enc + result.ciphertext), rescue, name) == open_export(result, rescue)
