"""A scripted enclave for the host's tests: it keeps the promises that the host relies on (authenticated receipts in a
chain, the same answer for the same request, attestation documents that verify under a development root) and breaks
exactly one thing when a test says so. It decides nothing: whoever holds `client_key` may do everything.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from coincurve import PrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from adytum.client import hpke
from adytum.service.ports import AWAITING_MANIFEST, READY
from adytum.settings import Settings, load
from adytum_policy.content import address_of, decode_content
from adytum_policy.document import parse_policy
from adytum_sim.nsm.document import build_document
from adytum_sim.pki import DevPki
from adytum_verify import AllowList
from adytum_wire import dsse, messages, receipts, results, signatures
from adytum_wire.approvals import Approval, parse_statement
from adytum_wire.binding import Binding, encode_binding
from adytum_wire.checkpoints import CheckpointBody, CheckpointEnvelope
from adytum_wire.errors import AdytumError, Code
from adytum_wire.messages import Credentials, ExecuteReply, Refusal
from adytum_wire.pae import CHECKPOINT, POLICY, REQUEST, pae
from adytum_wire.receipts import GENESIS, Receipt, ReceiptEnvelope, head_bytes, next_link
from adytum_wire.record import Header, Record, encode_header, parse_header
from adytum_wire.requests import (
    OPERATIONS,
    Body,
    GenerateKey,
    ImportKey,
    Reseal,
    Seal,
    Sign,
    Stamp,
    Unseal,
    import_info,
    operation_of,
    parse_body,
    unseal_info,
)
from adytum_wire.strict_json import encode
from adytum_wire.types import Algorithm, KeyState, RecordKind, Scheme, derive_key_id, sha256

ARN = "arn:aws:kms:us-east-1:111122223333:key/11111111-2222-3333-4444-555555555555"
MODULE = "i-0123456789abcdef0-enc0123456789abcdef"
BUILD = "scripted"


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class ScriptedEnclave:
    """Knobs: `down` (cannot be reached), `pcrs`, `refuse` (code to answer with), `delay_s`, `phase`, `on_execute`."""

    pki = DevPki.create(now_ms())  # one root for all tests of a process: making one takes a while

    def __init__(self) -> None:
        self.pcrs = {index: bytes([index + 1]) * 48 for index in range(3)}
        self.client_key = Ed25519PrivateKey.generate()
        self.down = False
        self.refuse: Code | None = None
        self.refuse_as = "deny"
        self.delay_s = 0.0
        self.phase = READY
        self.on_execute: Callable[[], Awaitable[None] | None] = lambda: None  # what it gives is waited for
        self.executed = 0  # messages
        self.effects = 0  # requests that were carried out anew
        self.approvals: list[tuple[Approval, ...]] = []  # of each message
        self.wants = 0  # approvals that a request needs; one rejection ends it. Nobody verifies them here
        self.attested = 0
        self.manifests: list[bytes] = []
        self.credentials: list[Credentials] = []
        self.policies: dict[str, tuple[int, bytes]] = {}
        self.refuse_policy: Code | None = None
        self.usage: list[tuple[str, bytes]] = []  # snapshots that were presented
        self.anchor_records: list[tuple[str, Record]] = []
        self.resets: list[tuple[str, bytes]] = []
        self.refuse_usage: Code | None = None
        self.secrets: dict[str, bytes] = {}
        self.latest: dict[str, int] = {}
        self.boot()

    def boot(self) -> None:
        """Restart: new identity, nothing remembered but what a test put into `secrets`."""
        self.boot_id = secrets.token_hex(16)
        self.receipt_key = Ed25519PrivateKey.generate()
        self.hpke_key = X25519PrivateKey.generate()
        self.policies = {}
        self._link, self._sequence = GENESIS, 0
        self.trail: list[bytes] = []
        self._answers: dict[tuple[str, str], tuple[bytes, ExecuteReply | Refusal]] = {}

    @property
    def allow_list(self) -> AllowList:
        return AllowList.parse(self.allowed)

    @property
    def allowed(self) -> list[str]:
        return [",".join(f"PCR{index}={(bytes([index + 1]) * 48).hex()}" for index in range(3))]

    # --- control

    def _up(self) -> None:
        if self.down:
            raise AdytumError(Code.PEER_UNAVAILABLE)

    async def hello(self, *, timeout_s: float | None = None) -> messages.HelloReply:
        self._up()
        return messages.HelloReply(messages.PROTOCOL_VERSION, self.phase, self.boot_id, BUILD)

    async def configure(
        self, manifest: bytes, credentials: Credentials | None = None, *, timeout_s: float | None = None
    ) -> messages.ConfigureReply:
        self._up()
        if self.phase != AWAITING_MANIFEST:
            raise AdytumError(Code.PHASE_INVALID)
        self.manifests.append(manifest)
        if credentials is not None:
            self.credentials.append(credentials)
        self.phase = READY
        return messages.ConfigureReply(sha256(manifest), bytes(48))

    async def set_credentials(self, credentials: Credentials, *, timeout_s: float | None = None) -> None:
        self._up()
        self.credentials.append(credentials)

    async def put_usage(self, tenant: str, snapshot: bytes, *, timeout_s: float | None = None) -> None:
        self._up()
        self.usage.append((tenant, snapshot))
        if self.refuse_usage is not None:
            raise AdytumError(self.refuse_usage)

    async def put_anchor_credentials(self, tenant: str, record: Record, *, timeout_s: float | None = None) -> None:
        self._up()
        self.anchor_records.append((tenant, record))

    async def reset_usage(self, tenant: str, envelope: bytes, *, timeout_s: float | None = None) -> None:
        self._up()
        self.resets.append((tenant, envelope))

    async def get_usage(self, tenant: str, *, timeout_s: float | None = None) -> messages.GetUsageReply:
        self._up()
        entry = messages.UsageEntry("daily", "tenant", 86_400_000, "3", "1")
        return messages.GetUsageReply(self.boot_id, 7, True, [entry])

    async def put_policy(
        self, tenant: str, envelope: bytes, *, timeout_s: float | None = None
    ) -> messages.PutPolicyReply:
        """Here a policy is any bytes that end in its version, or an envelope of a real one, signed by whomever."""
        self._up()
        if self.refuse_policy is not None:
            raise AdytumError(self.refuse_policy)
        payload = envelope
        if envelope.startswith(b"{"):
            payload, _ = dsse.parse(envelope, POLICY, limit=2**20, code=Code.POLICY_INVALID)
            version = parse_policy(payload).version
        else:
            payload = envelope
            version = int(envelope.rsplit(b"=", 1)[1])
        if version < self.policies.get(tenant, (0, b""))[0]:
            raise AdytumError(Code.POLICY_ROLLBACK)
        self.policies[tenant] = (version, envelope)
        return messages.PutPolicyReply(version, sha256(payload))

    async def attest(self, nonce: bytes, *, timeout_s: float | None = None) -> messages.AttestReply:
        self._up()
        if self.phase != READY:
            raise AdytumError(Code.PHASE_INVALID)
        self.attested += 1
        public = self.hpke_key.public_key().public_bytes_raw()
        binding = encode_binding(
            Binding(
                protocol=messages.PROTOCOL_VERSION,
                build=BUILD,
                boot_id=self.boot_id,
                manifest_hash="00" * 32,
                receipt_key=self.receipt_key.public_key().public_bytes_raw().hex(),
                hpke_key=public.hex(),
            )
        )
        document = build_document(
            self.pki.chain(module_id=MODULE, now_ms=now_ms()),
            module_id=MODULE,
            timestamp_ms=now_ms(),
            pcrs=self.pcrs,
            public_key=public,
            user_data=sha256(binding),
            nonce=nonce,
        )
        return messages.AttestReply(document, binding)

    async def health(self, *, timeout_s: float | None = None) -> messages.HealthReply:
        self._up()
        policies = {tenant: version for tenant, (version, _) in self.policies.items()}
        return messages.HealthReply(self.phase, self.boot_id, 1, 0, 0, 0, policies, self._sequence, {"executed": 1})

    async def get_receipts(self, first: int, *, timeout_s: float | None = None) -> list[bytes]:
        self._up()
        return self.trail[first - 1 :]

    async def checkpoint(self, *, timeout_s: float | None = None) -> bytes:
        self._up()
        body = encode(CheckpointBody(chain=self.boot_id, sequence=self._sequence, head=self._link.hex(), time=now_ms()))
        return encode(
            CheckpointEnvelope(
                body=body.decode(),
                key=self.receipt_key.public_key().public_bytes_raw().hex(),
                signature=self.receipt_key.sign(pae(CHECKPOINT, body)).hex(),
            )
        )

    def close(self) -> None:
        self.down = True

    # --- data

    async def execute(
        self,
        body: bytes,
        stamp: Stamp,
        record: Record | None = None,
        approvals: tuple[Approval, ...] = (),
        *,
        timeout_s: float | None = None,
    ) -> ExecuteReply | Refusal:
        self._up()
        self.executed += 1
        self.approvals.append(approvals)
        waits = self.on_execute()
        if waits is not None:
            await waits
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        if not signatures.is_valid(stamp.scheme, stamp.public_key, pae(REQUEST, body), stamp.signature):
            return Refusal(Code.STAMP_INVALID.value)
        if stamp.public_key != self.client_key.public_key().public_bytes_raw():
            return Refusal(Code.PRINCIPAL_UNKNOWN.value)
        parsed = parse_body(body)
        identity = (parsed.tenant, parsed.request_id)
        known = self._answers.get(identity)
        if known is not None:
            return known[1] if known[0] == body else Refusal(Code.REQUEST_CONFLICT.value)
        if self.refuse is not None:
            receipt = self.receipt(parsed, body, decision=self.refuse_as, code=self.refuse.value)
            refusal = Refusal(self.refuse.value, "", 0, receipt)
            if self.refuse_as == "deny":
                self._answers[identity] = (body, refusal)
            return refusal
        if self.wants:
            refusal = self._weigh(parsed, body, approvals)
            if refusal is not None:
                return refusal
        try:
            reply = self._carry_out(parsed, body, record)
        except AdytumError as error:
            receipt = self.receipt(parsed, body, decision="error", code=error.code.value)
            return Refusal(error.code.value, error.field, 0, receipt)
        self.effects += 1
        self._answers[identity] = (body, reply)
        return reply

    def _weigh(self, body: Body, raw: bytes, approvals: tuple[Approval, ...]) -> Refusal | None:
        said = [parse_statement(approval.statement).decision for approval in approvals]
        code = Code.APPROVALS_REJECTED if "reject" in said else Code.APPROVALS_MISSING
        if code is Code.APPROVALS_MISSING and len(said) >= self.wants:
            return None
        summary = decode_content(body.content, body.scheme).summary if isinstance(body, Sign) else {}
        receipt = self.receipt(body, raw, decision="deny", code=code.value, summary=summary)
        refusal = Refusal(code.value, "", 0, receipt)
        if code is Code.APPROVALS_REJECTED:
            self._answers[body.tenant, body.request_id] = (raw, refusal)
        return refusal

    def _carry_out(self, body: Body, raw: bytes, record: Record | None) -> ExecuteReply:
        if isinstance(body, GenerateKey | ImportKey | Seal):
            return self._make(body, raw)
        if record is None:
            raise AdytumError(Code.RECORD_MISSING)
        header = parse_header(record.header)
        if header.key_id != body.key_id:
            raise AdytumError(Code.RECORD_MISMATCH)
        if header.version < self.latest.get(header.key_id, 0):
            raise AdytumError(Code.RECORD_ROLLBACK)
        if isinstance(body, Reseal):
            return self._store(body, raw, header, header.version + 1, results.ResealResult)
        if isinstance(body, Unseal):
            enc, ciphertext = hpke.seal(
                bytes.fromhex(body.recipient),
                self.secrets[body.key_id],
                info=unseal_info("unseal", body.tenant, body.request_id, body.key_id, header.kind),
            )
            unsealed = results.UnsealResult(
                tenant=body.tenant,
                request_id=body.request_id,
                key_id=body.key_id,
                enc=enc.hex(),
                ciphertext=ciphertext.hex(),
            )
            return self._reply(body, raw, results.encode_result(unsealed), header, None)
        return self._sign(body, raw, header)

    def _sign(self, body: Sign, raw: bytes, header: Header) -> ExecuteReply:
        content = decode_content(body.content, body.scheme)
        key = PrivateKey(self.secrets[body.key_id])
        signature = key.sign_recoverable(content.payload, hasher=None)
        result = results.SignResult(
            tenant=body.tenant,
            request_id=body.request_id,
            key_id=body.key_id,
            path=body.path,
            scheme=body.scheme,
            public_key=header.public_key,
            signature=signature.hex(),
            encoded=content.finish(signature),
        )
        return self._reply(body, raw, results.encode_result(result), header, None)

    def _make(self, body: GenerateKey | ImportKey | Seal, raw: bytes) -> ExecuteReply:
        secret = secrets.token_bytes(32)
        if not isinstance(body, GenerateKey):
            client = self.client_key.public_key().public_bytes_raw()
            secret = hpke.unseal(
                self.hpke_key,
                bytes.fromhex(body.sealed.enc),
                bytes.fromhex(body.sealed.ciphertext),
                info=import_info(OPERATIONS[type(body)], body.tenant, body.request_id, Scheme.ED25519, client),
            )
        is_secret = isinstance(body, Seal)
        public = b"" if is_secret else PrivateKey(secret).public_key.format()
        key_id = derive_key_id(body.tenant, body.request_id)
        self.secrets[key_id] = secret
        header = Header(
            tenant=body.tenant,
            key_id=key_id,
            node_id="node-1",
            kind=RecordKind.SECRET if is_secret else RecordKind.SIGNING_KEY,
            algorithm=Algorithm.NONE if isinstance(body, Seal) else body.algorithm,
            public_key=public.hex(),
            version=1,
            generation=1,
            labels=body.labels,
            state=KeyState.ACTIVE,
            delete_after=0,
            kms_key_arn=ARN,
            created_at=now_ms(),
        )
        kinds = {GenerateKey: results.GenerateKeyResult, ImportKey: results.ImportKeyResult, Seal: results.SealResult}
        return self._store(body, raw, header, 1, kinds[type(body)])

    def _store(self, body: Body, raw: bytes, header: Header, version: int, kind: Any) -> ExecuteReply:
        header = Header(**{name: getattr(header, name) for name in header.__struct_fields__} | {"version": version})
        record = Record(encode_header(header), secrets.token_bytes(76), secrets.token_bytes(184))
        self.latest[header.key_id] = version
        has_address = header.algorithm is Algorithm.SECP256K1
        result = kind(
            tenant=header.tenant,
            request_id=body.request_id,
            key_id=header.key_id,
            kind=header.kind,
            algorithm=header.algorithm,
            public_key=header.public_key,
            address=address_of(bytes.fromhex(header.public_key)) if has_address else "",
            labels=header.labels,
            generation=1,
            state=header.state,
            delete_after=0,
            record_version=version,
            record_digest=sha256(record.header).hex(),
        )
        return self._reply(body, raw, results.encode_result(result), header, record)

    def _reply(self, body: Body, raw: bytes, result: bytes, header: Header, record: Record | None) -> ExecuteReply:
        receipt = self.receipt(body, raw, header=header, result=result)
        return ExecuteReply(result, receipt, record)

    def receipt(
        self,
        body: Body,
        raw: bytes,
        *,
        decision: Any = "allow",
        code: str = "",
        header: Header | None = None,
        result: bytes = b"",
        **changes: Any,
    ) -> bytes:
        """The next envelope of the chain; `changes` edits the receipt before it is signed."""
        self._sequence += 1
        fields: dict[str, Any] = {
            "chain": self.boot_id,
            "sequence": self._sequence,
            "previous": self._link.hex(),
            "time": now_ms(),
            "tenant": body.tenant,
            "principal": "alice",
            "request_id": body.request_id,
            "operation": operation_of(body),
            "request_digest": sha256(raw).hex(),
            "decision": decision,
            "code": code,
            "rules": [],
            "approvals": [],
            "wanted": [],
            "limits": [],
            "policy_version": 1,
            "policy_digest": "",
            "key_id": header.key_id if header else "",
            "record_version": header.version if header else 0,
            "public_key": header.public_key if header else "",
            "summary": {},
            "result_digest": sha256(result).hex() if result else "",
        }
        text = receipts.encode(Receipt(**fields | changes))
        self._link = next_link(self._link, sha256(text))
        signature = self.receipt_key.sign(head_bytes(self.boot_id, self._sequence, self._link))
        key = self.receipt_key.public_key().public_bytes_raw().hex()
        envelope = receipts.encode(
            ReceiptEnvelope(body=text.decode(), following=[], key=key, signature=signature.hex())
        )
        self.trail.append(envelope)
        return envelope


def scripted_settings(enclave: ScriptedEnclave, directory: Path, **tee: Any) -> Settings:
    """Settings for a service in front of `enclave`. `directory` is private to the test."""
    roots = directory / "root.pem"
    roots.write_bytes(enclave.pki.root_pem)
    environ = {
        "APP_TEE_KMSKEYARN": ARN,
        "APP_TEE_ALLOWEDPCRS": enclave.allowed[0],
        "APP_TEE_ATTESTATIONROOTSFILE": str(roots),
        "APP_TEE_REQUESTTIMEOUTSECONDS": "3",
        "APP_DATABASE_DSN": "postgresql:///not-used",
        "APP_DATABASE_STATEMENTTIMEOUTSECONDS": "2",
        "APP_DATABASE_CONNECTTIMEOUTSECONDS": "2",
        "APP_DATABASE_LOCKTIMEOUTSECONDS": "0.3",
        "APP_HTTP_PORT": "0",
    }
    return load(None, environ | {f"APP_TEE_{name.upper()}": value for name, value in tee.items()})
