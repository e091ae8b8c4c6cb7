"""The anchor's own AWS credentials, where the manifest says that they come sealed (spec/usage.md, U-13 to U-16).

Who can write the anchor's table can put back what was used, so the host must not be able to. The key pair comes in a
record of kind `anchor-credentials`, which no operation hands out, and its secret is in slots of the arena from then on:
SigV4's chain of HMACs is carried out there, once a day, and so is each signature.

The plaintext is `{"access_key_id":"...","secret_access_key":"..."}` without spaces, in this order.

>>> from adytum_enclave.core.secrets import Arena
>>> with Arena(8192).take(75) as plain:
...     plain.view[:] = b'{"access_key_id":"AKIDEXAMPLEAKIDE","secret_access_key":"0123456789abcdef"}'
...     AnchorKey.of(plain, code=Code.REQUEST_INVALID, field="$").access_key_id
'AKIDEXAMPLEAKIDE'
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from adytum_enclave.core.crypto import hkdf
from adytum_enclave.core.secrets import Slot, equal
from adytum_policy.document import SignedPolicy
from adytum_wire.errors import AdytumError, Code
from adytum_wire.manifest import DynamoDbAnchor, Manifest
from adytum_wire.record import Header, Record, parse_header
from adytum_wire.requests import Body, SealAnchor
from adytum_wire.types import KeyState, RecordKind

_BEFORE: Final = b'{"access_key_id":"'
_BETWEEN: Final = b'","secret_access_key":"'
_AFTER: Final = b'"}'
_ID_BYTES: Final = range(16, 65)
_SECRET_BYTES: Final = range(16, hkdf.BLOCK_SIZE - 4 + 1)  # AWS makes 40; with "AWS4" before it one block of HMAC
_ID_LETTERS: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")


class AnchorKey:
    """One key pair. `session_token` and `expires_at` are there for who signs with either kind: it has neither."""

    __slots__ = ("_derived", "_scope", "_secret", "access_key_id")

    session_token: Final = ""
    expires_at: Final = 0

    def __init__(self, access_key_id: str, secret: Slot) -> None:
        """Takes ownership of `secret`: a block of HMAC, "AWS4", the secret access key, zeros."""
        self.access_key_id = access_key_id
        self._secret = secret
        self._derived: Slot | None = None
        self._scope: tuple[str, str, str] = ("", "", "")

    @classmethod
    def of(cls, plaintext: Slot, *, code: Code, field: str) -> AnchorKey:
        """`plaintext` stays the caller's. Errors: `code` with `field` for anything but the one encoding of an access
        key id of 16 to 64 capitals and digits and a secret of 16 to 60 bytes; RESOURCE_EXHAUSTED."""
        view, start = plaintext.view, len(_BEFORE)
        if plaintext.size < start or not _is_at(plaintext, 0, _BEFORE):
            raise AdytumError(code, field)
        end = start
        while end < plaintext.size and view[end] in _ID_LETTERS and end - start < _ID_BYTES.stop:
            end += 1
        first, last = end + len(_BETWEEN), plaintext.size - len(_AFTER)
        if (
            end - start not in _ID_BYTES
            or last - first not in _SECRET_BYTES
            or not _is_at(plaintext, end, _BETWEEN)
            or not _is_at(plaintext, last, _AFTER)
        ):
            raise AdytumError(code, field)
        secret = plaintext.arena.take(hkdf.BLOCK_SIZE)
        secret.view[:4] = b"AWS4"
        secret.view[4 : 4 + last - first] = view[first:last]
        return cls(bytes(view[start:end]).decode(), secret)

    def signature(self, date: str, region: str, service: str, to_sign: bytes) -> str:
        """SigV4's signature of a string to sign, hex. `date`: YYYYMMDD. Errors: RESOURCE_EXHAUSTED."""
        arena = self._secret.arena
        if self._derived is None or self._scope != (date, region, service):
            self._forget_derived()
            self._derived = _signing_key(self._secret, (date, region, service, "aws4_request"))
            self._scope = (date, region, service)
        with arena.take(hkdf.HASH_SIZE) as mac:
            hkdf.hmac(self._derived, to_sign, mac)
            return bytes(mac.view).hex()

    def wipe(self) -> None:
        self._forget_derived()
        self._secret.wipe()

    def _forget_derived(self) -> None:
        derived, self._derived = self._derived, None
        if derived is not None:
            derived.wipe()

    def __repr__(self) -> str:
        return "AnchorKey(...)"


