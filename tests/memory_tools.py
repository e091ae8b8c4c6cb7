"""The memory scanner of the enclave's tests, for tests of whole deployments."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest

_PATH = Path(__file__).resolve().parents[1] / "enclave/tests/memory/memory_scan.py"
_SPEC = importlib.util.spec_from_file_location("memory_scan", _PATH)
assert _SPEC is not None and _SPEC.loader is not None
memory_scan = importlib.util.module_from_spec(_SPEC)
sys.modules["memory_scan"] = memory_scan
_SPEC.loader.exec_module(memory_scan)


def require_readable_process(pid: int) -> None:
    """Skip where the kernel does not let a parent look at its child; fail in CI, where it must."""
    reason = memory_scan.unreadable(pid)
    if reason and os.environ.get("CI"):
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)
