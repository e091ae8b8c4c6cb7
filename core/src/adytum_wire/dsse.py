"""DSSE envelopes: documents signed by several people (https://github.com/secure-systems-lab/dsse, envelope.md)."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated

from msgspec import Meta, Struct

from adytum_wire import strict_json
from adytum_wire.errors import AdytumError, Code
from adytum_wire.types import Hex


class Signature(Struct, frozen=True, forbid_unknown_fields=True):
    """`keyid`: the signer's public key in hex. `sig`: standard base64 of the signature over `pae(type, payload)`."""

    keyid: Hex
    sig: str


class Envelope(Struct, frozen=True, forbid_unknown_fields=True, rename={"payload_type": "payloadType"}):
    payload_type: str
    payload: str
    signatures: Annotated[list[Signature], Meta(max_length=64)]


def parse(data: bytes, payload_type: str, *, limit: int, code: Code) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """Return (payload, [(public key, signature)]). Nothing is verified yet. Errors: `code`."""
    envelope = strict_json.decode(data, Envelope, limit=limit, code=code)
    if envelope.payload_type != payload_type:
        raise AdytumError(code, "$.payloadType")
    payload = _unbase64(envelope.payload, code, "$.payload")
    return payload, [
        (bytes.fromhex(s.keyid), _unbase64(s.sig, code, "$.signatures[...].sig")) for s in envelope.signatures
    ]


def build(payload_type: str, payload: bytes, signatures: list[tuple[bytes, bytes]]) -> bytes:
    """The inverse of `parse`."""
    return strict_json.encode(
        Envelope(
            payload_type,
            base64.b64encode(payload).decode(),
            [Signature(key.hex(), base64.b64encode(sig).decode()) for key, sig in signatures],
        )
    )


def _unbase64(text: str, code: Code, field: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise AdytumError(code, field) from None
