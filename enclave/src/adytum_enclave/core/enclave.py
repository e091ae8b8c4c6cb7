"""The state of one enclave shard, and who may change it. Everything that outlives a request is listed here."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from adytum_enclave.core import hpke
from adytum_enclave.core.chain import ReceiptChain
from adytum_enclave.core.counters import Counters
from adytum_enclave.core.crypto import ed25519
from adytum_enclave.core.entropy import Fill, public_bytes
from adytum_enclave.core.outcome import Outcome
from adytum_enclave.core.passkeys import PasskeyMemory
from adytum_enclave.core.phases import PhaseTable
from adytum_enclave.core.recipient import RecipientKey
from adytum_enclave.core.rejections import Rejections
from adytum_enclave.core.replay import Replay
from adytum_enclave.core.secrets import Arena, Slot
from adytum_enclave.core.sessions import Sessions
from adytum_enclave.core.usage.credentials import AnchorKeys
from adytum_enclave.core.usage.ledger import Ledger, Surroundings
from adytum_enclave.core.versions import VersionMemory
from adytum_enclave.core.warm import WarmKeys
from adytum_policy.document import SignedPolicy
from adytum_wire.binding import Binding, encode_binding
from adytum_wire.manifest import Manifest, Tenant, manifest_hash, parse_manifest
from adytum_wire.messages import PROTOCOL_VERSION, Credentials


class Configured(NamedTuple):
    """What a manifest brings into being; published whole or not at all."""

    manifest: Manifest
    manifest_hash: bytes
    binding: bytes
    tenants: dict[str, Tenant]
    replay: Replay[Outcome]
    warm: WarmKeys

    @classmethod
    def of(cls, manifest_bytes: bytes, *, binding: Callable[[bytes], bytes]) -> Configured:
        """Errors: MANIFEST_INVALID."""
        manifest = parse_manifest(manifest_bytes)
        digest = manifest_hash(manifest_bytes)
        bounds = manifest.bounds
        return cls(
            manifest=manifest,
            manifest_hash=digest,
            binding=binding(digest),
            tenants={tenant.id: tenant for tenant in manifest.tenants},
            replay=Replay(
                bounds.request_past_ms + bounds.request_future_ms,
                tenants=len(manifest.tenants),
                size_of=lambda outcome: outcome.size,
            ),
            warm=WarmKeys(bounds),
        )


class Enclave:
    """One shard. `now_ms`: trusted time. `fill`: randomness. `build`: a public name of the program's version.

    Keys of the boot (receipt key, HPKE key, RSA key towards KMS) are made here, live in the arena (the RSA key inside
    OpenSSL) and never leave; a restart makes new ones.
    """

    def __init__(self, *, arena: Arena, now_ms: Callable[[], int], fill: Fill, build: str) -> None:
        self.arena = arena
        self.now_ms = now_ms
        self.fill = fill
        self.build = build
        self.phases = PhaseTable()
        self.started_ms = now_ms()
        self.boot_id = public_bytes(fill, 16).hex()
        self.recipient = RecipientKey.generate()
        self.hpke_key = hpke.generate_keypair(arena, fill)
        self._receipt_secret, self.receipt_key = _new_receipt_key(arena, fill)
        self.receipts = ReceiptChain(self.boot_id, self.receipt_key, partial(ed25519.sign_with, self._receipt_secret))
        self.counters = Counters()
        self.versions = VersionMemory()
        self.passkeys = PasskeyMemory()
        self.rejections = Rejections()
        self.sessions = Sessions(arena)
        self.resealed: dict[str, int] = {}  # by tenant, for the rotation statement
        self.policies: dict[str, SignedPolicy] = {}
        self.ledger = Ledger(
            Surroundings(
                boot_id=self.boot_id,
                started_ms=self.started_ms,
                now_ms=now_ms,
                fill=fill,
                arena=arena,
                recipient=self.recipient,
                policies=self.policies,
                head=lambda: self.receipts.head,
            )
        )
        self.anchor_keys = AnchorKeys(self.policies)
        self.credentials: Credentials | None = None
        self.configured: Configured | None = None

    def binding(self, digest: bytes) -> bytes:
        """What every attestation document of this boot binds, as the bytes whose SHA-256 is its user_data."""
        return encode_binding(
            Binding(
                protocol=PROTOCOL_VERSION,
                build=self.build,
                boot_id=self.boot_id,
                manifest_hash=digest.hex(),
                receipt_key=self.receipt_key.hex(),
                hpke_key=self.hpke_key.public_key.hex(),
            )
        )

    def wants_imds(self) -> bool:
        """True when the manifest has come and says that credentials are fetched, not pushed."""
        return self.configured is not None and self.configured.manifest.kms.credentials == "imds"

    def renew_credentials(self, credentials: Credentials) -> None:
        self.credentials = credentials

    def expire(self) -> None:
        """Wipe warm keys and sessions that have outlived their time. The shell calls this every second."""
        if self.configured is not None:
            self.configured.warm.expire(self.now_ms())
        self.sessions.expire(self.now_ms())

    def wipe(self) -> None:
        """Wipe every secret of this boot; nothing can be used afterwards."""
        if self.configured is not None:
            self.configured.warm.drop_all()
        self.sessions.wipe()
        self.ledger.wipe()
        self.anchor_keys.wipe()
        self._receipt_secret.wipe()
        self.hpke_key.secret.wipe()


def _new_receipt_key(arena: Arena, fill: Fill) -> tuple[Slot, bytes]:
    """(Ed25519 secret as libsodium signs with it, public key). One expansion a boot instead of one a signature."""
    with arena.take(ed25519.SEED_SIZE) as seed:
        fill(seed.view)
        return ed25519.expand(seed)
