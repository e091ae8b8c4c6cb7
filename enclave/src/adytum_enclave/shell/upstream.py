"""The services outside that the manifest names, KMS and the anchor: their clients, made when first asked for."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from typing import Any

from adytum_enclave.core.enclave import Enclave
from adytum_enclave.shell.anchor import Anchor
from adytum_enclave.shell.anchor_dynamodb import DynamoDbAnchorClient
from adytum_enclave.shell.kms import KmsClient
from adytum_wire.errors import AdytumError, Code
from adytum_wire.manifest import DynamoDbAnchor, Kms, Manifest


class Upstream:
    """`dial`: a connection to the parent's port, behind which the host pipes bytes. `jitter`: uniform in [0, 1)."""

    def __init__(
        self,
        *,
        enclave: Enclave,
        dial: Callable[[int], Awaitable[socket.socket]],
        now_ms: Callable[[], int],
        jitter: Callable[[], float],
    ) -> None:
        self._enclave = enclave
        self._dial = dial
        self._now_ms = now_ms
        self._jitter = jitter
        self._kms: KmsClient | None = None
        self._anchor: DynamoDbAnchorClient | None = None

    def kms(self) -> KmsClient:
        """Errors: PHASE_INVALID before there is a manifest."""
        if self._kms is None:
            self._kms = KmsClient(**self._options(self._manifest().kms))
        return self._kms

    def anchor(self) -> Anchor:
        """Errors: PHASE_INVALID before there is a manifest, and when it names no anchor to ask."""
        if self._anchor is None:
            manifest = self._manifest()
            where = manifest.anchor
            if not isinstance(where, DynamoDbAnchor):
                raise AdytumError(Code.PHASE_INVALID)
            self._anchor = DynamoDbAnchorClient(
                table=where.table, deployment=manifest.deployment, **self._options(where)
            )
        return self._anchor

    async def aclose(self) -> None:
        for client in (self._kms, self._anchor):
            if client is not None:
                await client.aclose()

    def _manifest(self) -> Manifest:
        if self._enclave.configured is None:
            raise AdytumError(Code.PHASE_INVALID)
        return self._enclave.configured.manifest

    def _options(self, where: Kms | DynamoDbAnchor) -> dict[str, Any]:
        return {
            "dial": lambda: self._dial(where.port),
            "host": where.host,
            "region": where.region,
            "roots": where.roots,
            "credentials": lambda: self._enclave.credentials,
            "now_ms": self._now_ms,
            "jitter": self._jitter,
        }
