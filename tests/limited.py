"""A deployment with a limit: alice may sign `most` times in `window` seconds, and make keys without end."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from dynamo import HOST, Dynamo, running_dynamo
from wallet import SUITE, Made, allow_everything, ethereum, made

from adytum.pipe import Pipe
from adytum_sim.kms.caller import Caller, Credentials
from adytum_sim.people import Person
from adytum_sim.stack import TENANT, Stack, running_stack
from adytum_wire import dsse, limits, receipts, requests
from adytum_wire.binding import parse_binding
from adytum_wire.messages import ExecuteReply, Refusal
from adytum_wire.pae import USAGE_RESET, pae
from adytum_wire.receipts import LimitOutcome
from adytum_wire.record import Record

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
    """`stored`: the newest snapshot that an honest host would keep (anchor `host`). `access`: the record of the table's
    credentials, where they are sealed."""

    stack: Stack
    alice: Person
    document: dict[str, Any]
    dynamo: Dynamo | None
    key: Made | None = None
    stored: bytes = b""
    access: Made | None = None
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
        if self.access is not None:
            await self.present_access()
        await self.put_policy()

    async def put_policy(self) -> None:
        await self.stack.put_policy(self.document)

    async def present(self, snapshot: bytes | None = None) -> None:
        await self.stack.client.put_usage(TENANT, self.stored if snapshot is None else snapshot)

    async def seal_access(self, key_id: str, secret: str) -> Made:
        """Seal the table's credentials to the enclave, as an operator does."""
        return made(await self.ask_to_seal(json.dumps(access(key_id, secret), separators=(",", ":")).encode()))

    async def ask_to_seal(self, plaintext: bytes, operation: str = "seal_anchor") -> ExecuteReply | Refusal:
        attested = parse_binding((await self.stack.client.attest(os.urandom(32))).binding)
        key = X25519PublicKey.from_public_bytes(bytes.fromhex(attested.hpke_key))
        name = secrets.token_urlsafe(12)
        info = requests.import_info(operation, TENANT, name, self.alice.scheme, self.alice.public_key)
        blob = SUITE.encrypt(plaintext, key, info)
        sealed = {"enc": blob[:32].hex(), "ciphertext": blob[32:].hex()}
        return await self.stack.ask(self.alice, operation, request_id=name, labels=["treasury"], sealed=sealed)

    async def present_access(self, record: Record | None = None, tenant: str = TENANT) -> None:
        assert self.access is not None
        await self.stack.client.put_anchor_credentials(tenant, record or self.access.record)

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


# An access key in the form that AWS gives it: 20 capitals and digits, 40 characters.
USER = ("AKIAADYTUMANCHORUSER", base64.b64encode(os.urandom(30)).decode())


def access(key_id: str, secret: str) -> dict[str, str]:
    return {"access_key_id": key_id, "secret_access_key": secret}


def table_user(stack: Stack, key_id: str, secret: str) -> Credentials:
    """An IAM user of the deployment's account."""
    arn = f"arn:aws:iam::{stack.kms.account}:user/adytum-anchor"
    caller = Caller(kind="user", account=stack.kms.account, arn=arn, user_id="AIDAANCHOR", access_key_id=key_id)
    return Credentials(access_key_id=key_id, secret_access_key=secret, caller=caller)


def charged(reply: ExecuteReply | Refusal) -> list[LimitOutcome]:
    """What the receipt says of limits."""
    assert isinstance(reply, ExecuteReply), reply
    return receipts.parse_receipt(receipts.parse_envelope(reply.receipt).body.encode()).limits


@contextlib.asynccontextmanager
async def open_limited(
    directory: Path, kind: str, *, most: int = 3, window: int = WINDOW, sealed: bool = False, **options: Any
) -> AsyncIterator[Limited]:
    """`kind`: the manifest's anchor. The policy is in force and there is one key. A first start knows nothing of
    before, so limits are open only with `dynamodb` (an empty table), or once admins reset them, which is done here.
    `sealed`: the table is open to a user of its own, whose credentials only enclaves know."""
    async with contextlib.AsyncExitStack() as cleanup:
        dynamo = await cleanup.enter_async_context(running_dynamo()) if kind == "dynamodb" else None
        anchor = (
            {"kind": kind} if dynamo is None else dynamo.manifest(limits.ANCHOR_PORT, "sealed" if sealed else "host")
        )
        stack = await cleanup.enter_async_context(running_stack(directory, anchor=anchor, **options))
        if dynamo is not None:
            dynamo.door.known[stack.kms.access_key_id] = stack.kms.role
            dynamo.door.account = stack.kms.account
            if sealed:
                dynamo.door.known[USER[0]] = table_user(stack, *USER)
                dynamo.door.only = USER[0]
            await cleanup.enter_async_context(anchor_pipe(stack, dynamo))
        alice = Person.new("alice")
        rules = [
            allow_everything("keys", operations=["generate_key", "seal", "seal_anchor", "unseal", "reseal"]),
            allow_everything("spend", operations=["sign"], limits=["daily"]),
        ]
        document = stack.policy([alice.as_principal("signer")], rules, version=5)
        document["limits"] = [LIMIT | {"max": str(most), "window_seconds": window}]
        limited = Limited(stack, alice, document, dynamo)
        await limited.put_policy()
        if sealed:
            limited.access = await limited.seal_access(*USER)
            await limited.present_access()
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
