"""The authenticator data of a WebAuthn assertion (W3C WebAuthn Level 2, 6.1):

    rpIdHash (32) || flags (1) || signCount (4, big-endian) || extensions (a CBOR map, exactly when ED is set)

Nothing of the extensions is used. They are walked to their end all the same, so that no byte is there without a
meaning. Their CBOR is CTAP2's canonical kind: definite lengths, no tags, at most four levels (CTAP 2.1, section 8).
"""

from __future__ import annotations

from dataclasses import dataclass

from adytum_wire import limits
from adytum_wire.errors import AdytumError, Code

UP, UV, BE, BS, AT, ED = 0x01, 0x04, 0x08, 0x10, 0x40, 0x80
_FIXED = 37
_MAX_LEVELS = 4
_UNSIGNED, _NEGATIVE, _BYTES, _TEXT, _ARRAY, _MAP, _TAG, _SIMPLE = range(8)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthenticatorData:
    rp_id_hash: bytes
    flags: int
    counter: int


class _Refusal(ValueError):
    pass


def parse_authenticator_data(data: bytes) -> AuthenticatorData:
    """Parse 37 to `limits.MAX_AUTHENTICATOR_DATA` bytes. Errors: APPROVAL_INVALID; also when AT is set, for an
    assertion never carries a new credential (6.3.3)."""
    if not _FIXED <= len(data) <= limits.MAX_AUTHENTICATOR_DATA:
        raise _invalid()
    flags = data[32]
    if flags & AT:
        raise _invalid()
    end = _FIXED
    if flags & ED:
        try:
            if data[end : end + 1] == b"" or data[end] >> 5 != _MAP:
                raise _Refusal
            end = _skip(data, end, _MAX_LEVELS)
        except (_Refusal, IndexError):
            raise _invalid() from None
    if end != len(data):
        raise _invalid()
    return AuthenticatorData(rp_id_hash=data[:32], flags=flags, counter=int.from_bytes(data[33:37], "big"))


def _skip(data: bytes, at: int, levels: int) -> int:
    """Where the CBOR item that begins at `at` ends. Errors: _Refusal, IndexError."""
    major, short = data[at] >> 5, data[at] & 0x1F
    at += 1
    if short < 24:
        argument = short
    elif short <= 27:
        size = 1 << (short - 24)
        if at + size > len(data):
            raise _Refusal
        argument = int.from_bytes(data[at : at + size], "big")
        at += size
    else:  # reserved, or of indefinite length
        raise _Refusal
    if major in (_BYTES, _TEXT):
        at += argument
        if at > len(data):
            raise _Refusal
    elif major in (_ARRAY, _MAP):
        if levels == 0 or argument > len(data):
            raise _Refusal
        for _ in range(argument * (2 if major == _MAP else 1)):
            at = _skip(data, at, levels - 1)
    elif major == _TAG:
        raise _Refusal
    return at


def _invalid() -> AdytumError:
    return AdytumError(Code.APPROVAL_INVALID, "$.proof.authenticator_data")
