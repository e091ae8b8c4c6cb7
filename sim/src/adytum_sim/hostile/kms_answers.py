"""What a KMS that is not KMS could answer: behind TLS nobody on the way can, so the stand-in itself is made to lie.

with lying(site.stack.kms, "Decrypt", lambda answer: answer | {"KeyId": other}) as told:
    reply = await site.send("sign")
told.count
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from adytum_sim.kms.caller import Caller
from adytum_sim.kms.running import RunningKms

Answer = dict[str, Any]


@dataclass(slots=True)
class Told:
    """`last`: the true answer before the change. `count`: how many were changed."""

    count: int = 0
    last: Answer | None = None


@contextlib.contextmanager
def lying(kms: RunningKms, operation: str, change: Callable[[Answer], Answer]) -> Iterator[Told]:
    """Change every answer of one operation while the block runs."""
    told, true = Told(), kms.service.handle

    def handle(target: str, payload: Mapping[str, Any], caller: Caller) -> Answer:
        answer = true(target, payload, caller)
        if not target.endswith("." + operation):
            return answer
        told.count += 1
        told.last = dict(answer)
        return change(dict(answer))

    kms.service.handle = handle  # type: ignore[method-assign]
    try:
        yield told
    finally:
        del kms.service.handle  # the class's own again
