"""Solana messages against solders: the same accounts and amounts, the same transaction; and what is not understood."""

from __future__ import annotations

from base64 import b64decode
from typing import Any

import pytest
from bip_utils import Base58Decoder, Base58Encoder
from hypothesis import given, settings
from hypothesis import strategies as st
from solders.address_lookup_table_account import AddressLookupTableAccount
from solders.compute_budget import set_compute_unit_limit, set_compute_unit_price
from solders.hash import Hash
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.message import Message, MessageV0, from_bytes_versioned, to_bytes_versioned
from solders.pubkey import Pubkey
from solders.system_program import TransferParams, assign, transfer, transfer_many
from solders.token import ID as TOKEN
from solders.transaction import VersionedTransaction

from adytum_policy.content import base58, decode_content, solana
from adytum_policy.facts import SolanaFacts
from adytum_wire.errors import AdytumError, Code
from adytum_wire.requests import SolanaMessage
from adytum_wire.types import SigningScheme

PAYER = Keypair.from_seed(b"\x07" * 32)
BLOCKHASH = Hash(b"\x09" * 32)
KEYS = [Pubkey(bytes([number]) * 32) for number in range(1, 9)]
SYSTEM = Pubkey(bytes(32))
u64 = st.integers(0, 2**64 - 1)
keys = st.sampled_from(KEYS)


def lamports(recipient: Pubkey, amount: int) -> Instruction:
    return transfer(TransferParams(from_pubkey=PAYER.pubkey(), to_pubkey=recipient, lamports=amount))


def tokens(
    source: Pubkey, recipient: Pubkey, amount: int, mint: Pubkey | None = None, decimals: int = 6
) -> Instruction:
    """spl-token's `transfer`, or `transfer_checked` when the mint is named."""
    owner = AccountMeta(PAYER.pubkey(), True, False)
    ends = [AccountMeta(source, False, True), AccountMeta(recipient, False, True), owner]
    if mint is None:
        return Instruction(TOKEN, b"\3" + amount.to_bytes(8, "little"), ends)
    accounts = [ends[0], AccountMeta(mint, False, False), *ends[1:]]
    return Instruction(TOKEN, b"\x0c" + amount.to_bytes(8, "little") + bytes([decimals]), accounts)


def legacy(*instructions: Instruction) -> bytes:
    return bytes(Message.new_with_blockhash(list(instructions), PAYER.pubkey(), BLOCKHASH))


def v0(*instructions: Instruction, tables: list[AddressLookupTableAccount] | None = None) -> bytes:
    return bytes(to_bytes_versioned(MessageV0.try_compile(PAYER.pubkey(), list(instructions), tables or [], BLOCKHASH)))


def decode(message: bytes) -> solana.SolanaDecoded:
    decoded = decode_content(SolanaMessage(message.hex()), SigningScheme.ED25519)
    assert isinstance(decoded, solana.SolanaDecoded)
    return decoded


def refused(message: bytes) -> str:
    with pytest.raises(AdytumError) as caught:
        decode(message)
    assert caught.value.code is Code.CONTENT_INVALID
    return caught.value.field.removeprefix("$.content.message")


_moves = st.one_of(
    st.tuples(st.just("lamports"), keys, u64),
    st.tuples(st.just("tokens"), keys, keys, u64),
    st.tuples(st.just("checked"), keys, keys, u64, keys, st.integers(0, 255)),
)


def build(move: tuple[Any, ...]) -> Instruction:
    return lamports(*move[1:]) if move[0] == "lamports" else tokens(*move[1:])


@settings(max_examples=120, deadline=None)
@given(moves=st.lists(_moves, min_size=1, max_size=5), make=st.sampled_from([legacy, v0]))
def test_transfers_are_what_solders_put_in(moves: list[tuple[Any, ...]], make: Any) -> None:
    message = make(*map(build, moves))
    decoded = decode(message)
    assert decoded.payload == message
    sent = [move for move in moves if move[0] != "lamports"]
    assert decoded.facts == SolanaFacts(
        type="solana-message",
        programs=tuple(bytes(SYSTEM if move[0] == "lamports" else TOKEN) for move in moves),
        recipients=tuple(bytes(move[1] if move[0] == "lamports" else move[2]) for move in moves),
        mints=tuple(bytes(move[4]) if move[0] == "checked" else None for move in sent),
        lamports=sum(move[2] for move in moves if move[0] == "lamports"),
        tokens=sum(move[3] for move in sent),
        max_fee=5_000,
        token_amounts=tuple(move[3] for move in sent),
    )
    for at, move in enumerate(moves, 1):
        line = decoded.summary[f"transfer_{at}"]
        assert line.split()[0] == str(move[2 if move[0] == "lamports" else 3])
        assert all(str(key) in line for key in move if isinstance(key, Pubkey))
    assert decoded.summary["fee_payer"] == str(PAYER.pubkey())
    assert decoded.summary["recent_blockhash"] == str(BLOCKHASH)


