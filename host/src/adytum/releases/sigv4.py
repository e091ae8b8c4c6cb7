"""AWS Signature Version 4 for the requests that the host sends itself: POST / to KMS, PUT of an object to S3. No query.

The enclave signs with a module of its own, which is measured and not shared: the host may not import the enclave.
Source: IAM User Guide, "Create a signed AWS API request".
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

from adytum_wire.messages import Credentials

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_ALGORITHM: Final = "AWS4-HMAC-SHA256"


def signed_headers(
    *, host: str, target: str, body: bytes, region: str, credentials: Credentials, now_ms: int
) -> dict[str, str]:
    """The headers to send with `body` to KMS. `target`: e.g. "TrentService.Decrypt". `now_ms`: since the epoch; AWS
    takes five minutes either way."""
    headers = {"content-type": "application/x-amz-json-1.1", "host": host, "x-amz-target": target}
    return signed("POST", "/", headers, body=body, service="kms", region=region, credentials=credentials, now_ms=now_ms)


def signed(
    method: str,
    path: str,
    headers: Mapping[str, str],
    *,
    body: bytes,
    service: str,
    region: str,
    credentials: Credentials,
    now_ms: int,
) -> dict[str, str]:
    """`headers` (names in lower case, `host` among them, all of which are signed) with the signature of the request.
    `path`: as sent, of characters that need no escape."""
    moment = (_EPOCH + timedelta(milliseconds=now_ms)).strftime("%Y%m%dT%H%M%SZ")
    headers = {**headers, "x-amz-date": moment}
    if credentials.session_token:
        headers["x-amz-security-token"] = credentials.session_token
    names = ";".join(sorted(headers))
    lines = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
    canonical = f"{method}\n{path}\n\n{lines}\n{names}\n{hashlib.sha256(body).hexdigest()}"
    scope = f"{moment[:8]}/{region}/{service}/aws4_request"
    text = f"{_ALGORITHM}\n{moment}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    key = b"AWS4" + credentials.secret_access_key.encode()
    for part in scope.split("/"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
    headers["authorization"] = (
        f"{_ALGORITHM} Credential={credentials.access_key_id}/{scope}, SignedHeaders={names}, Signature={signature}"
    )
    return headers
