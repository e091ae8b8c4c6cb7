"""The file of an audit: JSON lines, version 1 (spec/receipts.md, "The audit file").

    {"adytum_audit":1,"chain":"...","document":"<base64>","binding":"<base64>"}     first, may be absent
    {"body":"...","following":[...],"key":"...","signature":"..."}                    a receipt, as the enclave made it
    {"checkpoint":{"body":"...","key":"...","signature":"..."}}                       a checkpoint, anywhere

A line says what it is by how it begins, and is then parsed strictly as that and nothing else. Everything that counts is
signed; the file itself is believed for nothing.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Final, Literal

from msgspec import Struct

from adytum_wire import strict_json
from adytum_wire.errors import AdytumError, Code
from adytum_wire.receipts import MAX_RECEIPT, ChainId

MAX_LINE: Final = MAX_RECEIPT + 16  # bytes
_HEADER: Final = b'{"adytum_audit":'
_CHECKPOINT: Final = b'{"checkpoint":'


class _Header(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    adytum_audit: Literal[1]
    chain: ChainId
    document: str
    binding: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditHeader:
    """`document`: the attestation document of the chain's boot. `binding`: the JSON bytes that it binds."""

    chain: str
    document: bytes
    binding: bytes


def header_line(header: AuditHeader) -> bytes:
    """The first line of an audit file, without the line's end."""
    return strict_json.encode(
        _Header(
            adytum_audit=1,
            chain=header.chain,
            document=base64.b64encode(header.document).decode(),
            binding=base64.b64encode(header.binding).decode(),
        )
    )


def read_header(line: bytes) -> AuditHeader | None:
    """None when the line is none (a file of bare receipts). Errors: RECEIPT_INVALID for one of another version, or that
    is broken."""
    if not line.startswith(_HEADER):
        return None
    found = strict_json.decode(line, _Header, limit=MAX_LINE, code=Code.RECEIPT_INVALID)
    return AuditHeader(
        chain=found.chain, document=_bytes(found.document, "$.document"), binding=_bytes(found.binding, "$.binding")
    )


def checkpoint_line(envelope: bytes) -> bytes:
    """A checkpoint (envelope bytes) as a line, without the line's end."""
    return _CHECKPOINT + envelope + b"}"


def checkpoint_of(line: bytes) -> bytes | None:
    """The checkpoint's envelope bytes, unparsed; None when the line is none."""
    line = line.rstrip(b"\r\n")
    if not (line.startswith(_CHECKPOINT) and line.endswith(b"}")):
        return None
    return line[len(_CHECKPOINT) : -1]


def _bytes(text: str, field: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise AdytumError(Code.RECEIPT_INVALID, field) from None
