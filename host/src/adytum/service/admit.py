"""Step 1, admit: bound the size, read the outer fields, match path and operation, take the stamp apart.

The host reads the body to look things up, and decides nothing by it: it uses the fast typed decoder here, and the
enclave parses the same bytes strictly (duplicate keys and the like) after it has verified the stamp. The body is
never encoded again: the bytes that came are the bytes that go.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from adytum_wire import limits
from adytum_wire.errors import AdytumError, Code
from adytum_wire.requests import OPERATIONS, AnyStamp, Body, OnRecord, SessionStamp, Stamp, parse_body
from adytum_wire.types import Scheme, sha256

STAMP_HEADER = "Adytum-Stamp"
_KEY_BYTES = {Scheme.ED25519: 32, Scheme.P256: 33, Scheme.SECP256K1: 33}
_SESSION = "session"
_MAX_STAMP = 256  # characters of the header
_decoder: msgspec.json.Decoder[Body] = msgspec.json.Decoder(Body)


@dataclass(frozen=True, slots=True)
class Admitted:
    """A request that is worth looking up. Nobody has verified the stamp yet. `key_id` is "" when none is named.
    `stamp_key`: the public key that stamped it; of a session's stamp the opener's, b"" until `Story` looked it up."""

    raw: bytes
    body: Body
    body_hash: bytes  # SHA-256 of `raw`, 32 bytes
    stamp: AnyStamp
    operation: str
    key_id: str
    stamp_key: bytes = b""


def admit(raw: bytes, stamp_header: str, operations: frozenset[str]) -> Admitted:
    """`operations`: those that the path stands for. Errors: REQUEST_INVALID, STAMP_INVALID. Nothing was looked up."""
    if len(raw) > limits.MAX_BODY:
        raise AdytumError(Code.REQUEST_INVALID, "$ (too large)")
    try:
        body = _decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        body = parse_body(raw)  # says which field, in the contract's own words
    operation = OPERATIONS[type(body)]
    if operation not in operations:
        raise AdytumError(Code.REQUEST_INVALID, "$.operation")
    key_id = body.key_id if isinstance(body, OnRecord) else ""
    stamp = parse_stamp(stamp_header)
    stamp_key = b"" if isinstance(stamp, SessionStamp) else stamp.public_key
    return Admitted(raw, body, sha256(raw), stamp, operation, key_id, stamp_key)


def parse_stamp(header: str) -> AnyStamp:
    """`<scheme>;<public key hex>;<signature hex>` or `session;<session id hex>;<mac hex>`, lower case.

    Errors: STAMP_INVALID."""
    parts = header.split(";")
    if len(header) > _MAX_STAMP or len(parts) != 3:
        raise AdytumError(Code.STAMP_INVALID, STAMP_HEADER)
    stamp: AnyStamp
    try:
        first, second = bytes.fromhex(parts[1]), bytes.fromhex(parts[2])
        stamp = SessionStamp(first, second) if parts[0] == _SESSION else Stamp(Scheme(parts[0]), first, second)
    except ValueError:
        raise AdytumError(Code.STAMP_INVALID, STAMP_HEADER) from None
    wanted = (16, 32) if isinstance(stamp, SessionStamp) else (_KEY_BYTES[stamp.scheme], 64)
    if (len(first), len(second)) != wanted:
        raise AdytumError(Code.STAMP_INVALID, STAMP_HEADER)
    if format_stamp(stamp) != header:  # one spelling only
        raise AdytumError(Code.STAMP_INVALID, STAMP_HEADER)
    return stamp


def format_stamp(stamp: AnyStamp) -> str:
    """The inverse of `parse_stamp`."""
    if isinstance(stamp, SessionStamp):
        return f"{_SESSION};{stamp.session_id.hex()};{stamp.mac.hex()}"
    return f"{stamp.scheme};{stamp.public_key.hex()};{stamp.signature.hex()}"
