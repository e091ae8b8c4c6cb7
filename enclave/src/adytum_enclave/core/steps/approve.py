"""Step 1 b, approve: verify what approvers signed about this request. Counting them is the decision's business."""

from __future__ import annotations

from adytum_enclave.core.steps.authenticate import Authenticated
from adytum_policy.votes import Vote
from adytum_wire.errors import AdytumError, Code
from adytum_wire.messages import Execute


def approve(message: Execute, _who: Authenticated, *, now_ms: int) -> tuple[Vote, ...]:
    """The votes, in their order. Errors: the APPROVAL_* codes, with the approval's place."""
    if message.approvals:
        raise AdytumError(Code.APPROVAL_INVALID, "$.approvals")
    return ()
