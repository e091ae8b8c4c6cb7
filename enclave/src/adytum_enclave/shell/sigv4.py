"""AWS Signature Version 4: the `Authorization` header for a request to KMS, STS, DynamoDB and the like.

Source: IAM User Guide, "Create a signed AWS API request". Paths are signed as they are given, which is right for these
services' "/"; S3's rules, pre-signed URLs, chunked payloads and SigV4A are left out.

Credentials that the host pushed are ordinary strings, since it knows them anyway; those of the anchor that came sealed
sign inside the arena (`AnchorKey`). Neither stand in an error or a representation.

>>> from adytum_wire.messages import Credentials
>>> signer = Signer(service="kms", region="eu-west-1")
>>> headers = signer.sign("POST", "kms.eu-west-1.amazonaws.com", [], b"{}", Credentials("A", "S", "", 0), now_ms=0)
>>> [name for name, _ in headers]
['Host', 'X-Amz-Date', 'Authorization']
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from urllib.parse import quote

from adytum_enclave.core.usage.credentials import AnchorKey
from adytum_wire.messages import Credentials

_ALGORITHM = "AWS4-HMAC-SHA256"
_UNRESERVED = "-_.~"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Signer:
    """Signs for one service ("kms", "sts", "dynamodb") in one region."""

    service: str
    region: str

    def sign(
        self,
        method: str,
        host: str,
        headers: Sequence[tuple[str, str]],
        body: bytes,
        credentials: Credentials | AnchorKey,
        *,
        now_ms: int,
        path: str = "/",
        query: Sequence[tuple[str, str]] = (),
    ) -> list[tuple[str, str]]:
        """Return the headers to send: Host, `headers`, X-Amz-Date, X-Amz-Security-Token if there is one, Authorization.

        All of them are signed. `headers`: without those that this adds; a name that occurs twice is joined with ",".
        `now_ms`: since the epoch, from the trusted clock; AWS takes five minutes either way.
        Errors: ValueError when `headers` holds a name that this adds, or a line break.
        """
        amz_date = (_EPOCH + timedelta(milliseconds=now_ms)).strftime("%Y%m%dT%H%M%SZ")
        ours = [("Host", host), ("X-Amz-Date", amz_date)]
        if credentials.session_token:
            ours.append(("X-Amz-Security-Token", credentials.session_token))
        reserved = {"host", "x-amz-date", "x-amz-security-token", "authorization"}
        if any(name.lower() in reserved for name, _ in headers):
            raise ValueError("a header that signing adds")
        to_send = [ours[0], *headers, *ours[1:]]
        if any("\n" in text or "\r" in text for header in to_send for text in header):
            raise ValueError("a line break in a header")

        canonical, signed_names = _canonical_request(method, path, query, to_send, body)
        scope = f"{amz_date[:8]}/{self.region}/{self.service}/aws4_request"
        to_sign = f"{_ALGORITHM}\n{amz_date}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        signature = self._signature(credentials, amz_date[:8], to_sign.encode())
        authorization = (
            f"{_ALGORITHM} Credential={credentials.access_key_id}/{scope}, "
            f"SignedHeaders={signed_names}, Signature={signature}"
        )
        return [*to_send, ("Authorization", authorization)]

    def _signature(self, credentials: Credentials | AnchorKey, date: str, to_sign: bytes) -> str:
        if isinstance(credentials, AnchorKey):
            return credentials.signature(date, self.region, self.service, to_sign)
        key = _signing_key(credentials.secret_access_key, date, self.region, self.service)
        return hmac.digest(key, to_sign, "sha256").hex()


def _canonical_request(
    method: str, path: str, query: Sequence[tuple[str, str]], headers: Sequence[tuple[str, str]], body: bytes
) -> tuple[str, str]:
    """Task 1 of the specification: (canonical request, names of the signed headers)."""
    pairs = sorted((quote(name, safe=_UNRESERVED), quote(value, safe=_UNRESERVED)) for name, value in query)
    values: dict[str, list[str]] = {}
    for name, value in headers:
        values.setdefault(name.lower(), []).append(" ".join(value.split()))
    names = sorted(values)
    lines = [f"{name}:{','.join(values[name])}\n" for name in names]
    signed_names = ";".join(names)
    parts = [
        method,
        quote(path, safe="/" + _UNRESERVED),
        "&".join(f"{name}={value}" for name, value in pairs),
        "".join(lines),
        signed_names,
        hashlib.sha256(body).hexdigest(),
    ]
    return "\n".join(parts), signed_names


@lru_cache(maxsize=2)  # it changes with the day and the credentials, and the host knows it as well as we do
def _signing_key(secret: str, date: str, region: str, service: str) -> bytes:
    key = b"AWS4" + secret.encode()
    for text in (date, region, service, "aws4_request"):
        key = hmac.digest(key, text.encode(), "sha256")
    return key
