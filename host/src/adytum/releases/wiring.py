"""Makes the canary out of the settings; for the service and for `adytum release canary`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from adytum.client.signers import load_signer
from adytum.releases.canary import Canary, Secret
from adytum.releases.images import Images
from adytum.releases.kms_probe import HttpKmsProbe
from adytum.service.metrics import Metrics
from adytum.service.ports import CredentialsProvider, Enclave, NowMs, RandomBytes
from adytum.settings import Settings
from adytum.storage.batcher import AuditBatcher
from adytum.storage.lookup import Lookup
from adytum_verify import Anchor
from adytum_wire.manifest import parse_manifest


def make_canary(
    settings: Settings,
    *,
    manifest: bytes | None,
    enclaves: Mapping[str, Enclave],
    images: Callable[[], Images],
    lookup: Lookup,
    batcher: AuditBatcher,
    anchors: Sequence[Anchor],
    credentials: CredentialsProvider,
    now_ms: NowMs,
    random_bytes: RandomBytes,
    metrics: Metrics | None = None,
) -> Canary:
    """Not configured without `canary.keyId` and a manifest, which says where KMS is. Errors: SignerError, OSError."""
    wanted, secret, probe = settings.canary, None, None
    if wanted.signerFile is not None and manifest is not None:
        kms = parse_manifest(manifest).kms
        secret = Secret(tenant=wanted.tenant, key_id=wanted.keyId, signer=load_signer(wanted.signerFile))
        probe = HttpKmsProbe(
            wanted.kmsEndpoint or f"https://{kms.host}",
            region=kms.region,
            credentials=credentials,
            now_ms=now_ms,
            roots=kms.roots,
        )
    return Canary(
        secret=secret,
        probe=probe,
        enclaves=enclaves,
        images=images,
        lookup=lookup,
        batcher=batcher,
        anchors=anchors,
        now_ms=now_ms,
        random_bytes=random_bytes,
        metrics=metrics,
        timeout_s=settings.tee.requestTimeoutSeconds,
    )
