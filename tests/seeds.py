"""A seed in a deployment, and what its owner may do with it. `Seeds.secret` is what only a test may know."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from outsider import open_record
from wallet import Made, Wallet, made

from adytum_wire import results
from adytum_wire.messages import ExecuteReply, Refusal
from adytum_wire.record import Record


@dataclass(slots=True)
class Seeds:
    wallet: Wallet
    seed: Made
    secret: bytes

    async def derive(self, path: str, algorithm: str = "secp256k1", **fields: Any) -> ExecuteReply | Refusal:
        request = {"key_id": self.seed.key_id, "path": path, "algorithm": algorithm, "record": self.seed.record}
        return await self.wallet.stack.ask(self.wallet.alice, "derive_key", **(request | fields))

    async def derived(
        self, path: str, algorithm: str = "secp256k1", *, record: Record | None = None
    ) -> results.DeriveKeyResult:
        reply = await self.derive(path, algorithm, record=record or self.seed.record)
        assert isinstance(reply, ExecuteReply), reply
        result = results.parse_result(reply.result)
        assert isinstance(result, results.DeriveKeyResult)
        return result

    async def sign(self, path: str, *, record: Record | None = None, **fields: Any) -> ExecuteReply | Refusal:
        return await self.wallet.sign(self.seed, record=record, path=path, **fields)

    async def signed(self, path: str, **fields: Any) -> results.SignResult:
        reply = await self.sign(path, **fields)
        assert isinstance(reply, ExecuteReply), reply
        result = results.parse_result(reply.result)
        assert isinstance(result, results.SignResult)
        return result


async def allow_seeds(wallet: Wallet, **rule: Any) -> None:
    """Give alice the operations on seeds, under the next version of the policy; `rule` changes the rule further."""
    wallet.document["version"] += 1
    first = wallet.document["rules"][0]
    first["operations"] = sorted({*first["operations"], "generate_seed", "derive_key"})
    first.update(rule)
    await wallet.stack.put_policy(wallet.document)


async def open_seeds(wallet: Wallet) -> Seeds:
    await allow_seeds(wallet)
    seed = made(await wallet.stack.ask(wallet.alice, "generate_seed", labels=["treasury"]))
    return Seeds(wallet, seed, open_record(wallet.stack, seed.record)[1])
