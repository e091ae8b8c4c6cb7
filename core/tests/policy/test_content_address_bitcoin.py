"""Bitcoin addresses against bip_utils and the vectors of BIP-86 and BIP-350; RIPEMD-160 against Cryptodome."""

from __future__ import annotations

import hashlib
from unittest import mock

import pytest
from bip_utils import (
    CoinsConf,
    P2PKHAddrEncoder,
    P2SHAddrEncoder,
    P2TRAddrEncoder,
    P2WPKHAddrEncoder,
    SegwitBech32Encoder,
)
from Cryptodome.Hash import RIPEMD160
from eth_keys import keys
from hypothesis import given, settings
from hypothesis import strategies as st

from adytum_policy.content import bech32
from adytum_policy.content.address_bitcoin import (
    MAINNET,
    NETWORKS,
    REGTEST,
    TESTNET,
    BitcoinAddressError,
    Network,
    address_of_script,
    hash160,
    own_scripts,
    script_of,
)
from adytum_policy.content.ripemd160 import ripemd160

networks = st.sampled_from(NETWORKS)
public_keys = st.integers(1, 2**255).map(
    lambda number: keys.PrivateKey(number.to_bytes(32, "big")).public_key.to_compressed_bytes()
)


@given(st.binary(max_size=300))
def test_ripemd160_agrees_with_cryptodome(data: bytes) -> None:
    assert ripemd160(data) == RIPEMD160.new(data).digest()


@pytest.mark.parametrize("size", [55, 56, 63, 64, 119, 120, 128])
def test_ripemd160_at_the_edges_of_a_block(size: int) -> None:
    assert ripemd160(b"a" * size) == RIPEMD160.new(b"a" * size).digest()


@settings(max_examples=40, deadline=None)
@given(public_key=public_keys, network=networks)
def test_the_addresses_of_a_key_agree_with_bip_utils(public_key: bytes, network: Network) -> None:
    own = own_scripts(public_key)
    script_hash, key_hash = bytes([network.script_hash]), bytes([network.key_hash])
    expected = {
        own.segwit: P2WPKHAddrEncoder.EncodeKey(public_key, hrp=network.prefix),
        own.nested: P2SHAddrEncoder.EncodeKey(public_key, net_ver=script_hash),
        own.taproot: P2TRAddrEncoder.EncodeKey(public_key, hrp=network.prefix),
        b"\x76\xa9\x14" + hash160(public_key) + b"\x88\xac": P2PKHAddrEncoder.EncodeKey(public_key, net_ver=key_hash),
    }
    assert len(expected) == 4
    for script, address in expected.items():
        assert address_of_script(script, network) == address
        assert script_of(address) == script


def test_the_networks_are_those_of_bip_utils() -> None:
    for network, conf in (
        (MAINNET, CoinsConf.BitcoinMainNet),
        (TESTNET, CoinsConf.BitcoinTestNet),
        (REGTEST, CoinsConf.BitcoinRegTest),
    ):
        assert network.prefix == conf.ParamByKey("p2wpkh_hrp") == conf.ParamByKey("p2tr_hrp")
        assert bytes([network.key_hash]) == conf.ParamByKey("p2pkh_net_ver")
        assert bytes([network.script_hash]) == conf.ParamByKey("p2sh_net_ver")


def test_the_first_address_of_bip_86() -> None:
    internal = bytes.fromhex("cc8a4bc64d897bddc5fbc2f670f7a8ba0b386779106cf1223c6fc5d7cd6fc115")
    for prefix in (b"\2", b"\3"):
        script = own_scripts(prefix + internal).taproot
        assert script.hex() == "5120a60869f0dbcf1dc659c9cecbaf8050135ea9e8cdc487053f1dc6880949dc684c"
        assert address_of_script(script, MAINNET) == "bc1p5cyxnuxmeuwuvkwfem96lqzszd02n6xdcjrs20cac6yqjjwudpxqkedrcr"


@given(version=st.integers(1, 16), program=st.binary(min_size=2, max_size=40), network=networks)
def test_segwit_addresses_agree_with_bip_utils(version: int, program: bytes, network: Network) -> None:
    text = bech32.encode(network.prefix, version, program)
    assert text == SegwitBech32Encoder.Encode(network.prefix, version, program)
    assert bech32.decode(network.prefix, text) == (version, program)
    script = bytes([0x50 + version, len(program)]) + program
    assert address_of_script(script, network) == text
    assert script_of(text) == script


@settings(max_examples=200)
@given(public_key=st.just(b"\2" + b"\x79" * 32), at=st.integers(0, 200), char=st.sampled_from("qpzry9x8gf2AB1b0l"))
def test_a_misspelt_address_is_no_address(public_key: bytes, at: int, char: str) -> None:
    for script in (b"\x00\x14" + hash160(public_key), b"\xa9\x14" + hash160(public_key) + b"\x87"):
        text = address_of_script(script, MAINNET)
        assert text is not None
        changed = text[: at % len(text)] + char + text[at % len(text) + 1 :]
        if changed != text:
            with pytest.raises(BitcoinAddressError):
                script_of(changed)


@pytest.mark.parametrize(
    "text",  # of BIP-350's invalid addresses, and more
    [
        "bc1p0xlxvlhemja6c4dqv22uapctqupfhlxm9h8z3k2e72q4k9hcz7vqh2y7hd",  # bech32 for version 1
        "tb1q0xlxvlhemja6c4dqv22uapctqupfhlxm9h8z3k2e72q4k9hcz7vq24jc47",  # bech32m for version 0
        "bc1p38j9r5y49hruaue7wxjce0updqjuyyx0kh56v8s25huc6995vvpql3jow4",  # invalid character
        "bc1pw5dgrnzv",  # a program of one byte
        "bc1p0xlxvlhemja6c4dqv22uapctqupfhlxm9h8z3k2e72q4k9hcz7v8n0nx0muaewav253zgeav",  # 41 bytes
        "BC1QR508D6QEJXTDG4Y5R3ZARVARYV98GJ9P",  # version 0 of 16 bytes
        "bc1gmk9yu",
        "",
        "bc1",
        "1",
        "1BvBMSEYstWetqTFn5Au4m4GFg7xJaNVN3",  # last digit
        "bcrt1",
        "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3tU",
        "0x" + "11" * 20,
    ],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(BitcoinAddressError):
        script_of(text)


@pytest.mark.parametrize(
    "script", [b"", b"\x6a\x01\x2a", b"\x00\x15" + bytes(21), b"\x51\x01\x01", b"\x51" + bytes(33), b"\x61\x02\0\0"]
)
def test_scripts_without_an_address(script: bytes) -> None:
    assert address_of_script(script, MAINNET) is None


@pytest.mark.parametrize("key", [b"", bytes(33), b"\x02" + b"\xff" * 32, b"\4" + bytes(64)])
def test_own_scripts_of_no_point(key: bytes) -> None:
    with pytest.raises(BitcoinAddressError):
        _ = own_scripts(key).taproot


@given(st.binary(max_size=80))
def test_hash160_is_the_same_where_openssl_has_no_ripemd160(data: bytes) -> None:
    wanted = RIPEMD160.new(hashlib.sha256(data).digest()).digest()
    assert hash160(data) == wanted
    with mock.patch.object(hashlib, "new", side_effect=ValueError("unsupported hash type")):
        assert hash160(data) == wanted
