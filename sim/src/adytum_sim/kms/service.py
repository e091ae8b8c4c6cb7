"""`KmsService`: one request in, one answer out; no sockets. What it decides is written to the log, refusals too.

State after a refusal: as before, except for the log and the quota.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from adytum_sim.kms.call import Answer, Call, Deps
from adytum_sim.kms.caller import Caller
from adytum_sim.kms.errors import KmsFault, unsupported
from adytum_sim.kms.faults import Faults
from adytum_sim.kms.operations import OPERATIONS, UNSUPPORTED, Operation
from adytum_sim.kms.params import Params
from adytum_sim.kms.quotas import Quotas
from adytum_sim.kms.recipient import DocumentReader
from adytum_sim.kms.state import State
from adytum_sim.kms.trail import Trail
from adytum_verify import Anchor
from adytum_wire.strict_json import is_too_deep

PREFIX: Final = "TrentService."
_DAY_MS: Final = 24 * 60 * 60 * 1000


class KmsService:
    """One account's KMS in one region. Safe for use by several threads.

    Args:
        state: keys, aliases, credentials; saved after each change when it has a path.
        anchors: roots under which attestation documents must verify. Empty: no document is ever accepted.
        now_ms, random_bytes: clock (milliseconds since the epoch) and randomness.
        accept_unsigned_documents: for the QEMU rig alone, whose documents carry no signature.
    """

    def __init__(
        self,
        state: State,
        *,
        anchors: Sequence[Anchor],
        now_ms: Callable[[], int],
        random_bytes: Callable[[int], bytes],
        accept_unsigned_documents: bool = False,
        faults: Faults | None = None,
        quotas: Quotas | None = None,
        trail: Trail | None = None,
    ) -> None:
        self.state = state
        self.faults = faults or Faults()
        self.trail = trail if trail is not None else Trail()
        self._quotas = quotas or Quotas()
        self._now_ms = now_ms
        self.random_bytes = random_bytes
        documents = DocumentReader(anchors=anchors, now_ms=now_ms, accept_unsigned=accept_unsigned_documents)
        self._deps = Deps(state=state, documents=documents, random_bytes=random_bytes, faults=self.faults)
        self._lock = threading.RLock()
        self._previous: dict[str, Answer] = {}

    @property
    def now_ms(self) -> int:
        return self._now_ms()

    def handle(self, target: str, payload: Mapping[str, Any], caller: Caller) -> Answer:
        """Carry out `TrentService.<operation>` with the decoded JSON `payload`. Errors: KmsFault and nothing else."""
        with self._lock:
            name = target.removeprefix(PREFIX)
            if not target.startswith(PREFIX) or name not in OPERATIONS:
                raise (
                    unsupported(f"the operation {name}")
                    if name in UNSUPPORTED
                    else KmsFault("UnknownOperationException")
                )
            return self._run(name, OPERATIONS[name], payload, caller)

    def _run(self, name: str, operation: Operation, payload: Mapping[str, Any], caller: Caller) -> Answer:
        now_ms = self._now_ms()
        self._expire(now_ms)
        call: Call | None = None
        error: KmsFault | None = None
        try:
            self._admit(operation, now_ms)
            params = Params(payload, operation.members)
            call = Call(deps=self._deps, operation=name, params=params, caller=caller, now_ms=now_ms)
            answer = self._spoil(name, operation.run(call))
            if operation.changes:
                self.state.save()
            return answer
        except KmsFault as fault:
            error = fault
            raise
        finally:
            self._record(name, payload, caller, now_ms, call, error)

    def _admit(self, operation: Operation, now_ms: int) -> None:
        if self.faults.take("refuse"):
            raise KmsFault("KMSInternalException", "The request was rejected because an internal exception occurred.")
        if self.faults.take("throttle") or not self._quotas.take(operation.quota, now_ms):
            raise KmsFault("ThrottlingException", "You have exceeded the rate at which you may call KMS. Reduce the "
                           "frequency of your calls.")  # fmt: skip

    def _expire(self, now_ms: int) -> None:
        """Delete what is due, rotate what is due."""
        due = False
        for key in list(self.state.keys.values()):
            if key.deletion_ms is not None and key.deletion_ms <= now_ms:
                del self.state.keys[key.key_id]
                self.state.aliases = {n: a for n, a in self.state.aliases.items() if a[0] != key.key_id}
                due = True
            elif key.rotation_days is not None and key.state == "Enabled":
                last = max([key.created_ms, *(at for at, kind in key.rotations if kind == "AUTOMATIC")])
                if now_ms >= last + key.rotation_days * _DAY_MS:
                    key.backing.append(self._deps.random_bytes(32))
                    key.rotations.append((now_ms, "AUTOMATIC"))
                    due = True
        if due:
            self.state.save()

    def _spoil(self, name: str, answer: Answer) -> Answer:
        """What a relay could do to a finished answer."""
        previous = self._previous.get(name)
        self._previous[name] = answer
        if previous is not None and self.faults.take("replay"):
            return previous
        if "KeyId" in answer and self.faults.take("other_key_id"):
            return answer | {"KeyId": self.state.key_arn(self._deps.uuid())}
        return answer

    def _record(
        self,
        name: str,
        payload: Mapping[str, Any],
        caller: Caller,
        now_ms: int,
        call: Call | None,
        error: KmsFault | None,
    ) -> None:
        self.trail.record(
            caller=caller,
            event_name=name,
            region=self.state.region,
            now_ms=now_ms,
            request_id=self._deps.uuid(),
            event_id=self._deps.uuid(),
            payload=payload if isinstance(payload, Mapping) else {},
            resources=call.resources if call else [],
            recipient=call.recipient.trail() if call and call.recipient else None,
            error=(error.code.removesuffix("Exception"), error.message or "") if error else None,
        )


def decode_body(body: bytes) -> dict[str, Any]:
    """Errors: SerializationException, as AWS says it."""
    try:
        text = (body or b"{}").decode()
        if is_too_deep(text):
            raise ValueError
        value = json.loads(text)
        json.dumps(value, ensure_ascii=False).encode()  # refuses lone surrogates
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise KmsFault("SerializationException", "The request body is not a JSON object.")
    return value
