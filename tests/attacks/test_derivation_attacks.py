"""Attacks on derived keys: somebody lies about paths, records, and whose coins are whose.

What a PSBT can lie about is tried out one by one in tests/flows/test_hd_psbt.py; here the worst of it goes all the way.
"""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any

import bdkpython as bdk
import msgspec
import pytest
from bip_utils import Bip32Slip10Ed25519, Bip32Slip10Nist256p1, Bip32Slip10Secp256k1
from coins import Coins
from memory import found, require_readable
from outsider import data_key
from seeds import Seeds, allow_seeds, open_seeds
from wallet import Wallet, ethereum, refused

from adytum_policy.content import psbt
from adytum_policy.content.address_bitcoin import own_scripts
from adytum_policy.content.bitcoin_tx import Output
from adytum_wire import record as records
from adytum_wire.errors import Code
from adytum_wire.messages import ExecuteReply
from adytum_wire.strict_json import encode
from adytum_wire.types import RecordKind

PATH = "m/44'/60'/0'/0/0"


@pytest.fixture
async def seeds(wallet: Wallet) -> Seeds:
    return await open_seeds(wallet)


async def test_a_path_that_the_host_changes(seeds: Seeds) -> None:
    stack, alice = seeds.wallet.stack, seeds.wallet.alice
    bodies: list[bytes] = []
    genuine = type(alice).stamp

    class Watched(type(alice)):  # type: ignore[misc]
        def stamp(self, body: bytes) -> Any:
            bodies.append(body)
            return genuine(self, body)

    watched = Watched(**{name: getattr(alice, name) for name in alice.__dataclass_fields__})
    fields = {"scheme": "ecdsa-secp256k1", "content": ethereum(), "key_id": seeds.seed.key_id, "path": PATH}
    reply = await stack.ask(watched, "sign", record=seeds.seed.record, **fields)
    assert isinstance(reply, ExecuteReply)
    before = await seeds.wallet.state()
    for path in (b"m/44'/60'/0'/0/1", b"m/0'", b""):
        changed = bodies[0].replace(PATH.encode(), path)
        assert changed != bodies[0]
        answer = await stack.client.execute(changed, alice.stamp(bodies[0]), seeds.seed.record)
        refused(answer, Code.STAMP_INVALID, with_receipt=False)
    assert await seeds.wallet.state() == before


async def test_records_and_paths_that_do_not_belong_together(seeds: Seeds) -> None:
    wallet, stack = seeds.wallet, seeds.wallet.stack
    before = await wallet.state()
    answer = refused(await seeds.sign(PATH, record=wallet.key.record), Code.RECORD_MISMATCH)
    assert answer.field == "$.key_id"
    answer = refused(await seeds.derive(PATH, key_id=wallet.key.key_id, record=wallet.key.record), Code.RECORD_MISMATCH)
    assert answer.field == "$.kind"
    assert refused(await wallet.sign(path=PATH), Code.RECORD_MISMATCH).field == "$.path"
    assert refused(await seeds.sign(""), Code.RECORD_MISMATCH).field == "$.path"
    for path, algorithm in (("m/44'/501'/0", "ed25519"), ("m/2147483648", "secp256k1"), ("m/1/4294967296'", "p256")):
        assert refused(await seeds.derive(path, algorithm), Code.REQUEST_INVALID).field == "$.path"
    solana = {"scheme": "ed25519", "content": {"type": "raw-message", "message": "00"}}
    assert refused(await seeds.sign("m/44'/501'/0'/0", **solana), Code.REQUEST_INVALID).field == "$.path"
    assert refused(await seeds.derive(PATH, "none"), Code.REQUEST_INVALID).field == "$.algorithm"
    unseal = {"key_id": seeds.seed.key_id, "recipient": "09" * 32, "record": seeds.seed.record}
    assert refused(await stack.ask(wallet.alice, "unseal", **unseal), Code.RECORD_MISMATCH).field == "$.kind"
    assert await wallet.state() == before
    assert isinstance(await seeds.sign(PATH), ExecuteReply)


@pytest.mark.parametrize("kind", [RecordKind.SECRET, RecordKind.SIGNING_KEY])
async def test_a_seed_that_the_host_calls_something_else(seeds: Seeds, kind: RecordKind) -> None:
    """As a secret it could be unsealed, as a key it would sign by itself: the header is what the record opens under."""
    header = records.parse_header(seeds.seed.record.header)
    forged = msgspec.structs.replace(header, kind=kind)
    if kind is RecordKind.SIGNING_KEY:
        public = Bip32Slip10Secp256k1.FromSeed(seeds.secret).PublicKey().RawCompressed().ToHex()
        forged = msgspec.structs.replace(forged, algorithm="secp256k1", public_key=public)
    record = msgspec.structs.replace(seeds.seed.record, header=encode(forged))
    before = await seeds.wallet.state()
    if kind is RecordKind.SECRET:
        fields = {"key_id": seeds.seed.key_id, "recipient": "09" * 32, "record": record}
        answer = await seeds.wallet.stack.ask(seeds.wallet.alice, "unseal", **fields)
    else:
        answer = await seeds.sign("", record=record)
    refused(answer, Code.RECORD_TAMPERED)  # the data key was made under a context that says "hd-seed"
    assert await seeds.wallet.state() == before
    assert isinstance(await seeds.sign(PATH), ExecuteReply)


