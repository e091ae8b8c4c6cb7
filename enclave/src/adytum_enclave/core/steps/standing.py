"""Step 2 b: may a record in this state, of this generation, be used for this operation at all?

Both stand in the header, which is only claimed until the record opens under it: a host that lies about them gains a
refusal.
"""

from __future__ import annotations

from typing import Final

from adytum_policy.document import Policy
from adytum_wire.errors import AdytumError, Code
from adytum_wire.record import Header
from adytum_wire.requests import (
    CancelDeletion,
    DeleteKey,
    DeriveKey,
    DisableKey,
    EnableKey,
    Export,
    OnRecord,
    Reseal,
    ScheduleDeletion,
    Sign,
    Unseal,
)
from adytum_wire.types import KeyState

# A pending deletion must not be a way to freeze a rotation, so every state can be resealed.
TAKES: Final[dict[KeyState, frozenset[type]]] = {
    KeyState.ACTIVE: frozenset({Sign, DeriveKey, Unseal, Reseal, Export, DisableKey, ScheduleDeletion}),
    KeyState.DISABLED: frozenset({Reseal, EnableKey, ScheduleDeletion}),
    KeyState.PENDING_DELETION: frozenset({Reseal, CancelDeletion, DeleteKey}),
}


def require_standing(body: OnRecord, header: Header, policy: Policy) -> None:
    """Errors: RECORD_RETIRED (below the policy's floor, for all but `reseal`), KEY_STATE."""
    if header.generation < policy.min_generation and not isinstance(body, Reseal):
        raise AdytumError(Code.RECORD_RETIRED, "$.generation")
    if type(body) not in TAKES[header.state]:
        raise AdytumError(Code.KEY_STATE, "$.state")
