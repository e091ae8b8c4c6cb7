"""Ask KMS to decrypt, as anybody with the host's credentials could: without an attestation document.

One signed HTTPS call. What comes back in the case of success is not read: that KMS said yes is all that counts.
"""

from __future__ import annotations

import base64
import ssl
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol
from urllib.parse import urlsplit

import httpx
import msgspec

from adytum.bounded import MAX_AWS_ANSWER, PLAIN, UnboundedError, read
from adytum.releases.sigv4 import signed_headers
from adytum.service.ports import CredentialsProvider

_TARGET: Final = "TrentService.Decrypt"
_TIMEOUT_S: Final = 5.0


class KmsUnansweredError(Exception):
    """KMS could not be asked, or what came is no answer of KMS. `reason`: a short code of ours."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class KmsProbe(Protocol):
    async def decrypt(self, key_arn: str, ciphertext: bytes, context: Mapping[str, str]) -> str:
        """The name of KMS's refusal, e.g. "AccessDeniedException"; "" when KMS decrypted.

        Errors: KmsUnansweredError.
        """


class _Problem(msgspec.Struct, rename={"kind": "__type"}):
    kind: str = ""


class HttpKmsProbe:
    """`endpoint`: e.g. "https://kms.eu-central-1.amazonaws.com". `roots`: PEM, all that TLS trusts; none: the system's.
    `credentials`: the host's own, those that it pushes to the enclaves."""

    def __init__(
        self,
        endpoint: str,
        *,
        region: str,
        credentials: CredentialsProvider,
        now_ms: Callable[[], int],
        roots: Sequence[str] = (),
    ) -> None:
        self._endpoint = endpoint.rstrip("/") + "/"
        self._host = urlsplit(endpoint).netloc
        self._region = region
        self._credentials = credentials
        self._now_ms = now_ms
        self._context = ssl.create_default_context(cadata="\n".join(roots) or None)

    async def decrypt(self, key_arn: str, ciphertext: bytes, context: Mapping[str, str]) -> str:
        credentials = await self._credentials()
        if credentials is None:
            raise KmsUnansweredError("NO_CREDENTIALS")
        body = msgspec.json.encode(
            {
                "KeyId": key_arn,
                "CiphertextBlob": base64.b64encode(ciphertext).decode(),
                "EncryptionContext": dict(context),
            }
        )
        headers = signed_headers(
            host=self._host,
            target=_TARGET,
            body=body,
            region=self._region,
            credentials=credentials,
            now_ms=self._now_ms(),
        )
        try:
            async with (
                httpx.AsyncClient(verify=self._context, timeout=_TIMEOUT_S, trust_env=False) as http,
                http.stream("POST", self._endpoint, content=body, headers={**headers, **PLAIN}) as answer,
            ):
                if answer.status_code == httpx.codes.OK:
                    return ""
                problem = await read(answer, MAX_AWS_ANSWER)
        except (httpx.HTTPError, OSError):
            raise KmsUnansweredError("KMS_UNREACHABLE") from None
        except UnboundedError:
            raise KmsUnansweredError("KMS_ANSWER_INVALID") from None
        try:
            kind = msgspec.json.decode(problem, type=_Problem).kind
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            kind = ""
        name = kind.rpartition("#")[2].partition(":")[0]
        if not name.isascii() or not name.isalpha() or len(name) > 64:
            raise KmsUnansweredError("KMS_ANSWER_INVALID")
        return name
