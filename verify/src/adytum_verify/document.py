"""Step 3: the payload of an attestation document, read strictly into `AttestationDocument`.

Field rules: "Attestation process", section 3.2.2, in aws-nitro-enclaves-nsm-api, corrected by what genuine documents
do: optional fields may be absent, null or empty, and reach 1024 bytes; PCRs are 48 bytes; only locked PCRs appear.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from adytum_verify import cose
from adytum_verify.cbor import CborError, Value, read_all
from adytum_verify.codes import AttestationCode, AttestationError
from adytum_wire import limits

PCR_SIZE: Final = 48  # bytes: SHA-384
PCR_COUNT: Final = 32
_MAX_FIELD: Final = 1024  # bytes
_MAX_TIMESTAMP: Final = 2**53  # ms
_MAX_CABUNDLE: Final = 8  # certificates; how many it must be is the chain's question
_MODULE_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")
_REQUIRED: Final = ("module_id", "digest", "timestamp", "pcrs", "certificate", "cabundle")
_OPTIONAL: Final = ("public_key", "user_data", "nonce")


@dataclass(frozen=True, slots=True, kw_only=True)
class AttestationDocument:
    """What a document says. Whether it is true depends on which function returned it.

    `public_key`, `user_data`, `nonce`: None when absent or null, b"" when present and empty. `pcrs`: 48 bytes each, the
    locked ones only. `certificate`, `cabundle`: DER. `valid_from_ms`, `valid_until_ms`: when all five certificates are
    valid together; both 0 unless the chain was verified.
    """

    module_id: str
    timestamp_ms: int
    digest: str
    pcrs: Mapping[int, bytes]
    public_key: bytes | None
    user_data: bytes | None
    nonce: bytes | None
    certificate: bytes
    cabundle: tuple[bytes, ...]
    valid_from_ms: int = 0
    valid_until_ms: int = 0


def parse_unverified(document: bytes, *, allow_unsigned_shape: bool = False) -> AttestationDocument:
    """DECODE a document and VERIFY NOTHING. Anybody can write bytes that this function accepts.

    For display, for logs, and for looking up whose document it claims to be. Never decide anything by the result.

    `allow_unsigned_shape`: also read what QEMU's nitro-enclave machine writes (algorithm -1, no real certificates).
    Result: see `AttestationDocument`; its certificates were not even parsed. Errors: those of steps 1 to 3.
    """
    return read(document, allow_unsigned_shape=allow_unsigned_shape)[0]


def read(document: bytes, *, allow_unsigned_shape: bool = False) -> tuple[AttestationDocument, cose.Sign1]:
    """Steps 1 to 3. The result is not authentic."""
    # 1. size
    if not 0 < len(document) <= limits.MAX_ATTESTATION_DOCUMENT:
        raise AttestationError(AttestationCode.DOCUMENT_SIZE)
    # 2. COSE
    parts = cose.split(document, allow_unsigned_shape=allow_unsigned_shape)
    # 3. payload
    return _payload(parts.payload), parts


def _payload(payload: bytes) -> AttestationDocument:
    try:
        fields = read_all(payload, indefinite_map=True)
    except CborError:
        raise AttestationError(AttestationCode.PAYLOAD_MALFORMED) from None
    if not isinstance(fields, dict):
        raise AttestationError(AttestationCode.PAYLOAD_MALFORMED)
    # An ordinary EC2 instance gets documents with `nitrotpm_pcrs` under the same root: never an enclave.
    if "nitrotpm_pcrs" in fields:
        raise AttestationError(AttestationCode.NITROTPM)
    if any(name not in _REQUIRED and name not in _OPTIONAL for name in fields):
        raise AttestationError(AttestationCode.PAYLOAD_UNKNOWN_FIELD)
    for name in _REQUIRED:
        if fields.get(name) is None:
            raise AttestationError(AttestationCode.PAYLOAD_FIELD, name)
    return AttestationDocument(
        module_id=_module_id(fields["module_id"]),
        digest=_digest(fields["digest"]),
        timestamp_ms=_timestamp(fields["timestamp"]),
        pcrs=_pcrs(fields["pcrs"]),
        certificate=_bytes(fields["certificate"], "certificate", minimum=1),
        cabundle=_cabundle(fields["cabundle"]),
        public_key=_optional(fields.get("public_key"), "public_key"),
        user_data=_optional(fields.get("user_data"), "user_data"),
        nonce=_optional(fields.get("nonce"), "nonce"),
    )


def _refuse(name: str) -> AttestationError:
    return AttestationError(AttestationCode.PAYLOAD_FIELD, name)


def _module_id(value: Value) -> str:
    if not isinstance(value, str) or not _MODULE_ID.fullmatch(value):
        raise _refuse("module_id")
    return value


def _digest(value: Value) -> str:
    if value != "SHA384":
        raise _refuse("digest")
    return "SHA384"


def _timestamp(value: Value) -> int:
    if not isinstance(value, int) or not 0 < value <= _MAX_TIMESTAMP:
        raise _refuse("timestamp")
    return value


def _pcrs(value: Value) -> Mapping[int, bytes]:
    if not isinstance(value, dict) or not 1 <= len(value) <= PCR_COUNT:
        raise _refuse("pcrs")
    pcrs: dict[int, bytes] = {}
    for index, pcr in value.items():
        if not isinstance(index, int) or index >= PCR_COUNT:
            raise _refuse("pcrs")
        if not isinstance(pcr, bytes) or len(pcr) != PCR_SIZE:
            raise _refuse(f"pcrs[{index}]")
        pcrs[index] = pcr
    return MappingProxyType(pcrs)


def _cabundle(value: Value) -> tuple[bytes, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= _MAX_CABUNDLE:
        raise _refuse("cabundle")
    return tuple(_bytes(item, f"cabundle[{index}]", minimum=1) for index, item in enumerate(value))


def _bytes(value: Value, name: str, *, minimum: int = 0) -> bytes:
    if not isinstance(value, bytes) or not minimum <= len(value) <= _MAX_FIELD:
        raise _refuse(name)
    return value


def _optional(value: Value, name: str) -> bytes | None:
    return None if value is None else _bytes(value, name)
