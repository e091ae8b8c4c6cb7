"""Restore a backup into an empty database, and prove that it is whole.

    report = await restore(Path("backup-2026-11-23"), dsn, trust=trust, now_ms=clock)
    report.findings      # empty: it has everything that the manifest and its own receipts speak of

The dump goes in as one transaction: after a failure the database is as empty as before. Migrations come after it. The
rows are checked before migrations, which may add some. Rights are not in a dump: `adytum migrate grant` gives them.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg

from adytum.backup import chains, compare, facts, findings, programs
from adytum.backup.chains import Trust, Verified
from adytum.backup.connection import connected
from adytum.backup.create import measure
from adytum.backup.errors import BackupCode, BackupError
from adytum.backup.findings import Finding
from adytum.backup.manifest import DUMP, MANIFEST, BackupManifest, read
from adytum.storage import migrate

_CHECK_TIMEOUT_S = 600.0  # for one query of a check


@dataclass(slots=True)
class Report:
    """`seconds`: of each phase. `attested`: were receipts believed by attestation, or only for their order?"""

    revision: str = ""
    rows: int = 0
    keys: int = 0
    chains: int = 0
    receipts: int = 0
    attested: bool = False
    findings: list[Finding] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - began

    def shown(self) -> dict[str, Any]:
        return {
            "whole": not self.findings,
            "revision": self.revision,
            "rows": self.rows,
            "keys": self.keys,
            "chains": self.chains,
            "receipts": self.receipts,
            "attested": self.attested,
            "findings": [one.shown() for one in self.findings],
            "seconds": {name: round(value, 2) for name, value in self.seconds.items()},
        }


async def restore(
    source: Path, dsn: str, *, trust: Trust | None, pg_bin: Path | None = None, jobs: int = 1
) -> tuple[Report, BackupManifest]:
    """`source`: a directory that `create` wrote. `dsn`: an empty database, as the owner-to-be of the tables.
    `jobs`: more than one loads in parallel, and no longer as one transaction.

    Errors: BackupError (BACKUP_MANIFEST, BACKUP_DAMAGED, RESTORE_NOT_EMPTY, RESTORE_NEWER_SCHEMA, BACKUP_PROGRAM),
    STORAGE_UNAVAILABLE, OSError. What is missing is no error: it is in the report.
    """
    report = Report()
    program = programs.find("pg_restore", pg_bin)
    with report.phase("read the backup"):
        manifest = read(source / MANIFEST)
        if manifest.revision not in migrate.revisions():
            raise BackupError(BackupCode.NEWER, manifest.revision)
        if not (source / DUMP).is_file() or measure(source / DUMP) != (manifest.size, manifest.sha256):
            raise BackupError(BackupCode.DAMAGED, str(source / DUMP))
        await _require_empty(dsn)
    with report.phase("restore"):
        place, environment = programs.split_dsn(dsn)
        wanted = ["--exit-on-error", "--no-owner", "--no-privileges", f"--dbname={place}"]
        wanted += ["--single-transaction"] if jobs == 1 else [f"--jobs={jobs}"]
        await programs.run(program, [*wanted, str(source / DUMP)], environment=environment)
        await _analyze(dsn)
    with report.phase("count"):
        async with _reading(dsn) as connection:
            report.findings += await compare.with_manifest(connection, manifest, exactly=True)
    with report.phase("migrate"):
        await migrate.upgrade(dsn)
    await inspect(dsn, report, trust=trust, held=[head.checkpoint.encode() for head in manifest.chains])
    return report, manifest


async def check(
    dsn: str,
    *,
    trust: Trust | None,
    manifest: BackupManifest | None = None,
    held: Iterable[bytes] = (),
    usage: dict[str, int] | None = None,
) -> Report:
    """Look at a database that is in use, or was restored by other means. Changes nothing. `held`: checkpoints of the
    second copy. `usage`: the version that the anchor has, by tenant. Errors: STORAGE_UNAVAILABLE."""
    report = Report()
    if manifest is not None:
        with report.phase("count"):
            async with _reading(dsn) as connection:
                report.findings += await compare.with_manifest(connection, manifest, exactly=False)
    await inspect(dsn, report, trust=trust, held=held, usage=usage)
    return report


async def inspect(
    dsn: str,
    report: Report,
    *,
    trust: Trust | None,
    held: Iterable[bytes] = (),
    usage: dict[str, int] | None = None,
) -> None:
    """By its own evidence, and beside checkpoints. All of it as of one moment."""
    async with _reading(dsn) as connection:
        with report.phase("look"):
            report.revision = await connection.fetchval("SELECT version_num FROM adytum_migrations")
            report.rows = sum((await facts.row_counts(connection)).values())
            report.keys = int(await connection.fetchval("SELECT count(*) FROM keys"))
            report.chains = int(await connection.fetchval("SELECT count(DISTINCT chain) FROM receipts"))
            report.findings += await findings.look(connection)
            report.findings += compare.older_usage(usage or {}, await compare.stored_usage(connection))
        with report.phase("verify receipts"):
            verified: Verified = await chains.verify(connection, trust)
            report.receipts, report.attested = verified.receipts, trust is not None
            report.findings += verified.findings
            report.findings += await compare.with_checkpoints(
                connection, [envelope for envelope in held if envelope], verified.keys
            )
    report.findings = list(dict.fromkeys(report.findings))


def _reading(dsn: str) -> AbstractAsyncContextManager[asyncpg.Connection]:
    return connected(dsn, query_s=_CHECK_TIMEOUT_S, snapshot=True)


async def _require_empty(dsn: str) -> None:
    async with connected(dsn) as connection:
        there = await facts.tables(connection)
    if there:
        raise BackupError(BackupCode.NOT_EMPTY, there[0])


async def _analyze(dsn: str) -> None:
    """Without statistics the first queries of a large database take the wrong way."""
    async with connected(dsn) as connection:
        await connection.execute("ANALYZE")
