"""Room that all tenants share, so divided that none can be left without: half of it is everybody's own in equal parts,
the other half is whose who comes first.

    shares = Shares(1_000, tenants=2)   # 250 each, and 500 more for one or for both
    shares.take("acme")                 # False when acme's own part and the common one are full
"""

from __future__ import annotations


class Shares:
    """`total`: places. A tenant's own part is one place at least, so `total` must not be less than `tenants`."""

    __slots__ = ("_common", "_own", "_taken")

    def __init__(self, total: int, tenants: int) -> None:
        self._own = max(1, total // (2 * tenants))
        self._common = max(0, total - self._own * tenants)  # what is left of it
        self._taken: dict[str, int] = {}

    def of(self, tenant: str) -> int:
        """How many places the tenant has taken."""
        return self._taken.get(tenant, 0)

    def is_full(self, tenant: str) -> bool:
        return self._common == 0 and self.of(tenant) >= self._own

    def take(self, tenant: str) -> bool:
        """One place more; False, and nothing changed, when there is none for this tenant."""
        if self.is_full(tenant):
            return False
        taken = self.of(tenant)
        if taken >= self._own:
            self._common -= 1
        self._taken[tenant] = taken + 1
        return True

    def give(self, tenant: str) -> None:
        """A place that was taken is free again."""
        taken = self._taken[tenant]
        if taken > self._own:
            self._common += 1
        if taken == 1:
            del self._taken[tenant]
        else:
            self._taken[tenant] = taken - 1
