"""Step 2: take a COSE_Sign1 (RFC 9052, section 4.2) apart, as Nitro hardware writes it, without changing a byte.

`84 44 a1013822 a0 59<len> <payload> 58 60 <signature>`, with no tag or exactly one tag 18 in front. The protected
header is compared with its four literal bytes, so no algorithm is ever chosen by the document.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from adytum_verify.cbor import CborError, Reader
from adytum_verify.codes import AttestationCode, AttestationError

_TAG_18: Final = 0xD2
_ARRAY_OF_4: Final = 0x84
_EMPTY_MAP: Final = 0xA0
_ES384: Final = bytes.fromhex("a1013822")  # {1: -35}
_NOT_SIGNED: Final = bytes.fromhex("a10120")  # {1: -1}: QEMU's nitro-enclave machine
_SIGNATURE_SIZE: Final = 96  # r || s, 48 bytes each


@dataclass(frozen=True, slots=True, kw_only=True)
class Sign1:
    """The parts as received. `signed` is False only for QEMU's unsigned shape."""

    payload: bytes
    signature: bytes
    signed: bool


def split(document: bytes, *, allow_unsigned_shape: bool = False) -> Sign1:
    """Take `document` apart. Nothing is verified.

    Errors: COSE_MALFORMED, COSE_UNSIGNED, COSE_ALGORITHM, COSE_UNPROTECTED, COSE_SIGNATURE_SIZE.
    """
    try:
        reader = Reader(document)
        if reader.peek() == _TAG_18:
            reader.take(1)
        if reader.take(1)[0] != _ARRAY_OF_4:
            raise AttestationError(AttestationCode.COSE_MALFORMED)
        protected = reader.byte_string()
        if protected == _NOT_SIGNED and not allow_unsigned_shape:
            raise AttestationError(AttestationCode.COSE_UNSIGNED)
        if protected not in (_ES384, _NOT_SIGNED):
            raise AttestationError(AttestationCode.COSE_ALGORITHM)
        if reader.take(1)[0] != _EMPTY_MAP:
            raise AttestationError(AttestationCode.COSE_UNPROTECTED)
        payload = reader.byte_string()
        signature = reader.byte_string()
        reader.end()
    except CborError:
        raise AttestationError(AttestationCode.COSE_MALFORMED) from None
    signed = protected == _ES384
    if signed and len(signature) != _SIGNATURE_SIZE:
        raise AttestationError(AttestationCode.COSE_SIGNATURE_SIZE)
    return Sign1(payload=payload, signature=signature, signed=signed)


def signed_bytes(payload: bytes) -> bytes:
    """The Sig_structure that the signature covers: ["Signature1", protected, h'', payload], payload as received."""
    return b"\x84\x6aSignature1" + _byte_string(_ES384) + _byte_string(b"") + _byte_string(payload)


def _byte_string(data: bytes) -> bytes:
    size = len(data)
    if size < 24:
        return bytes([0x40 | size]) + data
    if size < 256:
        return b"\x58" + bytes([size]) + data
    return b"\x59" + size.to_bytes(2, "big") + data  # a document has at most 16 KiB
