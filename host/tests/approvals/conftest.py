"""Fixtures: a service whose enclave wants two approvals for a payment."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from host_fake_enclave import ScriptedEnclave

from adytum.app import Service

sys.path.insert(0, str(Path(__file__).parent))

from approval_parts import Bench


@pytest.fixture
async def bench(service: Service, enclave: ScriptedEnclave) -> AsyncIterator[Bench]:
    made = Bench(service, enclave)
    await made.prepare()
    yield made
    await made.http.aclose()
