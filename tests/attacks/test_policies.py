"""What a host may try with policies: too few admins, older ones, edited ones, none."""

from __future__ import annotations

import base64
import json

import pytest
from wallet import Wallet, refused

from adytum_sim.people import Person, signed_policy
from adytum_wire.errors import AdytumError, Code


async def put(wallet: Wallet, envelope: bytes) -> None:
    await wallet.stack.client.put_policy("acme", envelope)


async def assert_refused(wallet: Wallet, envelope: bytes, code: Code) -> None:
    before = await wallet.state()
    with pytest.raises(AdytumError) as caught:
        await put(wallet, envelope)
    assert caught.value.code is code
    assert await wallet.state() == before
    await wallet.assert_still_signs()


async def test_a_policy_by_too_few_admins_is_refused(wallet: Wallet) -> None:
    newer = wallet.document | {"version": 9}
    one, two, _ = wallet.stack.admins
    for signers in ([], [one], [one, one], [one, Person.new("admin-b")], [one, wallet.alice]):
        await assert_refused(wallet, signed_policy(newer, *signers), Code.POLICY_QUORUM)
    await put(wallet, signed_policy(newer, one, two))
    assert (await wallet.state())["policies"] == {"acme": 9}


async def test_an_older_policy_is_refused(wallet: Wallet) -> None:
    older = wallet.document | {"version": wallet.document["version"] - 1}
    await assert_refused(wallet, signed_policy(older, *wallet.stack.admins), Code.POLICY_ROLLBACK)


async def test_another_policy_of_the_same_version_is_refused(wallet: Wallet) -> None:
    twin = wallet.document | {"rules": []}
    await assert_refused(wallet, signed_policy(twin, *wallet.stack.admins), Code.POLICY_ROLLBACK)


async def test_an_edited_policy_is_refused(wallet: Wallet) -> None:
    envelope = json.loads(signed_policy(wallet.document | {"version": 9}, *wallet.stack.admins))
    payload = base64.b64decode(envelope["payload"]).replace(b'"version": 9', b'"version": 8')
    envelope["payload"] = base64.b64encode(payload).decode()
    await assert_refused(wallet, json.dumps(envelope).encode(), Code.POLICY_QUORUM)


async def test_a_policy_of_another_tenant_is_refused(wallet: Wallet) -> None:
    foreign = wallet.document | {"version": 9, "tenant": "umbrella"}
    await assert_refused(wallet, signed_policy(foreign, *wallet.stack.admins), Code.POLICY_INVALID)


@pytest.mark.parametrize(
    "change", [{"surprise": 1}, {"rules": [{"id": "x"}]}, {"v": 2}, {"version": 0}, {"principals": None}]
)
async def test_a_policy_that_is_not_strict_is_refused(wallet: Wallet, change: dict[str, object]) -> None:
    bad = wallet.document | {"version": 9} | change
    await assert_refused(wallet, signed_policy(bad, *wallet.stack.admins), Code.POLICY_INVALID)


async def test_without_a_policy_nothing_is_allowed(wallet: Wallet) -> None:
    await wallet.stack.restart_enclave()
    await wallet.stack.configure()
    refused(await wallet.sign(), Code.POLICY_MISSING, with_receipt=False)


async def test_an_expired_policy_allows_nothing(wallet: Wallet) -> None:
    expired = wallet.document | {"version": 9, "valid_until": wallet.stack.now_ms() - 60_000}
    await put(wallet, signed_policy(expired, *wallet.stack.admins))
    refused(await wallet.sign(), Code.POLICY_EXPIRED)


async def test_a_transfer_that_the_policy_does_not_name_is_refused(wallet: Wallet) -> None:
    from wallet import TO, TRANSFER, allow_everything, ethereum

    matcher = {
        "type": "ethereum-transaction",
        "chain_ids": [1],
        "contract_creation": False,
        "to": [TO],
        "min_value": "0",
        "max_value": str(2 * 10**17),
        "max_fee": str(10**16),
        "selectors": ["none"],
        "erc20": "*",
    }
    await wallet.stack.put_policy(
        wallet.document | {"version": 9, "rules": [allow_everything(operations=["sign"], content=[matcher])]}
    )
    await wallet.assert_still_signs()
    for change in (
        {"to": "0x" + "11" * 20},
        {"value": 2 * 10**17 + 1},
        {"chainId": 5},
        {"data": "0x12345678"},
        {"maxFeePerGas": 10**15},
    ):
        refused(await wallet.sign(content=ethereum(TRANSFER | change)), Code.POLICY_DENIED)