class _Held(NamedTuple):
    header: Header
    key: AnchorKey


class AnchorKeys:
    """Each tenant's key pair, where the manifest wants them sealed. `policies`: in force, by tenant."""

    def __init__(self, policies: Mapping[str, SignedPolicy]) -> None:
        self._policies = policies
        self._is_wanted = False
        self._held: dict[str, _Held] = {}

    def configure(self, manifest: Manifest) -> None:
        """Once, with the manifest that was measured."""
        anchor = manifest.anchor
        self._is_wanted = isinstance(anchor, DynamoDbAnchor) and anchor.credentials == "sealed"

    def is_waiting(self, tenant: str) -> bool:
        """True when the tenant's anchor cannot be asked, because no credentials came in this boot."""
        return self._is_wanted and tenant not in self._held

    def require(self, body: Body) -> None:
        """Errors: ANCHOR_UNAVAILABLE for all but `seal_anchor` while credentials are waited for: the policy in force
        may be an older one, which only the anchor could tell."""
        if self.is_waiting(body.tenant) and not isinstance(body, SealAnchor):
            raise AdytumError(Code.ANCHOR_UNAVAILABLE, "credentials")

    def get(self, tenant: str) -> AnchorKey | None:
        """The key pair to sign with, None without one, and for one below the policy's floor."""
        held = self._held.get(tenant)
        if held is None or self._is_retired(held.header):
            return None
        return held.key

    def admit(self, tenant: str, record: Record, manifest: Manifest) -> Header:
        """What `record` claims to be, before KMS is asked. Errors: USAGE_INVALID, RECORD_INVALID, RECORD_MISMATCH with
        the field, RECORD_RETIRED, RECORD_ROLLBACK."""
        if not self._is_wanted:
            raise AdytumError(Code.USAGE_INVALID, "$ (the manifest's anchor takes no sealed credentials)")
        header = parse_header(record.header)
        for field, is_right in (
            ("$.tenant", header.tenant == tenant),
            ("$.kind", header.kind is RecordKind.ANCHOR_CREDENTIALS),
            ("$.state", header.state is KeyState.ACTIVE),
            ("$.node_id", header.node_id == manifest.node_id),
            ("$.kms_key_arn", header.kms_key_arn in manifest.kms.keys),
        ):
            if not is_right:
                raise AdytumError(Code.RECORD_MISMATCH, field)
        self._require_newest(header)
        return header

    def install(self, header: Header, key: AnchorKey) -> bool:
        """Take ownership of `key`, whose record opened under `header`. True when it is the tenant's first.
        Errors: RECORD_RETIRED, RECORD_ROLLBACK (things may have changed while KMS worked); the key is wiped then."""
        try:
            self._require_newest(header)
        except AdytumError:
            key.wipe()
            raise
        held = self._held.get(header.tenant)
        self._held[header.tenant] = _Held(header, key)
        if held is not None:
            held.key.wipe()
        return held is None

    def wipe(self) -> None:
        while self._held:
            self._held.popitem()[1].key.wipe()

    def _require_newest(self, header: Header) -> None:
        if self._is_retired(header):
            raise AdytumError(Code.RECORD_RETIRED, "$.generation")
        held = self._held.get(header.tenant)
        if held is not None and header.created_at < held.header.created_at:
            raise AdytumError(Code.RECORD_ROLLBACK, "$.created_at")

    def _is_retired(self, header: Header) -> bool:
        signed = self._policies.get(header.tenant)
        return signed is not None and header.generation < signed.policy.min_generation


def _is_at(slot: Slot, at: int, expected: bytes) -> bool:
    """True when these bytes stand there; nothing of the slot is copied."""
    piece = slot.view[at : at + len(expected)]
    try:
        return equal(piece, expected)
    finally:
        piece.release()


def _signing_key(secret: Slot, texts: tuple[str, ...]) -> Slot:
    """The HMAC of the last text under that of the one before, and so on down to the secret. The caller owns it."""
    arena = secret.arena
    key, derived = secret, arena.take(hkdf.HASH_SIZE)
    try:
        for text in texts:
            following = arena.take(hkdf.HASH_SIZE)
            try:
                hkdf.hmac(key, text.encode(), following)
            except BaseException:
                following.wipe()
                raise
            derived.wipe()
            key = derived = following
    except BaseException:
        derived.wipe()
        raise
    return derived
