"""Seeds end to end: the enclave makes one, and what it derives and signs is what other people's wallets make of it."""

from __future__ import annotations

import pytest
from bip_utils import (
    Bip32Slip10Nist256p1,
    Bip44,
    Bip44Changes,
    Bip44Coins,
    Bip49,
    Bip49Coins,
    Bip84,
    Bip84Coins,
    Bip86,
    Bip86Coins,
)
from coincurve import PublicKeyXOnly
from coins import KINDS, Coins, finished_by_bdk, require_valid
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from eth_account import Account
from seeds import Seeds, open_seeds
from solders.hash import Hash
from solders.keypair import Keypair
from solders.message import Message
from solders.system_program import TransferParams, transfer
from solders.transaction import Transaction
from wallet import TRANSFER, Wallet, refused

from adytum_wire import receipts, results
from adytum_wire.errors import Code
from adytum_wire.messages import ExecuteReply
from adytum_wire.record import parse_header
from adytum_wire.types import RecordKind

ETHEREUM, SOLANA = "m/44'/60'/0'/0/0", "m/44'/501'/0'/0'"


@pytest.fixture
async def seeds(wallet: Wallet) -> Seeds:
    return await open_seeds(wallet)


def solana_keypair(seeds: Seeds) -> Keypair:
    """solders itself derives from seeds of 64 bytes only."""
    private = Bip44.FromSeed(seeds.secret, Bip44Coins.SOLANA).Purpose().Coin().Account(0).Change(Bip44Changes.CHAIN_EXT)
    return Keypair.from_seed(private.PrivateKey().Raw().ToBytes())


async def test_a_seed_is_a_record_of_32_bytes_without_a_public_key(seeds: Seeds) -> None:
    header = parse_header(seeds.seed.record.header)
    assert (header.kind, header.public_key, header.algorithm) == (RecordKind.HD_SEED, "", "none")
    assert len(seeds.secret) == 32
    assert (seeds.seed.public_key, seeds.seed.address) == ("", "")


async def test_addresses_are_those_of_other_wallets(seeds: Seeds) -> None:
    found = await seeds.derived(ETHEREUM)
    context = Bip44.FromSeed(seeds.secret, Bip44Coins.ETHEREUM).Purpose().Coin().Account(0)
    theirs = context.Change(Bip44Changes.CHAIN_EXT).AddressIndex(0)
    assert found.addresses["ethereum"] == theirs.PublicKey().ToAddress()
    assert found.public_key == theirs.PublicKey().RawCompressed().ToHex()
    for purpose, wallet, coin, form in (
        (49, Bip49, Bip49Coins.BITCOIN, "bitcoin-p2sh-p2wpkh"),
        (84, Bip84, Bip84Coins.BITCOIN, "bitcoin-p2wpkh"),
        (86, Bip86, Bip86Coins.BITCOIN, "bitcoin-p2tr"),
    ):
        context = wallet.FromSeed(seeds.secret, coin).Purpose().Coin().Account(2)
        theirs = context.Change(Bip44Changes.CHAIN_INT).AddressIndex(9)
        addresses = (await seeds.derived(f"m/{purpose}'/0'/2'/1/9")).addresses
        assert addresses[form] == theirs.PublicKey().ToAddress()
        assert set(addresses) == {"ethereum", "bitcoin-p2wpkh", "bitcoin-p2tr", "bitcoin-p2sh-p2wpkh"}
    solana = await seeds.derived(SOLANA, "ed25519")
    assert solana.addresses == {"solana": str(solana_keypair(seeds).pubkey())}
    p256 = await seeds.derived("m/1/2'", "p256")
    theirs = Bip32Slip10Nist256p1.FromSeed(seeds.secret).DerivePath("m/1/2'")
    assert (p256.public_key, p256.addresses) == (theirs.PublicKey().RawCompressed().ToHex(), {})


async def test_an_ethereum_transaction_is_signed_as_eth_account_signs_it(seeds: Seeds) -> None:
    context = Bip44.FromSeed(seeds.secret, Bip44Coins.ETHEREUM).Purpose().Coin().Account(0)
    private = context.Change(Bip44Changes.CHAIN_EXT).AddressIndex(0).PrivateKey().Raw().ToBytes()
    theirs = Account.sign_transaction(TRANSFER, private)
    result = await seeds.signed(ETHEREUM)
    assert result.encoded["raw_transaction"] == "0x" + theirs.raw_transaction.hex().removeprefix("0x")
    assert (result.path, result.public_key) == (ETHEREUM, (await seeds.derived(ETHEREUM)).public_key)
    for reply in (await seeds.sign(ETHEREUM), await seeds.derive(ETHEREUM)):
        assert isinstance(reply, ExecuteReply)
        receipt = receipts.parse_receipt(receipts.parse_envelope(reply.receipt).body.encode())
        result = results.parse_result(reply.result)
        assert receipt.public_key == result.public_key != ""  # type: ignore[union-attr]


