"""One tenant's data keys for usage snapshots, and sealing and opening with them.

A boot asks KMS for one data key and seals all its snapshots under it; those of other boots that it opened are kept too
(a few), so that two enclaves which write in turn do not ask KMS each time. All of them are slots of the arena.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Generator
from typing import Any, Final

from adytum_enclave.core.effects import NewDataKey, OpenDataKey
from adytum_enclave.core.entropy import Fill, public_bytes
from adytum_enclave.core.envelope import NONCE_SIZE
from adytum_enclave.core.recipient import RecipientKey
from adytum_enclave.core.secrets import Arena, Slot
from adytum_enclave.core.usage import sealing
from adytum_wire import limits
from adytum_wire.errors import AdytumError, Code
from adytum_wire.types import sha256
from adytum_wire.usage import Snapshot, SnapshotHeader, context, encode_header, encode_snapshot, parse_snapshot

MAX_KEYS: Final = 4  # of other boots


class Sealer:
    """`kms_key`: new snapshots are sealed under it. `keys`: those under which one is opened."""

    def __init__(
        self,
        *,
        deployment: str,
        tenant: str,
        boot_id: str,
        kms_key: str,
        keys: frozenset[str],
        fill: Fill,
        arena: Arena,
        recipient: RecipientKey,
    ) -> None:
        self.deployment = deployment
        self.tenant = tenant
        self.keys = keys
        self._boot_id = boot_id
        self._kms_key = kms_key
        self._fill = fill
        self._arena = arena
        self._recipient = recipient
        self._own: tuple[Slot, bytes] | None = None  # the data key, and the same under KMS's key
        self._opened: OrderedDict[bytes, Slot] = OrderedDict()  # by SHA-256 of the data key's ciphertext

    @property
    def is_ready(self) -> bool:
        """True when there is a data key to seal with."""
        return self._own is not None

    def fetch_key(self) -> Generator[Any, Any, None]:
        """Ask KMS for this boot's data key, unless there is one. Errors: what KMS answers, KMS_ANSWER_INVALID,
        RESOURCE_EXHAUSTED."""
        if self._own is not None:
            return
        answer = yield NewDataKey(key_arn=self._kms_key, context=context(self.tenant))
        if not 0 < len(answer.ciphertext_blob) <= limits.MAX_DATA_KEY_CIPHERTEXT:
            raise AdytumError(Code.KMS_ANSWER_INVALID)
        if self._own is None:
            slot = self._recipient.open(answer.ciphertext_for_recipient, self._arena)
            self._own = slot, answer.ciphertext_blob

    def seal(self, version: int, plaintext: bytes, now_ms: int) -> bytes:
        """The snapshot's bytes. Errors: INTERNAL before `fetch_key`, RESOURCE_EXHAUSTED (also when it is too large)."""
        if self._own is None:
            raise AdytumError(Code.INTERNAL)
        data_key, data_key_ciphertext = self._own
        header = encode_header(
            SnapshotHeader(
                deployment=self.deployment,
                tenant=self.tenant,
                version=version,
                boot_id=self._boot_id,
                kms_key_arn=self._kms_key,
                created_at=now_ms,
            )
        )
        nonce = public_bytes(self._fill, NONCE_SIZE)
        blob = sealing.seal(header, plaintext, data_key, nonce=nonce, arena=self._arena)
        sealed = encode_snapshot(Snapshot(header, blob, data_key_ciphertext))
        if len(sealed) > limits.MAX_USAGE_SNAPSHOT:
            raise AdytumError(Code.RESOURCE_EXHAUSTED, "$.limits")
        return sealed

    def open(self, data: bytes) -> Generator[Any, Any, bytes]:
        """The plaintext of a snapshot whose header was found to be ours (`require_ours`). Errors: USAGE_INVALID when it
        does not open, else what KMS answers."""
        snapshot, header = parse_snapshot(data)
        wanted = sha256(snapshot.data_key_ciphertext)
        if self._own is not None and self._own[1] == snapshot.data_key_ciphertext:
            return sealing.open_sealed(snapshot.header, snapshot.ciphertext_blob, self._own[0], arena=self._arena)
        slot = self._opened.get(wanted)
        if slot is None:
            slot = yield from self._ask(snapshot, header.kms_key_arn)
            try:
                plaintext = sealing.open_sealed(snapshot.header, snapshot.ciphertext_blob, slot, arena=self._arena)
            except BaseException:
                slot.wipe()
                raise
            self._keep(wanted, slot)
            return plaintext
        self._opened.move_to_end(wanted)
        return sealing.open_sealed(snapshot.header, snapshot.ciphertext_blob, slot, arena=self._arena)

    def wipe(self) -> None:
        own, self._own = self._own, None
        if own is not None:
            own[0].wipe()
        while self._opened:
            self._opened.popitem()[1].wipe()

    def _ask(self, snapshot: Snapshot, key_arn: str) -> Generator[Any, Any, Slot]:
        try:
            answer = yield OpenDataKey(
                key_arn=key_arn,
                context=context(self.tenant),
                ciphertext_blob=snapshot.data_key_ciphertext,
                shared=False,
            )
        except AdytumError as error:
            if error.code is Code.RECORD_TAMPERED:  # KMS: it is not what was sealed
                raise AdytumError(Code.USAGE_INVALID) from None
            raise
        return self._recipient.open(answer.ciphertext_for_recipient, self._arena)

    def _keep(self, wanted: bytes, slot: Slot) -> None:
        old = self._opened.pop(wanted, None)
        if old is not None:
            old.wipe()
        self._opened[wanted] = slot
        if len(self._opened) > MAX_KEYS:
            self._opened.popitem(last=False)[1].wipe()


def require_ours(header: SnapshotHeader, sealer: Sealer) -> None:
    """Before KMS is asked. Errors: USAGE_INVALID."""
    if header.tenant != sealer.tenant:
        raise AdytumError(Code.USAGE_INVALID, "$.tenant")
    if header.deployment != sealer.deployment:
        raise AdytumError(Code.USAGE_INVALID, "$.deployment")
    if header.kms_key_arn not in sealer.keys:
        raise AdytumError(Code.USAGE_INVALID, "$.kms_key_arn")
