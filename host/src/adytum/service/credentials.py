"""Where the AWS credentials that are pushed to the enclave come from. The host knows them anyway: they authorise, and
attestation binds, so a thief of the credentials alone gets no data key.

Left out: fetching them inside the enclave. Any coroutine function that returns `Credentials` (with `expires_at`)
will do.
"""

from __future__ import annotations

from adytum.service.ports import CredentialsProvider
from adytum.settings import Aws
from adytum_wire.messages import Credentials


def static_credentials(aws: Aws) -> CredentialsProvider:
    """Those of the settings (or of AWS_ACCESS_KEY_ID and its companions in the environment); they never expire."""
    found: Credentials | None = None
    if aws.accessKeyId and aws.secretAccessKey.get_secret_value():
        found = Credentials(
            aws.accessKeyId, aws.secretAccessKey.get_secret_value(), aws.sessionToken.get_secret_value(), 0
        )

    async def provide() -> Credentials | None:
        return found

    return provide
