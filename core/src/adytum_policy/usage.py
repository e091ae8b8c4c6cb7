"""What a request counts against limits, and what was counted before. Pure; the memory itself is the enclave's.

`charges_of` says what a rule's limits would be charged; `Usage` is asked how much of each is used already. An amount
that cannot be known (content that was not decoded, a call to the limit's token that is not one of ERC-20's) is no
charge of 0: it is None, and the rule does not allow.
"""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct

from adytum_policy import shape
from adytum_policy.spending import Spending


class Charge(Struct, frozen=True, kw_only=True):
    """`scope`: "tenant", "key:<key id>" or "principal:<id>". `amount`, `max`: the asset's smallest unit, or requests.
    `window_ms`: the length of the rolling window."""

    limit: str
    scope: str
    amount: int
    max: int
    window_ms: int


class Usage(Protocol):
    """How much was charged to (limit, scope) within the window that ends now, reservations included. None: unknown,
    which counts as full."""

    def used(self, charge: Charge) -> int | None: ...


class NoUsage:
    """Nothing was used: for previews and drafts."""

    def used(self, charge: Charge) -> int | None:
        return 0


class UnknownUsage:
    """Nothing is known: every limit counts as reached."""

    def used(self, charge: Charge) -> int | None:
        return None


def charge_of(limit: shape.LimitEntry, spending: Spending | None, *, key_id: str, principal_id: str) -> Charge | None:
    """What a request is charged to `limit`. None when it cannot be known. `key_id`: "" for a record not yet made.

    An amount of 0 is a charge too: the limit must be known to the enclave before its rule allows anything.
    """
    amount: int | None
    if limit.measure == "count" and limit.asset == "*":
        amount = 1
    else:
        moved = None if spending is None else spending.of(limit.asset)
        amount = moved if moved is None or limit.measure == "amount" else min(moved, 1)
    if amount is None or (limit.per == "key" and not key_id):
        return None
    scope = {"tenant": "tenant", "key": f"key:{key_id}", "principal": f"principal:{principal_id}"}[limit.per]
    return Charge(limit=limit.id, scope=scope, amount=amount, max=int(limit.max), window_ms=limit.window_seconds * 1000)
