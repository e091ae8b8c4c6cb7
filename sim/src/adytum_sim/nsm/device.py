"""`SimNsm`: the state (32 PCRs and their locks) and the seven requests.

Semantics from AWS's own `nsm-check.rs` (aws-nitro-enclaves-nsm-api): 0 to 15 are locked at boot, an unlocked PCR does
not appear in documents, locking a locked one is an error while locking a range over it is not.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Callable, Mapping
from typing import Final

from adytum_sim.nsm import cbor
from adytum_sim.nsm.document import PayloadEncoding, build_document
from adytum_sim.pki import DevPki

REQUEST_MAX: Final = 4096  # bytes
RESPONSE_MAX: Final = 12288  # bytes
PCR_COUNT: Final = 32
PCR_SIZE: Final = 48  # bytes, SHA-384
LOCKED_AT_BOOT: Final = 16
DEBUG_PCRS: Final = (0, 1, 2)  # zero in debug mode; 3, 4 and the user's stay as they are
RANDOM_SIZE: Final = 256  # bytes in one GetRandom
LIMITS: Final = {"user_data": 512, "nonce": 512, "public_key": 1024}  # bytes
_MEMBERS: Final[Mapping[object, set[str]]] = {
    "DescribePCR": {"index"},
    "ExtendPCR": {"index", "data"},
    "LockPCR": {"index"},
    "LockPCRs": {"range"},
}
_MODULE_ID = re.compile(r"(i-[0-9a-f]{17})-enc[0-9a-f]{16}")


class _Refused(Exception):
    """Internal: becomes `{"Error": code}`."""


def extend(current: bytes, data: bytes) -> bytes:
    """SHA-384(current || data): how a PCR (48 bytes) takes `data` in."""
    return hashlib.sha384(current + data).digest()


def measured_text(text: str) -> bytes:
    """PCR3 of a role ARN, PCR4 of an instance id: the zero PCR extended with the ASCII text itself."""
    return extend(bytes(PCR_SIZE), text.encode("ascii"))


class SimNsm:
    """One enclave's security module. `request` may be called from several threads.

    Args:
        pki: signs the documents.
        module_id: `i-<17 hex>-enc<16 hex>`.
        pcrs: index 0 to 31 to 48 bytes, as they stand at boot; the others are zero. An entry for 3 or 4 wins over the
            two arguments below.
        clock_ms: milliseconds since the epoch.
        payload_encoding: what the hardware did until 2025 (`definite`) or does since (`indefinite`).
        parent_role: role ARN of the parent instance, measured into PCR3; absent leaves it zero.
        instance_id: of the parent, measured into PCR4; taken from the module id when absent.
        debug: debug mode, in which PCR 0, 1 and 2 are zero.
        random_bytes: source of GetRandom.
    """

    def __init__(
        self,
        pki: DevPki,
        *,
        module_id: str,
        pcrs: Mapping[int, bytes],
        clock_ms: Callable[[], int],
        payload_encoding: PayloadEncoding = "indefinite",
        parent_role: str | None = None,
        instance_id: str | None = None,
        debug: bool = False,
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        match = _MODULE_ID.fullmatch(module_id)
        if match is None:
            raise ValueError("a module id is i-<17 hex>-enc<16 hex>")
        if any(not 0 <= index < PCR_COUNT or len(value) != PCR_SIZE for index, value in pcrs.items()):
            raise ValueError("a PCR has an index from 0 to 31 and 48 bytes")
        self.module_id = module_id
        self._pki, self._clock_ms, self._random = pki, clock_ms, random_bytes
        self._encoding: PayloadEncoding = payload_encoding
        values = {index: bytes(PCR_SIZE) for index in range(PCR_COUNT)}
        values[4] = measured_text(instance_id or match[1])
        if parent_role is not None:
            values[3] = measured_text(parent_role)
        values.update(pcrs)
        if debug:
            values.update({index: bytes(PCR_SIZE) for index in DEBUG_PCRS})
        self._pcrs = values
        self._locked = set(range(LOCKED_AT_BOOT))
        self._mutex = threading.Lock()

    def request(self, data: bytes) -> bytes:
        """One request (CBOR, at most 4096 bytes) to one answer (CBOR, at most 12288). Never raises for bad input."""
        with self._mutex:
            try:
                answer = self._answer(data)
            except _Refused as refused:
                answer = {"Error": str(refused)}
        encoded = cbor.encode(answer)
        return encoded if len(encoded) <= RESPONSE_MAX else cbor.encode({"Error": "BufferTooSmall"})

    def _answer(self, data: bytes) -> object:
        if len(data) > REQUEST_MAX:
            raise _Refused("InputTooLarge")
        try:
            request = cbor.decode(data)
        except cbor.CborError:
            raise _Refused("InvalidOperation") from None
        if request == "DescribeNSM":
            return {"DescribeNSM": self._describe()}
        if request == "GetRandom":
            return {"GetRandom": {"random": self._random(RANDOM_SIZE)}}
        if not isinstance(request, dict) or len(request) != 1:
            raise _Refused("InvalidOperation")
        [(operation, fields)] = request.items()
        if not isinstance(fields, dict):
            raise _Refused("InvalidOperation")
        return self._with_fields(operation, fields)

    def _with_fields(self, operation: object, fields: Mapping[str | int, cbor.Value]) -> object:
        if operation == "Attestation":
            return {"Attestation": {"document": self._document(fields)}}
        if operation not in _MEMBERS or set(fields) != _MEMBERS[operation]:
            raise _Refused("InvalidOperation")
        if operation == "LockPCRs":
            count = _uint(fields["range"])
            if count > PCR_COUNT:
                raise _Refused("InvalidIndex")
            self._locked.update(range(count))
            return "LockPCRs"
        at = _uint(fields["index"])
        if at >= PCR_COUNT:
            raise _Refused("InvalidIndex")
        if operation == "DescribePCR":
            return {"DescribePCR": {"lock": at in self._locked, "data": self._pcrs[at]}}
        if at in self._locked:
            raise _Refused("ReadOnlyIndex")
        if operation == "LockPCR":
            self._locked.add(at)
            return "LockPCR"
        data = fields["data"]
        if not isinstance(data, bytes):
            raise _Refused("InvalidOperation")
        self._pcrs[at] = extend(self._pcrs[at], data)
        return {"ExtendPCR": {"data": self._pcrs[at]}}

    def _describe(self) -> dict[str, object]:
        return {
            "version_major": 1,
            "version_minor": 0,
            "version_patch": 0,
            "module_id": self.module_id,
            "max_pcrs": PCR_COUNT,
            "locked_pcrs": sorted(self._locked),
            "digest": "SHA384",
        }

    def _document(self, fields: Mapping[str | int, cbor.Value]) -> bytes:
        if not set(fields) <= set(LIMITS):
            raise _Refused("InvalidOperation")
        values: dict[str, bytes | None] = {}
        for name, limit in LIMITS.items():
            value = fields.get(name)
            if value is not None and not isinstance(value, bytes):
                raise _Refused("InvalidArgument")
            if value is not None and len(value) > limit:
                raise _Refused("InputTooLarge")
            values[name] = value
        now_ms = self._clock_ms()
        return build_document(
            self._pki.chain(module_id=self.module_id, now_ms=now_ms),
            module_id=self.module_id,
            timestamp_ms=now_ms,
            pcrs={index: self._pcrs[index] for index in self._locked},
            public_key=values["public_key"],
            user_data=values["user_data"],
            nonce=values["nonce"],
            encoding=self._encoding,
        )


def _uint(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise _Refused("InvalidOperation")
    return value
