"""One deployment under attack for each module: its attacks change nothing, which is what they prove."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio
from eth_account import Account
from eth_account.typed_transactions import TypedTransaction
from hexbytes import HexBytes

from adytum_policy.content import address_of
from adytum_sim.hostile.rules import MAX_VALUE, TO
from adytum_sim.hostile.site import Site, open_site
from adytum_wire.results import SignResult, parse_result


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_site() -> AsyncIterator[Site]:
    """Ends with the audit: the whole receipt chain from the attested start, every answer, every signature."""
    path = Path(tempfile.mkdtemp(prefix="ad-"))
    try:
        async with open_site(path) as site:
            yield site
            await site.unharmed()
            assert await site.audit() >= 1
            judge(site)
    finally:
        shutil.rmtree(path, ignore_errors=True)


@pytest_asyncio.fixture(loop_scope="module")
async def site(shared_site: Site) -> AsyncIterator[Site]:
    """Each attack must have been carried out, and must leave everything as it was."""
    shared_site.relay.honest()
    yield shared_site
    await shared_site.unharmed()


def judge(site: Site) -> None:
    """Every transaction that left, read by the Ethereum project's own decoder."""
    seen = 0
    for answer in site.ledger.answers.values():
        result = parse_result(answer)
        if isinstance(result, SignResult):
            raw = HexBytes(result.encoded["raw_transaction"])
            found = TypedTransaction.from_bytes(raw).as_dict()
            assert (found["chainId"], found["to"].hex(), found["data"]) == (1, TO[2:], b"")
            assert found["value"] <= MAX_VALUE
            assert Account.recover_transaction(raw) == address_of(bytes.fromhex(result.public_key))
            seen += 1
    assert seen >= 1
