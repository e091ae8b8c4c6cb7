"""Ethereum transactions against eth-account: the same digest, the same signed bytes, the same sender."""

from __future__ import annotations

from typing import Any

import pytest
import rlp as oracle_rlp
from eth_account import Account
from eth_account._utils.legacy_transactions import serializable_unsigned_transaction_from_dict
from eth_keys import keys
from eth_utils import to_checksum_address
from hypothesis import given, settings
from hypothesis import strategies as st

from adytum_policy.content import address_of, decode_content, ethereum
from adytum_policy.facts import EthereumFacts
from adytum_wire import limits
from adytum_wire.errors import AdytumError, Code
from adytum_wire.requests import EthereumTransaction
from adytum_wire.types import SigningScheme

SCHEME = SigningScheme.ECDSA_SECP256K1
MAX_CHAIN_ID = (2**64 - 1) // 2 - 36
SOMEBODY = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"

u64 = st.integers(0, 2**64 - 1)
u256 = st.integers(0, 2**256 - 1) | st.integers(0, 300)
addresses = st.binary(min_size=20, max_size=20).map(to_checksum_address)
plain_data = st.binary(max_size=120).filter(lambda data: data[:4].hex() not in ("a9059cbb", "095ea7b3", "23b872dd"))
common = {
    "nonce": st.integers(0, 2**64 - 2),
    "gas": u64,
    "to": addresses | st.just(""),
    "value": u256,
    "data": plain_data,
    "chainId": st.integers(1, 2**53) | st.sampled_from([1, MAX_CHAIN_ID]),
}
legacy = st.fixed_dictionaries(common | {"gasPrice": u256})
access_lists = st.lists(
    st.fixed_dictionaries(
        {
            "address": addresses,
            "storageKeys": st.lists(st.binary(min_size=32, max_size=32).map(lambda key: "0x" + key.hex()), max_size=2),
        }
    ),
    max_size=3,
)
dynamic = st.fixed_dictionaries(
    common | {"fees": st.tuples(u256, u256).map(sorted), "accessList": access_lists, "type": st.just(2)}
).map(lambda tx: tx | dict(zip(("maxPriorityFeePerGas", "maxFeePerGas"), tx.pop("fees"), strict=True)))
private_keys = st.integers(1, 2**255).map(lambda number: number.to_bytes(32, "big"))


def fields_of(tx: dict[str, Any]) -> list[Any]:
    """The unsigned fields in EIP order, as pyrlp takes them."""
    to = bytes.fromhex(tx["to"][2:])
    if "gasPrice" in tx:
        return [tx["nonce"], tx["gasPrice"], tx["gas"], to, tx["value"], tx["data"], tx["chainId"], 0, 0]
    access = [
        [bytes.fromhex(entry["address"][2:]), [bytes.fromhex(key[2:]) for key in entry["storageKeys"]]]
        for entry in tx["accessList"]
    ]
    fees = [tx["maxPriorityFeePerGas"], tx["maxFeePerGas"]]
    return [tx["chainId"], tx["nonce"], *fees, tx["gas"], to, tx["value"], tx["data"], access]


def unsigned_of(tx: dict[str, Any]) -> bytes:
    encoded: bytes = oracle_rlp.encode(fields_of(tx))
    return encoded if "gasPrice" in tx else b"\x02" + encoded


def decode(unsigned: bytes) -> ethereum.EthereumDecoded:
    decoded = decode_content(EthereumTransaction(unsigned.hex()), SCHEME)
    assert isinstance(decoded, ethereum.EthereumDecoded)
    return decoded


def refused(unsigned: bytes) -> str:
    with pytest.raises(AdytumError) as caught:
        decode(unsigned)
    assert caught.value.code is Code.CONTENT_INVALID
    return caught.value.field.removeprefix("$.content.unsigned")


@settings(max_examples=60, deadline=None)
@given(tx=legacy | dynamic, key=private_keys)
def test_digest_signed_bytes_hash_and_sender_agree_with_eth_account(tx: dict[str, Any], key: bytes) -> None:
    decoded = decode(unsigned_of(tx))
    signed = Account.sign_transaction(tx, key)
    assert decoded.payload == bytes(serializable_unsigned_transaction_from_dict(tx).hash())

    parity = signed.v if "gasPrice" not in tx else signed.v - 35 - 2 * tx["chainId"]
    signature = signed.r.to_bytes(32, "big") + signed.s.to_bytes(32, "big") + bytes([parity])
    result = decoded.finish(signature)
    assert result["raw_transaction"] == "0x" + bytes(signed.raw_transaction).hex()
    assert result["transaction_hash"] == "0x" + bytes(signed.hash).hex()
    assert (int(result["r"], 16), int(result["s"], 16), int(result["v"], 16)) == (signed.r, signed.s, signed.v)
    assert ("y_parity" in result) == ("gasPrice" not in tx)

    sender = Account.recover_transaction(result["raw_transaction"])
    assert sender == Account.from_key(key).address
    assert address_of(keys.PrivateKey(key).public_key.to_compressed_bytes()) == sender


