"""A deployment under attack: the stand-in's whole stack with the relay in front of the enclave and the tap in its pipe.

    async with open_site(directory) as site:
        reply = await site.send("sign")        # the honest client, through the hostile host
        await site.unharmed()                  # same state, same signature
        await site.audit()                     # and the ledger adds up

Keys are opened anew for every request (`key_ttl_seconds` 0), so that a record is always read. What is allowed is in
`rules`.
"""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import coincurve
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from adytum.client import hpke
from adytum.client.usage import draft_reset, sign_reset
from adytum.enclave.client import Backoff, EnclaveClient
from adytum.enclave.endpoint import UnixEndpoint
from adytum_sim.enclave.config import host_socket
from adytum_sim.hostile.ledger import BrokenPromiseError, Ledger
from adytum_sim.hostile.relay import Relay
from adytum_sim.hostile.rules import APPROVER, GENERATION, LABEL, OWNER, PATH, RECIPIENT, TO, is_allowed, narrow_rules
from adytum_sim.hostile.tls_tap import TlsTap
from adytum_sim.people import Person, approval_statement, request_body, signed_policy
from adytum_sim.sessions import OpenedSession
from adytum_sim.stack import TENANT, Stack, running_stack
from adytum_verify import verify_enclave
from adytum_wire import limits, results
from adytum_wire.approvals import Approval
from adytum_wire.binding import Binding
from adytum_wire.errors import AdytumError, Code
from adytum_wire.manifest import manifest_hash
from adytum_wire.messages import Execute, ExecuteReply, Refusal
from adytum_wire.record import Record
from adytum_wire.requests import import_info
from adytum_wire.types import sha256

# 0x02 || rlp([1, 7, 1e9, 30e9, 21000, TO, 1e17, "", []]): a transfer of 0.1 ether that the policy allows (EIP-1559)
TRANSFER: Final = "02f00107843b9aca008506fc23ac0082520894" + TO[2:] + "88016345785d8a000080c0"
_MNEMONICS: Final = (
    b"legal winner thank year wave sausage worth useful legal winner thank yellow",  # of BIP-39's own vectors
    b"letter advice cage absurd amount doctor acoustic avoid letter advice cage above",
)

# What each operation on a record is asked about. `delete_key` is carried out only days after it was scheduled.
HELD_FOR: Final = {
    "sign": "keys",
    "unseal": "secrets",
    "reseal": "keys",
    "derive_key": "seeds",
    "export": "keys",
    "enable_key": "disabled",
    "disable_key": "stopping",
    "schedule_deletion": "stopping",
    "cancel_deletion": "pending",
    "delete_key": "pending",
}
WITH_RECORD: Final = tuple(name for name in HELD_FOR if name != "delete_key")
OPERATIONS: Final = (
    *("generate_key", "generate_seed", "import_key", "import_file", "seal", "seal_anchor"),
    *("rotation_statement", "open_session"),
    *WITH_RECORD,
)
# How the host came to what it holds: the operation that made it, and the changes since, the last of them twice.
_MADE_BY: Final = {
    "keys": ("generate_key", "reseal"),
    "secrets": ("seal", "reseal"),
    "stopping": ("generate_key", "reseal"),
    "seeds": ("generate_seed", "reseal"),
    "disabled": ("generate_key", "disable_key", "reseal"),
    "pending": ("generate_key", "schedule_deletion", "reseal"),
}

# These count at once (ADR 6): when one was carried out, the record that it named is an older one.
_STOPPING: Final = frozenset({"disable_key", "schedule_deletion"})

Json = dict[str, Any]


@dataclass(slots=True)
class Held:
    """What the host holds of one key or secret. `older`: an earlier version of the record, once there is one."""

    key_id: str
    record: Record
    older: Record | None = None


