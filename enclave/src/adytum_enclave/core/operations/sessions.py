"""Not offered yet."""

from __future__ import annotations

from adytum_enclave.core.operations.context import Context, KmsSteps
from adytum_wire.errors import AdytumError, Code
from adytum_wire.requests import OpenSession


def open_session(_context: Context, _body: OpenSession) -> KmsSteps:
    yield from ()
    raise AdytumError(Code.REQUEST_INVALID, "$.operation")
