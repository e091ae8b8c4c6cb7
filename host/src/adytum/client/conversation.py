"""The calls of the SDK as generators over `Call` and `Pause`: stamp, send, repeat, verify. No I/O here."""

from __future__ import annotations

import base64
import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import msgspec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from adytum.client import hpke
from adytum.client.checks import Answer, check_answer, check_refusal
from adytum.client.errors import PendingError, RefusedError, UnreachableError, UntrustedError
from adytum.client.imports import FileFormat, pack_file
from adytum.client.signers import Signer
from adytum.client.steps import SESSION_GONE, Call, Came, Failure, Retries, Steps, ask, fetch, read
from adytum.client.trust import Trust
from adytum.service.admit import STAMP_HEADER, format_stamp
from adytum.service.requests.shapes import PendingAnswer
from adytum_verify import AWS_ANCHOR, AllowList, Anchor, PcrPolicy, VerifiedReceipt, verify_receipt
from adytum_verify.receipts import read_envelope, read_receipt
from adytum_wire.errors import AdytumError, Code
from adytum_wire.pae import REQUEST, pae
from adytum_wire.receipts import Receipt
from adytum_wire.requests import (
    AnyStamp,
    BitcoinPsbt,
    Body,
    CancelDeletion,
    Content,
    DeleteKey,
    DeriveKey,
    DisableKey,
    EnableKey,
    EthereumTransaction,
    Export,
    GenerateKey,
    GenerateSeed,
    ImportFile,
    ImportKey,
    OpenSession,
    RawDigest,
    RawMessage,
    Reseal,
    RotationStatement,
    ScheduleDeletion,
    Seal,
    SealAnchor,
    Sealed,
    SealedFile,
    SessionStamp,
    Sign,
    Stamp,
    Unseal,
    import_info,
    parse_body,
    unseal_info,
)
from adytum_wire.results import ExportResult, OpenSessionResult, UnsealResult
from adytum_wire.strict_json import encode
from adytum_wire.types import Algorithm, RecordKind, SigningScheme, derive_key_id

Network = Literal["mainnet", "testnet", "regtest"]

_PATHS: dict[type, str] = {
    GenerateKey: "/v1/keys",
    GenerateSeed: "/v1/keys",
    ImportKey: "/v1/keys",
    ImportFile: "/v1/keys",
    DeriveKey: "/v1/derive",
    Sign: "/v1/sign",
    Seal: "/v1/secrets",
    SealAnchor: "/v1/secrets",
    Unseal: "/v1/unseal",
    Reseal: "/v1/reseal",
    Export: "/v1/export",
    EnableKey: "/v1/state",
    DisableKey: "/v1/state",
    ScheduleDeletion: "/v1/state",
    CancelDeletion: "/v1/state",
    DeleteKey: "/v1/state",
    RotationStatement: "/v1/rotation",
    OpenSession: "/v1/sessions",
}


_SESSION_MARGIN_MS = 5_000  # between our clock and the enclave's


class _Success(msgspec.Struct):
    request_id: str
    result: msgspec.Raw
    receipt: msgspec.Raw


class PolicyInForce(msgspec.Struct, frozen=True):
    """`digest`: hex SHA-256 of the policy's payload. `envelope`: DSSE bytes, empty after a put."""

    tenant: str
    version: int
    digest: str
    envelope: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsealed:
    """`secret`: the plaintext. `answer`: its evidence."""

    secret: bytes
    answer: Answer


class Session(NamedTuple):
    """A session with one boot of an enclave. `key`: 32 bytes. `expires_at`: ms."""

    session_id: bytes
    key: bytes
    expires_at: int

    def stamp(self, signed: bytes) -> SessionStamp:
        return SessionStamp(self.session_id, hmac.digest(self.key, signed, "sha256"))

    def __repr__(self) -> str:
        return f"Session({self.session_id.hex()})"