@settings(max_examples=60)
@given(tx=legacy | dynamic)
def test_facts_and_summary_say_what_the_transaction_says(tx: dict[str, Any]) -> None:
    decoded = decode(unsigned_of(tx))
    price = tx.get("gasPrice", tx.get("maxFeePerGas"))
    data, to = tx["data"], bytes.fromhex(tx["to"][2:])
    assert decoded.facts == EthereumFacts(
        type="ethereum-transaction",
        chain_id=tx["chainId"],
        to=to or None,
        value=tx["value"],
        max_fee=price * tx["gas"],
        selector=None if not to or 0 < len(data) < 4 else data[:4],
        token=None,
    )
    summary = decoded.summary
    assert all(isinstance(value, str) and value for value in summary.values())
    assert summary["to"] == (to_checksum_address(to) if to else "(contract creation)")
    assert (summary["value_wei"], summary["nonce"]) == (str(tx["value"]), str(tx["nonce"]))
    whole, _, fraction = summary["value_eth"].partition(".")
    assert int(whole) * 10**18 + int(fraction.ljust(18, "0")) == tx["value"]


@settings(max_examples=300)
@given(tx=legacy | dynamic, data=st.data())
def test_a_mutated_transaction_is_another_transaction_or_refused(tx: dict[str, Any], data: st.DataObject) -> None:
    """No second spelling: bytes that decode re-encode to themselves, and the digest is of exactly these bytes."""
    original = unsigned_of(tx)
    at = data.draw(st.integers(0, len(original)))
    cut = data.draw(st.integers(0, 3))
    mutated = original[:at] + data.draw(st.binary(max_size=3)) + original[at + cut :]
    try:
        decoded = decode(mutated)
    except AdytumError as error:
        assert error.code is Code.CONTENT_INVALID
        return
    items = list(decoded.items)
    if decoded.prefix:
        assert decoded.prefix + oracle_rlp.encode(items) == mutated
    else:
        assert oracle_rlp.encode([*items, decoded.chain_id, 0, 0]) == mutated
    assert (decoded.payload == decode(original).payload) == (mutated == original)


@given(st.binary(max_size=200) | st.binary(max_size=200).map(lambda data: b"\x02" + data))
def test_arbitrary_bytes_are_decoded_or_refused_and_nothing_else(data: bytes) -> None:
    try:
        decode(data)
    except AdytumError as error:
        assert error.code is Code.CONTENT_INVALID


LEGACY: dict[str, Any] = {
    "nonce": 1,
    "gasPrice": 2,
    "gas": 21_000,
    "to": SOMEBODY,
    "value": 3,
    "data": b"",
    "chainId": 1,
}
DYNAMIC = {
    **{name: value for name, value in LEGACY.items() if name != "gasPrice"},
    "maxPriorityFeePerGas": 1,
    "maxFeePerGas": 2,
    "accessList": [],
}


def spelled(tx: dict[str, Any], at: int, value: Any) -> bytes:
    """`tx` with its field `at` replaced by an RLP item that pyrlp encodes as it is."""
    fields = fields_of(tx)
    fields[at] = value
    encoded: bytes = oracle_rlp.encode(fields)
    return encoded if tx is LEGACY else b"\x02" + encoded


def test_the_example_of_eip_155() -> None:
    """https://eips.ethereum.org/EIPS/eip-155, "Example"."""
    unsigned = "ec098504a817c800825208943535353535353535353535353535353535353535880de0b6b3a764000080018080"
    decoded = decode(bytes.fromhex(unsigned))
    assert decoded.payload.hex() == "daf5a779ae972f972197303d7b574746c7ef83eadac0f2791ad23db92e4c8e53"
    assert decoded.summary["value_eth"] == "1"
    signature = (
        "28ef61340bd939bc2195fe537567866003e1a15d3c71ff63e1590620aa636276"
        "67cbe9d8997f761aecb703304b3800ccf555c9f3dc64214b297fb1966a3b6d83"
        "00"
    )
    finished = decoded.finish(bytes.fromhex(signature))
    assert finished["v"] == "0x25"
    assert finished["raw_transaction"] == (
        "0xf86c098504a817c800825208943535353535353535353535353535353535353535880de0b6b3a76400008025a028ef61340bd939bc"
        "2195fe537567866003e1a15d3c71ff63e1590620aa636276a067cbe9d8997f761aecb703304b3800ccf555c9f3dc64214b297fb1966a"
        "3b6d83"
    )


