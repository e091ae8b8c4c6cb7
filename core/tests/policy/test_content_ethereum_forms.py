"""EIP-2930, EIP-4844 and EIP-7702 transactions against eth-account, and the rules about who may be delegated to."""

from __future__ import annotations

from typing import Any

import pytest
import rlp as oracle_rlp
from eth_account import Account
from eth_account.typed_transactions import TypedTransaction
from eth_utils import to_checksum_address
from hypothesis import given, settings
from hypothesis import strategies as st
from one_matcher import parse, said

from adytum_policy.content import decode_content, ethereum
from adytum_policy.facts import EthereumFacts
from adytum_wire.errors import AdytumError, Code
from adytum_wire.requests import EthereumTransaction
from adytum_wire.types import SigningScheme

SCHEME = SigningScheme.ECDSA_SECP256K1
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
u64 = st.integers(0, 2**64 - 1)
u256 = st.integers(0, 2**256 - 1) | st.integers(0, 300)
addresses = st.binary(min_size=20, max_size=20).map(to_checksum_address)
access_lists = st.lists(
    st.fixed_dictionaries(
        {
            "address": addresses,
            "storageKeys": st.lists(st.binary(min_size=32, max_size=32).map(lambda key: "0x" + key.hex()), max_size=2),
        }
    ),
    max_size=2,
)
common = {
    "nonce": st.integers(0, 2**64 - 2),
    "gas": u64,
    "to": addresses,
    "value": u256,
    "data": st.binary(max_size=60).filter(lambda data: data[:4].hex() not in ("a9059cbb", "095ea7b3", "23b872dd")),
    "chainId": st.integers(1, 2**53),
    "accessList": access_lists,
}
fees = st.tuples(u256, u256).map(sorted).map(lambda two: {"maxPriorityFeePerGas": two[0], "maxFeePerGas": two[1]})
hashes = st.binary(min_size=31, max_size=31).map(lambda tail: b"\1" + tail)
listed = st.fixed_dictionaries(common | {"type": st.just(1), "gasPrice": u256, "to": addresses | st.just("")})
blob = st.builds(
    lambda tx, fee: tx | fee,
    st.fixed_dictionaries(
        common
        | {
            "type": st.just(3),
            "maxFeePerBlobGas": u256,
            "blobVersionedHashes": st.lists(hashes, min_size=1, max_size=6).map(tuple),
        }
    ),
    fees,
)
_auth = st.fixed_dictionaries(
    {"address": st.binary(min_size=20, max_size=20), "nonce": st.integers(0, 2**53), "anywhere": st.booleans()}
)
private_keys = st.integers(1, 2**255).map(lambda number: number.to_bytes(32, "big"))


def _signed(tx: dict[str, Any], fee: dict[str, int], wanted: list[dict[str, Any]], key: bytes) -> dict[str, Any]:
    entries = [
        Account.sign_authorization(
            {
                "chainId": 0 if entry["anywhere"] else tx["chainId"],
                "address": entry["address"],
                "nonce": entry["nonce"],
            },
            key,
        )
        for entry in wanted
    ]
    return tx | fee | {"authorizationList": entries}


set_code = st.builds(
    _signed,
    st.fixed_dictionaries(common | {"type": st.just(4)}),
    fees,
    st.lists(_auth, min_size=1, max_size=3),
    private_keys,
)


def fields_of(tx: dict[str, Any]) -> list[Any]:
    """The unsigned fields in EIP order, as pyrlp takes them."""
    access = [
        [bytes.fromhex(entry["address"][2:]), [bytes.fromhex(key[2:]) for key in entry["storageKeys"]]]
        for entry in tx["accessList"]
    ]
    price = [tx["gasPrice"]] if tx["type"] == 1 else [tx["maxPriorityFeePerGas"], tx["maxFeePerGas"]]
    fields = [
        tx["chainId"],
        tx["nonce"],
        *price,
        tx["gas"],
        bytes.fromhex(tx["to"][2:]),
        tx["value"],
        tx["data"],
        access,
    ]
    if tx["type"] == 3:
        fields += [tx["maxFeePerBlobGas"], list(tx["blobVersionedHashes"])]
    if tx["type"] == 4:
        fields.append([[a.chain_id, a.address, a.nonce, a.y_parity, a.r, a.s] for a in tx["authorizationList"]])
    return fields


def spelled(kind: int, fields: list[Any]) -> bytes:
    encoded: bytes = oracle_rlp.encode(fields)
    return bytes([kind]) + encoded


def decode(unsigned: bytes) -> ethereum.EthereumDecoded:
    decoded = decode_content(EthereumTransaction(unsigned.hex()), SCHEME)
    assert isinstance(decoded, ethereum.EthereumDecoded)
    return decoded


def refused(unsigned: bytes) -> str:
    with pytest.raises(AdytumError) as caught:
        decode(unsigned)
    assert caught.value.code is Code.CONTENT_INVALID
    return caught.value.field.removeprefix("$.content.unsigned")


