"""Rejections that were seen: the host could leave one out the next time and send the approvals alone.

A rejection that the host has never shown cannot be known. Within a boot, until the statement expires; of each principal
the latest `limits.MAX_REMEMBERED_REJECTIONS`, so that nobody can push out another's.
"""

from __future__ import annotations

from collections import OrderedDict

from msgspec.structs import replace

from adytum_policy.document import Policy
from adytum_policy.votes import Vote
from adytum_wire import limits


class Rejections:
    def __init__(self) -> None:
        self._by_tenant: dict[str, dict[str, OrderedDict[bytes, Vote]]] = {}  # then by principal and request digest

    def note(self, tenant: str, request_digest: bytes, vote: Vote) -> None:
        """Remember `vote`, a rejection of the request with `request_digest`; the one that holds longest."""
        mine = self._by_tenant.setdefault(tenant, {}).setdefault(vote.principal_id, OrderedDict())
        known = mine.get(request_digest)
        if known is None or known.expires_at < vote.expires_at:
            mine[request_digest] = vote
        mine.move_to_end(request_digest)
        if len(mine) > limits.MAX_REMEMBERED_REJECTIONS:
            mine.popitem(last=False)

    def of(self, tenant: str, request_digest: bytes, policy: Policy, now_ms: int) -> tuple[Vote, ...]:
        """The rejections of the request that still hold, with the roles that their principals have now."""
        principals = self._by_tenant.get(tenant)
        if not principals:
            return ()
        found = []
        for mine in principals.values():
            vote = mine.get(request_digest)
            if vote is None:
                continue
            if now_ms > vote.expires_at:
                del mine[request_digest]
                continue
            found.append(vote)
        if not found:
            return ()
        roles = {entry.id: frozenset(entry.roles) for entry in policy.document.principals}
        return tuple(replace(vote, roles=roles[vote.principal_id]) for vote in found if vote.principal_id in roles)
