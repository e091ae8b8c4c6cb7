"""A deployment under attack: the stand-in's whole stack with the relay in front of the enclave and the tap in its pipe.

    async with open_site(directory) as site:
        reply = await site.send("sign")        # the honest client, through the hostile host
        await site.assert_unharmed()           # same state, same signature, and the ledger adds up

Keys are opened anew for every request (`key_ttl_seconds` 0), so that a record is always read; the policy is narrow, so
that what it forbids can be told from what it allows.
"""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import coincurve
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from adytum.client import hpke
from adytum.enclave.client import Backoff, EnclaveClient
from adytum.enclave.endpoint import UnixEndpoint
from adytum_policy.content import Decoded, to_checksum
from adytum_sim.enclave.config import host_socket
from adytum_sim.hostile.ledger import BrokenPromiseError, Ledger
from adytum_sim.hostile.relay import Relay
from adytum_sim.hostile.tls_tap import TlsTap
from adytum_sim.people import Person, request_body, signed_policy
from adytum_sim.stack import TENANT, Stack, running_stack
from adytum_verify import verify_enclave
from adytum_wire import limits, results
from adytum_wire.binding import Binding
from adytum_wire.errors import AdytumError, Code
from adytum_wire.manifest import manifest_hash
from adytum_wire.messages import Execute, ExecuteReply, Refusal
from adytum_wire.receipts import Receipt
from adytum_wire.record import Record
from adytum_wire.requests import EthereumTransaction, Sign, import_info

LABEL = "treasury"
TO = "0x70997970c51812dc3a010c7d01b50e0d17dc79c8"
CONTRACT = "0xa0b86991c6218b36c1d19d4a2e9eb0ce3606eb48"
MAX_VALUE = 2 * 10**17
CHAIN = 1
# 0x02 || rlp([1, 7, 1e9, 30e9, 21000, TO, 1e17, "", []]): a transfer of 0.1 ether that the policy allows (EIP-1559)
TRANSFER = "02f00107843b9aca008506fc23ac0082520894" + TO[2:] + "88016345785d8a000080c0"

OPERATIONS = ("generate_key", "import_key", "sign", "seal", "unseal", "reseal")
WITH_RECORD = ("sign", "unseal", "reseal")

Json = dict[str, Any]


def narrow_rules() -> list[Json]:
    """Alice may make and keep `treasury` keys, send small transfers to one address and tokens of one contract."""
    base = {
        "effect": "allow",
        "principals": ["role:signer"],
        "labels": [LABEL],
        "algorithms": "*",
        "paths": "*",
        "times": "*",
        "approvals": "none",
        "limits": "none",
        "content": "*",
    }
    ethereum = {
        "type": "ethereum-transaction",
        "chain_ids": [CHAIN],
        "contract_creation": False,
        "to": [TO],
        "min_value": "0",
        "max_value": str(MAX_VALUE),
        "max_fee": str(10**16),
        "selectors": ["none"],
        "erc20": "*",
    }
    token = {"methods": ["transfer"], "recipients": [TO], "min_amount": "0", "max_amount": "1000000"}
    tokens = ethereum | {"to": [CONTRACT], "max_value": "0", "selectors": ["0xa9059cbb"], "erc20": token}
    return [
        base | {"id": "keep", "operations": ["generate_key", "import_key", "seal", "unseal", "reseal"]},
        base | {"id": "pay", "operations": ["sign"], "content": [ethereum, tokens]},
    ]


def is_allowed(body: Sign, content: Decoded, receipt: Receipt) -> bool:
    """What `narrow_rules` says about a signature, written again by hand."""
    wanted = {"to": to_checksum(bytes.fromhex(TO[2:])), "chain_id": str(CHAIN), "data_length": "0"}
    return (
        isinstance(body.content, EthereumTransaction)
        and wanted.items() <= content.summary.items()
        and int(content.summary["value_wei"]) <= MAX_VALUE
        and receipt.principal == "alice"
    )


@dataclass(slots=True)
class Held:
    """What the host holds of one key or secret. `older`: an earlier version of the record, once there is one."""

    key_id: str
    record: Record
    older: Record | None = None


