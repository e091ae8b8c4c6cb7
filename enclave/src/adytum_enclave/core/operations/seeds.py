"""Not offered yet."""

from __future__ import annotations

from adytum_enclave.core.operations.context import Context, KmsSteps
from adytum_wire.errors import AdytumError, Code
from adytum_wire.requests import DeriveKey, GenerateSeed


def generate(_context: Context, _body: GenerateSeed) -> KmsSteps:
    yield from ()
    raise AdytumError(Code.REQUEST_INVALID, "$.operation")


def derive(_context: Context, _body: DeriveKey) -> KmsSteps:
    yield from ()
    raise AdytumError(Code.REQUEST_INVALID, "$.operation")
