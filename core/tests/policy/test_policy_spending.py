"""What content moves, as limits count it: from real bytes where a decoder gives them, and never 0 for the unknown."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adytum_policy.content import base58, typed_data
from adytum_policy.facts import (
    BitcoinFacts,
    ContentFacts,
    EthereumFacts,
    MessageFacts,
    SolanaFacts,
    TokenFacts,
    TypedDataFacts,
)
from adytum_policy.shape import LimitEntry
from adytum_policy.spending import Spending, is_asset, spending_of
from adytum_policy.usage import charge_of

TOKEN = b"\x11" * 20
OTHER = b"\x22" * 20
NATIVE, ERC20, OTHER_ERC20 = "eip155:1/native", f"eip155:1/erc20:0x{TOKEN.hex()}", f"eip155:1/erc20:0x{OTHER.hex()}"
MINT, OTHER_MINT = b"\x07" * 32, b"\x08" * 32
SPL, OTHER_SPL = f"solana/token:{base58.encode(MINT)}", f"solana/token:{base58.encode(OTHER_MINT)}"
EVERY = [NATIVE, ERC20, "eip155:5/native", f"eip155:5/erc20:0x{TOKEN.hex()}", "solana/native", SPL, "bitcoin/native"]


def ethereum(**changes: Any) -> EthereumFacts:
    fields: dict[str, Any] = {
        "type": "ethereum-transaction",
        "chain_id": 1,
        "to": TOKEN,
        "value": 5,
        "max_fee": 99,
        "selector": b"",
        "token": None,
    }
    return EthereumFacts(**(fields | changes))


def call(method: str, amount: int = 7) -> TokenFacts:
    return TokenFacts(method=method, recipient=OTHER, source=OTHER, amount=amount)


def moved(facts: ContentFacts | None, *assets: str) -> list[int | None]:
    spending = spending_of(facts)
    assert spending is not None
    return [spending.of(asset) for asset in assets]


def test_ether_moves_by_its_value_and_fees_do_not_count() -> None:
    assert moved(ethereum(), NATIVE, ERC20, "eip155:5/native", "bitcoin/native") == [5, 0, 0, 0]


@pytest.mark.parametrize("method", ["transfer", "approve", "transferFrom"])
def test_a_token_call_moves_the_amount_of_the_token_that_is_called(method: str) -> None:
    facts = ethereum(selector=b"\xa9\x05\x9c\xbb", token=call(method))
    assert moved(facts, NATIVE, ERC20, OTHER_ERC20) == [5, 7, 0]


def test_revoking_an_approval_moves_nothing() -> None:
    assert moved(ethereum(selector=b"\x09\x5e\xa7\xb3", token=call("approve", 0)), ERC20) == [0]


@pytest.mark.parametrize(
    "changes",
    [
        {"selector": b"\x39\x50\x93\x51"},  # increaseAllowance
        {"selector": None},  # one to three bytes of calldata
        {"to": None, "selector": None},  # a contract creation
        {"type": "ethereum-blob-transaction", "selector": b"\1\2\3\4"},
    ],
)
def test_a_call_that_is_not_understood_may_move_every_token_of_its_chain(changes: dict[str, Any]) -> None:
    found = moved(ethereum(**changes), NATIVE, ERC20, OTHER_ERC20, "eip155:5/native", f"eip155:5/erc20:0x{'11' * 20}")
    assert found == [5, None, None, 0, 0]


def test_setting_code_makes_everything_on_the_chain_unknown() -> None:
    facts = ethereum(type="ethereum-set-code-transaction", delegates=(OTHER,))
    assert moved(facts, NATIVE, ERC20, "eip155:5/native") == [None, None, 0]
    assert moved(ethereum(delegates=()), NATIVE) == [None]


def test_a_permit_moves_what_it_permits(permit: dict[str, Any]) -> None:
    facts = typed_data.decode(json.dumps(permit)).facts
    token = f"eip155:1/erc20:{permit['domain']['verifyingContract'].lower()}"
    assert moved(facts, token, NATIVE, ERC20) == [5_000_000, 0, 0]


@pytest.mark.parametrize("missing", ["chain_id", "verifying_contract", "permit"])
def test_a_permit_that_does_not_say_for_what_and_other_typed_data_are_opaque(
    permit: dict[str, Any], missing: str
) -> None:
    facts = typed_data.decode(json.dumps(permit)).facts
    assert isinstance(facts, TypedDataFacts)
    fields = {name: getattr(facts, name) for name in facts.__struct_fields__}
    assert moved(TypedDataFacts(**(fields | {missing: None})), *EVERY) == [None] * len(EVERY)


def test_a_message_moves_nothing_unless_nobody_can_read_it() -> None:
    assert moved(MessageFacts(type="eip191-message", text="hello"), *EVERY) == [0] * len(EVERY)
    assert moved(MessageFacts(type="eip191-message", text=None), *EVERY) == [None] * len(EVERY)


def solana(mints: tuple[bytes | None, ...], amounts: tuple[int, ...]) -> SolanaFacts:
    return SolanaFacts(
        type="solana-message",
        programs=(bytes(32),),
        recipients=(bytes(32),),
        mints=mints,
        lamports=3,
        tokens=sum(amounts),
        max_fee=5_000,
        token_amounts=amounts,
    )


def test_solana_tokens_are_counted_mint_by_mint() -> None:
    assert moved(solana((), ()), "solana/native", SPL, NATIVE) == [3, 0, 0]
    found = moved(solana((MINT, OTHER_MINT, MINT), (1, 10, 100)), "solana/native", SPL, OTHER_SPL)
    assert found == [3, 101, 10]


@pytest.mark.parametrize("facts", [solana((MINT, None), (1, 10)), solana((None,), (1,)), solana((MINT,), ())])
def test_a_transfer_that_does_not_name_its_mint_may_be_of_any(facts: SolanaFacts) -> None:
    assert moved(facts, "solana/native", SPL, OTHER_SPL, NATIVE) == [3, None, None, 0]


def test_bitcoin_moves_what_is_not_change() -> None:
    facts = BitcoinFacts(type="bitcoin-psbt", recipients=(b"\0",), amount=9, fee=2)
    assert moved(facts, "bitcoin/native", NATIVE) == [9, 0]


def test_of_raw_content_nothing_is_known() -> None:
    assert spending_of(None) is None
    assert spending_of(ContentFacts(type="tron-transaction")) is None


@pytest.mark.parametrize(
    ("asset", "good"),
    [
        (SPL, True),
        (NATIVE, True),
        ("solana/token:" + "1" * 32, True),
        ("solana/token:" + "1" * 33, False),  # 33 zero bytes
        ("solana/token:" + "z" * 44, False),  # more than 32 bytes
        ("solana/token:" + "2" * 32, False),  # fewer
    ],
)
def test_an_asset_that_nothing_can_move(asset: str, good: bool) -> None:
    assert is_asset(asset) is good


def limit(**changes: Any) -> LimitEntry:
    fields = {"id": "l", "measure": "amount", "asset": NATIVE, "per": "tenant", "window_seconds": 60, "max": "10"}
    return LimitEntry(**(fields | changes))


SPENDING = Spending(moved={NATIVE: 4}, opaque=("eip155:1/erc20:",))


@pytest.mark.parametrize(
    ("changes", "spending", "amount"),
    [
        ({}, SPENDING, 4),
        ({"asset": "bitcoin/native"}, SPENDING, 0),
        ({"asset": ERC20}, SPENDING, None),
        ({}, None, None),
        ({"measure": "count", "asset": "*"}, None, 1),  # raw signing can be counted, its amounts cannot
        ({"measure": "count", "asset": "*"}, SPENDING, 1),
        ({"measure": "count"}, SPENDING, 1),
        ({"measure": "count", "asset": "bitcoin/native"}, SPENDING, 0),
        ({"measure": "count", "asset": ERC20}, SPENDING, None),
        ({"measure": "count"}, None, None),
    ],
)
def test_what_is_charged(changes: dict[str, Any], spending: Spending | None, amount: int | None) -> None:
    charge = charge_of(limit(**changes), spending, key_id="key-1", principal_id="alice")
    assert (None if charge is None else charge.amount) == amount
    if charge is not None:
        assert (charge.limit, charge.scope, charge.max, charge.window_ms) == ("l", "tenant", 10, 60_000)


def test_the_scope_says_whose_sum_it_is() -> None:
    def scope(per: str, key_id: str = "key-1") -> str | None:
        charge = charge_of(limit(per=per), SPENDING, key_id=key_id, principal_id="alice")
        return None if charge is None else charge.scope

    assert [scope("tenant"), scope("key"), scope("principal")] == ["tenant", "key:key-1", "principal:alice"]
    assert scope("key", "") is None  # a record that is not made yet has no sum of its own
    assert scope("tenant", "") == "tenant"


@given(
    value=st.integers(0, 2**256 - 1),
    selector=st.none() | st.sampled_from([b"", b"\1\2\3\4"]),
    to=st.none() | st.just(TOKEN),
    token=st.none() | st.builds(call, st.sampled_from(["transfer", "approve"]), st.integers(0, 9)),
    delegates=st.none() | st.just((OTHER,)),
    lost=st.sampled_from(["selector", "to", "token"]),
)
def test_a_lost_fact_never_makes_an_amount_smaller(lost: str, **changes: Any) -> None:
    """What is no longer known becomes unknown or stays; it does not become less."""
    before, after = ethereum(**changes), ethereum(**(changes | {lost: None}))
    if lost == "token" and changes["selector"] == b"":
        return  # no decoder says that: a token call has calldata
    for asset in (NATIVE, ERC20, OTHER_ERC20):
        [was], [now] = moved(before, asset), moved(after, asset)
        assert now is None or (was is not None and now >= was)
