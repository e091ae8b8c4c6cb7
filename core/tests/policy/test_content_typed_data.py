"""EIP-712 typed data against eth-account and EIP-712's own example: digests, facts, and what is refused."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from eth_account import Account
from eth_account.messages import encode_typed_data
from eth_utils import keccak, to_checksum_address
from hypothesis import given, settings
from hypothesis import strategies as st

from adytum_policy.content import decode_content
from adytum_policy.facts import PermitFacts, TypedDataFacts
from adytum_wire.errors import AdytumError, Code
from adytum_wire.requests import TypedData
from adytum_wire.types import SigningScheme

SCHEME = SigningScheme.ECDSA_SECP256K1


def typed(document: Any) -> Any:
    return decode_content(TypedData(document if isinstance(document, str) else json.dumps(document)), SCHEME)


def refused(document: Any) -> str:
    with pytest.raises(AdytumError) as caught:
        typed(document)
    assert caught.value.code is Code.CONTENT_INVALID
    return caught.value.field.removeprefix("$.content.typed_data")


def compact(signed: Any) -> bytes:
    return bytes(signed.r.to_bytes(32, "big") + signed.s.to_bytes(32, "big") + bytes([signed.v - 27]))


def oracle(document: dict[str, Any]) -> bytes:
    message = encode_typed_data(full_message=copy.deepcopy(document))
    return bytes(keccak(b"\x19" + message.version + message.header + message.body))


def test_the_example_of_eip_712(mail: dict[str, Any]) -> None:
    decoded = typed(mail)
    assert decoded.payload.hex() == "be609aee343fb3c4b28e1df9e632fca64fcfaede20f02e86244efddf30957bd2"
    signed = Account.sign_typed_data(keccak(b"cow"), full_message=mail)
    assert decoded.finish(compact(signed))["ethereum_signature"] == (
        "0x4355c47d63924e8a72e509b65029052eb6c299d53a04e167c5775fd466751c9d"
        "07299936d304c153f6443dfa05f40ff007d72911b6f72307f996231605b915621c"
    )
    assert decoded.facts == TypedDataFacts(
        type="eip712-typed-data",
        domain_name="Ether Mail",
        domain_version="1",
        chain_id=1,
        verifying_contract=b"\xcc" * 20,
        primary_type="Mail",
        permit=None,
    )
    assert decoded.summary["message.from.name"] == "Cow"
    assert decoded.summary["message.contents"] == "Hello, Bob!"


def test_a_permit_says_who_may_spend_how_much(permit: dict[str, Any]) -> None:
    decoded = typed(permit)
    assert decoded.payload == oracle(permit)
    assert decoded.facts.permit == PermitFacts(
        owner=b"\x22" * 20, spender=b"\x11" * 20, value=5_000_000, deadline=2**40
    )
    assert decoded.summary["permit_spender"] == to_checksum_address("0x" + "11" * 20)
    assert decoded.summary["permit_value"] == "5000000"


def test_a_permit_of_another_shape_is_no_permit(permit: dict[str, Any]) -> None:
    """DAI's: all or nothing, with other members. The token contract would never take it for EIP-2612's."""
    permit["types"]["Permit"][2]["type"] = "bool"
    permit["message"]["value"] = True
    assert typed(permit).facts.permit is None


_ints = {f"{sign}int{bits}": (sign, bits) for sign in ("", "u") for bits in range(8, 257, 8)}


def _range(sign: str, bits: int) -> st.SearchStrategy[int]:
    low, high = (0, 2**bits - 1) if sign else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return st.integers(low, high) | st.sampled_from([low, high])


def _hexed(count: int) -> st.SearchStrategy[str]:
    return st.binary(min_size=count, max_size=count).map(lambda data: "0x" + data.hex())


def values(written: str, structs: dict[str, list[dict[str, str]]]) -> st.SearchStrategy[Any]:
    if written.endswith("]"):
        inner, _, length = written[:-1].rpartition("[")
        low, high = (int(length), int(length)) if length else (0, 2)
        return st.lists(values(inner, structs), min_size=low, max_size=high)
    if written in structs:
        return st.fixed_dictionaries({m["name"]: values(m["type"], structs) for m in structs[written]})
    if written in _ints:
        return _range(*_ints[written]).flatmap(lambda n: st.sampled_from([n, str(n)]))
    simple: dict[str, st.SearchStrategy[Any]] = {
        "bool": st.booleans(),
        "string": st.text(max_size=20),
        "bytes": st.integers(0, 40).flatmap(_hexed),
        "address": st.binary(min_size=20, max_size=20).map(to_checksum_address),
    }
    return simple[written] if written in simple else _hexed(int(written.removeprefix("bytes")))


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """A chain of struct types, each containing the next in some array of it, with values of every kind."""
    elementary = [*_ints, "bool", "string", "bytes", "address", *(f"bytes{count}" for count in range(1, 33))]
    suffixes = st.sampled_from(["", "", "[]", "[2]", "[][]", "[2][]", "[][1]"])
    names = ["Order", "item", "Zeta"][: draw(st.integers(1, 3))]
    structs: dict[str, list[dict[str, str]]] = {}
    for at, name in reversed(list(enumerate(names))):
        bases = draw(st.lists(st.sampled_from(elementary), min_size=1, max_size=4)) + names[at + 1 : at + 2]
        structs[name] = [{"name": f"m{number}", "type": base + draw(suffixes)} for number, base in enumerate(bases)]
    members = {"name": "string", "version": "string", "chainId": "uint256", "verifyingContract": "address"}
    members["salt"] = "bytes32"
    chosen = draw(st.lists(st.sampled_from(list(members)), min_size=1, unique=True))
    domain = [{"name": name, "type": kind} for name, kind in members.items() if name in chosen]
    return {
        "types": {"EIP712Domain": domain} | structs,
        "primaryType": names[0],
        "domain": {m["name"]: draw(values(m["type"], {})) for m in domain},
        "message": draw(values(names[0], structs)),
    }


@settings(max_examples=120, deadline=None)
@given(document=documents())
def test_digests_of_any_types_and_values_agree_with_eth_account(document: dict[str, Any]) -> None:
    # eth-account reads the domain's number as text in no other way than we do
    document["domain"] |= {"chainId": int(document["domain"]["chainId"])} if "chainId" in document["domain"] else {}
    decoded = typed(document)
    assert decoded.payload == oracle(document)
    assert all(isinstance(text, str) for text in decoded.summary.values())


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    return [path] if parts is None else [leaf for step, part in parts for leaf in leaves(part, (*path, step))]


STRANGE = [None, True, -1, 2**256, "", "x", "0x", "0x1", "-0", "01", "1e3", [], {}, "uint", "Mail[", "0x" + "Ab" * 20]


@settings(max_examples=250, deadline=None)
@given(document=documents(), data=st.data())
def test_a_mutated_document_is_another_one_or_refused(document: dict[str, Any], data: st.DataObject) -> None:
    before = typed(document)
    path = data.draw(st.sampled_from(leaves(document)))
    target = document
    for step in path[:-1]:
        target = target[step]
    target[path[-1]] = data.draw(st.sampled_from(STRANGE))
    try:
        after = typed(document)
    except AdytumError as error:
        assert error.code is Code.CONTENT_INVALID
        return
    # One digest never shows two things. Two digests may show one: a type may be renamed of which there is no value.
    if path[0] != "types" or after.payload == before.payload:
        assert (after.payload == before.payload) == (after.summary == before.summary)


@given(st.text(max_size=100) | st.text(alphabet='{}[]":,typesdomain0', max_size=60))
def test_arbitrary_text_is_refused_and_nothing_else(text: str) -> None:
    assert refused(text) is not None


def spoilt(path: tuple[Any, ...], value: Any, document: dict[str, Any]) -> dict[str, Any]:
    changed = copy.deepcopy(document)
    target = changed
    for step in path[:-1]:
        target = target[step]
    target[path[-1]] = value
    return changed


PERSON = [{"name": "name", "type": "string"}, {"name": "wallet", "type": "address"}]


@pytest.mark.parametrize(
    ("path", "value", "part"),
    [
        (("message", "extra"), "not signed", ".message"),
        (("message", "from", "extra"), "not signed", ".message"),
        (("message",), {}, ".message"),
        (("message",), [], ".message"),
        (("message", "to"), None, ".message"),
        (("message", "contents"), None, ".message"),
        (("message", "contents"), 5, ".message"),
        (("message", "to", "wallet"), "0xbbBBBBBbbBBBbbbBbbBbbbbBBbBbbbbBbBbbBBbB", ".message"),
        (("message", "to", "wallet"), "0x" + "bb" * 19, ".message"),
        (("message", "to", "wallet"), "bb" * 20, ".message"),
        (("domain", "extra"), "x", ".domain"),
        (("domain", "chainId"), "1.0", ".domain"),
        (("domain", "chainId"), "01", ".domain"),
        (("domain", "chainId"), True, ".domain"),
        (("domain", "chainId"), -1, ".domain"),
        (("domain", "chainId"), 2**256, ".domain"),
        (("domain",), {}, ".domain"),
        (("primaryType",), "Nothing", ".primaryType"),
        (("primaryType",), "EIP712Domain", ".types"),
        (("primaryType",), 1, ".primaryType"),
        (("types", "Hidden"), PERSON, ".types"),
        (("types", "EIP712Domain"), [], ".types"),
        (("types", "EIP712Domain", 0, "name"), "title", ".types"),
        (("types", "EIP712Domain", 2, "type"), "uint64", ".types"),
        (
            ("types", "EIP712Domain"),
            [{"name": "version", "type": "string"}, {"name": "name", "type": "string"}],
            ".types",
        ),
        (("types", "Person", 0, "type"), "int", ".types"),
        (("types", "Person", 0, "type"), "uint7", ".types"),
        (("types", "Person", 0, "type"), "bytes33", ".types"),
        (("types", "Person", 0, "type"), "fixed128x18", ".types"),
        (("types", "Person", 0, "type"), "string[0]", ".types"),
        (("types", "Person", 0, "type"), "string[", ".types"),
        (("types", "Person", 0, "type"), "string name,address wallet)Evil(string", ".types"),
        (("types", "Person", 0, "name"), "name,uint256 x", ".types"),
        (("types", "Person", 0, "name"), "wallet", ".types"),
        (("types", "Person", 0, "type"), "Missing", ".types"),
        (("types", "Person", 0, "type"), "EIP712Domain", ".types"),
        (("types", "uint256"), PERSON, ".types"),
        (("types", "Per(son"), PERSON, ".types"),
        (("types", "Person", 0, "size"), 1, ".types"),
        (("comment",), "x", ""),
    ],
)
def test_what_is_out_of_shape_is_refused_and_named(
    mail: dict[str, Any], path: tuple[Any, ...], value: Any, part: str
) -> None:
    typed(mail)
    assert refused(spoilt(path, value, mail)).startswith(part)


def test_two_values_for_one_name(mail: dict[str, Any]) -> None:
    """Shown as one, signed as the other."""
    text = json.dumps(mail).replace('"contents": "Hello, Bob!"', '"contents": "Hello, Bob!", "contents": "Pay Eve"')
    assert refused(text) == " (not strict JSON)"
    assert refused(json.dumps(mail) + "{}") == " (not strict JSON)"
    assert refused(json.dumps(spoilt(("domain", "chainId"), 1.5, mail))) == " (not strict JSON)"
    assert refused("\ud800") == " (not strict JSON)"


def test_more_than_a_person_can_read(mail: dict[str, Any]) -> None:
    many = copy.deepcopy(mail)
    many["types"]["Mail"][2]["type"] = "string[]"
    typed(spoilt(("message", "contents"), [""] * 500, many))
    assert refused(spoilt(("message", "contents"), [""] * 513, many)) == ".message"
    assert refused(spoilt(("message", "contents"), "x" * 17_000, mail)) == ".message"
    assert refused(spoilt(("message", "contents"), "x" * 25_000, mail)) == " (too large)"


def test_text_that_hides_is_shown_as_hex(mail: dict[str, Any]) -> None:
    for text in ("pay ‮001", "a\0", "hex:00"):
        summary = typed(spoilt(("message", "contents"), text, mail)).summary
        assert summary["message.contents"] == "hex:" + text.encode().hex()


@pytest.mark.parametrize("scheme", [scheme for scheme in SigningScheme if scheme is not SCHEME])
def test_only_ecdsa_secp256k1_signs_typed_data(mail: dict[str, Any], scheme: SigningScheme) -> None:
    with pytest.raises(AdytumError) as caught:
        decode_content(TypedData(json.dumps(mail)), scheme)
    assert (caught.value.code, caught.value.field) == (Code.CONTENT_INVALID, "$.scheme")
