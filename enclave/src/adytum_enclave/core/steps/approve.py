"""Step 1 b, approve: verify what approvers signed about this request. Counting them is the decision's business."""

from __future__ import annotations

from functools import lru_cache

from adytum_enclave.core.crypto import stamps
from adytum_enclave.core.passkeys import PasskeyMemory
from adytum_enclave.core.rejections import Rejections
from adytum_enclave.core.steps.authenticate import Authenticated
from adytum_policy.approvals import verify_approval
from adytum_policy.votes import Vote
from adytum_wire import limits
from adytum_wire.errors import AdytumError
from adytum_wire.messages import Execute
from adytum_wire.types import Scheme

# A pure function of its arguments. An approval is presented again with each retry, and that of a batch with each of its
# requests: from the cache it costs a tenth. At most 1,024 messages, each with key and signature of at most 4 KiB.
_is_valid = lru_cache(maxsize=1024)(stamps.is_valid)
_MOST_REMEMBERED = 4 * limits.KIB  # a statement and what is put before it, or a passkey's data, and not much more


def _is_valid_bounded(scheme: Scheme, public_key: bytes, message: bytes, signature: bytes) -> bool:
    """As `stamps.is_valid`. What is longer than any honest approval is not kept: a host can send a signature of any
    length, and none that is too long is valid."""
    if len(public_key) + len(message) + len(signature) > _MOST_REMEMBERED:
        return stamps.is_valid(scheme, public_key, message, signature)
    return _is_valid(scheme, public_key, message, signature)


def approve(
    message: Execute,
    who: Authenticated,
    *,
    passkeys: PasskeyMemory,
    rejections: Rejections,
    future_ms: int,
    now_ms: int,
) -> tuple[Vote, ...]:
    """The votes in the order of `message.approvals`, then rejections of this request that were seen before and did not
    come again. `future_ms`: how far ahead of trusted time `now_ms` a statement may be issued.

    Errors: the APPROVAL_* codes, `field` is the approval's place. What was verified before it stays remembered.
    """
    tenant, policy = who.body.tenant, who.policy.policy
    votes: list[Vote] = []
    for at, approval in enumerate(message.approvals):
        try:
            verified = verify_approval(
                approval,
                tenant=tenant,
                request_digest=who.digest,
                policy=policy,
                latest_ms=now_ms + future_ms,
                is_valid=_is_valid_bounded,
            )
            if verified.sighting is not None:
                passkeys.require(tenant, verified.sighting, policy)
        except AdytumError as error:
            raise AdytumError(error.code, f"$.approvals[{at}]") from None
        votes.append(verified.vote)
    if any(vote.decision == "reject" for vote in votes):
        asked = {rule.approvals.role for rule in policy.rules if rule.approvals is not None}
        for vote in votes:
            # Only of those whom some rule asks: everybody else's no has no weight, and need not be kept.
            if vote.decision == "reject" and now_ms <= vote.expires_at and not asked.isdisjoint(vote.roles):
                rejections.note(tenant, who.digest, vote)
    shown = {vote.digest for vote in votes}
    for vote in rejections.of(tenant, who.digest, policy, now_ms):
        if vote.digest not in shown:
            votes.append(vote)
    return tuple(votes)
