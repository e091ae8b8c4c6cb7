"""How the stand-in is told what to be, and where its sockets are."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

DEFAULT_MODULE_ID = "i-0adb7a0ad17000001-enc0190000000000001"


class StandInConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """See `adytum_sim.enclave.__main__`."""

    directory: str
    pki: str
    pcrs: dict[str, str]
    module_id: str = DEFAULT_MODULE_ID
    parent_role: str | None = None
    payload_encoding: Literal["indefinite", "definite"] = "indefinite"
    debug: bool = False
    witness: bool = False
    told: str = ""


def enclave_socket(directory: Path, port: int) -> Path:
    """Where the enclave listens; `adytum.enclave.endpoint.UnixEndpoint` dials it."""
    return directory / f"enclave_{port}.sock"


def host_socket(directory: Path, port: int) -> Path:
    """Where the host listens for the enclave (the KMS pipe)."""
    return directory / f"host_{port}.sock"


def witness_socket(directory: Path) -> Path:
    return directory / "witness.sock"