@settings(max_examples=75, deadline=None)
@given(tx=listed | blob | set_code, key=private_keys)
def test_digest_signed_bytes_hash_and_sender_agree_with_eth_account(tx: dict[str, Any], key: bytes) -> None:
    decoded = decode(spelled(tx["type"], fields_of(tx)))
    assert decoded.payload == bytes(TypedTransaction.from_dict(dict(tx)).hash())
    signed = Account.sign_transaction(dict(tx), key)
    result = decoded.finish(signed.r.to_bytes(32, "big") + signed.s.to_bytes(32, "big") + bytes([signed.v]))
    assert result["raw_transaction"] == "0x" + bytes(signed.raw_transaction).hex()
    assert result["transaction_hash"] == "0x" + bytes(signed.hash).hex()
    assert (result["v"], result["y_parity"]) == (hex(signed.v), hex(signed.v))
    assert Account.recover_transaction(result["raw_transaction"]) == Account.from_key(key).address


@settings(max_examples=60, deadline=None)
@given(tx=listed | blob | set_code)
def test_facts_and_summary_say_what_the_transaction_says(tx: dict[str, Any]) -> None:
    decoded = decode(spelled(tx["type"], fields_of(tx)))
    assert isinstance(decoded.facts, EthereumFacts)
    blobs = len(tx.get("blobVersionedHashes", ()))
    gas_price = tx["gasPrice"] if tx["type"] == 1 else tx["maxFeePerGas"]
    assert decoded.facts.max_fee == gas_price * tx["gas"] + blobs * 2**17 * tx.get("maxFeePerBlobGas", 0)
    assert decoded.facts.chain_id == tx["chainId"]
    assert (decoded.facts.to or b"") == bytes.fromhex(tx["to"][2:])
    names = {1: "ethereum-transaction", 3: "ethereum-blob-transaction", 4: "ethereum-set-code-transaction"}
    assert decoded.facts.type == decoded.summary["type"] == names[tx["type"]]
    assert decoded.summary["form"] == {1: "eip-2930", 3: "eip-4844", 4: "eip-7702"}[tx["type"]]
    if tx["type"] == 3:
        shown = [decoded.summary[f"blob_{at}"] for at in range(1, blobs + 1)]
        assert shown == ["0x" + entry.hex() for entry in tx["blobVersionedHashes"]]
    if tx["type"] == 4:
        assert decoded.facts.delegates == tuple(bytes(entry.address) for entry in tx["authorizationList"])
        for at, entry in enumerate(tx["authorizationList"], 1):
            where = f"chain {entry.chain_id}" if entry.chain_id else "every chain"
            wanted = f"{to_checksum_address(entry.address)} on {where}, nonce {entry.nonce}"
            assert decoded.summary[f"authorization_{at}"] == wanted
    else:
        assert decoded.facts.delegates is None


@settings(max_examples=250, deadline=None)
@given(tx=listed | blob | set_code, data=st.data())
def test_a_mutated_transaction_is_another_transaction_or_refused(tx: dict[str, Any], data: st.DataObject) -> None:
    original = spelled(tx["type"], fields_of(tx))
    at = data.draw(st.integers(0, len(original)))
    cut = data.draw(st.integers(0, 3))
    mutated = original[:at] + data.draw(st.binary(max_size=3)) + original[at + cut :]
    try:
        decoded = decode(mutated)
    except AdytumError as error:
        assert error.code is Code.CONTENT_INVALID
        return
    assert decoded.prefix + oracle_rlp.encode(list(decoded.items)) == mutated
    assert (decoded.payload == decode(original).payload) == (mutated == original)


@given(st.sampled_from([1, 3, 4]), st.binary(max_size=200))
def test_arbitrary_bytes_are_decoded_or_refused_and_nothing_else(kind: int, data: bytes) -> None:
    try:
        decode(bytes([kind]) + data)
    except AdytumError as error:
        assert error.code is Code.CONTENT_INVALID


TO, CODE = b"\x22" * 20, b"\x33" * 20
AUTH = [1, CODE, 0, 1, 5, 6]
LISTED = [1, 0, 2, 21_000, TO, 3, b"", []]
BLOB = [1, 0, 1, 2, 21_000, TO, 3, b"", [], 7, [b"\1" + bytes(31)]]
SET_CODE = [1, 0, 1, 2, 21_000, TO, 3, b"", [], [AUTH]]
KINDS = {1: LISTED, 3: BLOB, 4: SET_CODE}


def auth(at: int, value: Any) -> list[Any]:
    return [[*AUTH[:at], value, *AUTH[at + 1 :]]]