@dataclass(slots=True, repr=False)
class Site:
    """`client` speaks through `relay`. `alice` has rights, `olga` approves exports to `recipient`, `mallory` is a
    principal without any right, `stranger` none. `holds`: what the host has, two of each."""

    stack: Stack
    relay: Relay
    tap: TlsTap
    client: EnclaveClient
    ledger: Ledger
    alice: Person
    olga: Person
    mallory: Person
    stranger: Person
    document: Json
    binding: Binding
    signature: str = ""
    holds: dict[str, list[Held]] = field(default_factory=dict)
    session_keys: tuple[bytes, bytes] = field(
        default_factory=lambda: (secrets.token_bytes(32), secrets.token_bytes(32))
    )
    first_state: Json = field(default_factory=dict)

    @property
    def keys(self) -> list[Held]:
        """Two signing keys."""
        return self.holds["keys"]

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
        approvals = (self.approval(body),) if operation == "export" else ()
        return Execute(body, (by or self.alice).stamp(body), held.record if held else None, approvals)

    def approval(self, body: bytes) -> Approval:
        """Olga's."""
        text = approval_statement(
            TENANT, sha256(body), policy_version=self.document["version"], issued_at=self.stack.now_ms()
        )
        return self.olga.approval(text)

    def held(self, operation: str, which: int = 0) -> Held | None:
        """What the host holds for the operation, None where it needs no record."""
        name = HELD_FOR.get(operation)
        return None if name is None else self.holds[name][which]

    async def pass_on(self, message: Execute, *, timeout_s: float | None = None) -> ExecuteReply | Refusal:
        """Send through the relay. Errors: those of `EnclaveClient.execute`."""
        return await self.client.execute(
            message.body, message.stamp, message.record, message.approvals, timeout_s=timeout_s
        )

    async def send(self, operation: str, **changes: Any) -> ExecuteReply | Refusal:
        return await self.pass_on(self.message(operation, **changes))

    async def ready(self, operation: str) -> None:
        """Have a record of which `operation` can be asked, though it was carried out before on another one."""
        if operation in _STOPPING:
            making, *changes = _MADE_BY["stopping"]
            self.holds["stopping"] = [await _hold(self, making, changes, which) for which in range(2)]

    async def renew(self, held: Held, operation: str) -> Held:
        """Let Alice change a record, and store what came of it. Errors: AdytumError when it was refused."""
        body = self.body(operation, key_id=held.key_id)
        made = _made(await self.pass_on(Execute(body, self.alice.stamp(body), held.record)))
        return Held(held.key_id, made.record, held.record)

    async def open_session(self, which: int = 0) -> OpenedSession:
        """A session of Alice's. Errors: BrokenPromiseError when it was refused."""
        reply = await self.send("open_session", which=which)
        result = results.parse_result(reply.result) if isinstance(reply, ExecuteReply) else None
        if not isinstance(result, results.OpenSessionResult):
            raise BrokenPromiseError("the honest request for a session was refused")
        return OpenedSession(bytes.fromhex(result.session_id), self.session_keys[which])

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

    async def restart(self) -> None:
        """Judge this boot, and begin another one, with its manifest and policy and nothing else of before."""
        await self.audit()
        await self.stack.restart_enclave()
        self.stack.reconnect()
        self.client.close()
        self.client = _client(self.relay)
        self.ledger = Ledger()
        self.relay.witness = self.ledger.note
        await self.client.configure(self.stack.manifest, self.stack.credentials)
        await self.client.put_policy(TENANT, self.envelope())
        self.binding = await attested(self)
        self.first_state = await self.state()

    async def audit(self) -> int:
        """Fetch receipts whose answers were lost, and let the ledger judge. Returns the number of signatures."""
        while envelopes := await self.client.get_receipts(self.ledger.missing()):
            for envelope in envelopes:
                self.ledger.note_receipt(envelope)
        return self.ledger.audit(self.receipt_key, is_allowed)

    def _fields(self, operation: str, which: int, request_id: str) -> Json:
        name = HELD_FOR.get(operation)
        named = {} if name is None else {"key_id": self.holds[name][which].key_id if self.holds.get(name) else ""}
        labels = {"labels": [LABEL]}
        match operation:
            case "generate_key":
                return labels | {"algorithm": "secp256k1"}
            case "generate_seed":
                return labels
            case "import_key":
                key = coincurve.PrivateKey(bytes([which + 1] * 32))
                known = {"algorithm": "secp256k1", "public_key": key.public_key.format().hex()}
                return labels | known | {"sealed": self.sealed(operation, key.secret, request_id)}
            case "import_file":
                packed = bytes(4) + _MNEMONICS[which]  # no password
                sealed = self.sealed(operation, packed, request_id)
                return labels | {"format": "bip39", "expected": "", "sealed": sealed}
            case "seal":
                return labels | {"sealed": self.sealed(operation, b"correct horse battery staple", request_id)}
            case "seal_anchor":
                access = (
                    b'{"access_key_id":"AKIAIOSFODNN7EXAMPLE","secret_access_key":"wJalrXUtnFEMI/K7MDENG/bPxRfi%02d"}'
                )
                return labels | {"sealed": self.sealed(operation, access % which, request_id)}
            case "open_session":
                sealed = self.sealed(operation, self.session_keys[which], request_id)
                return {"sealed": sealed, "expires_at": self.stack.now_ms() + 600_000}
            case "sign":
                content = {"type": "ethereum-transaction", "unsigned": TRANSFER}
                return named | {"path": "", "scheme": "ecdsa-secp256k1", "content": content}
            case "derive_key":
                return named | {"path": PATH, "algorithm": "secp256k1"}
            case "unseal":
                return named | {"recipient": X25519PrivateKey.generate().public_key().public_bytes_raw().hex()}
            case "export":
                return named | {"recipient": RECIPIENT}
            case "schedule_deletion":
                return named | {"waiting_days": 7}
            case _:
                return named

    def sealed(self, operation: str, secret: bytes, request_id: str) -> Json:
        """HPKE to the attested key, for this request of Alice's."""
        info = import_info(operation, TENANT, request_id, self.alice.scheme, self.alice.public_key)
        enc, ciphertext = hpke.seal(bytes.fromhex(self.binding.hpke_key), secret, info=info)
        return {"enc": enc.hex(), "ciphertext": ciphertext.hex()}


