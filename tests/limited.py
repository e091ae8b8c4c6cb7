"""A deployment with a limit: alice may sign `most` times in `window` seconds, and make keys without end."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dynamo import HOST, Dynamo, running_dynamo
from wallet import Made, allow_everything, ethereum, made

from adytum.pipe import Pipe
from adytum_sim.people import Person
from adytum_sim.stack import TENANT, Stack, running_stack
from adytum_wire import dsse, limits, receipts
from adytum_wire.messages import ExecuteReply, Refusal
from adytum_wire.pae import USAGE_RESET, pae
from adytum_wire.receipts import LimitOutcome

WINDOW = 3600
LIMIT: dict[str, Any] = {
    "id": "daily",
    "measure": "count",
    "asset": "*",
    "per": "tenant",
    "window_seconds": WINDOW,
    "max": "3",
}


@dataclass(slots=True)
class Limited:
    """`stored`: the newest snapshot that an honest host would keep (anchor `host`)."""

    stack: Stack
    alice: Person
    document: dict[str, Any]
    dynamo: Dynamo | None
    key: Made | None = None
    stored: bytes = b""
    kept: list[bytes] = field(default_factory=list)

    async def sign(self, request_id: str = "", **fields: Any) -> ExecuteReply | Refusal:
        assert self.key is not None
        wanted = {"key_id": self.key.key_id, "path": "", "scheme": "ecdsa-secp256k1", "content": ethereum()} | fields
        if request_id:
            wanted["request_id"] = request_id
        reply = await self.stack.ask(self.alice, "sign", record=self.key.record, **wanted)
        if isinstance(reply, ExecuteReply) and reply.usage:
            self.stored = reply.usage
            self.kept.append(reply.usage)
        return reply

    async def make(self) -> Made:
        return made(await self.stack.ask(self.alice, "generate_key", algorithm="secp256k1", labels=["treasury"]))

    async def restart(self) -> None:
        """A new boot with its manifest and the policy, and nothing of usage."""
        await self.stack.restart_enclave()
        self.stack.reconnect()
        await self.stack.configure()
        await self.put_policy()

    async def put_policy(self) -> None:
        await self.stack.put_policy(self.document)

    async def present(self, snapshot: bytes | None = None) -> None:
        await self.stack.client.put_usage(TENANT, self.stored if snapshot is None else snapshot)

    async def used(self) -> tuple[int, int]:
        """(charged, held) of the limit, as the enclave counts it."""
        entries = (await self.stack.client.get_usage(TENANT)).entries
        return sum(int(e.used) for e in entries), sum(int(e.held) for e in entries)

    async def boot_id(self) -> str:
        return (await self.stack.client.health()).boot_id

    async def reset(self, ids: list[str] | str = "*", *, admins: int = 2, **changes: Any) -> None:
        """A reset signed by as many admins. `changes`: of the payload."""
        payload = {"v": 1, "tenant": TENANT, "boot_id": await self.boot_id(), "limits": ids} | changes
        data = json.dumps(payload).encode()
        signed = [(a.public_key, a.sign(pae(USAGE_RESET, data))) for a in self.stack.admins[:admins]]
        await self.stack.client.reset_usage(TENANT, dsse.build(USAGE_RESET, data, signed))


def charged(reply: ExecuteReply | Refusal) -> list[LimitOutcome]:
    """What the receipt says of limits."""
    assert isinstance(reply, ExecuteReply), reply
    return receipts.parse_receipt(receipts.parse_envelope(reply.receipt).body.encode()).limits


@contextlib.asynccontextmanager
async def open_limited(
    directory: Path, kind: str, *, most: int = 3, window: int = WINDOW, **options: Any
) -> AsyncIterator[Limited]:
    """`kind`: the manifest's anchor. The policy is in force and there is one key. A first start knows nothing of
    before, so limits are open only with `dynamodb` (an empty table), or once admins reset them, which is done here."""
    async with contextlib.AsyncExitStack() as cleanup:
        dynamo = await cleanup.enter_async_context(running_dynamo()) if kind == "dynamodb" else None
        anchor = {"kind": kind} if dynamo is None else dynamo.manifest(limits.ANCHOR_PORT)
        stack = await cleanup.enter_async_context(running_stack(directory, anchor=anchor, **options))
        if dynamo is not None:
            dynamo.door.known[stack.kms.access_key_id] = stack.kms.role
            await cleanup.enter_async_context(anchor_pipe(stack, dynamo))
        alice = Person.new("alice")
        rules = [
            allow_everything("keys", operations=["generate_key"]),
            allow_everything("spend", operations=["sign"], limits=["daily"]),
        ]
        document = stack.policy([alice.as_principal("signer")], rules, version=5)
        document["limits"] = [LIMIT | {"max": str(most), "window_seconds": window}]
        limited = Limited(stack, alice, document, dynamo)
        await limited.put_policy()
        limited.key = await limited.make()
        if dynamo is None:
            await limited.reset()
        yield limited


def anchor_pipe(stack: Stack, dynamo: Dynamo) -> Pipe:
    return Pipe(
        stack.endpoint,
        limits.ANCHOR_PORT,
        HOST,
        443,
        allow=frozenset({(HOST, 443)}),
        dial_to=("127.0.0.1", dynamo.door.port),
    )
