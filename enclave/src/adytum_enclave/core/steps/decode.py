"""Step 2, decode: which record does the request name, and what does its content say?

The header is only *claimed* here: the host supplied it. It is compared with the request now, and proven when the record
opens under it (it is the AAD), before the key is used. Decoding content takes time that all tenants share, so the rules
are asked in between (`authorise.denied_anyway`).
"""

from __future__ import annotations

from functools import lru_cache

from msgspec import Struct

from adytum_enclave.core.crypto.secp256k1 import tweak_public
from adytum_policy.content import Decoded, decode_content
from adytum_wire import record as records
from adytum_wire.errors import AdytumError, Code
from adytum_wire.manifest import Manifest
from adytum_wire.paths import parse_path
from adytum_wire.record import Header, Record
from adytum_wire.requests import Body, DeriveKey, Export, OnRecord, Reseal, Sign, Unseal
from adytum_wire.types import RecordKind

_KINDS: dict[type, tuple[RecordKind, ...]] = {
    Sign: (RecordKind.SIGNING_KEY, RecordKind.HD_SEED),
    DeriveKey: (RecordKind.HD_SEED,),
    Unseal: (RecordKind.SECRET,),
    Export: (RecordKind.SIGNING_KEY, RecordKind.HD_SEED, RecordKind.SHARE),
    Reseal: tuple(RecordKind),
}

# Of the anchor's credentials nothing is asked but to seal them again.
_ANY = tuple(kind for kind in RecordKind if kind is not RecordKind.ANCHOR_CREDENTIALS)

# A pure function of the bytes, and most requests name a record that was named a moment ago. Refusals are not kept.
_parse_header = lru_cache(maxsize=1024)(records.parse_header)


class Asked(Struct, frozen=True, kw_only=True):
    """`header` is None for operations that make a record; `content` is None for all but `sign`."""

    header: Header | None
    content: Decoded | None


def name_record(body: Body, record: Record | None, *, manifest: Manifest) -> Header | None:
    """The header of the record that the request names, None when it makes one.

    Errors: RECORD_MISSING, RECORD_INVALID, RECORD_MISMATCH with the field, REQUEST_INVALID "$.path".
    """
    if not isinstance(body, OnRecord):
        if record is not None:
            raise AdytumError(Code.RECORD_MISMATCH)
        return None
    if record is None:
        raise AdytumError(Code.RECORD_MISSING)
    header = _parse_header(record.header)
    for field, is_right in (
        ("$.tenant", header.tenant == body.tenant),
        ("$.key_id", header.key_id == body.key_id),
        ("$.kind", header.kind in _KINDS.get(type(body), _ANY)),
        ("$.node_id", header.node_id == manifest.node_id),
        ("$.kms_key_arn", header.kms_key_arn in manifest.kms.keys),
    ):
        if not is_right:
            raise AdytumError(Code.RECORD_MISMATCH, field)
    if isinstance(body, Sign | DeriveKey):
        if bool(body.path) != (header.kind is RecordKind.HD_SEED):
            raise AdytumError(Code.RECORD_MISMATCH, "$.path")  # a seed signs by a path, a key has none
        parse_path(body.path)
    return header


def decode(body: Body, header: Header | None) -> Asked:
    """Errors: CONTENT_INVALID.

    A PSBT is read for the key that the header claims; what a PSBT for a seed claims is proven by `steps/sign.py`.
    """
    content = None
    if isinstance(body, Sign) and header is not None:
        public_key = bytes.fromhex(header.public_key)
        content = decode_content(body.content, body.scheme, public_key, body.path, add_tweak=tweak_public)
    return Asked(header=header, content=content)