def signature_of(reply: ExecuteReply | Refusal) -> str:
    """The signature, hex. Errors: BrokenPromiseError when it was refused."""
    if isinstance(reply, Refusal):
        raise BrokenPromiseError(f"the honest request was refused: {reply.code} {reply.field}")
    result = results.parse_result(reply.result)
    return result.signature if isinstance(result, results.SignResult) else ""


@contextlib.asynccontextmanager
async def open_site(
    directory: Path,
    *,
    anchor: Json | None = None,
    policy: Json | None = None,
    charged: Sequence[str] = (),
    **bounds: int,
) -> AsyncIterator[Site]:
    """`bare_site`, with everything that it holds. `charged`: limits of signatures, open from the start."""
    async with bare_site(directory, anchor=anchor, policy=policy, charged=charged, **bounds) as site:
        await _fill(site, charged)
        yield site


@contextlib.asynccontextmanager
async def bare_site(
    directory: Path,
    *,
    anchor: Json | None = None,
    policy: Json | None = None,
    charged: Sequence[str] = (),
    **bounds: int,
) -> AsyncIterator[Site]:
    """Its policy in force, and nothing made yet. Everything from the first frame on passes the relay. `directory`:
    private and short. `anchor`: the manifest's. `policy`: members of the document that are to be otherwise."""
    async with contextlib.AsyncExitStack() as cleanup:
        wanted = {"key_ttl_seconds": 0} | bounds
        stack = await cleanup.enter_async_context(
            running_stack(directory / "e", bounds=wanted, configure=False, anchor=anchor)
        )
        await stack.pipe.close()
        tap = TlsTap(host_socket(stack.directory, limits.KMS_PORT), stack.kms.port)
        await tap.start()
        cleanup.push_async_callback(tap.close)
        ledger = Ledger()
        relay = Relay(directory / "h", stack.directory, ledger.note)
        await relay.start()
        cleanup.push_async_callback(relay.close)
        client = _client(relay)
        alice, olga, mallory, stranger = (Person.new(name) for name in (OWNER, APPROVER, "mallory", OWNER))
        principals = [alice.as_principal("signer"), olga.as_principal("approver"), mallory.as_principal()]
        recipient = X25519PrivateKey.generate().public_key().public_bytes_raw().hex()
        changes = {
            "records": {"generation": GENERATION, "min_generation": GENERATION},
            "recipients": [{"id": RECIPIENT, "public_key": recipient}],
        } | (policy or {})
        document = json.loads(json.dumps(stack.policy(principals, narrow_rules(charged), version=5) | changes))
        unknown = Binding(
            protocol=0, build="", boot_id="", manifest_hash="00" * 32, receipt_key="00" * 32, hpke_key="00" * 32
        )
        site = Site(stack, relay, tap, client, ledger, alice, olga, mallory, stranger, document, unknown)
        cleanup.callback(lambda: site.client.close())
        await client.configure(stack.manifest, stack.credentials)
        await client.put_policy(TENANT, site.envelope())
        site.binding = await attested(site)
        yield site


def _client(relay: Relay) -> EnclaveClient:
    return EnclaveClient(UnixEndpoint(relay.front), backoff=Backoff(first=0.0, most=0.0))


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


async def _fill(site: Site, charged: Sequence[str]) -> None:
    if charged:
        reset = sign_reset(draft_reset(TENANT, site.binding.boot_id, "*"), [a.signer for a in site.stack.admins[:2]])
        await site.client.reset_usage(TENANT, reset)
    for name, (making, *changes) in _MADE_BY.items():
        site.holds[name] = [await _hold(site, making, changes, which) for which in range(2)]
    site.signature = signature_of(await site.send("sign"))
    site.first_state = await site.state()


async def _hold(site: Site, making: str, changes: list[str], which: int) -> Held:
    held = _made(await site.send(making, which=which))
    for change in changes:
        held = await site.renew(held, change)
    # What this makes is thrown away: `held` was opened for it, and from here on the one before counts as older (ADR 6).
    await site.renew(held, "reseal")
    return held


def _made(reply: ExecuteReply | Refusal) -> Held:
    if isinstance(reply, Refusal) or reply.record is None:
        raise AdytumError(Code.INTERNAL, "no record was made")
    return Held(results.parse_result(reply.result).key_id, reply.record)
