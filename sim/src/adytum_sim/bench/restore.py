"""`adytum bench restore`: a backup of many records, its restore into an empty database, every check, and the drill.

The records are made beforehand without the enclave (`records.py`); backup, restore and drill are the ones that an
operator runs: `pg_dump`, `pg_restore`, PostgreSQL with fsync, a fresh boot of the enclave process, the KMS stand-in.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any, Final

import asyncpg
from msgspec import Struct
from rich.console import Console

from adytum.app import anchors_of, host_clock_ms
from adytum.backup import drill as drills
from adytum.backup.chains import Trust
from adytum.backup.create import create
from adytum.backup.restore import restore
from adytum.cli.output import table
from adytum_sim.rotating import Site, running_rotation
from adytum_verify import AllowList
from adytum_wire.messages import Credentials

_TARGET: Final = "restored"


class RestoreMeasured(Struct, frozen=True, kw_only=True):
    """Seconds. `phases`: of restore and checks, with the drill, which starts a service and waits for its enclave.
    `restored_seconds`: their sum. `receipts`: how many were verified. `findings`: what was missing (nothing)."""

    records: int
    receipts: int
    dump_bytes: int
    seeded_seconds: float
    backup_seconds: float
    phases: dict[str, float]
    restored_seconds: float
    sampled: int
    opened: int
    findings: int


async def run(directory: Path, records: int, *, sample: int, receipts: int) -> RestoreMeasured:
    """One backup and one restore of `records`, with `receipts` signatures before. Errors: AdytumError, OSError,
    BackupError."""
    seeding = time.perf_counter()
    async with running_rotation(directory, records=records, durable=True) as site:
        seeded = time.perf_counter() - seeding
        async with site.traffic(4) as traffic:
            await traffic.more(receipts)
        began = time.perf_counter()
        await create(site.host.dsn, directory / "backup", now_ms=host_clock_ms)
        backed_up = time.perf_counter() - began
        await site.host.service.stop()
        await site.stack.restart_enclave()
        await _new_database(site)
        dsn = site.host.postgres.dsn(_TARGET)
        trust = Trust(
            expected=AllowList.parse(site.stack.allowed_pcrs),
            anchors=anchors_of(site.settings.tee.attestationRootsFile),
        )
        report, manifest = await restore(directory / "backup", dsn, trust=trust)

        async def credentials() -> Credentials | None:
            return site.stack.credentials

        more: dict[str, Any] = {"credentials": credentials, "supervisor_poll_s": 0.2}
        with report.phase("drill"):
            async with (
                drills.service_on(site.settings, dsn, **more) as url,
                drills.clients(site.settings, url, None) as client_for,
            ):
                opened = await drills.drill(dsn, client_for, boots=manifest.boots, sample=sample)
        return RestoreMeasured(
            records=records,
            receipts=report.receipts,
            dump_bytes=manifest.size,
            seeded_seconds=seeded,
            backup_seconds=backed_up,
            phases=report.seconds,
            restored_seconds=sum(report.seconds.values()),
            sampled=len(opened),
            opened=len(opened) - len(drills.failures(opened)),
            findings=len(report.findings),
        )


async def _new_database(site: Site) -> None:
    connection = await asyncio.wait_for(asyncpg.connect(site.host.dsn), 10)
    try:
        await connection.execute(f"CREATE DATABASE {_TARGET}")
    finally:
        await connection.close()


def show(found: list[RestoreMeasured], console: Console) -> None:
    rows = [
        (
            f"{one.records:,}",
            f"{one.receipts:,}",
            f"{one.dump_bytes / 2**20:.1f}",
            f"{one.backup_seconds:.1f}",
            ", ".join(f"{name} {value:.1f}" for name, value in one.phases.items()),
            f"{one.restored_seconds:.1f}",
            f"{one.opened}/{one.sampled}",
            one.findings,
        )
        for one in found
    ]
    columns = ("records", "receipts", "dump MiB", "backup s", "phases s", "restored s", "opened", "missing")
    console.print(table(*columns, rows=rows))
