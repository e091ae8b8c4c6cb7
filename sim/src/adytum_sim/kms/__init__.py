"""A stand-in for AWS KMS that really refuses. boto3, `aws` and an enclave's own client talk to it unchanged.

It verifies SigV4, evaluates key and IAM policies, verifies attestation documents under the stand-in's root, and answers
with the CMS that KMS sends. Symmetric keys only; what it does not do, it refuses by name.

Example:
    async with running_kms(pki=pki) as kms:
        client = boto3.client("kms", endpoint_url=kms.endpoint, verify=ca_file, region_name=kms.region, ...)
"""

from adytum_sim.kms.caller import Caller, Credentials
from adytum_sim.kms.errors import KmsFault
from adytum_sim.kms.faults import Faults
from adytum_sim.kms.policies import attested_key_policy, default_key_policy
from adytum_sim.kms.quotas import Quotas
from adytum_sim.kms.running import RunningKms, kms_in_thread, running_kms
from adytum_sim.kms.service import KmsService
from adytum_sim.kms.state import State
from adytum_sim.kms.trail import Trail

__all__ = [
    "Caller",
    "Credentials",
    "Faults",
    "KmsFault",
    "KmsService",
    "Quotas",
    "RunningKms",
    "State",
    "Trail",
    "attested_key_policy",
    "default_key_policy",
    "kms_in_thread",
    "running_kms",
]
