"""Attacks by content: reading it costs time that all tenants share, and a PSBT signs with keys that the request does
not name."""

from __future__ import annotations

from typing import Any

import pytest
from coins import Coins
from office import receipt_of
from seeds import Seeds, allow_seeds, open_seeds
from wallet import Wallet, allow_everything, refused

from adytum_wire.errors import Code
from adytum_wire.messages import ExecuteReply

JUNK = {"type": "bitcoin-psbt", "psbt": "00" * 16_000, "network": "mainnet"}


@pytest.fixture
async def seeds(wallet: Wallet) -> Seeds:
    return await open_seeds(wallet)


def outcomes(reply: Any) -> dict[str, str]:
    return {one.rule: one.outcome for one in receipt_of(reply).rules}


async def put(wallet: Wallet, *rules: dict[str, Any]) -> None:
    wallet.document["version"] += 1
    wallet.document["rules"] = list(rules)
    await wallet.stack.put_policy(wallet.document)


async def test_a_client_without_rights_does_not_get_its_content_decoded(wallet: Wallet) -> None:
    """Content that cannot be decoded shows it: who has no right is denied without anybody having looked."""
    before = await wallet.state()
    fields = {"key_id": wallet.key.key_id, "path": "", "record": wallet.key.record, "scheme": "bip340"}
    reply = refused(await wallet.stack.ask(wallet.mallory, "sign", **fields, content=JUNK), Code.POLICY_DENIED)
    assert receipt_of(reply).summary == {}
    assert receipt_of(reply).decision == "deny"
    assert set(outcomes(reply).values()) <= {"principal", "operation"}
    refused(await wallet.sign(scheme="bip340", content=JUNK), Code.CONTENT_INVALID)  # alice has the right: it is read
    assert await wallet.state() == before
    await wallet.assert_still_signs()


async def test_a_label_a_deny_rule_and_an_expired_policy_are_asked_before_the_content(wallet: Wallet) -> None:
    rule = wallet.document["rules"][0]
    deny = allow_everything("stop", effect="deny", operations=["sign"], principals="*", labels="*", content="*")
    junk = {"scheme": "bip340", "content": JUNK}
    await put(wallet, rule | {"labels": ["other"]})
    assert outcomes(refused(await wallet.sign(**junk), Code.POLICY_DENIED)) == {rule["id"]: "label"}
    await put(wallet, rule, deny)
    reply = refused(await wallet.sign(**junk), Code.POLICY_DENIED)
    assert outcomes(reply)["stop"] == "deny"
    wallet.document["valid_until"] = wallet.stack.now_ms() - 60_000
    await put(wallet, rule)
    refused(await wallet.sign(**junk), Code.POLICY_EXPIRED)


async def test_a_denied_address_does_not_sign_by_way_of_its_account(seeds: Seeds) -> None:
    """The rule names the address; the request names the account, and the PSBT the address."""
    wallet, coins = seeds.wallet, Coins(seeds.secret, "p2tr")
    spend = coins.spend([90_000, 80_000], 100_000, 1_500)  # signed by /0/0 and /0/1, change at /1/0
    content = {"type": "bitcoin-psbt", "psbt": spend.psbt.hex(), "network": "mainnet"}
    rule = wallet.document["rules"][0]

    async def ask(*paths: str) -> Any:
        frozen = allow_everything(
            "frozen", effect="deny", operations=["sign"], principals="*", labels="*", paths=list(paths), content="*"
        )
        await put(wallet, rule, frozen)
        return await seeds.sign(coins.path, scheme="bip340", content=content)

    for denied in ("/0/1", "/0/0", "/0/*", "/*", ""):
        reply = refused(await ask(coins.path + denied), Code.POLICY_DENIED)
        assert outcomes(reply)["frozen"] == "deny"
        assert receipt_of(reply).result_digest == ""
    for other in ("/0/2", "/1/*", "/0"):  # change signs nothing; "/0" is a key above those that sign
        reply = await ask(coins.path + other)
        assert isinstance(reply, ExecuteReply), reply
        assert outcomes(reply)["frozen"] == "path"


async def test_an_allow_rule_for_addresses_does_not_open_their_account(seeds: Seeds) -> None:
    coins = Coins(seeds.secret, "p2tr")
    spend = coins.spend([90_000], 50_000, 1_500)
    content = {"type": "bitcoin-psbt", "psbt": spend.psbt.hex(), "network": "mainnet"}
    for paths, code in (
        ([coins.path + "/0/*"], Code.POLICY_DENIED),
        ([coins.path + "/*"], Code.POLICY_DENIED),
        ([coins.path], None),
        (["m/86'/0'/*"], None),
    ):
        await allow_seeds(seeds.wallet, paths=paths)
        reply = await seeds.sign(coins.path, scheme="bip340", content=content)
        if code is None:
            assert isinstance(reply, ExecuteReply), reply
        else:
            refused(reply, code)
