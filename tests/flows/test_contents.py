"""What the enclave decodes beside plain Ethereum transfers, signed end to end and judged by other libraries."""

from __future__ import annotations

import json

from coins import finished_by_bdk, require_valid, single_key_psbt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from eth_account import Account
from eth_account.messages import encode_defunct, encode_typed_data
from solders.hash import Hash
from solders.message import Message
from solders.pubkey import Pubkey
from solders.system_program import TransferParams, transfer
from wallet import Wallet, refused

from adytum_policy.content.address_bitcoin import own_scripts
from adytum_wire import results
from adytum_wire.errors import Code
from adytum_wire.messages import ExecuteReply, Refusal

TYPED = {
    "types": {
        "EIP712Domain": [{"name": "name", "type": "string"}, {"name": "chainId", "type": "uint256"}],
        "Mail": [{"name": "to", "type": "address"}, {"name": "text", "type": "string"}],
    },
    "primaryType": "Mail",
    "domain": {"name": "Post", "chainId": 1},
    "message": {"to": "0x" + "11" * 20, "text": "hello"},
}


def signature(reply: ExecuteReply | Refusal) -> bytes:
    assert isinstance(reply, ExecuteReply), reply
    result = results.parse_result(reply.result)
    return bytes.fromhex(result.signature)


def ethereum_form(raw: bytes) -> bytes:
    return raw[:64] + bytes([raw[64] + 27])


async def test_a_personal_message_recovers_to_the_address(wallet: Wallet) -> None:
    text = "I agree.\nReally."
    reply = await wallet.sign(content={"type": "eip191-message", "message": text.encode().hex()})
    signed = ethereum_form(signature(reply))
    assert Account.recover_message(encode_defunct(text=text), signature=signed) == wallet.key.address


async def test_typed_data_recovers_to_the_address(wallet: Wallet) -> None:
    reply = await wallet.sign(content={"type": "eip712-typed-data", "typed_data": json.dumps(TYPED)})
    message = encode_typed_data(full_message=TYPED)
    assert Account.recover_message(message, signature=ethereum_form(signature(reply))) == wallet.key.address


async def test_a_solana_transfer_verifies(wallet: Wallet) -> None:
    key = await wallet.make("ed25519")
    payer = Pubkey.from_bytes(bytes.fromhex(key.public_key))
    instruction = transfer(TransferParams(from_pubkey=payer, to_pubkey=Pubkey.new_unique(), lamports=1_000))
    message = bytes(Message.new_with_blockhash([instruction], payer, Hash.new_unique()))
    reply = await wallet.sign(key, scheme="ed25519", content={"type": "solana-message", "message": message.hex()})
    Ed25519PublicKey.from_public_bytes(bytes.fromhex(key.public_key)).verify(signature(reply), message)


async def test_a_psbt_of_one_key_is_valid_by_bitcoin_core(wallet: Wallet) -> None:
    own = own_scripts(bytes.fromhex(wallet.key.public_key))
    for script, scheme in (
        (own.segwit, "ecdsa-secp256k1"),
        (own.nested, "ecdsa-secp256k1"),
        (own.taproot, "bip340"),
    ):
        redeem = own.redeem if script == own.nested else b""
        data, spent = single_key_psbt([script, script], change=script, redeem=redeem)
        content = {"type": "bitcoin-psbt", "psbt": data.hex(), "network": "mainnet"}
        reply = await wallet.sign(scheme=scheme, content=content)
        assert isinstance(reply, ExecuteReply), reply
        result = results.parse_result(reply.result)
        assert isinstance(result, results.SignResult)
        require_valid(bytes.fromhex(result.encoded["raw_transaction"]), spent)
        assert finished_by_bdk(result.encoded["psbt"]).hex() == result.encoded["raw_transaction"]
        assert len(result.signature) == 2 * 2 * (64 if scheme == "bip340" else 65)  # one an input
    refused(await wallet.sign(content=content | {"psbt": "70736274ff"}), Code.CONTENT_INVALID)
    other = await wallet.make()
    refused(await wallet.sign(other, scheme=scheme, content=content), Code.CONTENT_INVALID)


async def test_a_message_that_the_policy_does_not_name_is_refused(wallet: Wallet) -> None:
    wallet.document["version"] += 1
    wallet.document["rules"][0] |= {
        "operations": ["sign"],
        "content": [{"type": "eip191-message", "readable": True, "prefixes": ["I agree"]}],
    }
    await wallet.stack.put_policy(wallet.document)
    agreed = {"type": "eip191-message", "message": b"I agree to this".hex()}
    assert isinstance(await wallet.sign(content=agreed), ExecuteReply)
    refused(await wallet.sign(content=agreed | {"message": b"Pay everything".hex()}), Code.POLICY_DENIED)
    refused(await wallet.sign(), Code.POLICY_DENIED)  # a transfer is no message