@pytest.mark.parametrize(
    ("kind", "at", "value", "part"),
    [
        (1, 0, 0, ".chain_id"),
        (1, 2, b"\0\1", ".gas_price"),
        (1, 3, 2**64, ".gas_limit"),
        (1, 4, bytes(19), ".to"),
        (1, 7, b"", ".access_list"),
        (1, 7, [[TO]], ".access_list"),
        (3, 5, b"", ".to"),
        (3, 2, 3, ".max_priority_fee_per_gas"),
        (3, 9, 2**256, ".max_fee_per_blob_gas"),
        (3, 10, [], ".blob_versioned_hashes"),
        (3, 10, b"", ".blob_versioned_hashes"),
        (3, 10, [b"\1" + bytes(30)], ".blob_versioned_hashes"),
        (3, 10, [b"\2" + bytes(31)], ".blob_versioned_hashes"),
        (3, 10, [[]], ".blob_versioned_hashes"),
        (3, 10, [b"\1" + bytes(31)] * 17, ".blob_versioned_hashes"),
        (4, 5, b"", ".to"),
        (4, 9, [], ".authorization_list"),
        (4, 9, b"", ".authorization_list"),
        (4, 9, [AUTH] * 33, ".authorization_list"),
        (4, 9, [AUTH[:5]], ".authorization_list"),
        (4, 9, [[*AUTH, 0]], ".authorization_list"),
        (4, 9, auth(0, 2), ".authorization_list"),
        (4, 9, auth(1, bytes(19)), ".authorization_list"),
        (4, 9, auth(1, []), ".authorization_list"),
        (4, 9, auth(2, 2**64 - 1), ".authorization_list"),
        (4, 9, auth(3, 2), ".authorization_list"),
        (4, 9, auth(4, 0), ".authorization_list"),
        (4, 9, auth(4, ORDER), ".authorization_list"),
        (4, 9, auth(5, 0), ".authorization_list"),
        (4, 9, auth(5, ORDER // 2 + 1), ".authorization_list"),
    ],
)
def test_a_field_out_of_shape_is_refused_and_named(kind: int, at: int, value: Any, part: str) -> None:
    fields = KINDS[kind]
    decode(spelled(kind, fields))
    assert refused(spelled(kind, [*fields[:at], value, *fields[at + 1 :]])) == part


@pytest.mark.parametrize("kind", [1, 3, 4])
def test_signed_truncated_and_longer_transactions_are_refused(kind: int) -> None:
    fields = KINDS[kind]
    for wrong in (fields[:-1], [*fields, 0], [*fields, 0, 5, 6]):
        assert refused(spelled(kind, wrong)) == ""
    assert refused(spelled(kind, fields) + b"\0") == ""


# --- rules

_OPEN = ("chain_ids", "contract_creation", "to", "min_value", "max_value", "max_fee", "selectors", "erc20")


def matcher(kind: str, **changes: Any) -> dict[str, Any]:
    return {"type": kind} | dict.fromkeys(_OPEN, "*") | changes


def outcome(unsigned: bytes, effect: str, entry: dict[str, Any]) -> str:
    facts = decode(unsigned).facts
    assert facts is not None
    return said(facts, entry, effect)


def test_a_rule_for_plain_transactions_does_not_allow_blobs_or_delegation() -> None:
    """What a rule was written for before a form existed must not reach the form."""
    plain = matcher("ethereum-transaction")
    assert outcome(spelled(1, LISTED), "allow", plain) == "allow"
    assert outcome(spelled(3, BLOB), "allow", plain) == "content.type"
    assert outcome(spelled(4, SET_CODE), "allow", plain) == "content.type"


def test_the_blob_fee_counts_against_max_fee() -> None:
    fee = 2 * 21_000 + 7 * 2**17
    kind = "ethereum-blob-transaction"
    assert outcome(spelled(3, BLOB), "allow", matcher(kind, max_fee=str(fee))) == "allow"
    assert outcome(spelled(3, BLOB), "allow", matcher(kind, max_fee=str(fee - 1))) == "content.max_fee"


def test_one_foreign_delegate_among_good_ones() -> None:
    """Allow rules want every delegate named, deny rules bite on any."""
    kind = "ethereum-set-code-transaction"
    good, bad = "0x" + CODE.hex(), "0x" + "44" * 20
    mixed = spelled(4, [*SET_CODE[:9], [AUTH, [1, b"\x44" * 20, 0, 1, 5, 6]]])
    assert outcome(mixed, "allow", matcher(kind, delegates=[good])) == "content.delegate"
    assert outcome(mixed, "allow", matcher(kind, delegates=[good, bad])) == "allow"
    assert outcome(mixed, "deny", matcher(kind, delegates=[bad])) == "deny"
    assert outcome(spelled(4, SET_CODE), "deny", matcher(kind, delegates=[bad])) == "content.delegate"
    assert outcome(mixed, "allow", matcher(kind, delegates=[])) == "content.delegate"
    assert outcome(mixed, "deny", matcher(kind, delegates="*")) == "deny"


def test_an_allow_rule_must_name_the_delegates() -> None:
    kind = "ethereum-set-code-transaction"
    for entry in (matcher(kind, delegates="*"), matcher(kind, delegates=["0x" + "AB" * 20]), matcher(kind)):
        with pytest.raises(AdytumError) as caught:
            parse(entry)
        assert caught.value.code is Code.POLICY_INVALID
    assert caught.value.field == "$.rules[0].content[0]"
    for kind in ("ethereum-transaction", "ethereum-blob-transaction"):
        with pytest.raises(AdytumError):
            parse(matcher(kind, delegates=[]))
