"""The policy model of core's tests: policies and requests at random."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "core" / "tests" / "policy"))  # policy_model


@pytest.fixture
def guide() -> dict[str, Any]:
    """The document of docs/how-to/write-a-policy.md."""
    text = (ROOT / "docs" / "how-to" / "write-a-policy.md").read_text()
    [example] = re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    found: dict[str, Any] = json.loads(example)
    return found
