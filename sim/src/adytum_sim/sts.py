"""A stand-in for AWS STS: AssumeRole and GetCallerIdentity, beside KMS on the same TLS port.

Query protocol (form in, XML out), as boto3 and `aws` speak it. Every role trusts its own account, so the caller's IAM
policy decides. Left out, and refused by name: session policies, tags, MFA, federation, other accounts.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final
from urllib.parse import parse_qs
from xml.sax.saxutils import escape

from adytum_sim.kms import policy
from adytum_sim.kms.caller import Caller, Credentials, session_caller
from adytum_sim.kms.errors import KmsFault
from adytum_sim.kms.identities import make_id
from adytum_sim.kms.state import State

VERSION: Final = "2011-06-15"
FORM: Final = "application/x-www-form-urlencoded"
_NAMESPACE: Final = f"https://sts.amazonaws.com/doc/{VERSION}/"
_MAX_SECONDS: Final = 43_200
_CHAINED_SECONDS: Final = 3_600  # a role that assumes a role gets an hour at most
_ASSUME: Final = {"Action", "Version", "RoleArn", "RoleSessionName", "DurationSeconds"}
_SESSION = re.compile(r"[\w+=,.@-]{2,64}", re.ASCII)
# The query protocol has other names, and 403, for what KMS's protocol says.
_CODES: Final = {
    "AccessDeniedException": ("AccessDenied", 403),
    "ExpiredTokenException": ("ExpiredToken", 403),
    "IncompleteSignatureException": ("IncompleteSignature", 403),
    "InvalidSignatureException": ("SignatureDoesNotMatch", 403),
    "MissingAuthenticationTokenException": ("MissingAuthenticationToken", 403),
    "UnrecognizedClientException": ("InvalidClientTokenId", 403),
    "ValidationException": ("ValidationError", 400),
}


def handle(
    body: bytes, caller: Caller, state: State, *, now_ms: int, random_bytes: Callable[[int], bytes], request_id: str
) -> str:
    """One signed request's form body to its XML answer. Errors: KmsFault; then no credentials were made."""
    form = {name: values[0] for name, values in parse_qs(body.decode("utf-8", "replace")).items()}
    action = form.get("Action", "")
    if form.get("Version") != VERSION or action not in ("GetCallerIdentity", "AssumeRole"):
        raise KmsFault("InvalidAction", "The stand-in STS knows AssumeRole and GetCallerIdentity.")
    if action == "GetCallerIdentity":
        result = f"<Arn>{escape(caller.arn)}</Arn><UserId>{caller.user_id}</UserId><Account>{caller.account}</Account>"
    else:
        result = _assume_role(form, caller, state, now_ms, random_bytes)
    return (
        f'<{action}Response xmlns="{_NAMESPACE}"><{action}Result>{result}</{action}Result>'
        f"<ResponseMetadata><RequestId>{request_id}</RequestId></ResponseMetadata></{action}Response>"
    )


def _assume_role(
    form: dict[str, str], caller: Caller, state: State, now_ms: int, random_bytes: Callable[[int], bytes]
) -> str:
    if strange := set(form) - _ASSUME:
        raise KmsFault("ValidationException", f"The stand-in STS does not support {min(strange)[:64]}.")
    arn, session = form.get("RoleArn", ""), form.get("RoleSessionName", "")
    try:
        seconds = int(form.get("DurationSeconds", "3600"))
    except ValueError:
        seconds = 0
    limit = _CHAINED_SECONDS if caller.kind == "session" else _MAX_SECONDS
    if not _SESSION.fullmatch(session) or not 900 <= seconds <= limit:
        raise KmsFault("ValidationException", "RoleSessionName or DurationSeconds is out of bounds.")
    role = state.roles.get(arn.removeprefix(f"arn:aws:iam::{state.account}:role/"))
    question = policy.Question(caller=caller, action="sts:AssumeRole", resource=arn, context={})
    if role is None or policy.decide(question, None) != "allow":
        raise KmsFault(
            "AccessDeniedException",
            f"User: {caller.arn} is not authorized to perform: sts:AssumeRole on resource: {arn[:256]}",
        )
    made = new_session(state, role.name, session, seconds=seconds, now_ms=now_ms, random_bytes=random_bytes)
    expires = datetime.fromtimestamp((made.expires_ms or 0) / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return (
        f"<AssumedRoleUser><AssumedRoleId>{made.caller.user_id}</AssumedRoleId><Arn>{made.caller.arn}</Arn>"
        f"</AssumedRoleUser><Credentials><AccessKeyId>{made.access_key_id}</AccessKeyId>"
        f"<SecretAccessKey>{made.secret_access_key}</SecretAccessKey>"
        f"<SessionToken>{made.session_token}</SessionToken><Expiration>{expires}</Expiration></Credentials>"
    )


def new_session(
    state: State, role_name: str, session: str, *, seconds: int, now_ms: int, random_bytes: Callable[[int], bytes]
) -> Credentials:
    """Temporary credentials of an existing role, known to KMS from now until they expire. Errors: KeyError."""
    role = state.roles[role_name]
    made = Credentials(
        access_key_id=make_id("ASIA", random_bytes),
        secret_access_key=random_bytes(30).hex(),
        session_token=random_bytes(48).hex(),
        expires_ms=now_ms + seconds * 1000,
        caller=session_caller(
            account=state.account, role=role.name, session=session, role_id=role.role_id, policies=role.policies
        ),
    )
    for old in [c for c in state.credentials.values() if c.expires_ms is not None and c.expires_ms <= now_ms]:
        del state.credentials[old.access_key_id]
    state.add(made)
    state.save()
    return made


def error_xml(fault: KmsFault, request_id: str) -> tuple[int, str]:
    """(HTTP status, body) of a refusal."""
    code, status = _CODES.get(fault.code, (fault.code, 400))
    return status, (
        f'<ErrorResponse xmlns="{_NAMESPACE}"><Error><Type>Sender</Type><Code>{code}</Code>'
        f"<Message>{escape(fault.message or '')}</Message></Error><RequestId>{request_id}</RequestId></ErrorResponse>"
    )