@dataclass(slots=True, repr=False)
class Site:
    """`client` speaks through `relay`. `alice` has rights, `mallory` is a principal without any, `stranger` none."""

    stack: Stack
    relay: Relay
    tap: TlsTap
    client: EnclaveClient
    ledger: Ledger
    alice: Person
    mallory: Person
    stranger: Person
    document: Json
    binding: Binding
    signature: str = ""
    keys: list[Held] = field(default_factory=list)  # two signing keys
    secrets: list[Held] = field(default_factory=list)  # two secrets
    first_state: Json = field(default_factory=dict)

    @property
    def receipt_key(self) -> bytes:
        return bytes.fromhex(self.binding.receipt_key)

    def envelope(self, **changes: Any) -> bytes:
        """The policy with `changes`, signed by exactly as many administrators as are needed."""
        return signed_policy(self.document | changes, *self.stack.admins[:2])

    def body(self, operation: str, *, which: int = 0, request_id: str = "", **changes: Any) -> bytes:
        """A body that Alice would write. `which`: of the two keys or secrets."""
        request_id = request_id or "r-" + secrets.token_hex(12)
        fields = self._fields(operation, which, request_id) | changes
        issued_at = fields.pop("issued_at", self.stack.now_ms())
        return request_body(TENANT, operation, issued_at, request_id=request_id, **fields)

    def message(self, operation: str, *, which: int = 0, by: Person | None = None, **changes: Any) -> Execute:
        """An honest request, as the host would pass it on."""
        body = self.body(operation, which=which, **changes)
        held = self.held(operation, which)
        return Execute(body, (by or self.alice).stamp(body), held.record if held else None)

    def held(self, operation: str, which: int = 0) -> Held | None:
        """What the host holds for the operation, None where it needs no record."""
        if operation not in WITH_RECORD:
            return None
        return (self.secrets if operation == "unseal" else self.keys)[which]

    async def pass_on(self, message: Execute, *, timeout_s: float | None = None) -> ExecuteReply | Refusal:
        """Send through the relay. Errors: those of `EnclaveClient.execute`."""
        return await self.client.execute(message.body, message.stamp, message.record, timeout_s=timeout_s)

    async def send(self, operation: str, **changes: Any) -> ExecuteReply | Refusal:
        return await self.pass_on(self.message(operation, **changes))

    async def state(self) -> Json:
        """What no refused manipulation may change, asked without the relay."""
        health = await self.stack.client.health()
        return {"phase": health.phase, "boot": health.boot_id, "policies": health.policies}

    async def unharmed(self) -> None:
        """The same state as at the start, and the honest transfer still has its one signature.

        Errors: BrokenPromiseError.
        """
        self.relay.honest()
        self.tap.hook = None
        state = await self.state()
        if state != self.first_state:
            raise BrokenPromiseError(f"the state changed: {state}")
        found = signature_of(await self.send("sign"))
        if found != self.signature:
            raise BrokenPromiseError("the honest request has another signature")

    async def audit(self) -> int:
        """Fetch receipts whose answers were lost, and let the ledger judge. Returns the number of signatures."""
        while envelopes := await self.client.get_receipts(self.ledger.missing()):
            for envelope in envelopes:
                self.ledger.note_receipt(envelope)
        return self.ledger.audit(self.receipt_key, is_allowed)

    def _fields(self, operation: str, which: int, request_id: str) -> Json:
        held = self.held(operation, which)
        if operation == "generate_key":
            return {"algorithm": "secp256k1", "labels": [LABEL]}
        if operation == "import_key":
            key = coincurve.PrivateKey(bytes([which + 1] * 32))
            return {
                "algorithm": "secp256k1",
                "labels": [LABEL],
                "public_key": key.public_key.format().hex(),
                "sealed": self.sealed(key.secret, request_id),
            }
        if operation == "seal":
            return {"labels": [LABEL], "sealed": self.sealed(b"correct horse battery staple", request_id)}
        named = {"key_id": held.key_id if held else ""}
        if operation == "sign":
            content = {"type": "ethereum-transaction", "unsigned": TRANSFER}
            return named | {"path": "", "scheme": "ecdsa-secp256k1", "content": content}
        if operation == "unseal":
            return named | {"recipient": X25519PrivateKey.generate().public_key().public_bytes_raw().hex()}
        return named

    def sealed(self, secret: bytes, request_id: str) -> Json:
        """HPKE to the attested key, for this request."""
        enc, ciphertext = hpke.seal(bytes.fromhex(self.binding.hpke_key), secret, info=import_info(TENANT, request_id))
        return {"enc": enc.hex(), "ciphertext": ciphertext.hex()}


