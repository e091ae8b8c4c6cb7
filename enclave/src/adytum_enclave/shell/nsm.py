"""The Nitro Security Module: `/dev/nsm`, its requests, and strict readings of its replies.

The seam is `Transport`: CBOR request bytes in, CBOR reply bytes out. `open_device` is the real one. Calls block (the
driver serialises all of them under one mutex, for up to 120 s): run them off the event loop. Sources: the Linux driver
drivers/misc/nsm.c, its header include/uapi/linux/nsm.h, and aws-nitro-enclaves-nsm-api.

>>> with open_device() as transport:            # doctest: +SKIP
...     Nsm(transport).describe().module_id
'i-0123456789abcdef0-enc0123456789abcdef'
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Final, TypeAlias

from adytum_enclave.shell import cbor
from adytum_wire import limits
from adytum_wire.errors import AdytumError, Code

Transport: TypeAlias = Callable[[bytes], bytes]

DEVICE: Final = "/dev/nsm"
REQUEST_MAX: Final = 0x1000  # bytes, NSM_REQUEST_MAX_SIZE
RESPONSE_MAX: Final = 0x3000  # bytes, NSM_RESPONSE_MAX_SIZE
PCR_COUNT: Final = 32
PCR_SIZE: Final = 48  # bytes, SHA-384
_IOCTL_RAW: Final = 0xC0200A00  # _IOWR(0x0A, 0, struct nsm_raw), 64-bit
_RAW: Final = struct.Struct("<4Q")  # struct nsm_raw: request address and length, response address and length


class NsmCode(StrEnum):
    """The NSM's own error codes (aws-nitro-enclaves-nsm-api, enum ErrorCode)."""

    INVALID_ARGUMENT = "InvalidArgument"
    INVALID_INDEX = "InvalidIndex"
    INVALID_RESPONSE = "InvalidResponse"  # also ours, for a reply that fails its checks
    READ_ONLY_INDEX = "ReadOnlyIndex"
    INVALID_OPERATION = "InvalidOperation"
    BUFFER_TOO_SMALL = "BufferTooSmall"
    INPUT_TOO_LARGE = "InputTooLarge"
    INTERNAL_ERROR = "InternalError"


class NsmError(AdytumError):
    """The NSM refused, failed or answered nonsense. `nsm_code` says which; `code` is INTERNAL, `field` "nsm.<code>"."""

    def __init__(self, nsm_code: NsmCode) -> None:
        super().__init__(Code.INTERNAL, f"nsm.{nsm_code}")
        self.nsm_code = nsm_code


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """Answer to DescribeNSM. `locked_pcrs`: ascending."""

    version: tuple[int, int, int]
    module_id: str
    max_pcrs: int
    locked_pcrs: tuple[int, ...]
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pcr:
    """Answer to DescribePCR. `data`: 48 bytes."""

    locked: bool
    data: bytes


class Device:
    """An open `/dev/nsm`; calling it makes one ioctl. May be called from several threads. Close it, or use `with`."""

    __slots__ = ("_descriptor",)

    def __init__(self, descriptor: int) -> None:
        """Takes ownership of `descriptor`."""
        self._descriptor = descriptor

    def __call__(self, request: bytes) -> bytes:
        """Errors: NsmError(InputTooLarge) for more than 4096 bytes, NsmError(InternalError) for every other errno."""
        if len(request) > REQUEST_MAX:
            raise NsmError(NsmCode.INPUT_TOO_LARGE)
        # Both buffers must outlive the call: the kernel is given bare addresses.
        request_buffer = (ctypes.c_char * max(1, len(request))).from_buffer_copy(request or b"\0")
        response_buffer = (ctypes.c_char * RESPONSE_MAX)()
        # The driver truncates in silence to the length supplied, so always supply the most there can be.
        raw = bytearray(
            _RAW.pack(ctypes.addressof(request_buffer), len(request), ctypes.addressof(response_buffer), RESPONSE_MAX)
        )
        try:
            fcntl.ioctl(self._descriptor, _IOCTL_RAW, raw, True)
        except ValueError:  # closed
            raise NsmError(NsmCode.INTERNAL_ERROR) from None
        except OSError as error:
            too_large = error.errno == errno.EMSGSIZE
            raise NsmError(NsmCode.INPUT_TOO_LARGE if too_large else NsmCode.INTERNAL_ERROR) from None
        length = _RAW.unpack(raw)[3]
        if length > RESPONSE_MAX:
            raise NsmError(NsmCode.INVALID_RESPONSE)
        return response_buffer.raw[:length]

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __enter__(self) -> Device:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self.close()