@settings(max_examples=30, deadline=None)
@given(moves=st.lists(_moves, min_size=1, max_size=3), make=st.sampled_from([legacy, v0]))
def test_the_finished_transaction_is_that_of_solders(moves: list[tuple[Any, ...]], make: Any) -> None:
    message = make(*map(build, moves))
    expected = VersionedTransaction(from_bytes_versioned(message), [PAYER])
    result = decode(message).finish(bytes(expected.signatures[0]))
    assert b64decode(result["transaction"]) == bytes(expected)
    assert result["signature"] == str(expected.signatures[0])
    assert VersionedTransaction.from_bytes(b64decode(result["transaction"])).verify_with_results() == [True]


def test_with_other_signers_only_the_signature_is_given() -> None:
    other = transfer(TransferParams(from_pubkey=KEYS[0], to_pubkey=KEYS[1], lamports=1))
    decoded = decode(legacy(lamports(KEYS[2], 1), other))
    assert decoded.finish(bytes(64)) == {"signature": "1" * 64}
    assert decoded.facts is not None
    assert decoded.facts.max_fee == 10_000  # type: ignore[attr-defined]


@settings(max_examples=400, deadline=None)
@given(moves=st.lists(_moves, min_size=1, max_size=3), make=st.sampled_from([legacy, v0]), data=st.data())
def test_a_mutated_message_is_another_message_or_refused(
    moves: list[tuple[Any, ...]], make: Any, data: st.DataObject
) -> None:
    original = make(*map(build, moves))
    at = data.draw(st.integers(0, len(original)))
    cut = data.draw(st.integers(0, 2))
    mutated = original[:at] + data.draw(st.binary(max_size=2)) + original[at + cut :]
    try:
        decoded = decode(mutated)
    except AdytumError as error:
        assert error.code is Code.CONTENT_INVALID
        return
    read = from_bytes_versioned(mutated)
    assert bytes(to_bytes_versioned(read)) == mutated == decoded.payload
    assert decoded.signers == read.header.num_required_signatures
    assert decoded.summary["fee_payer"] == str(read.account_keys[0])


@given(st.binary(max_size=200) | st.binary(max_size=200).map(lambda data: b"\x80\1\0\1" + data))
def test_arbitrary_bytes_are_decoded_or_refused_and_nothing_else(data: bytes) -> None:
    try:
        decode(data)
    except AdytumError as error:
        assert error.code is Code.CONTENT_INVALID


@settings(max_examples=60)
@given(limit=st.integers(0, 2**32 - 1) | st.none(), price=u64 | st.none())
def test_what_a_priority_fee_may_cost(limit: int | None, price: int | None) -> None:
    extra = [set_compute_unit_limit(limit)] if limit is not None else []
    extra += [set_compute_unit_price(price)] if price is not None else []
    facts = decode(legacy(*extra, lamports(KEYS[0], 1))).facts
    assert isinstance(facts, SolanaFacts)
    priced = (1_400_000 if limit is None else limit) * (price or 0)
    assert facts.max_fee == 5_000 + (priced + 999_999) // 1_000_000
    assert facts.programs == (bytes(SYSTEM),)


def test_an_unknown_instruction_beside_a_good_one() -> None:
    """One instruction that nobody understands, and the whole message is not understood."""
    unknown = Instruction(KEYS[5], b"", [])
    owner = assign({"pubkey": PAYER.pubkey(), "owner": KEYS[5]})
    for other in (unknown, owner):
        assert refused(legacy(lamports(KEYS[0], 1), other)) == ".instructions"
        assert refused(v0(other, lamports(KEYS[0], 1))) == ".instructions"
    decode(legacy(*transfer_many(PAYER.pubkey(), [(KEYS[0], 1), (KEYS[1], 2)])))


def test_transfers_with_more_or_less_than_their_accounts_and_data() -> None:
    good = [lamports(KEYS[0], 1), tokens(KEYS[0], KEYS[1], 2), tokens(KEYS[0], KEYS[1], 2, KEYS[2])]
    for one in good:
        decode(legacy(one))
        for data in (one.data + b"\0", one.data[:-1], b"", b"\xff" + one.data[1:]):
            assert refused(legacy(Instruction(one.program_id, data, one.accounts))) == ".instructions"
        for accounts in (one.accounts[:-1], [*one.accounts, AccountMeta(KEYS[7], False, False), *one.accounts], []):
            assert refused(legacy(Instruction(one.program_id, one.data, accounts))) != ""


