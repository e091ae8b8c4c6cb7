"""Random content of every type, signed by the enclave's own steps with random keys: digest, signature and what is made
of both equal what eth-account, eth-keys and solders make of the same key and content. No process is started here."""

from __future__ import annotations

import base64
import json
from types import SimpleNamespace
from typing import Any

import pytest
import rlp
from eth_account import Account
from eth_account.messages import encode_defunct, encode_typed_data
from eth_keys import keys as eth_keys
from eth_utils import to_checksum_address
from hypothesis import given, settings
from hypothesis import strategies as st
from solders.hash import Hash
from solders.keypair import Keypair
from solders.message import Message, MessageV0
from solders.pubkey import Pubkey
from solders.system_program import TransferParams, transfer
from solders.transaction import Transaction, VersionedTransaction

from adytum.client.checks import check_signature
from adytum_enclave.core import keys
from adytum_enclave.core.secrets import Arena
from adytum_enclave.core.steps.sign import sign
from adytum_policy.content import decode_content
from adytum_wire.errors import Code
from adytum_wire.requests import Content, EthereumTransaction, PersonalMessage, Sign, SolanaMessage, TypedData
from adytum_wire.results import SignResult
from adytum_wire.types import Algorithm, SigningScheme

ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
secrets = st.integers(1, ORDER - 1).map(lambda number: number.to_bytes(32, "big"))
address = st.binary(min_size=20, max_size=20)
word = st.binary(min_size=32, max_size=32)
wei, gas = st.integers(0, 2**96), st.integers(0, 2**63)
access = st.lists(st.fixed_dictionaries({"address": address, "storageKeys": st.lists(word, max_size=2)}), max_size=2)
common = {
    "chainId": st.integers(1, 2**31),
    "nonce": st.integers(0, 2**60),
    "gas": gas,
    "to": address,
    "value": wei,
    "data": st.binary(max_size=3) | st.binary(min_size=4, max_size=120).map(lambda data: b"\x00" + data[1:]),
}
fees = st.tuples(wei, wei).map(sorted)


def signed_by_us(algorithm: Algorithm, secret: bytes, scheme: SigningScheme, content: Content) -> SignResult:
    """Decode and sign as the enclave does, and check the result as a client does."""
    body = Sign(
        v=1,
        tenant="acme",
        request_id="any-0000001",
        issued_at=1,
        key_id="key-" + "0" * 32,
        path="",
        scheme=scheme,
        content=content,
    )
    arena = Arena(4096)
    slot = arena.take(32)
    slot.view[:] = secret
    who: Any = SimpleNamespace(digest=bytes(32))
    with keys.load(algorithm, slot, code=Code.INTERNAL) as key:
        result = sign(who, body, decode_content(content, scheme, key.public_key), key)
    assert arena.in_use == 0
    check_signature(body, result)
    return result


def ethereum(secret: bytes, content: Content) -> SignResult:
    return signed_by_us(Algorithm.SECP256K1, secret, SigningScheme.ECDSA_SECP256K1, content)


def fields_of(kind: int, tx: dict[str, Any]) -> bytes:
    """The bytes to sign, by the Ethereum project's RLP encoder."""
    listed = [[entry["address"], entry["storageKeys"]] for entry in tx.get("accessList", [])]
    tail = [tx["gas"], tx["to"], tx["value"], tx["data"]]
    if kind == 0:
        return bytes(rlp.encode([tx["nonce"], tx["gasPrice"], *tail, tx["chainId"], 0, 0]))
    if kind == 1:
        return b"\x01" + rlp.encode([tx["chainId"], tx["nonce"], tx["gasPrice"], *tail, listed])
    head = [tx["chainId"], tx["nonce"], tx["maxPriorityFeePerGas"], tx["maxFeePerGas"], *tail, listed]
    if kind == 3:
        head += [tx["maxFeePerBlobGas"], tx["blobVersionedHashes"]]
    if kind == 4:
        head.append([
            [one["chainId"], one["address"], one["nonce"], one["yParity"], one["r"], one["s"]]
            for one in tx["authorizationList"]
        ])  # fmt: skip
    return bytes([kind]) + rlp.encode(head)


def readable(value: Any) -> Any:
    """As eth-account takes it: addresses and hashes as hex, with EIP-55's checksum."""
    if isinstance(value, bytes):
        return str(to_checksum_address(value)) if len(value) == 20 else "0x" + value.hex()
    if isinstance(value, list):
        return [readable(one) for one in value]
    return {name: readable(one) for name, one in value.items()} if isinstance(value, dict) else value


@st.composite
def transactions(draw: st.DrawFn) -> tuple[int, dict[str, Any]]:
    kind = draw(st.sampled_from([0, 1, 2, 3, 4]))
    tx: dict[str, Any] = {name: draw(value) for name, value in common.items()}
    if kind:
        tx |= {"type": kind, "accessList": draw(access)}
    if kind < 2:
        tx["gasPrice"] = draw(wei)
    else:
        tx["maxPriorityFeePerGas"], tx["maxFeePerGas"] = draw(fees)
    if kind == 3:
        tx["maxFeePerBlobGas"] = draw(wei)
        tx["blobVersionedHashes"] = draw(st.lists(word.map(lambda text: b"\x01" + text[1:]), min_size=1, max_size=3))
    if kind == 4:
        tx["authorizationList"] = [authorization(draw, tx["chainId"]) for _ in range(draw(st.integers(1, 2)))]
    return kind, tx


