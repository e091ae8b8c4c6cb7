"""Containers and digests against the vectors of BIP-143, BIP-341 and BIP-370, and what a PSBT must not be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adytum_policy.content import bitcoin_tx, psbt
from adytum_policy.content.address_bitcoin import hash160, own_scripts, tagged_hash
from adytum_policy.content.bitcoin_tx import BitcoinTransactionError, Output

# https://github.com/bitcoin/bips/blob/master/bip-0143.mediawiki, "Native P2WPKH" and "P2SH-P2WPKH"
NATIVE = (
    "0100000002fff7f7881a8099afa6940d42d1e7f6362bec38171ea3edf433541db4e4ad969f0000000000eeffffffef51e1b804cc89d182d2"
    "79655c3aa89e815b1b309fe287d9b2b55d57b90ec68a0100000000ffffffff02202cb206000000001976a9148280b37df378db99f66f85c9"
    "5a783a76ac7a6d5988ac9093510d000000001976a9143bde42dbee7e4dbe6a21b2d50ce2f0167faa815988ac11000000"
)
NESTED = (
    "0100000001db6b1b20aa0fd7b23880be2ecbd4a98130974cf4748fb66092ac4d3ceb1a54770100000000feffffff02b8b4eb0b0000000019"
    "76a914a457b684d7f0d539a46a45bbc043f35b59d0d96388ac0008af2f000000001976a914fd270b1ee6abcaea97fea7ad0402e8bd8ad6d7"
    "7c88ac92040000"
)


@pytest.mark.parametrize(
    ("tx", "at", "key", "script", "amount", "digest"),
    [
        (
            NATIVE,
            1,
            "025476c2e83188368da1ff3e292e7acafcdb3566bb0ad253f62fc70f07aeee6357",
            "00141d0f172a0ecb48aee1be1f2687d2963ae33f71a1",
            600_000_000,
            "c37af31116d1b27caf68aae9e3ac82f1477929014d5b917657d0eb49478cb670",
        ),
        (
            NESTED,
            0,
            "03ad1d8e89212f0b92c74d23bb710c00662ad1470198ac48c43f7d6f93a2a26873",
            "a9144733f37cf4db86fbc2efed2500b4f4e49f31202387",
            1_000_000_000,
            "64f3b0f4dd2bb3aa1ce8566d220cc74dda9df97d8490cc81d89d735c92e59fb6",
        ),
    ],
)
def test_the_examples_of_bip_143(tx: str, at: int, key: str, script: str, amount: int, digest: str) -> None:
    own = own_scripts(bytes.fromhex(key))
    assert script in (own.segwit.hex(), own.nested.hex())
    parsed = bitcoin_tx.parse(bytes.fromhex(tx))
    assert parsed.encode().hex() == tx
    assert bitcoin_tx.segwit_digest(parsed, at, hash160(bytes.fromhex(key)), amount).hex() == digest


# https://github.com/bitcoin/bips/blob/master/bip-0341/wallet-test-vectors.json, "keyPathSpending"
KEY_PATH = (
    "02000000097de20cbff686da83a54981d2b9bab3586f4ca7e48f57f5b55963115f3b334e9c010000000000000000d7b7cab57b1393ace2d0"
    "64f4d4a2cb8af6def61273e127517d44759b6dafdd990000000000fffffffff8e1f583384333689228c5d28eac13366be082dc57441760d9"
    "57275419a418420000000000fffffffff0689180aa63b30cb162a73c6d2a38b7eeda2a83ece74310fda0843ad604853b0100000000feffff"
    "ffaa5202bdf6d8ccd2ee0f0202afbbb7461d9264a25e5bfd3c5a52ee1239e0ba6c0000000000feffffff956149bdc66faa968eb2be2d2faa"
    "29718acbfe3941215893a2a3446d32acd050000000000000000000e664b9773b88c09c32cb70a2a3e4da0ced63b7ba3b22f848531bbb1d5d"
    "5f4c94010000000000000000e9aa6b8e6c9de67619e6a3924ae25696bb7b694bb677a632a74ef7eadfd4eabf0000000000ffffffffa778eb"
    "6a263dc090464cd125c466b5a99667720b1c110468831d058aa1b82af10100000000ffffffff0200ca9a3b000000001976a91406afd46bcd"
    "fd22ef94ac122aa11f241244a37ecc88ac807840cb0000000020ac9a87f5594be208f8532db38cff670c450ed2fea8fcdefcc9a663f78bab"
    "962b0065cd1d"
)
SPENT = [
    ("512053a1f6e454df1aa2776a2814a721372d6258050de330b3c6d10ee8f4e0dda343", 420_000_000),
    ("5120147c9c57132f6e7ecddba9800bb0c4449251c92a1e60371ee77557b6620f3ea3", 462_000_000),
    ("76a914751e76e8199196d454941c45d1b3a323f1433bd688ac", 294_000_000),
    ("5120e4d810fd50586274face62b8a807eb9719cef49c04177cc6b76a9a4251d5450e", 504_000_000),
    ("512091b64d5324723a985170e4dc5a0f84c041804f2cd12660fa5dec09fc21783605", 630_000_000),
    ("00147dd65592d0ab2fe0d0257d571abf032cd9db93dc", 378_000_000),
    ("512075169f4001aa68f15bbed28b218df1d0a62cbbcf1188c6665110c293c907b831", 672_000_000),
    ("5120712447206d7a5238acc7ff53fbe94a3b64539ad291c7cdbc490b7577e4b17df5", 546_000_000),
    ("512077e30a5522dd9f894c3f8b8bd4c4b2cf82ca7da8a3ea6a239655c39c050ab220", 588_000_000),
]
MESSAGE = (  # "sigMsg" of input 4, SIGHASH_DEFAULT
    "0000020000000065cd1de3b33bb4ef3a52ad1fffb555c0d82828eb22737036eaeb02a235d82b909c4c3f58a6964a4f5f8f0b642ded0a8a55"
    "3be7622a719da71d1f5befcefcdee8e0fde623ad0f61ad2bca5ba6a7693f50fce988e17c3780bf2b1e720cfbb38fbdd52e2118959c7221ab"
    "5ce9e26c3cd67b22c24f8baa54bac281d8e6b05e400e6c3a957ea2e6dab7c1f0dcd297c8d61647fd17d821541ea69c3cc37dcbad7f90d4eb"
    "4bc50004000000"
)


def test_the_wallet_vectors_of_bip_341() -> None:
    tx = bitcoin_tx.parse(bytes.fromhex(KEY_PATH))
    assert tx.encode().hex() == KEY_PATH
    spent = [Output(amount=amount, script=bytes.fromhex(script)) for script, amount in SPENT]
    every = bitcoin_tx.taproot_digest(tx, 3, spent, bitcoin_tx.SIGHASH_ALL)
    assert every.hex() == "bf013ea93474aa67815b1b6cc441d23b64fa310911d991e713cd34c7f5d46669"
    default = bitcoin_tx.taproot_digest(tx, 4, spent, bitcoin_tx.SIGHASH_DEFAULT)
    assert default == tagged_hash("TapSighash", bytes.fromhex(MESSAGE))
    own = own_scripts(b"\x02" + bytes.fromhex("d6889cb081036e0faefa3a35157ad71086b123b2b144b649798b494c300a961d"))
    assert own.tweak.hex() == "b86e7be8f39bab32a6f2c0443abbc210f0edac0e2c53d501b36b64437d9c6c70"
    assert own.taproot.hex() == SPENT[0][0]


# https://github.com/bitcoin/bips/blob/master/bip-0370.mediawiki: the timelock determination algorithm
_HEAD = "70736274ff0102040200000001030400000000010401020105010101fb040200000000010e20"
_ONE = "0f758dbfbd4da7c16c8a3309c3c81e1100f561ea646db5b01752c485e1bdde9f010f0401000000"
_TWO = "00010e203a1b3b3c837d6489ea7a31d8e6c7dd503c001bef3e06958e7574808d68ca78a5010f0400000000"
_TAIL = "000103084f9335770000000001041600140b1352cacd03cf6aa1b7f3c8d6388671b34a5e1100"


@pytest.mark.parametrize(
    ("first", "second", "locktime"),
    [
        ("", "", 0),
        ("01120410270000", "", 10_000),
        ("01120410270000", "01120428230000", 10_000),
        ("01120410270000", "0111048c8dc46201120428230000", 10_000),
        ("0111048b8dc4620112041027000" + "0", "0111048c8dc46201120428230000", 10_000),
        ("0111048b8dc462", "0111048c8dc46201120428230000", 1_657_048_460),
        ("0111048b8dc46201120410270000", "0111048c8dc462", 1_657_048_460),
        ("", "0111048c8dc462", 1_657_048_460),
        ("01120410270000", "0111048c8dc462", None),
    ],
)
def test_the_lock_times_of_bip_370(first: str, second: str, locktime: int | None) -> None:
    data = bytes.fromhex(_HEAD + _ONE + first + _TWO + second + _TAIL)
    if locktime is None:
        with pytest.raises(psbt.PsbtError):
            psbt.parse(data)
    else:
        parsed = psbt.parse(data)
        assert parsed.tx.locktime == locktime
        assert parsed.encode(list(parsed.inputs)) == data


# A valid version 0 PSBT of BIP-370's first invalid case, without what makes it invalid, and version 2's first.
_V0 = (
    "01007102000000010b0ad921419c1c8719735d72dc739f9ea9e0638d1fe4c1eef0f9944084815fc80000000000feffffff020008af2f0000"
    "0000160014c430f64c4756da310dbd1a085572ef299926272c8bbdeb0b00000000160014a07dac8ab6ca942d379ed795f835ba71c9cc6885"
    "00000000"
)
_MAGIC = "70736274ff"
_IN2 = "010e200b0ad921419c1c8719735d72dc739f9ea9e0638d1fe4c1eef0f9944084815fc8010f0400000000"
_OUT2 = "0103080008af2f000000000104160014c430f64c4756da310dbd1a085572ef299926272c"
_GLOBAL2 = "01020402000000" + "01040101" + "01050101" + "01fb0402000000"


def parses(text: str) -> bool:
    try:
        psbt.parse(bytes.fromhex(text))
    except psbt.PsbtError:
        return False
    return True


@pytest.mark.parametrize(
    "extra",
    [
        "01fb0402000000",  # version 2
        "01fb0401000000",
        "01fb0100",
        "01020402000000",
        "01030402000000",
        "01040102",
        "01050102",
        "01060100",
        "010700",  # unknown
        "02000000",  # the transaction again, with key data
    ],
)
def test_what_must_not_stand_in_a_version_0_psbt(extra: str) -> None:
    assert parses(_MAGIC + _V0 + "00" + "00" * 3)
    assert parses(_MAGIC + _V0 + "01fb0400000000" + "00" + "00" * 3)
    assert not parses(_MAGIC + _V0 + extra + "00" + "00" * 3)


def test_version_2_fields_in_the_maps_of_version_0() -> None:
    for field in (_IN2[:70], _IN2[70:], "011004ffffffff", "0111048c8dc462", "01120410270000"):
        assert not parses(_MAGIC + _V0 + "00" + field + "00" + "0000")
    for field in (_OUT2[:22], _OUT2[22:]):
        assert not parses(_MAGIC + _V0 + "00" + "00" + field + "00" + "00")


def test_what_must_stand_in_a_version_2_psbt() -> None:
    good = _MAGIC + _GLOBAL2 + "00" + _IN2 + "00" + _OUT2 + "00"
    assert parses(good)
    for part in ("01020402000000", "01040101", "01050101", "01fb0402000000", _IN2[:70], _IN2[70:], _OUT2[:22]):
        assert part in good
        assert not parses(good.replace(part, "", 1))
    for old, new in (("01040101", "01040100"), ("01050101", "01050102"), ("01040101", "010403fd0100")):
        assert not parses(good.replace(old, new, 1))
    unfinished = good.replace("01fb0402000000", "01060101" + "01fb0402000000", 1)
    assert not parses(unfinished)  # somebody may still add inputs
    assert parses(unfinished.replace("01060101", "01060100", 1))
    assert not parses(good.replace("01fb0402000000", _V0 + "01fb0402000000", 1))
    for lock in ("0111041027000" + "0", "01120400000000", "01120400" + "65cd1d"):
        assert not parses(good.replace(_IN2, _IN2 + lock, 1))


def test_twice_truncated_trailing_and_signed() -> None:
    good = _MAGIC + _V0 + "00" + "00" * 3
    assert not parses(good + "00")
    assert not parses(good[:-2])
    assert not parses("70736274fe" + good[10:])
    assert not parses(_MAGIC + _V0 + _V0 + "00" + "00" * 3)
    sequence = "010304010000" + "00"
    assert parses(_MAGIC + _V0 + "00" + sequence + "00" + "0000")
    assert not parses(_MAGIC + _V0 + "00" + sequence * 2 + "00" + "0000")
    signed = bitcoin_tx.parse(bytes.fromhex(_V0[6:]))
    for witnesses in ([[b"\1"]], [[]]):
        raw = signed.encode(witnesses)
        fields = (b"\1\0" + bitcoin_tx.compact(len(raw)) + raw).hex()
        assert not parses(_MAGIC + fields + "00" + "00" * 3)


@given(st.binary(max_size=120) | st.binary(max_size=120).map(lambda data: b"psbt\xff" + data))
def test_arbitrary_bytes_are_refused_and_nothing_else(data: bytes) -> None:
    with pytest.raises(psbt.PsbtError):
        psbt.parse(data)


@given(st.binary(max_size=120) | st.binary(max_size=120).map(lambda data: b"\1\0\0\0\1" + data))
def test_arbitrary_bytes_are_a_transaction_or_refused(data: bytes) -> None:
    try:
        tx = bitcoin_tx.parse(data)
    except BitcoinTransactionError:
        return
    assert tx.segwit or tx.encode() == data


@pytest.mark.parametrize(
    "text", ["fd0100", "fdfc00", "feffff0000", "fe01000000", "ffffffffff00000000", "ff01" + "00" * 7]
)
def test_lengths_with_a_second_spelling(text: str) -> None:
    with pytest.raises(BitcoinTransactionError):
        bitcoin_tx.Reader(bytes.fromhex(text)).length()


@given(st.sampled_from([0, 0xFC, 0xFD, 0xFFFF, 2**16, 2**32 - 1, 2**32, 2**64 - 1]))
def test_lengths_are_read_as_they_are_written(value: int) -> None:
    read = bitcoin_tx.Reader(bitcoin_tx.compact(value))
    assert read.length() == value
    assert read.ended()