def test_nothing_moves() -> None:
    assert refused(legacy()) == ".instructions"
    assert refused(legacy(set_compute_unit_price(1))) == ".instructions"


def test_a_compute_budget_set_twice_or_out_of_shape() -> None:
    price = set_compute_unit_price(5)
    move = lamports(KEYS[0], 1)
    assert refused(legacy(price, price, move)) == ".instructions"
    for data in (b"", b"\3", price.data + b"\0", b"\1" + bytes(4), b"\4" + bytes(4)):
        assert refused(legacy(Instruction(price.program_id, data, []), move)) == ".instructions"
    watched = Instruction(price.program_id, price.data, [AccountMeta(KEYS[3], False, False)])
    assert refused(legacy(watched, move)) == ".instructions"


def test_who_gives_does_not_sign() -> None:
    for one in (lamports(KEYS[0], 1), tokens(KEYS[0], KEYS[1], 2), tokens(KEYS[0], KEYS[1], 2, KEYS[2])):
        accounts = [
            AccountMeta(KEYS[6], False, True) if meta.pubkey == PAYER.pubkey() else meta for meta in one.accounts
        ]
        assert refused(legacy(Instruction(one.program_id, one.data, accounts))) == ".accounts"


def test_a_recipient_hidden_in_a_lookup_table() -> None:
    """Whose account a table holds, nobody in here knows."""
    table = AddressLookupTableAccount(KEYS[7], [KEYS[0], KEYS[1]])
    hidden = v0(lamports(KEYS[0], 1), tables=[table])
    assert from_bytes_versioned(hidden).address_table_lookups
    assert refused(hidden) == ".accounts"
    plain = v0(lamports(KEYS[2], 1), tables=[table])
    assert not from_bytes_versioned(plain).address_table_lookups
    decode(plain)
    unused = plain[:-1] + b"\1" + bytes(KEYS[7]) + b"\1\0\0"
    assert len(from_bytes_versioned(unused).address_table_lookups) == 1
    assert decode(unused).summary["unused_tables"] == "1"
    for tail in (b"\1" + bytes(KEYS[7]) + b"\0\0", b"\1" + bytes(PAYER.pubkey()) + b"\1\0\0"):
        assert refused(plain[:-1] + tail) == ""
    assert refused(plain[:-1] + b"\2" + 2 * (bytes(KEYS[7]) + b"\1\0\0")) == ""


def test_a_message_that_the_cluster_would_not_take() -> None:
    good = legacy(lamports(KEYS[0], 1))
    decode(good)
    assert good[:3] == b"\1\0\1"
    for header in (b"\0\0\1", b"\1\1\1", b"\4\0\0", b"\1\0\3", b"\xff\0\0", b"\x81\1\0", b"\xff\1\0\1"):
        assert refused(header + good[3:]) == ""
    assert refused(b"\x81" + v0(lamports(KEYS[0], 1))[1:]) == ""
    assert refused(good + b"\0") == ""
    assert refused(good[:3] + b"\x83\0" + good[4:]) == ""  # a length with a second spelling
    twice = good[:4] + good[4:36] + good[4:36] + good[68:]
    assert refused(twice) == ""
    assert refused(legacy(*[lamports(KEYS[0], 1)] * 80)) == ""  # fits no packet
    for program in (0, 3):
        at = len(good) - 18
        assert good[at : at + 2] == b"\1\2"
        assert refused(good[: at + 1] + bytes([program]) + good[at + 2 :]) == ""


@pytest.mark.parametrize("scheme", [scheme for scheme in SigningScheme if scheme is not SigningScheme.ED25519])
def test_only_ed25519_signs_solana(scheme: SigningScheme) -> None:
    with pytest.raises(AdytumError) as caught:
        decode_content(SolanaMessage(legacy(lamports(KEYS[0], 1)).hex()), scheme)
    assert (caught.value.code, caught.value.field) == (Code.CONTENT_INVALID, "$.scheme")


@given(st.binary(max_size=70))
def test_base58_agrees_with_bip_utils(data: bytes) -> None:
    text = base58.encode(data)
    assert text == Base58Encoder.Encode(data)
    assert base58.decode(text) == data == Base58Decoder.Decode(text)


@pytest.mark.parametrize("text", ["0", "O", "I", "l", " ", "1" * 129, "a\n", "é"])
def test_what_is_no_base58(text: str) -> None:
    with pytest.raises(base58.Base58Error):
        base58.decode(text)