async def test_a_path_and_an_algorithm_that_the_policy_does_not_name(seeds: Seeds) -> None:
    await allow_seeds(seeds.wallet, paths=["m/44'/60'/0'/*"], algorithms=["secp256k1"])
    assert isinstance(await seeds.sign(PATH), ExecuteReply)
    assert isinstance(await seeds.derive(PATH), ExecuteReply)
    for path in ("m/44'/60'/1'/0/0", "m/44'/60'/0", "m/0'"):
        refused(await seeds.sign(path), Code.POLICY_DENIED)
        refused(await seeds.derive(path), Code.POLICY_DENIED)
    refused(await seeds.derive("m/44'/60'/0'/1'", "ed25519"), Code.POLICY_DENIED)
    solana = {"scheme": "ed25519", "content": {"type": "raw-message", "message": "00"}}
    refused(await seeds.sign("m/44'/60'/0'/1'", **solana), Code.POLICY_DENIED)


def with_change_to(spend: bytes, script: bytes, derivation: psbt.Map) -> bytes:
    """The PSBT with its change paid to `script`, said to be ours by `derivation`."""
    parsed = psbt.parse(spend)
    outputs = list(parsed.tx.outputs)
    at = next(at for at, one in enumerate(parsed.outputs) if one)
    outputs[at] = Output(amount=outputs[at].amount, script=script)
    tx = replace(parsed.tx, outputs=tuple(outputs))
    maps = tuple(derivation if number == at else one for number, one in enumerate(parsed.outputs))
    return replace(parsed, fields={psbt.UNSIGNED: tx.encode()}, outputs=maps, tx=tx).encode(
        [dict(one) for one in parsed.inputs]
    )


async def test_change_and_inputs_that_a_psbt_says_are_ours(seeds: Seeds) -> None:
    coins = Coins(seeds.secret, "p2wpkh")
    spend = coins.spend([90_000, 80_000], 100_000, 1_500)
    parsed = psbt.parse(spend.psbt)
    change = next(one for one in parsed.outputs if one)
    (key, origin) = next(iter(change.items()))
    thief = bytes(Bip32Slip10Secp256k1.FromSeed(b"\x66" * 32).PublicKey().RawCompressed().ToBytes())
    stolen = with_change_to(spend.psbt, own_scripts(thief).segwit, {psbt.OUT_DERIVATION + thief: origin})
    moved = with_change_to(spend.psbt, own_scripts(key[1:]).segwit, {key: origin[:-4] + (77).to_bytes(4, "little")})
    strangers = with_change_to(spend.psbt, own_scripts(key[1:]).segwit, {key: b"\0\0\0\0" + origin[4:]})
    theirs = Coins(b"\x66" * 32, "p2wpkh").spend([90_000], 50_000, 1_500).psbt

    async def ask(data: bytes) -> Any:
        return await seeds.sign(coins.path, content={"type": "bitcoin-psbt", "psbt": data.hex(), "network": "mainnet"})

    before = await seeds.wallet.state()
    for data, field in (
        (stolen, ".public_key"),
        (moved, ".public_key"),
        (strangers, ""),
        (theirs, ".path"),
    ):
        assert refused(await ask(data), Code.CONTENT_INVALID).field == "$.content.psbt" + field
    assert await seeds.wallet.state() == before
    assert isinstance(await ask(spend.psbt), ExecuteReply)
    signed = bdk.Psbt(base64.b64encode(theirs).decode())
    assert not signed.finalize().could_finalize  # nothing of the refused ones carries a signature


async def test_no_copy_of_seed_chain_code_or_child_is_left(open_short_wallet: Any) -> None:
    wallet = await open_short_wallet(bounds={"key_ttl_seconds": 0})
    require_readable(wallet)
    seeds = await open_seeds(wallet)
    secrets = {"seed": seeds.secret, "data key": data_key(wallet.stack, seeds.seed.record)}

    def remember(name: str, oracle: Any, path: str) -> None:
        """Secret and chain code of the first and the last node on the way."""
        node = oracle.FromSeed(seeds.secret)
        for part in (path.split("/")[1], path[path.index("/", 2) + 1 :]):
            node = node.DerivePath(part)
            secrets[f"{name} {part} key"] = node.PrivateKey().Raw().ToBytes()
            secrets[f"{name} {part} chain"] = node.ChainCode().ToBytes()

    remember("ethereum", Bip32Slip10Secp256k1, PATH)
    remember("solana", Bip32Slip10Ed25519, "m/44'/501'/0'")
    remember("p256", Bip32Slip10Nist256p1, "m/1/2'")
    secrets["taproot"] = Coins(seeds.secret, "p2tr").root.DerivePath("m/86'/0'/0'/0/1").PrivateKey().Raw().ToBytes()
    for path, algorithm in ((PATH, "secp256k1"), ("m/44'/501'/0'", "ed25519")):
        await seeds.derived(path, algorithm)
    assert found(wallet, secrets) == []
    raw = {"type": "raw-message", "message": "ab"}
    await seeds.signed("m/1/2'", scheme="ecdsa-p256", content=raw)
    assert found(wallet, secrets) == []
    coins = Coins(seeds.secret, "p2tr")
    coins.address()
    spend = coins.spend([90_000], 50_000, 1_500)
    content = {"type": "bitcoin-psbt", "psbt": spend.psbt.hex(), "network": "mainnet"}
    await seeds.signed(coins.path, scheme="bip340", content=content)
    assert found(wallet, secrets) == []
    refused(await seeds.sign(coins.path, scheme="ecdsa-secp256k1", content=content), Code.CONTENT_INVALID)
    refused(await seeds.derive("m/44'/501'/0", "ed25519"), Code.REQUEST_INVALID)
    assert found(wallet, secrets) == []