@pytest.mark.parametrize(
    ("tx", "at", "value", "part"),
    [
        (LEGACY, 0, b"\0", ".nonce"),
        (LEGACY, 0, b"\0\1", ".nonce"),
        (LEGACY, 0, 2**64 - 1, ".nonce"),
        (LEGACY, 0, [], ".nonce"),
        (LEGACY, 1, 2**256, ".gas_price"),
        (LEGACY, 2, 2**64, ".gas_limit"),
        (LEGACY, 3, bytes(19), ".to"),
        (LEGACY, 3, bytes(21), ".to"),
        (LEGACY, 3, bytes(32), ".to"),
        (LEGACY, 3, [], ".to"),
        (LEGACY, 4, 2**256, ".value"),
        (LEGACY, 4, bytes(33), ".value"),
        (LEGACY, 5, [], ".data"),
        (LEGACY, 6, 0, ".chain_id"),
        (LEGACY, 6, MAX_CHAIN_ID + 1, ".chain_id"),
        (LEGACY, 7, 1, ".signature"),
        (LEGACY, 8, 1, ".signature"),
        (LEGACY, 8, b"\0", ".signature"),
        (LEGACY, 8, [], ".signature"),
        (DYNAMIC, 0, 0, ".chain_id"),
        (DYNAMIC, 0, [], ".chain_id"),
        (DYNAMIC, 1, 2**64 - 1, ".nonce"),
        (DYNAMIC, 2, 3, ".max_priority_fee_per_gas"),
        (DYNAMIC, 3, 2**256, ".max_fee_per_gas"),
        (DYNAMIC, 8, b"", ".access_list"),
        (DYNAMIC, 8, [b""], ".access_list"),
        (DYNAMIC, 8, [[]], ".access_list"),
        (DYNAMIC, 8, [[bytes(20)]], ".access_list"),
        (DYNAMIC, 8, [[bytes(19), []]], ".access_list"),
        (DYNAMIC, 8, [[bytes(20), b""]], ".access_list"),
        (DYNAMIC, 8, [[bytes(20), [bytes(31)]]], ".access_list"),
        (DYNAMIC, 8, [[bytes(20), [[]]]], ""),
        (DYNAMIC, 8, [[bytes(20), [], b""]], ".access_list"),
    ],
)
def test_a_field_out_of_shape_is_refused_and_named(tx: dict[str, Any], at: int, value: Any, part: str) -> None:
    decode(unsigned_of(tx))
    assert refused(spelled(tx, at, value)) == part


def test_a_legacy_transaction_without_chain_id() -> None:
    """Valid on every chain, so it could be replayed on one that the policy never saw."""
    assert refused(oracle_rlp.encode(fields_of(LEGACY)[:6])) == ""


@pytest.mark.parametrize("first", [0x00, 0x01, 0x03, 0x04, 0x7F, 0x80])
def test_other_types_are_refused(first: int) -> None:
    assert refused(bytes([first]) + unsigned_of(DYNAMIC)[1:]) == ""


def test_a_signed_transaction_is_not_unsigned_content() -> None:
    signed = Account.sign_transaction(LEGACY, b"\x01" * 32)
    assert refused(bytes(signed.raw_transaction)) == ".signature"
    assert refused(bytes(Account.sign_transaction(DYNAMIC, b"\x01" * 32).raw_transaction)) == ""


def test_trailing_bytes_and_length_limits() -> None:
    assert refused(unsigned_of(LEGACY) + b"\0") == ""
    assert refused(unsigned_of(DYNAMIC) + b"\0") == ""
    assert refused(b"") == ""
    assert refused(b"\x02") == ""
    large = unsigned_of(DYNAMIC | {"data": bytes(limits.MAX_CONTENT)})
    with pytest.raises(AdytumError) as caught:
        ethereum.decode(large)
    assert caught.value.code is Code.CONTENT_INVALID


@pytest.mark.parametrize("scheme", [scheme for scheme in SigningScheme if scheme is not SCHEME])
def test_only_ecdsa_secp256k1_signs_ethereum(scheme: SigningScheme) -> None:
    with pytest.raises(AdytumError) as caught:
        decode_content(EthereumTransaction(unsigned_of(LEGACY).hex()), scheme)
    assert (caught.value.code, caught.value.field) == (Code.CONTENT_INVALID, "$.scheme")


@pytest.mark.parametrize("signature", [b"", bytes(64), bytes(64) + b"\2", bytes(64) + b"\x1b", bytes(66)])
def test_a_signature_that_ethereum_cannot_express_does_not_leave(signature: bytes) -> None:
    with pytest.raises(AdytumError) as caught:
        decode(unsigned_of(LEGACY)).finish(signature)
    assert caught.value.code is Code.INTERNAL
