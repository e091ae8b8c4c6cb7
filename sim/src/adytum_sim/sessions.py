"""A client's side of a session, for tests and the bench: the SDK's is in `adytum.client.conversation`."""

from __future__ import annotations

import hmac
import json
import secrets
from typing import Any

from adytum.client import hpke
from adytum_sim.people import Person, request_body
from adytum_sim.stack import TENANT, Stack
from adytum_verify import verify_enclave
from adytum_wire import results
from adytum_wire.errors import AdytumError, Code
from adytum_wire.messages import ExecuteReply, Refusal
from adytum_wire.pae import REQUEST, pae
from adytum_wire.requests import SessionStamp, import_info


class OpenedSession:
    """`stamp(body)` as `Person.stamp`."""

    def __init__(self, session_id: bytes, key: bytes) -> None:
        self.session_id = session_id
        self.key = key

    def stamp(self, body: bytes) -> SessionStamp:
        return SessionStamp(self.session_id, hmac.digest(self.key, pae(REQUEST, body), "sha256"))


async def sealed_to(stack: Stack, person: Person, operation: str, request_id: str, secret: bytes) -> dict[str, str]:
    """`secret`, sealed to the enclave's attested key for this request of this person."""
    nonce = secrets.token_bytes(32)
    proof = await stack.client.attest(nonce)
    binding = verify_enclave(
        proof.document,
        proof.binding,
        expected=stack.allow_list,
        now_ms=stack.now_ms(),
        nonce=nonce,
        anchors=(stack.kms.anchor,),
    ).binding
    info = import_info(operation, TENANT, request_id, person.scheme, person.public_key)
    enc, ciphertext = hpke.seal(bytes.fromhex(binding.hpke_key), secret, info=info)
    return {"enc": enc.hex(), "ciphertext": ciphertext.hex()}


async def ask_for_session(
    stack: Stack, person: Person, *, ttl_ms: int = 600_000, key: bytes = b"", **changes: Any
) -> tuple[ExecuteReply | Refusal, bytes]:
    """(what the enclave answered, the session's key)."""
    key = key or secrets.token_bytes(32)
    request_id = "s-" + secrets.token_hex(12)
    now_ms = stack.now_ms()
    sealed = await sealed_to(stack, person, "open_session", request_id, key)
    fields = {"sealed": sealed, "expires_at": now_ms + ttl_ms} | changes
    body = request_body(TENANT, "open_session", now_ms, request_id=request_id, **fields)
    return await stack.client.execute(body, person.stamp(body)), key


async def open_session(stack: Stack, person: Person, *, ttl_ms: int = 600_000) -> OpenedSession:
    """Errors: AdytumError with what the enclave refused."""
    reply, key = await ask_for_session(stack, person, ttl_ms=ttl_ms)
    if isinstance(reply, Refusal):
        raise AdytumError(Code(reply.code), reply.field)
    result = results.parse_result(reply.result)
    if not isinstance(result, results.OpenSessionResult):
        raise AdytumError(Code.MESSAGE_INVALID, json.loads(reply.result)["operation"])
    return OpenedSession(bytes.fromhex(result.session_id), key)
