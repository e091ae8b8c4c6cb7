"""The Python SDK: `AsyncAdytum` and `Adytum`. It stamps requests, repeats them under the same id, and checks receipt,
result and signature before it returns them. The service is not believed.
"""

from adytum.client.approvals import Approver, KeyApprover, Review
from adytum.client.asynchronous import AsyncAdytum
from adytum.client.checks import Answer
from adytum.client.conversation import PolicyInForce, Unsealed
from adytum.client.errors import PendingError, RefusedError, UnreachableError, UntrustedError
from adytum.client.policy import add_signature, read_policy, sign_policy
from adytum.client.signers import KeySigner, Signer, SignerError, load_signer
from adytum.client.steps import Retries
from adytum.client.synchronous import Adytum

__all__ = [
    "Adytum",
    "Answer",
    "Approver",
    "AsyncAdytum",
    "KeyApprover",
    "KeySigner",
    "PendingError",
    "PolicyInForce",
    "RefusedError",
    "Retries",
    "Review",
    "Signer",
    "SignerError",
    "UnreachableError",
    "Unsealed",
    "UntrustedError",
    "add_signature",
    "load_signer",
    "read_policy",
    "sign_policy",
]
