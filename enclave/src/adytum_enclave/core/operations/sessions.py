"""`open_session`: an HMAC key for stamps, sealed to the attested enclave by who will stamp with it."""

from __future__ import annotations

from adytum_enclave.core.operations.context import Context, Effected, KmsSteps, open_sealed
from adytum_enclave.core.sessions import KEY_BYTES, session_id_of
from adytum_wire import limits, results
from adytum_wire.errors import AdytumError, Code
from adytum_wire.requests import OpenSession


def open_session(context: Context, body: OpenSession) -> KmsSteps:
    """The key is opened here to see that it can be, and again to be kept: it lies nowhere while others run.

    Errors: REQUEST_INVALID for a time that has passed or is too far away, for a key that does not open or is not 32
    bytes; RESOURCE_EXHAUSTED."""
    yield from ()
    enclave, who = context.enclave, context.who
    now_ms = enclave.now_ms()
    if not now_ms < body.expires_at <= now_ms + limits.MAX_SESSION_MS:
        raise AdytumError(Code.REQUEST_INVALID, "$.expires_at")
    with open_sealed(context, body.sealed) as secret:
        if secret.size != KEY_BYTES:
            raise AdytumError(Code.REQUEST_INVALID, "$.sealed")

    def keep() -> None:
        enclave.sessions.open(
            who.digest,
            open_sealed(context, body.sealed),
            tenant=body.tenant,
            tenants=len(context.configured.tenants),
            principal=who.principal.id,
            scheme=who.scheme,
            public_key=who.public_key,
            expires_at=body.expires_at,
        )

    result = results.OpenSessionResult(
        tenant=body.tenant,
        request_id=body.request_id,
        key_id="",
        session_id=session_id_of(who.digest).hex(),
        expires_at=body.expires_at,
    )
    return Effected(results.encode_result(result), keep=keep)
