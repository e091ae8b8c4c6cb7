"""Finds `kms_policy_parts`, and runs one stand-in KMS for the tests of a module."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from adytum_sim.kms import RunningKms, kms_in_thread


@pytest.fixture(scope="module")
def kms() -> Iterator[RunningKms]:
    with kms_in_thread() as running:
        yield running
