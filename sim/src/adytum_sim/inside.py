"""The enclave's core in this process, with a clock that can be moved and a KMS that is a dictionary.

For what needs days of enclave time, or thousands of short histories: no shell, no sockets, no attestation. Everything
that decides is the real core; what the stand-in KMS would refuse is not refused here.

    inside = Inside(manifest=..., start_ms=...)
    reply = inside.ask(alice, "generate_key", algorithm="secp256k1", labels=["treasury"])
    inside.clock_ms += 8 * 86_400_000
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from dataclasses import replace
from typing import Any

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key

from adytum_enclave.core.control import control
from adytum_enclave.core.effects import (
    Anchored,
    DataKeyAnswer,
    GetDocument,
    InTurn,
    Measure,
    NewDataKey,
    OpenDataKey,
    ReadAnchor,
    ReadPcr,
    Stretch,
    Together,
    WriteAnchor,
)
from adytum_enclave.core.enclave import Enclave
from adytum_enclave.core.pipeline import execute
from adytum_enclave.core.secrets import Arena
from adytum_enclave.shell import entropy
from adytum_sim import cms
from adytum_sim.people import Person, request_body, signed_policy
from adytum_wire import messages
from adytum_wire.approvals import Approval
from adytum_wire.errors import AdytumError, Code
from adytum_wire.messages import Configure, ControlRequest, Execute, ExecuteReply, PutPolicy, Refusal, Reply
from adytum_wire.record import Record

TENANT = "acme"
ARENA_BYTES = 4 << 20


class Inside:
    """`kms_fails`: how many of the next KMS calls end in KMS_UNAVAILABLE. `anchored`: what the anchor holds."""

    def __init__(self, *, manifest: bytes, start_ms: int, anchored: dict[str, Anchored] | None = None) -> None:
        self.clock_ms = start_ms
        self.manifest = manifest
        self.kms: dict[bytes, tuple[bytes, dict[str, str]]] = {}
        self.kms_fails = 0
        self.anchored = {} if anchored is None else anchored
        self.receipts: list[bytes] = []
        self.boot()

    def boot(self) -> None:
        """A new boot with the same manifest; what KMS and the anchor hold stays."""
        self.enclave = Enclave(
            arena=Arena(ARENA_BYTES), now_ms=lambda: self.clock_ms, fill=entropy.fill, build="inside"
        )
        key = load_der_public_key(self.enclave.recipient.spki)
        if not isinstance(key, RSAPublicKey):
            raise TypeError("the recipient key is RSA")
        self._recipient = key
        self.control(Configure(self.manifest))

    def control(self, request: ControlRequest) -> Reply:
        try:
            steps = control(self.enclave, request, drift_ms=0, in_flight=0)
            reply: Reply = self._drive(steps)
        except AdytumError as error:
            return messages.refusal(error)
        return reply

    def put_policy(self, document: dict[str, Any], *admins: Person) -> Reply:
        return self.control(PutPolicy(TENANT, signed_policy(document, *admins)))

    def ask(
        self,
        person: Person,
        operation: str,
        *,
        record: Record | None = None,
        approvals: tuple[Approval, ...] = (),
        issued_at: int | None = None,
        **fields: Any,
    ) -> ExecuteReply | Refusal:
        """Write, stamp and carry out one request."""
        body = request_body(TENANT, operation, self.clock_ms if issued_at is None else issued_at, **fields)
        return self.execute(Execute(body, person.stamp(body), record, approvals))

    def execute(self, message: Execute) -> ExecuteReply | Refusal:
        """One message, whole: its receipt is signed when it is answered."""
        outcome = self._drive(execute(self.enclave, message, is_expired=lambda: False))
        self.enclave.receipts.seal()
        reply = messages.decode_reply(outcome.encode())
        if not isinstance(reply, ExecuteReply | Refusal):
            raise TypeError(type(reply).__name__)
        if reply.receipt and (not self.receipts or reply.receipt not in self.receipts):
            self.receipts.append(reply.receipt)
        return reply

    def _drive(self, steps: Generator[Any, Any, Any]) -> Any:
        resume: Callable[[], Any] = lambda: next(steps)  # noqa: E731
        while True:
            try:
                effect = resume()
            except StopIteration as stop:
                return stop.value
            try:
                answer = self._perform(effect)
            except AdytumError as error:
                failure = error
                resume = lambda failure=failure: steps.throw(failure)  # type: ignore[misc]  # noqa: E731
            else:
                resume = lambda answer=answer: steps.send(answer)  # type: ignore[misc]  # noqa: E731

    def _perform(self, effect: Any) -> Any:
        match effect:
            case NewDataKey():
                self._kms_call()
                blob, key = os.urandom(48), os.urandom(32)
                self.kms[blob] = key, dict(effect.context)
                return DataKeyAnswer(ciphertext_for_recipient=self._to_us(key), ciphertext_blob=blob)
            case OpenDataKey():
                self._kms_call()
                key, context = self.kms.get(effect.ciphertext_blob, (b"", {}))
                if not key or context != effect.context:
                    raise AdytumError(Code.KMS_DENIED)
                return DataKeyAnswer(ciphertext_for_recipient=self._to_us(key), ciphertext_blob=effect.ciphertext_blob)
            case ReadPcr():
                return b"\x01" * 48
            case Measure() | GetDocument():
                return b"\x02" * 48
            case Stretch():
                effect.work()
                return b""
            case ReadAnchor():
                return self.anchored.get(effect.tenant)
            case WriteAnchor():
                held = self.anchored.get(effect.tenant)
                if (None if held is None else held.version) != effect.expected:
                    return False
                self.anchored[effect.tenant] = replace(effect.anchored)
                return True
            case Together() | InTurn():
                self._drive(effect.steps())
                return None
        raise TypeError(type(effect).__name__)

    def _kms_call(self) -> None:
        if self.kms_fails > 0:
            self.kms_fails -= 1
            raise AdytumError(Code.KMS_UNAVAILABLE)

    def _to_us(self, key: bytes) -> bytes:
        return cms.envelop(self._recipient, key, random_bytes=os.urandom, form="constructed")
