"""Signatures with a sample of the records that were resealed: they open, and the keys in them are those that were
sealed at first."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from msgspec import Struct

from adytum.client.checks import Answer
from adytum_sim.bench.apart import Apart
from adytum_sim.demo.transfer import Transfer
from adytum_sim.rotating import PATIENT, Traffic
from adytum_wire.requests import EthereumTransaction

_AT_ONCE: Final = 8


class Opened(Struct, frozen=True, kw_only=True):
    """`opened`: proven signatures by the keys that were sealed, of `asked`."""

    asked: int
    opened: int
    problems: list[str]


async def open_some(apart: Apart, keys: Sequence[str], heard: Callable[[str, Answer], None]) -> Opened:
    """One signature with each of `keys`. `heard`: told of each proven one."""
    content = EthereumTransaction(unsigned=Transfer().unsigned().hex())
    traffic = Traffic(keys, public_keys=apart.public_keys, heard=heard)
    waiting = iter(keys)

    async def work() -> None:
        async with apart.client(apart.alice, PATIENT) as client:
            for key_id in waiting:
                await traffic.sign(client, key_id, content)

    await asyncio.gather(*(work() for _ in range(_AT_ONCE)))
    return Opened(asked=len(keys), opened=traffic.count, problems=[*traffic.wrong, *traffic.failed][:10])
