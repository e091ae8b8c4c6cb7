"""What the demo does, step by step. Each step reports `Fact`s to whoever shows them; one that fails stops the demo."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from adytum.client import AsyncAdytum, RefusedError
from adytum_sim.demo.transfer import ETHER, RECIPIENT, STRANGER, Transfer
from adytum_sim.host import Host
from adytum_sim.people import Person, signed_policy
from adytum_wire.errors import Code
from adytum_wire.results import GenerateKeyResult, SignResult
from adytum_wire.types import Algorithm

LABEL = "treasury"


class DemoError(Exception):
    """A step did not end as it must. The text says which, for a person."""


@dataclass(frozen=True, slots=True)
class Fact:
    """One line of the story: facts with the same `step` belong together."""

    step: str
    name: str
    value: str


Report = Callable[[Fact], None]


@dataclass(slots=True)
class Result:
    """What `--json` prints, and `result.json` holds."""

    key_id: str = ""
    public_key: str = ""
    address: str = ""
    raw_transaction: str = ""
    transaction_hash: str = ""
    request_id: str = ""
    pcrs: dict[str, str] = field(default_factory=dict)


def policy(host: Host, client: Person) -> dict[str, Any]:
    """One client, one label, mainnet, one recipient, at most half an ether."""
    transfer = {
        "type": "ethereum-transaction",
        "chain_ids": [1],
        "contract_creation": False,
        "to": [RECIPIENT],
        "min_value": "0",
        "max_value": str(ETHER // 2),
        "max_fee": str(ETHER // 100),
        "selectors": ["none"],
        "erc20": "*",
    }
    common: dict[str, Any] = {
        "effect": "allow",
        "principals": ["role:treasurer"],
        "labels": [LABEL],
        "algorithms": ["secp256k1"],
        "paths": "*",
        "times": "*",
        "approvals": "none",
        "limits": "none",
    }
    rules = [
        common | {"id": "make-keys", "operations": ["generate_key"], "content": "*"},
        common | {"id": "pay-the-supplier", "operations": ["sign"], "content": [transfer]},
    ]
    return host.stack.policy([client.as_principal("treasurer")], rules)


async def tell(host: Host, report: Report) -> Result:
    """The whole story against a running host. Errors: DemoError, AdytumError."""
    result = Result()
    client = Person.new("treasurer-1")
    async with host.client(client) as sdk:
        await _prove(sdk, result, report)
        await _set_policy(host, sdk, client, report)
        await _make_key(sdk, result, report)
        await _sign(sdk, result, report)
        await _be_refused(sdk, result, report)
    return result


async def _prove(sdk: AsyncAdytum, result: Result, report: Report) -> None:
    enclave = await sdk.attestation()
    result.pcrs = {str(index): value.hex() for index, value in sorted(enclave.document.pcrs.items())}
    report(Fact("Proven by attestation", "module", enclave.document.module_id))
    for index, name in ((0, "PCR0, the image"), (16, "PCR16, the manifest")):
        report(Fact("Proven by attestation", name, enclave.document.pcrs[index].hex()))
    report(Fact("Proven by attestation", "receipt key", enclave.binding.receipt_key))


async def _set_policy(host: Host, sdk: AsyncAdytum, client: Person, report: Report) -> None:
    admins = host.stack.admins
    in_force = await sdk.put_policy(signed_policy(policy(host, client), *admins[:2]))
    report(Fact("Policy in force", "version", str(in_force.version)))
    report(Fact("Policy in force", "signed by", f"{admins[0].name} and {admins[1].name}, 2 of {len(admins)}"))


async def _make_key(sdk: AsyncAdytum, result: Result, report: Report) -> None:
    made = (await sdk.generate_key(Algorithm.SECP256K1, labels=[LABEL])).result
    if not isinstance(made, GenerateKeyResult):
        raise DemoError("the service made no key")
    result.key_id, result.public_key, result.address = made.key_id, made.public_key, made.address
    report(Fact("Key, made in the enclave", "key id", made.key_id))
    report(Fact("Key, made in the enclave", "address", made.address))


async def _sign(sdk: AsyncAdytum, result: Result, report: Report) -> None:
    result.request_id = f"demo-{secrets.token_hex(8)}"
    answer = await sdk.sign_ethereum(result.key_id, Transfer().unsigned(), request_id=result.request_id)
    if not isinstance(answer.result, SignResult):
        raise DemoError("the service signed nothing")
    result.raw_transaction = answer.result.encoded["raw_transaction"]
    result.transaction_hash = answer.result.encoded["transaction_hash"]
    summary = answer.receipt.receipt.summary
    for name in ("chain_id", "to", "value_eth", "max_fee_eth"):
        report(Fact("Signed, and so says the receipt", name, summary[name]))
    report(Fact("Signed, and so says the receipt", "transaction", result.transaction_hash))


async def _be_refused(sdk: AsyncAdytum, result: Result, report: Report) -> None:
    """The policy knows neither this recipient nor so much money."""
    for name, transfer in (
        ("0.1 ETH to a stranger", Transfer(to=STRANGER)),
        ("5 ETH to the supplier", Transfer(value=5 * ETHER)),
    ):
        try:
            await sdk.sign_ethereum(result.key_id, transfer.unsigned())
        except RefusedError as refusal:
            if refusal.code is not Code.POLICY_DENIED or refusal.receipt is None:
                raise DemoError(f"{name} was refused for another reason: {refusal.code}") from None
            outcome = ", ".join(f"{o.rule}: {o.outcome}" for o in refusal.receipt.receipt.rules)
            report(Fact("Refused by the policy, with a receipt", name, f"{refusal.code} ({outcome})"))
        else:
            raise DemoError(f"{name} was signed although the policy does not allow it")
