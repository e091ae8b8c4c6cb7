"""Approvals as far as a decision looks at them: who said what, under which policy, until when. Already verified."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from msgspec import Struct

from adytum_wire.types import Digest


class Vote(Struct, frozen=True, kw_only=True):
    """One verified approval about the request that is decided. `digest`: SHA-256 of its statement. `roles`: of the
    principal in the policy in force. Times in ms since the epoch."""

    principal_id: str
    roles: Collection[str]
    decision: Literal["approve", "reject"]
    policy_version: int
    issued_at: int
    expires_at: int
    digest: Digest
