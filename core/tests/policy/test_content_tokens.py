"""ERC-20 calls against eth-abi, addresses against the vectors of EIP-55 and against eth-keys, and raw content."""

from __future__ import annotations

import hashlib

import pytest
import rlp as oracle_rlp
from eth_abi import encode
from eth_keys import keys
from eth_utils import function_signature_to_4byte_selector, to_checksum_address
from hypothesis import given, settings
from hypothesis import strategies as st

from adytum_policy.content import address_of, decode_content, to_checksum
from adytum_policy.content.address import is_checksummed
from adytum_policy.content.erc20 import Erc20Error, decode_call
from adytum_policy.facts import TokenFacts
from adytum_wire.errors import AdytumError, Code
from adytum_wire.requests import EthereumTransaction, RawDigest, RawMessage
from adytum_wire.types import SigningScheme

addresses = st.binary(min_size=20, max_size=20)
amounts = st.integers(0, 2**256 - 1)
TRANSFER = function_signature_to_4byte_selector("transfer(address,uint256)")
APPROVE = function_signature_to_4byte_selector("approve(address,uint256)")
TRANSFER_FROM = function_signature_to_4byte_selector("transferFrom(address,address,uint256)")


@given(who=addresses, amount=amounts)
def test_transfer_and_approve(who: bytes, amount: int) -> None:
    for selector, method in ((TRANSFER, "transfer"), (APPROVE, "approve")):
        data = selector + encode(["address", "uint256"], [to_checksum_address(who), amount])
        assert decode_call(data) == TokenFacts(method=method, recipient=who, source=None, amount=amount)


@given(source=addresses, who=addresses, amount=amounts)
def test_transfer_from(source: bytes, who: bytes, amount: int) -> None:
    arguments = [to_checksum_address(source), to_checksum_address(who), amount]
    data = TRANSFER_FROM + encode(["address", "address", "uint256"], arguments)
    assert decode_call(data) == TokenFacts(method="transferFrom", recipient=who, source=source, amount=amount)


@given(st.binary(max_size=100))
def test_other_calls_have_no_token_facts(data: bytes) -> None:
    try:
        assert decode_call(data) is None or data[:4] in (TRANSFER, APPROVE, TRANSFER_FROM)
    except Erc20Error:
        assert data[:4] in (TRANSFER, APPROVE, TRANSFER_FROM)


@pytest.mark.parametrize("selector", [TRANSFER, APPROVE, TRANSFER_FROM])
def test_one_more_byte_to_slip_past_a_deny_rule(selector: bytes) -> None:
    """A contract would take these calls; decoded as "no token call" they would escape every token condition."""
    words = 3 if selector == TRANSFER_FROM else 2
    good = selector + bytes(32 * words)
    assert decode_call(good) is not None
    dirty = selector + b"\1" + bytes(32 * words - 1)
    for data in (good + b"\0", good[:-1], good + bytes(32), dirty, selector):
        with pytest.raises(Erc20Error):
            decode_call(data)
        unsigned = oracle_rlp.encode([0, 1, 2, bytes(20), 0, data, 1, 0, 0])
        with pytest.raises(AdytumError) as caught:
            decode_content(EthereumTransaction(unsigned.hex()), SigningScheme.ECDSA_SECP256K1)
        assert (caught.value.code, caught.value.field) == (Code.CONTENT_INVALID, "$.content.unsigned.data")


def test_token_summary_names_the_parties() -> None:
    one, two = b"\x11" * 20, b"\xab" * 20
    for selector, who in ((TRANSFER, "token_recipient"), (APPROVE, "token_spender")):
        data = selector + encode(["address", "uint256"], [to_checksum_address(two), 5])
        unsigned = oracle_rlp.encode([0, 1, 2, one, 0, data, 1, 0, 0])
        summary = decode_content(EthereumTransaction(unsigned.hex()), SigningScheme.ECDSA_SECP256K1).summary
        assert summary[who] == to_checksum_address(two)
        assert summary["token_amount"] == "5"
        assert summary["selector"] == "0x" + selector.hex()
    data = TRANSFER_FROM + encode(["address", "address", "uint256"], [to_checksum_address(a) for a in (one, two)] + [5])
    unsigned = oracle_rlp.encode([0, 1, 2, one, 0, data, 1, 0, 0])
    summary = decode_content(EthereumTransaction(unsigned.hex()), SigningScheme.ECDSA_SECP256K1).summary
    assert (summary["token_source"], summary["token_recipient"]) == (to_checksum_address(one), to_checksum_address(two))


def test_init_code_that_looks_like_a_transfer_is_no_transfer() -> None:
    unsigned = oracle_rlp.encode([0, 1, 2, b"", 0, TRANSFER + bytes(64), 1, 0, 0])
    facts = decode_content(EthereumTransaction(unsigned.hex()), SigningScheme.ECDSA_SECP256K1).facts
    assert facts is not None
    assert (facts.to, facts.selector, facts.token) == (None, None, None)


@pytest.mark.parametrize(
    "text",  # https://eips.ethereum.org/EIPS/eip-55, "Test Cases"
    [
        "0x52908400098527886E0F7030069857D2E4169EE7",
        "0x8617E340B3D01FA5F11F306F4090FD50E238070D",
        "0xde709f2102306220921060314715629080e2fb77",
        "0x27b1fdb04752bbc536007a920d24acb045561c26",
        "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
        "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359",
        "0xdbF03B407c01E7cD3CBea99509d93f8DDDC8C6FB",
        "0xD1220A0cf47c7B9Be7A2E6BA89F429762e7b9aDb",
    ],
)
def test_eip_55_vectors(text: str) -> None:
    assert to_checksum(bytes.fromhex(text[2:])) == text
    assert is_checksummed(text)
    assert not is_checksummed(text.swapcase().replace("X", "x"))


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 2**255))
def test_address_of_agrees_with_eth_keys(number: int) -> None:
    public = keys.PrivateKey(number.to_bytes(32, "big")).public_key
    assert address_of(public.to_compressed_bytes()) == public.to_checksum_address()


@pytest.mark.parametrize("key", [b"", bytes(33), b"\2" + b"\xff" * 32, b"\4" + bytes(64), b"\2" * 32])
def test_address_of_no_point(key: bytes) -> None:
    with pytest.raises(AdytumError) as caught:
        address_of(key)
    assert caught.value.code is Code.RECORD_INVALID


@pytest.mark.parametrize("scheme", list(SigningScheme))
def test_raw_content_is_signed_as_it_is_and_has_no_facts(scheme: SigningScheme) -> None:
    message = b"\0anything\xff"
    decoded = decode_content(RawMessage(message.hex()), scheme)
    expected = message if scheme is SigningScheme.ED25519 else hashlib.sha256(message).digest()
    assert (decoded.payload, decoded.facts, decoded.finish(bytes(64))) == (expected, None, {})
    assert decoded.summary == {
        "type": "raw-message",
        "length": "10",
        "sha256": hashlib.sha256(message).hexdigest(),
    }
    digest = RawDigest("ab" * 32)
    if scheme is SigningScheme.ED25519:
        with pytest.raises(AdytumError) as caught:
            decode_content(digest, scheme)
        assert (caught.value.code, caught.value.field) == (Code.CONTENT_INVALID, "$.scheme")
    else:
        decoded = decode_content(digest, scheme)
        assert (decoded.payload, decoded.facts) == (b"\xab" * 32, None)
        assert decoded.summary == {"type": "raw-digest", "digest": "ab" * 32}