def signature_of(reply: ExecuteReply | Refusal) -> str:
    """The signature, hex. Errors: BrokenPromiseError when it was refused."""
    if isinstance(reply, Refusal):
        raise BrokenPromiseError(f"the honest request was refused: {reply.code} {reply.field}")
    result = results.parse_result(reply.result)
    return result.signature if isinstance(result, results.SignResult) else ""


@contextlib.asynccontextmanager
async def open_site(directory: Path, *, configure: bool = True, **bounds: int) -> AsyncIterator[Site]:
    """Everything from the first frame on passes the relay. `directory`: private and short."""
    async with contextlib.AsyncExitStack() as cleanup:
        wanted = {"key_ttl_seconds": 0} | bounds
        stack = await cleanup.enter_async_context(running_stack(directory / "e", bounds=wanted, configure=False))
        await stack.pipe.close()
        tap = TlsTap(host_socket(stack.directory, limits.KMS_PORT), stack.kms.port)
        await tap.start()
        cleanup.push_async_callback(tap.close)
        ledger = Ledger()
        relay = Relay(directory / "h", stack.directory, ledger.note)
        await relay.start()
        cleanup.push_async_callback(relay.close)
        client = EnclaveClient(UnixEndpoint(relay.front), backoff=Backoff(first=0.0, most=0.0))
        cleanup.callback(client.close)
        alice, mallory, stranger = Person.new("alice"), Person.new("mallory"), Person.new("alice")
        principals = [alice.as_principal("signer"), mallory.as_principal()]
        document = json.loads(json.dumps(stack.policy(principals, narrow_rules(), version=5)))
        unknown = Binding(
            protocol=0, build="", boot_id="", manifest_hash="00" * 32, receipt_key="00" * 32, hpke_key="00" * 32
        )
        site = Site(stack, relay, tap, client, ledger, alice, mallory, stranger, document, unknown)
        if configure:
            await _begin(site)
        yield site


async def attested(site: Site) -> Binding:
    """Verify the enclave through the relay, as a client would. Errors: AttestationError."""
    nonce = secrets.token_bytes(32)
    proof = await site.client.attest(nonce)
    return verify_enclave(
        proof.document,
        proof.binding,
        expected=site.stack.allow_list,
        now_ms=site.stack.now_ms(),
        nonce=nonce,
        anchors=(site.stack.kms.anchor,),
        manifest_hash=manifest_hash(site.stack.manifest),
    ).binding


async def _begin(site: Site) -> None:
    await site.client.configure(site.stack.manifest, site.stack.credentials)
    await site.client.put_policy(TENANT, site.envelope())
    site.binding = await attested(site)
    for which in range(2):
        site.keys.append(_made(await site.send("generate_key", which=which)))
        site.secrets.append(_made(await site.send("seal", which=which)))
    for held in (*site.keys, *site.secrets):
        body = request_body(TENANT, "reseal", site.stack.now_ms(), key_id=held.key_id)
        renewed = _made(await site.pass_on(Execute(body, site.alice.stamp(body), held.record)))
        held.older, held.record = held.record, renewed.record
    site.signature = signature_of(await site.send("sign"))
    await site.send("sign", which=1)
    for which in range(2):
        await site.send("unseal", which=which)  # the newer version counts from here on (ADR 6)
    site.first_state = await site.state()


def _made(reply: ExecuteReply | Refusal) -> Held:
    if isinstance(reply, Refusal) or reply.record is None:
        raise AdytumError(Code.INTERNAL, "no record was made")
    return Held(results.parse_result(reply.result).key_id, reply.record)