def open_device(path: str = DEVICE) -> Device:
    """Open the NSM's character device. Errors: NsmError(InternalError) when it is absent or something else."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        raise NsmError(NsmCode.INTERNAL_ERROR) from None
    if not stat.S_ISCHR(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise NsmError(NsmCode.INTERNAL_ERROR)
    return Device(descriptor)


class Nsm:
    """The seven requests. Each raises `NsmError`: with the NSM's own code when it refused, INVALID_RESPONSE when its
    reply is not exactly what the request calls for. After an error the PCRs are as the NSM left them: ask again."""

    __slots__ = ("_transport",)

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def describe(self) -> Description:
        reply = self._map("DescribeNSM", None)
        locked = reply.get("locked_pcrs")
        if not isinstance(locked, list):
            raise _invalid()
        return Description(
            version=(_uint(reply, "version_major"), _uint(reply, "version_minor"), _uint(reply, "version_patch")),
            module_id=_text(reply, "module_id"),
            max_pcrs=_uint(reply, "max_pcrs"),
            locked_pcrs=tuple(sorted(_index(value) for value in locked)),
            digest=_text(reply, "digest"),
        )

    def describe_pcr(self, index: int) -> Pcr:
        reply = self._map("DescribePCR", {"index": index})
        locked = reply.get("lock")
        if not isinstance(locked, bool):
            raise _invalid()
        return Pcr(locked=locked, data=_bytes(reply, "data", PCR_SIZE, PCR_SIZE))

    def extend_pcr(self, index: int, data: bytes) -> bytes:
        """PCR := SHA-384(PCR || data). Returns the new value, 48 bytes. Refused (ReadOnlyIndex) when locked."""
        return _bytes(self._map("ExtendPCR", {"index": index, "data": data}), "data", PCR_SIZE, PCR_SIZE)

    def lock_pcr(self, index: int) -> None:
        """Refused (ReadOnlyIndex) when it is locked already."""
        self._bare("LockPCR", {"index": index})

    def lock_pcrs(self, count: int) -> None:
        """Lock PCR 0 to `count` - 1 (the NSM's `range`), those that are locked already included."""
        self._bare("LockPCRs", {"range": count})

    def attest(
        self, *, nonce: bytes | None = None, user_data: bytes | None = None, public_key: bytes | None = None
    ) -> bytes:
        """An attestation document (COSE_Sign1, at most 12 KiB). The NSM takes 512 bytes of nonce and of user_data and
        1024 of public_key. Not verified here: the NSM is believed, and who gets the document verifies it."""
        reply = self._map("Attestation", {"user_data": user_data, "nonce": nonce, "public_key": public_key})
        return _bytes(reply, "document", 1, limits.MAX_ATTESTATION_DOCUMENT)

    def get_random(self) -> bytes:
        """1 to 256 random bytes, the NSM decides how many. Not for secrets: they pass through `bytes`."""
        return _bytes(self._map("GetRandom", None), "random", 1, 256)

    def _call(self, name: str, arguments: dict[str | int, cbor.Value] | None) -> cbor.Value:
        request = cbor.encode(name if arguments is None else {name: arguments})
        if len(request) > REQUEST_MAX:
            raise NsmError(NsmCode.INPUT_TOO_LARGE)
        raw = self._transport(request)
        if len(raw) > RESPONSE_MAX:
            raise _invalid()
        try:
            reply = cbor.decode(raw)
        except cbor.CborError:
            raise _invalid() from None
        if isinstance(reply, dict) and reply.keys() == {"Error"}:
            code = reply["Error"]
            if isinstance(code, str) and code in NsmCode.__members__.values():
                raise NsmError(NsmCode(code))
            raise _invalid()
        return reply

    def _map(self, name: str, arguments: dict[str | int, cbor.Value] | None) -> dict[str | int, cbor.Value]:
        reply = self._call(name, arguments)
        if not isinstance(reply, dict) or reply.keys() != {name}:
            raise _invalid()
        inner = reply[name]
        if not isinstance(inner, dict):
            raise _invalid()
        return inner

    def _bare(self, name: str, arguments: dict[str | int, cbor.Value]) -> None:
        if self._call(name, arguments) != name:
            raise _invalid()


def _invalid() -> NsmError:
    return NsmError(NsmCode.INVALID_RESPONSE)


def _uint(reply: dict[str | int, cbor.Value], name: str) -> int:
    value = reply.get(name)
    if isinstance(value, bool) or not isinstance(value, int):
        raise _invalid()
    return value


def _index(value: cbor.Value) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < PCR_COUNT:
        raise _invalid()
    return value


def _text(reply: dict[str | int, cbor.Value], name: str) -> str:
    value = reply.get(name)
    if not isinstance(value, str) or not value:
        raise _invalid()
    return value


def _bytes(reply: dict[str | int, cbor.Value], name: str, least: int, most: int) -> bytes:
    value = reply.get(name)
    if not isinstance(value, bytes) or not least <= len(value) <= most:
        raise _invalid()
    return value