def authorization(draw: st.DrawFn, chain_id: int) -> dict[str, Any]:
    made = Account.sign_authorization(
        {"chainId": chain_id, "address": readable(draw(address)), "nonce": draw(st.integers(0, 2**32))}, draw(secrets)
    )
    found = {name: getattr(made, name) for name in ("nonce", "r", "s")}
    return found | {"chainId": made.chain_id, "address": bytes(made.address), "yParity": made.y_parity}


@settings(max_examples=60, deadline=None)
@given(secret=secrets, made=transactions())
def test_ethereum_transactions(secret: bytes, made: tuple[int, dict[str, Any]]) -> None:
    kind, tx = made
    result = ethereum(secret, EthereumTransaction(fields_of(kind, tx).hex()))
    theirs = Account.sign_transaction(readable(tx), secret)
    assert bytes.fromhex(result.encoded["raw_transaction"][2:]) == bytes(theirs.raw_transaction)
    assert bytes.fromhex(result.encoded["transaction_hash"][2:]) == bytes(theirs.hash)
    assert int(result.encoded["r"], 16) == theirs.r
    assert int(result.encoded["s"], 16) == theirs.s


@settings(max_examples=60, deadline=None)
@given(secret=secrets, message=st.binary(max_size=300) | st.text(max_size=100).map(str.encode))
def test_messages(secret: bytes, message: bytes) -> None:
    result = ethereum(secret, PersonalMessage(message.hex()))
    theirs = Account.sign_message(encode_defunct(primitive=message), secret)
    assert bytes.fromhex(result.signature)[:64] == bytes(theirs.signature)[:64]
    assert bytes.fromhex(result.signature)[64] == theirs.v - 27
    ours = eth_keys.Signature(bytes.fromhex(result.signature))
    recovered = ours.recover_public_key_from_msg_hash(bytes(theirs.message_hash))
    assert recovered == eth_keys.PrivateKey(secret).public_key


@settings(max_examples=60, deadline=None)
@given(
    secret=secrets,
    name=st.text(max_size=20),
    chain=st.integers(1, 2**64),
    to=address,
    amounts=st.lists(st.integers(0, 2**256 - 1), max_size=4),
    note=st.text(max_size=40),
    data=st.binary(max_size=64),
    flag=st.booleans(),
)
def test_typed_data(
    secret: bytes, name: str, chain: int, to: bytes, amounts: list[int], note: str, data: bytes, flag: bool
) -> None:
    document = {
        "types": {
            "EIP712Domain": [{"name": "name", "type": "string"}, {"name": "chainId", "type": "uint256"}],
            "Order": [
                {"name": "to", "type": "Party"},
                {"name": "amounts", "type": "uint256[]"},
                {"name": "note", "type": "string"},
                {"name": "data", "type": "bytes"},
                {"name": "flag", "type": "bool"},
            ],
            "Party": [{"name": "wallet", "type": "address"}],
        },
        "primaryType": "Order",
        "domain": {"name": name, "chainId": chain},
        "message": {
            "to": {"wallet": "0x" + to.hex()},
            "amounts": [str(amount) for amount in amounts],
            "note": note,
            "data": "0x" + data.hex(),
            "flag": flag,
        },
    }
    result = ethereum(secret, TypedData(json.dumps(document)))
    theirs = Account.sign_message(
        encode_typed_data(full_message=document | {"message": document["message"] | {"amounts": amounts}}), secret
    )
    assert bytes.fromhex(result.signature)[:64] == bytes(theirs.signature)[:64]


@pytest.mark.parametrize("make", ["legacy", "v0"])
@settings(max_examples=40, deadline=None)
@given(seed=word, moves=st.lists(st.tuples(word, st.integers(1, 2**62)), min_size=1, max_size=4), block=word)
def test_solana_transfers(make: str, seed: bytes, moves: list[tuple[bytes, int]], block: bytes) -> None:
    theirs = Keypair.from_seed(seed)
    instructions = [
        transfer(TransferParams(from_pubkey=theirs.pubkey(), to_pubkey=Pubkey(to), lamports=amount))
        for to, amount in moves
    ]
    if make == "v0":
        message: Any = MessageV0.try_compile(theirs.pubkey(), instructions, [], Hash(block))
        transaction: Any = VersionedTransaction(message, [theirs])
        signed = b"\x80" + bytes(message) if bytes(message)[0] != 0x80 else bytes(message)
    else:
        message = Message.new_with_blockhash(instructions, theirs.pubkey(), Hash(block))
        transaction = Transaction([theirs], message, Hash(block))
        signed = bytes(message)
    result = signed_by_us(Algorithm.ED25519, seed, SigningScheme.ED25519, SolanaMessage(signed.hex()))
    assert result.signature == bytes(transaction.signatures[0]).hex()
    assert base64.b64decode(result.encoded["transaction"]) == bytes(transaction)
