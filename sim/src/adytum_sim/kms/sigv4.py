"""AWS Signature Version 4, the verifying side: who signed this request, or a refusal in AWS's words.

Source: IAM User Guide, "Signature Version 4 for API requests". Left out: query
strings (neither KMS nor STS needs one), so presigned URLs too; chunked bodies; SigV4a.
Strict where a signer could be sloppy and AWS too refuses: `host` and every `x-amz-*` header must be signed, the
scope must be today's for this region and service, the clock may be five minutes off.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from adytum_sim.kms.caller import Credentials
from adytum_sim.kms.errors import KmsFault

ALGORITHM: Final = "AWS4-HMAC-SHA256"
MAX_SKEW_MS: Final = 5 * 60 * 1000
_FIELD = re.compile(r"(Credential|SignedHeaders|Signature)=([^\s,]+)")
_DATE = re.compile(r"[0-9]{8}T[0-9]{6}Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedRequest:
    """One HTTP request as received. `target` is the request target; header names are lower case."""

    method: str
    target: str
    headers: Sequence[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        values = [value for key, value in self.headers if key == name]
        return ",".join(" ".join(value.split()) for value in values) if values else None


def _invalid(message: str) -> KmsFault:
    return KmsFault("InvalidSignatureException", message)


def _incomplete(message: str) -> KmsFault:
    return KmsFault("IncompleteSignatureException", message)


def _unknown_token() -> KmsFault:
    return KmsFault("UnrecognizedClientException", "The security token included in the request is invalid.")


def canonical_request(request: SignedRequest, signed_headers: Sequence[str]) -> str:
    """Task 1 of the specification, for a target without a query.

    Errors: InvalidSignatureException when there is a query, or when a signed header is not there.
    """
    if "?" in request.target:
        raise _invalid("The request has a query string, which no operation of this service takes.")
    lines = []
    for name in signed_headers:
        value = request.header(name)
        if value is None:
            raise _invalid("A signed header is missing from the request.")
        lines.append(f"{name}:{value}\n")
    return "\n".join(
        (
            request.method,
            request.target,
            "",  # the query string
            "".join(lines),
            ";".join(signed_headers),
            hashlib.sha256(request.body).hexdigest(),
        )
    )


def signature(secret: str, scope: str, amz_date: str, canonical: str) -> str:
    """Tasks 2 and 3. `scope` is `<date>/<region>/<service>/aws4_request`; the result is 64 hex digits."""
    key = b"AWS4" + secret.encode()
    for part in scope.split("/"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    to_sign = "\n".join((ALGORITHM, amz_date, scope, hashlib.sha256(canonical.encode()).hexdigest()))
    return hmac.new(key, to_sign.encode(), hashlib.sha256).hexdigest()


def _check_clock(amz_date: str, now_ms: int) -> None:
    try:
        signed_at = datetime.strptime(amz_date, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise _incomplete("X-Amz-Date is not a date.") from None
    delta_ms = now_ms - int(signed_at.timestamp() * 1000)
    now = datetime.fromtimestamp(now_ms / 1000, UTC).strftime("%Y%m%dT%H%M%SZ")
    if delta_ms > MAX_SKEW_MS:
        raise _invalid(f"Signature expired: {amz_date} is now earlier than {now} - 5 min.")
    if delta_ms < -MAX_SKEW_MS:
        raise _invalid(f"Signature not yet current: {amz_date} is still later than {now} + 5 min.")


def _fields(authorization: str) -> tuple[str, list[str], str]:
    scheme, _, rest = authorization.partition(" ")
    if scheme != ALGORITHM:
        raise _incomplete("The Authorization header is not of the form AWS4-HMAC-SHA256.")
    found = [(m[1], m[2]) for part in rest.split(",") if (m := _FIELD.fullmatch(part.strip()))]
    fields = dict(found)
    if len(found) != 3 or len(fields) != 3:
        raise _incomplete("Authorization header requires 'Credential', 'SignedHeaders' and 'Signature' parameters.")
    return fields["Credential"], fields["SignedHeaders"].split(";"), fields["Signature"]


def verify(
    request: SignedRequest, credentials: Mapping[str, Credentials], *, now_ms: int, region: str, service: str
) -> Credentials:
    """Return the credentials that signed the request.

    Args: `credentials` by access key id; `now_ms` milliseconds since the epoch.
    Errors: KmsFault with MissingAuthenticationTokenException, IncompleteSignatureException,
    UnrecognizedClientException, InvalidSignatureException or ExpiredTokenException.
    """
    authorization = request.header("authorization")
    if authorization is None:
        raise KmsFault("MissingAuthenticationTokenException", "Missing Authentication Token")
    credential, signed_headers, given = _fields(authorization)
    amz_date = request.header("x-amz-date")
    if amz_date is None or not _DATE.fullmatch(amz_date):
        raise _incomplete("Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header.")
    access_key_id, slash, scope = credential.partition("/")
    scope_parts = scope.split("/")
    if not slash or len(scope_parts) != 4:
        raise _incomplete("Credential must have exactly 5 slash-delimited elements.")
    if scope_parts[1] != region:
        raise _invalid(f"Credential should be scoped to a valid region, not '{scope_parts[1]}'.")
    if scope_parts[2] != service:
        raise _invalid(f"Credential should be scoped to correct service: '{service}'.")
    if scope_parts[3] != "aws4_request":
        raise _invalid("Credential should be scoped with a valid terminator: 'aws4_request'.")
    if scope_parts[0] != amz_date[:8]:
        raise _invalid("Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date.")
    if signed_headers != sorted(set(signed_headers)) or "host" not in signed_headers:
        raise _invalid("'Host' or ':authority' must be a 'SignedHeader' in the AWS Authorization.")
    if any(name.startswith("x-amz-") and name not in signed_headers for name, _ in request.headers):
        raise _invalid("There were headers present in the request which were not signed.")
    known = credentials.get(access_key_id)
    if known is None:
        raise _unknown_token()
    _check_clock(amz_date, now_ms)
    expected = signature(known.secret_access_key, scope, amz_date, canonical_request(request, signed_headers))
    if not hmac.compare_digest(expected.encode(), given.encode()):
        raise _invalid(
            "The request signature we calculated does not match the signature you provided. Check your AWS Secret "
            "Access Key and signing method. Consult the service documentation for details."
        )
    token = request.header("x-amz-security-token")
    if (known.session_token or "") != (token or ""):
        raise _unknown_token()
    if known.expires_ms is not None and now_ms >= known.expires_ms:
        raise KmsFault("ExpiredTokenException", "The security token included in the request is expired")
    return known