class Conversation:
    """One tenant's calls, stamped by one signer. Shared by `AsyncAdytum` and `Adytum`; see there for the arguments."""

    def __init__(
        self,
        tenant: str,
        signer: Signer,
        *,
        expected: AllowList | PcrPolicy,
        anchors: Sequence[Anchor] = (AWS_ANCHOR,),
        manifest_hash: bytes | None = None,
        now_ms: Callable[[], int],
        random_bytes: Callable[[int], bytes],
        retries: Retries,
    ) -> None:
        self.tenant = tenant
        self.retries = retries
        self._signer = signer
        self._session: Session | None = None
        self._now_ms = now_ms
        self._random_bytes = random_bytes
        self.trust = Trust(
            expected=expected,
            anchors=anchors,
            manifest_hash=manifest_hash,
            now_ms=now_ms,
            random_bytes=random_bytes,
            retries=retries,
        )

    def new_request_id(self) -> str:
        """128 random bits."""
        return "r-" + self._random_bytes(16).hex()

    def generate_key(self, algorithm: Algorithm, labels: Sequence[str], request_id: str) -> Steps[Answer]:
        return self._send(GenerateKey(**self._base(request_id), algorithm=algorithm, labels=list(labels)))

    def import_key(
        self, algorithm: Algorithm, secret: bytes, public_key: bytes, labels: Sequence[str], request_id: str
    ) -> Steps[Answer]:
        base = self._base(request_id)
        sealed = yield from self._seal_to_enclave("import_key", secret, base["request_id"])
        body = ImportKey(**base, algorithm=algorithm, labels=list(labels), public_key=public_key.hex(), sealed=sealed)
        return (yield from self._send(body))

    def generate_seed(self, labels: Sequence[str], request_id: str) -> Steps[Answer]:
        return self._send(GenerateSeed(**self._base(request_id), labels=list(labels)))

    def derive(self, key_id: str, path: str, algorithm: Algorithm, request_id: str) -> Steps[Answer]:
        return self._send(DeriveKey(**self._base(request_id), key_id=key_id, path=path, algorithm=algorithm))

    def sign(
        self,
        key_id: str,
        scheme: SigningScheme,
        content: Content,
        request_id: str,
        path: str = "",
        public_key: bytes = b"",
    ) -> Steps[Answer]:
        """`public_key`: who must have signed, b"" when the caller has never derived it."""
        body = Sign(**self._base(request_id), key_id=key_id, path=path, scheme=scheme, content=content)
        answer = yield from self._send(body)
        if public_key and getattr(answer.result, "public_key", None) != public_key.hex():
            raise UntrustedError(Code.RECEIPT_INVALID, "result.public_key")
        return answer

    def sign_ethereum(self, key_id: str, unsigned: bytes, request_id: str, path: str = "") -> Steps[Answer]:
        content = EthereumTransaction(unsigned=unsigned.hex())
        return self.sign(key_id, SigningScheme.ECDSA_SECP256K1, content, request_id, path)

    def sign_psbt(
        self, key_id: str, psbt: bytes, network: Network, request_id: str, path: str = "", *, taproot: bool
    ) -> Steps[Answer]:
        scheme = SigningScheme.BIP340 if taproot else SigningScheme.ECDSA_SECP256K1
        return self.sign(key_id, scheme, BitcoinPsbt(psbt=psbt.hex(), network=network), request_id, path)

    def sign_raw(
        self,
        key_id: str,
        scheme: SigningScheme,
        digest: bytes | None,
        message: bytes | None,
        request_id: str,
        path: str = "",
    ) -> Steps[Answer]:
        if (digest is None) == (message is None):
            raise ValueError("give a digest or a message, not both")
        content: Content = (
            RawDigest(digest=digest.hex()) if digest is not None else RawMessage(message=(message or b"").hex())
        )
        return self.sign(key_id, scheme, content, request_id, path)

    def seal(self, secret: bytes, labels: Sequence[str], request_id: str) -> Steps[Answer]:
        base = self._base(request_id)
        sealed = yield from self._seal_to_enclave("seal", secret, base["request_id"])
        return (yield from self._send(Seal(**base, labels=list(labels), sealed=sealed)))

    def seal_anchor(self, access_key_id: str, secret: bytes, labels: Sequence[str], request_id: str) -> Steps[Answer]:
        base = self._base(request_id)
        plaintext = b'{"access_key_id":"%s","secret_access_key":"%s"}' % (access_key_id.encode(), secret)
        sealed = yield from self._seal_to_enclave("seal_anchor", plaintext, base["request_id"])
        return (yield from self._send(SealAnchor(**base, labels=list(labels), sealed=sealed)))

    def unseal(self, key_id: str, recipient: X25519PrivateKey, request_id: str) -> Steps[Unsealed]:
        base = self._base(request_id)
        public = recipient.public_key().public_bytes_raw()
        answer = yield from self._send(Unseal(**base, key_id=key_id, recipient=public.hex()))
        if not isinstance(answer.result, UnsealResult):
            raise UntrustedError(Code.RECEIPT_INVALID, "result.operation")
        enc, ciphertext = bytes.fromhex(answer.result.enc), bytes.fromhex(answer.result.ciphertext)
        try:
            info = unseal_info("unseal", self.tenant, base["request_id"], key_id, RecordKind.SECRET)
            secret = hpke.unseal(recipient, enc, ciphertext, info=info)
        except ValueError:
            raise UntrustedError(Code.RECEIPT_INVALID, "result.ciphertext") from None
        return Unsealed(secret=secret, answer=answer)

    def import_file(
        self, kind: FileFormat, password: bytes, file: bytes, labels: Sequence[str], expected: str, request_id: str
    ) -> Steps[Answer]:
        base = self._base(request_id)
        sealed = yield from self._seal_to_enclave("import_file", pack_file(password, file), base["request_id"])
        body = ImportFile(
            **base,
            format=kind,
            labels=list(labels),
            expected=expected,
            sealed=SealedFile(enc=sealed.enc, ciphertext=sealed.ciphertext),
        )
        return (yield from self._send(body))

    def export(self, key_id: str, recipient: str, request_id: str) -> Steps[Answer]:
        answer = yield from self._send(Export(**self._base(request_id), key_id=key_id, recipient=recipient))
        if not isinstance(answer.result, ExportResult) or answer.result.recipient != recipient:
            raise UntrustedError(Code.RECEIPT_INVALID, "result.recipient")
        return answer

    def made_before(self, request_id: str) -> Steps[Receipt | None]:
        """The verified receipt of this request, which made a key, or None when the host knows of none."""
        try:
            found = yield from self.get(f"/v1/requests/{self.tenant}/{request_id}")
        except RefusedError as error:
            if error.code is Code.NOT_FOUND:
                return None
            raise
        if found.get("state") != "done":
            return None
        receipt = msgspec.json.encode(found.get("receipt"))
        key = yield from self.receipt_key(receipt)
        try:
            said = verify_receipt(receipt, receipt_key=key).receipt
        except AdytumError as error:
            raise UntrustedError(Code.RECEIPT_INVALID, error.field) from error
        key_id = derive_key_id(self.tenant, request_id)
        if (said.tenant, said.request_id, said.decision, said.key_id) != (self.tenant, request_id, "allow", key_id):
            raise UntrustedError(Code.RECEIPT_INVALID, "receipt.request")
        return said

    def reseal(self, key_id: str, request_id: str) -> Steps[Answer]:
        return self._send(Reseal(**self._base(request_id), key_id=key_id))

    def enable_key(self, key_id: str, request_id: str) -> Steps[Answer]:
        return self._send(EnableKey(**self._base(request_id), key_id=key_id))

    def disable_key(self, key_id: str, request_id: str) -> Steps[Answer]:
        return self._send(DisableKey(**self._base(request_id), key_id=key_id))

    def schedule_deletion(self, key_id: str, waiting_days: int, request_id: str) -> Steps[Answer]:
        return self._send(ScheduleDeletion(**self._base(request_id), key_id=key_id, waiting_days=waiting_days))

    def cancel_deletion(self, key_id: str, request_id: str) -> Steps[Answer]:
        return self._send(CancelDeletion(**self._base(request_id), key_id=key_id))

    def delete_key(self, key_id: str, request_id: str) -> Steps[Answer]:
        return self._send(DeleteKey(**self._base(request_id), key_id=key_id))

    def open_session(self, ttl_ms: int, request_id: str) -> Steps[Answer]:
        base = self._base(request_id)
        key = self._random_bytes(32)
        sealed = yield from self._seal_to_enclave("open_session", key, base["request_id"])
        body = OpenSession(**base, sealed=sealed, expires_at=self._now_ms() + ttl_ms)
        answer = yield from self._send(body)
        if not isinstance(answer.result, OpenSessionResult) or answer.result.expires_at != body.expires_at:
            raise UntrustedError(Code.RECEIPT_INVALID, "result.expires_at")
        self._session = Session(bytes.fromhex(answer.result.session_id), key, body.expires_at)
        return answer

    @property
    def has_session(self) -> bool:
        return self._session is not None

    def close_session(self) -> None:
        self._session = None

    def put_policy(self, envelope: bytes) -> Steps[PolicyInForce]:
        call = Call(method="PUT", path=f"/v1/tenants/{self.tenant}/policy", content=envelope)
        return fetch(call, self.retries, PolicyInForce)

    def get_policy(self) -> Steps[PolicyInForce]:
        call = Call(method="GET", path=f"/v1/tenants/{self.tenant}/policy")
        found = yield from fetch(call, self.retries, dict[str, Any])
        try:
            envelope = base64.b64decode(found["envelope"], validate=True)
            return PolicyInForce(found["tenant"], found["version"], found["digest"], envelope)
        except (KeyError, TypeError, ValueError):
            raise UntrustedError(Code.MESSAGE_INVALID) from None

    def get_usage(self) -> Steps[dict[str, Any]]:
        return self.get(f"/v1/tenants/{self.tenant}/usage")

    def reset_usage(self, envelope: bytes) -> Steps[dict[str, Any]]:
        call = Call(method="POST", path=f"/v1/tenants/{self.tenant}/usage/reset", content=envelope)
        return fetch(call, self.retries, dict[str, Any])

    def get(self, path: str) -> Steps[dict[str, Any]]:
        return fetch(Call(method="GET", path=path), self.retries, dict[str, Any])

    # --- inside

    def _base(self, request_id: str) -> dict[str, Any]:
        return {
            "v": 1,
            "tenant": self.tenant,
            "request_id": request_id or self.new_request_id(),
            "issued_at": self._now_ms(),
        }

    def _seal_to_enclave(self, operation: str, secret: bytes, request_id: str) -> Steps[Sealed]:
        """To the HPKE key of the enclave that serves now: its attestation is verified before a byte is sealed. For this
        operation under our key's stamp, or that of a session it opened, and for nobody else's."""
        enclave = yield from self.trust.attest()
        hpke_key = bytes.fromhex(enclave.binding.hpke_key)
        info = import_info(operation, self.tenant, request_id, self._signer.scheme, self._signer.public_key)
        enc, ciphertext = hpke.seal(hpke_key, secret, info=info)
        return Sealed(enc=enc.hex(), ciphertext=ciphertext.hex())

    def repeat(self, raw: bytes) -> Steps[Answer]:
        body = parse_body(raw)
        if body.tenant != self.tenant:
            raise AdytumError(Code.REQUEST_INVALID, "$.tenant")
        return self._send_bytes(raw, body)

    def _send(self, body: Body) -> Steps[Answer]:
        return self._send_bytes(encode(body), body)

    def _send_bytes(self, raw: bytes, body: Body) -> Steps[Answer]:
        came, failure = yield from self._ask_stamped(raw, body)
        if failure is not None and failure.code in SESSION_GONE and self._session is not None:
            self.close_session()  # the enclave started anew, or the time is up: the same request under the key itself
            came, failure = yield from self._ask_stamped(raw, body)
        return (yield from self.conclude(raw, body, came, failure))

    def conclude(self, raw: bytes, body: Body, came: Came, failure: Failure | None) -> Steps[Answer]:
        """What came, verified, as the caller gets it."""
        if failure is not None:
            raise (yield from self._refusal(raw, body, came.status, failure))
        if came.status == 202:
            raise (yield from self._pending(raw, body, came))
        success = read(came.body, _Success)
        receipt = bytes(success.receipt)
        key = yield from self.receipt_key(receipt)
        return check_answer(raw, body, bytes(success.result), receipt, receipt_key=key)

    def _ask_stamped(self, raw: bytes, body: Body) -> Steps[tuple[Came, Failure | None]]:
        headers = {STAMP_HEADER: format_stamp(self.stamp(raw, body)), "Content-Type": "application/json"}
        call = Call(method="POST", path=_PATHS[type(body)], content=raw, headers=headers)
        return (yield from ask(call, self.retries, body.request_id))

    def stamp(self, raw: bytes, body: Body) -> AnyStamp:
        """By the session where there is one, else by the key."""
        session, signed = self._session, pae(REQUEST, raw)
        if session is not None and not isinstance(body, OpenSession):
            if self._now_ms() < session.expires_at - _SESSION_MARGIN_MS:
                return session.stamp(signed)
            self.close_session()
        return Stamp(self._signer.scheme, self._signer.public_key, self._signer.sign(signed))

    def _pending(self, raw: bytes, body: Body, came: Came) -> Steps[PendingError]:
        """The request waits. Its receipt is the enclave's word for it, and left out where it does not verify."""
        if self._session is not None:  # its stamp would not outlive the session: leave one of the key with the host
            session, self._session = self._session, None
            try:
                again, failure = yield from self._ask_stamped(raw, body)
            finally:
                self._session = session
            came = again if failure is None and again.status == 202 else came
        waiting = read(came.body, PendingAnswer)
        receipt = yield from self._refusal_receipt(raw, body, bytes(waiting.receipt), Code.APPROVALS_MISSING)
        return PendingError(
            body.request_id, body=raw, wanted=waiting.wanted, expires_at=waiting.expires_at, receipt=receipt
        )

    @property
    def signer(self) -> Signer:
        return self._signer

    def receipt_key(self, receipt: bytes) -> Steps[bytes]:
        """The attested key of the chain that the receipt names; whether it signed is checked next."""
        try:
            chain = read_receipt(read_envelope(receipt).body.encode()).chain
        except AdytumError as error:
            raise UntrustedError(Code.RECEIPT_INVALID, error.field) from error
        return (yield from self.trust.receipt_key(chain))

    def _refusal(self, raw: bytes, body: Body, status: int, failure: Failure) -> Steps[RefusedError]:
        """A refusal whose receipt does not verify is passed on without it: the host may refuse whatever it likes."""
        verified = yield from self._refusal_receipt(raw, body, bytes(failure.receipt), failure.code)
        return RefusedError(failure.code, failure.error.field, status=status, receipt=verified)

    def _refusal_receipt(self, raw: bytes, body: Body, receipt: bytes, code: Code) -> Steps[VerifiedReceipt | None]:
        if receipt == b"null":
            return None
        try:
            key = yield from self.receipt_key(receipt)
            return check_refusal(raw, body, receipt, code=code, receipt_key=key)
        except AdytumError:
            return None


class _Page(msgspec.Struct):
    receipts: list[msgspec.Raw]
    next_after: int | None


def receipts_page(came: Came) -> tuple[list[bytes], int | None]:
    """Envelopes of one page and where the next begins. Errors: RefusedError, UnreachableError, UntrustedError."""
    if came.status == 0:
        raise UnreachableError(Code.PEER_UNAVAILABLE)
    if came.status != 200:
        failure = read(came.body, Failure)
        raise RefusedError(failure.code, failure.error.field, status=came.status)
    page = read(came.body, _Page)
    return [bytes(row) for row in page.receipts], page.next_after