async def test_a_solana_transfer_is_signed_as_solders_signs_it(seeds: Seeds) -> None:
    theirs = solana_keypair(seeds)
    instruction = transfer(TransferParams(from_pubkey=theirs.pubkey(), to_pubkey=theirs.pubkey(), lamports=1_000))
    message = Message.new_with_blockhash([instruction], theirs.pubkey(), Hash.default())
    content = {"type": "solana-message", "message": bytes(message).hex()}
    result = await seeds.signed(SOLANA, scheme="ed25519", content=content)
    assert result.signature == bytes(Transaction([theirs], message, Hash.default()).signatures[0]).hex()
    Ed25519PublicKey.from_public_bytes(bytes(theirs.pubkey())).verify(bytes.fromhex(result.signature), bytes(message))


async def test_psbts_are_signed_and_valid_by_bitcoin_core(seeds: Seeds) -> None:
    for kind in KINDS:
        await sign_psbt(seeds, kind)


async def sign_psbt(seeds: Seeds, kind: str) -> None:
    coins = Coins(seeds.secret, kind)
    assert coins.address() == (await seeds.derived(f"{coins.path}/0/0")).addresses[f"bitcoin-{kind}"]
    spend = coins.spend([90_000, 80_000, 70_000], 200_000, 1_500)
    content = {"type": "bitcoin-psbt", "psbt": spend.psbt.hex(), "network": "mainnet"}
    scheme = "bip340" if kind == "p2tr" else "ecdsa-secp256k1"
    result = await seeds.signed(coins.path, scheme=scheme, content=content)
    raw = bytes.fromhex(result.encoded["raw_transaction"])
    require_valid(raw, spend.spent)
    assert finished_by_bdk(result.encoded["psbt"]) == raw
    assert result.public_key == (await seeds.derived(coins.path)).public_key


async def test_a_raw_message_by_each_scheme(seeds: Seeds) -> None:
    key = bytes.fromhex((await seeds.derived("m/7'")).public_key)
    content = {"type": "raw-digest", "digest": "11" * 32}
    result = await seeds.signed("m/7'", scheme="bip340", content=content)
    assert PublicKeyXOnly(key[1:]).verify(bytes.fromhex(result.signature), b"\x11" * 32)
    p256 = await seeds.signed("m/7'", scheme="ecdsa-p256", content=content)
    assert p256.public_key == (await seeds.derived("m/7'", "p256")).public_key


async def test_a_seed_is_warm_and_counts_as_one_key(seeds: Seeds) -> None:
    client = seeds.wallet.stack.client
    for number in range(12):  # more than it keeps
        await seeds.derived(f"m/0'/{number}'")
    await seeds.signed(ETHEREUM)
    assert (await client.health()).warm_keys == 1
    renewed = await seeds.wallet.stack.ask(
        seeds.wallet.alice, "reseal", key_id=seeds.seed.key_id, record=seeds.seed.record
    )
    assert isinstance(renewed, ExecuteReply)
    assert renewed.record is not None
    assert (await client.health()).warm_keys == 0
    found = (await seeds.derived(ETHEREUM, record=renewed.record)).public_key
    refused(await seeds.sign(ETHEREUM), Code.RECORD_ROLLBACK)
    theirs = Bip44.FromSeed(seeds.secret, Bip44Coins.ETHEREUM).DeriveDefaultPath()
    assert found == theirs.PublicKey().RawCompressed().ToHex()


async def test_the_same_request_again_gives_the_same_bytes(seeds: Seeds) -> None:
    coins = Coins(seeds.secret, "p2tr")
    spend = coins.spend([90_000, 80_000], 100_000, 1_500)
    content = {"type": "bitcoin-psbt", "psbt": spend.psbt.hex(), "network": "mainnet"}
    request = {"scheme": "bip340", "content": content, "request_id": "psbt-000001"}
    issued_at = seeds.wallet.stack.now_ms()
    first = await seeds.signed(coins.path, issued_at=issued_at, **request)
    await seeds.wallet.stack.restart_enclave()
    await seeds.wallet.stack.configure()
    await seeds.wallet.stack.put_policy(seeds.wallet.document)
    assert await seeds.signed(coins.path, issued_at=issued_at, **request) == first
