"""Fixtures for tests that cross the wall: a whole deployment with a real enclave process and a real KMS stand-in."""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from wallet import Wallet, open_wallet


@pytest.fixture
def short_directory() -> Iterator[Path]:
    """A private directory whose path is short enough for Unix sockets."""
    path = Path(tempfile.mkdtemp(prefix="ad-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
async def wallet(short_directory: Path) -> AsyncIterator[Wallet]:
    """A fresh deployment with a policy in force and one secp256k1 key, version 1."""
    async with open_wallet(short_directory) as wallet:
        yield wallet


@pytest.fixture
async def open_short_wallet() -> AsyncIterator[Any]:
    """`await open_short_wallet(**options)`: a deployment with options of its own."""
    async with contextlib.AsyncExitStack() as cleanup:

        async def start(**options: Any) -> Wallet:
            path = Path(tempfile.mkdtemp(prefix="ad-"))
            cleanup.callback(shutil.rmtree, path, ignore_errors=True)
            return await cleanup.enter_async_context(open_wallet(path, **options))

        yield start
