"""An enclave whose requests stop at each effect: a test does to the world what a hostile host could, and goes on.

held = site.begin(alice, "sign", ...)      # stands at its first effect
site.put_policy(without_alice, version=2)
held.step()                                # the effect is answered; it stands at the next one, or has ended
reply = held.finish()
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from adytum_enclave.core.control import control
from adytum_enclave.core.pipeline import execute
from adytum_sim.inside import TENANT, Inside
from adytum_sim.people import Person, request_body, signed_policy
from adytum_wire import messages, receipts, requests, results
from adytum_wire.errors import AdytumError, Code
from adytum_wire.messages import ControlRequest, Execute, ExecuteReply, PutPolicy, PutPolicyReply, Refusal
from adytum_wire.receipts import Receipt
from adytum_wire.record import Record

START = 1_795_000_000_000
DAY = 86_400_000
ARN = "arn:aws:kms:us-east-1:111122223333:key/k"
HOST = {"kind": "host"}
TABLE = {
    "kind": "dynamodb", "region": "us-east-1", "host": "dynamodb.us-east-1.amazonaws.com", "port": 8002, "roots": ["x"],
    "table": "table", "credentials": "host",
}  # fmt: skip
SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


@dataclass(slots=True)
class Held:
    """Something under way. `effect`: where it stands, None when it has ended: in `value`, or in `error`."""

    site: Site
    steps: Generator[Any, Any, Any]
    effect: Any = None
    value: Any = None
    error: AdytumError | None = None

    def resume(self, call: Callable[[], Any]) -> None:
        self.effect = None
        try:
            self.effect = call()
        except StopIteration as stop:
            self.value = stop.value
        except AdytumError as error:
            self.error = error

    def step(self) -> None:
        """Answer the effect, from the world as it is now."""
        self.perform_then(lambda: None)

    def perform_then(self, change: Callable[[], None]) -> None:
        """Perform the effect, change the world, and only then let the answer through."""
        try:
            answer = self.site.perform(self.effect)
        except AdytumError as error:
            failure = error
            change()
            self.resume(lambda: self.steps.throw(failure))
        else:
            change()
            self.resume(lambda: self.steps.send(answer))

    def finish(self) -> ExecuteReply | Refusal:
        """To the end. What a request was answered."""
        while self.effect is not None:
            self.step()
        assert self.error is None, self.error
        self.site.enclave.receipts.seal()
        reply = messages.decode_reply(self.value.encode())
        assert isinstance(reply, ExecuteReply | Refusal)
        return reply

    def end(self) -> AdytumError | None:
        """To the end, for control messages: the refusal, if it was one."""
        while self.effect is not None:
            self.step()
        return self.error


class Failing(Inside):
    """`fails`: errors to answer the next effects of these types with, also inside a settling."""

    def __init__(self, **options: Any) -> None:
        self.fails: dict[type, list[Code]] = {}
        super().__init__(**options)

    def _perform(self, effect: Any) -> Any:
        if self.fails.get(type(effect)):
            raise AdytumError(self.fails[type(effect)].pop(0))
        return super()._perform(effect)


@dataclass(slots=True)
class Site:
    """One enclave of a deployment, and its world."""

    inside: Failing
    admin: Person

    @classmethod
    def new(
        cls,
        anchor: dict[str, Any] | None = None,
        *,
        beside: Site | None = None,
        tenants: tuple[str, ...] = (TENANT,),
        **bounds: int,
    ) -> Site:
        """`beside`: another enclave of the same deployment, which shares its KMS and its anchor."""
        admin = Person.new("admin") if beside is None else beside.admin
        manifest = {
            "v": 1, "deployment": "interleaved", "epoch": 1, "debug": False, "node_id": "node-1",
            "kms": {
                "region": "us-east-1", "account": "111122223333", "keys": [ARN], "host": "kms.us-east-1.amazonaws.com",
                "port": 8000, "roots": ["x"], "credentials": "pushed",
            },
            "tenants": [{"id": t, "kms_key": ARN, "threshold": 1, "admins": [admin.as_admin()]} for t in tenants],
            "bounds": {
                "request_past_ms": 300_000, "request_future_ms": 60_000, "approval_past_ms": DAY, "key_ttl_seconds": 0,
                "key_max_uses": 1000, "max_warm_keys": 10,
            } | bounds,
            "anchor": anchor or {"kind": "none"},
        }  # fmt: skip
        data = json.dumps(manifest).encode()
        inside = Failing(manifest=data, start_ms=START, anchored=None if beside is None else beside.inside.anchored)
        if beside is not None:
            inside.kms = beside.inside.kms
        return cls(inside, admin)

    @property
    def enclave(self) -> Any:
        return self.inside.enclave

    def perform(self, effect: Any) -> Any:
        return self.inside._perform(effect)

    def begin(self, person: Person, operation: str, *, record: Record | None = None, **fields: Any) -> Held:
        return self.send(person, request_body(TENANT, operation, self.inside.clock_ms, **fields), record)

    def send(self, person: Person, body: bytes, record: Record | None = None) -> Held:
        return self.start(execute(self.enclave, Execute(body, person.stamp(body), record), is_expired=lambda: False))

    def start(self, steps: Generator[Any, Any, Any]) -> Held:
        held = Held(self, steps)
        held.resume(lambda: next(steps))
        return held

    def control(self, message: ControlRequest) -> Held:
        return self.start(control(self.enclave, message, drift_ms=0, in_flight=0))

    def ask(self, person: Person, operation: str, *, record: Record | None = None, **fields: Any) -> Any:
        return self.begin(person, operation, record=record, **fields).finish()

    def document(
        self, principals: list[dict[str, Any]], rules: list[dict[str, Any]], *, version: int = 1, **more: Any
    ) -> dict[str, Any]:
        return {
            "v": 1, "tenant": TENANT, "version": version, "valid_until": START + 30 * DAY,
            "records": {"generation": 1, "min_generation": 1}, "recovery": "none", "passkeys": "none",
            "recipients": [], "limits": [], "principals": principals, "rules": rules,
        } | more  # fmt: skip

    def offer(self, document: dict[str, Any]) -> Held:
        """A policy, signed and under way."""
        return self.control(PutPolicy(document["tenant"], signed_policy(document, self.admin)))

    def put_policy(self, document: dict[str, Any]) -> None:
        offered = self.offer(document)
        assert offered.end() is None, offered.error
        assert isinstance(offered.value, PutPolicyReply)

    def seal_to_enclave(self, person: Person, operation: str, request_id: str, plaintext: bytes) -> dict[str, str]:
        key = X25519PublicKey.from_public_bytes(self.enclave.hpke_key.public_key)
        info = requests.import_info(operation, TENANT, request_id, person.scheme, person.public_key)
        blob = SUITE.encrypt(plaintext, key, info)
        return {"enc": blob[:32].hex(), "ciphertext": blob[32:].hex()}


def rule(name: str, operations: list[str], principals: list[str] | str = "*", **more: Any) -> dict[str, Any]:
    return {
        "id": name, "effect": "allow", "operations": operations, "principals": principals, "labels": "*",
        "algorithms": "*", "paths": "*", "times": "*", "content": "*", "approvals": "none", "limits": "none",
    } | more  # fmt: skip


def limit(most: int, name: str = "daily") -> dict[str, Any]:
    return {"id": name, "measure": "count", "asset": "*", "per": "tenant", "window_seconds": 3600, "max": str(most)}


def receipt_of(reply: ExecuteReply | Refusal) -> Receipt:
    return receipts.parse_receipt(receipts.parse_envelope(reply.receipt).body.encode())


def key_of(reply: Any) -> str:
    return results.parse_result(reply.result).key_id


def refused(reply: Any, code: Code, field: str | None = None) -> None:
    """With a receipt that says the same, and nothing beside it."""
    assert isinstance(reply, Refusal), reply
    assert reply.code == code.value, (reply.code, reply.field)
    assert field is None or reply.field == field
    found = receipt_of(reply)
    assert (found.code, found.decision in ("deny", "error"), found.result_digest) == (code.value, True, "")
