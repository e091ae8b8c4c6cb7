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
        self._anchors: dict[str, DynamoDbAnchorClient] = {}  # by tenant; under "" where they share the host's

    def kms(self) -> KmsClient:
        """Errors: PHASE_INVALID before there is a manifest."""
        if self._kms is None:
            self._kms = KmsClient(**self._options(self._manifest().kms))
        return self._kms

    def anchor(self, tenant: str) -> Anchor:
        """Errors: PHASE_INVALID before there is a manifest, and when it names no anchor to ask."""
        manifest = self._manifest()
        where = manifest.anchor
        if not isinstance(where, DynamoDbAnchor):
            raise AdytumError(Code.PHASE_INVALID)
        is_sealed = where.credentials == "sealed"
        whose = tenant if is_sealed else ""
        if whose not in self._anchors:
            own: dict[str, Any] = {"credentials": lambda: self._enclave.anchor_keys.get(tenant)} if is_sealed else {}
            self._anchors[whose] = DynamoDbAnchorClient(
                table=_arn(manifest, where) if is_sealed else where.table,
                deployment=manifest.deployment,
                **(self._options(where) | own),
            )
        return self._anchors[whose]

    async def aclose(self) -> None:
        for client in (self._kms, *self._anchors.values()):
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


def _arn(manifest: Manifest, where: DynamoDbAnchor) -> str:
    """The table's ARN: by its name alone, somebody's credentials would name a table of the same name in his account."""
    partition = manifest.kms.keys[0].split(":")[1]
    return f"arn:{partition}:dynamodb:{where.region}:{manifest.kms.account}:table/{where.table}"
