"""Approvals (spec/approvals.md), pure: verify one (`verify`, a passkey's: `webauthn`), make batches (`merkle`).

The enclave and the host use the same code; only the enclave's answer counts.

    verified = verify_approval(approval, tenant="acme", request_digest=digest, policy=policy, latest_ms=now + 60_000)
    verified.vote       # for decide(..., votes=)
    verified.sighting   # for the memory of passkeys' counters, None for a key
"""

from adytum_policy.approvals.merkle import path_of, paths_of, root_of, root_through
from adytum_policy.approvals.verify import Verified, verify_approval
from adytum_policy.approvals.webauthn import Sighting

__all__ = ["Sighting", "Verified", "path_of", "paths_of", "root_of", "root_through", "verify_approval"]
