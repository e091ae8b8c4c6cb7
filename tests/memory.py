"""Reading the memory of the real enclave process, for tests that look for secrets in it."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from wallet import Wallet

_PATH = Path(__file__).resolve().parents[1] / "enclave/tests/memory/memory_scan.py"
_SPEC = importlib.util.spec_from_file_location("memory_scan", _PATH)
assert _SPEC is not None and _SPEC.loader is not None
memory_scan = importlib.util.module_from_spec(_SPEC)
sys.modules["memory_scan"] = memory_scan
_SPEC.loader.exec_module(memory_scan)


def require_readable(wallet: Wallet) -> None:
    reason = memory_scan.unreadable(wallet.stack.process.pid)
    if reason and os.environ.get("CI"):
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)


def found(wallet: Wallet, secrets: dict[str, bytes]) -> list[Any]:
    forms = {name: form for label, secret in secrets.items() for name, form in memory_scan.forms(label, secret).items()}
    return list(memory_scan.scan(wallet.stack.process.pid, forms))
