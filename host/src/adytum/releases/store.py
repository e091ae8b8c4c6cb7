"""The tables `releases` and `enclave_reports`. Steps of a rollover are one transaction each, one at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

import asyncpg
import msgspec

from adytum.releases.errors import ReleaseCode, ReleaseError
from adytum.releases.release import MANDATORY, OPTIONAL, Release, State
from adytum.storage.database import Database

FRESH_S: Final = 10  # an older report is of a host that has gone
_SELECT: Final = (
    "SELECT name, pcr0, pcr1, pcr2, pcr3, pcr8, pcr16, state, provenance::text AS provenance, created_at, changed_at"
    " FROM releases "
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a host says of one of its enclaves. `release`: "" when only the settings allow the image."""

    enclave: str
    boot_id: str
    release: str
    state: Literal["serving", "proven", "unproven"]
    reason: str = ""
    in_flight: int = 0
    certificate_until: int = 0  # ms
    host: str = ""
    reported_at: datetime | None = None

    @property
    def is_proven(self) -> bool:
        return self.state != "unproven"


async def load(database: Database) -> list[Release]:
    """All releases, oldest first. Errors: STORAGE_UNAVAILABLE."""
    return [_release(row) for row in await database.fetch(_SELECT + "ORDER BY created_at, name")]


async def reports(database: Database) -> list[Report]:
    """What the hosts that run now say. Errors: STORAGE_UNAVAILABLE."""
    rows = await database.fetch(
        "SELECT enclave, boot_id, release, state, reason, in_flight, certificate_until, host, reported_at"
        " FROM enclave_reports WHERE reported_at > now() - make_interval(secs => $1) ORDER BY host, enclave",
        FRESH_S,
    )
    return [Report(**dict(row.items())) for row in rows]


def summary(releases: Sequence[Release], found: Sequence[Report]) -> dict[str, Any]:
    """For people and programs: each release with the enclaves that are proven, and every enclave."""
    shown = []
    for release in releases:
        mine = [report for report in found if report.release == release.name and report.is_proven]
        shown.append(
            {
                "name": release.name,
                "state": release.state,
                "pcr0": release.pcrs[0].hex(),
                "proven": len(mine),
                "serving": sum(report.state == "serving" for report in mine),
                "certificate_until": min((report.certificate_until for report in mine), default=0),
                "changed_at": None if release.changed_at is None else release.changed_at.isoformat(),
            }
        )
    enclaves = [
        {
            "host": report.host,
            "enclave": report.enclave,
            "boot_id": report.boot_id,
            "release": report.release,
            "state": report.state,
            "reason": report.reason,
            "certificate_until": report.certificate_until,
        }
        for report in found
    ]
    return {"releases": shown, "enclaves": enclaves}


async def write_reports(database: Database, host: str, found: Sequence[Report]) -> None:
    """Replace what `host` said before; nothing replaces it with nothing. Errors: STORAGE_UNAVAILABLE."""
    async with database.connection() as connection, connection.transaction():
        await connection.execute(
            "DELETE FROM enclave_reports WHERE host = $1 OR reported_at < now() - interval '1 hour'",
            host,
        )
        await connection.executemany(
            "INSERT INTO enclave_reports (host, enclave, boot_id, release, state, reason, in_flight, certificate_until)"
            " VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
            [
                (host, r.enclave, r.boot_id, r.release, r.state, r.reason, r.in_flight, r.certificate_until)
                for r in found
            ],
        )


class Change:
    """One step of a rollover, inside its transaction; no other step runs meanwhile, readers go on."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection

    async def all(self) -> list[Release]:
        return [_release(row) for row in await self._connection.fetch(_SELECT)]

    async def get(self, name: str) -> Release:
        """Errors: UNKNOWN."""
        rows = await self._connection.fetch(_SELECT + "WHERE name = $1", name)
        if not rows:
            raise ReleaseError(ReleaseCode.UNKNOWN)
        return _release(rows[0])

    async def insert(self, release: Release) -> None:
        await self._connection.execute(
            "INSERT INTO releases (name, pcr0, pcr1, pcr2, pcr3, pcr8, pcr16, state, provenance)"
            " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9::jsonb)",
            release.name,
            *(release.pcrs.get(index) for index in (*MANDATORY, *OPTIONAL)),
            release.state,
            msgspec.json.encode(dict(release.provenance)).decode(),
        )

    async def set_state(self, name: str, state: State) -> None:
        await self._connection.execute(
            "UPDATE releases SET state = $2, changed_at = clock_timestamp() WHERE name = $1", name, state
        )


@asynccontextmanager
async def change(database: Database) -> AsyncIterator[Change]:
    """Errors: STORAGE_UNAVAILABLE, also while another step holds the lock for too long; nothing is changed then."""
    async with database.connection() as connection, connection.transaction():
        await connection.execute("LOCK TABLE releases IN SHARE ROW EXCLUSIVE MODE")
        yield Change(connection)


def _release(row: asyncpg.Record) -> Release:
    values: dict[str, Any] = dict(row.items())
    pcrs = {index: values.pop(f"pcr{index}") for index in (*MANDATORY, *OPTIONAL)}
    values["provenance"] = msgspec.json.decode(values["provenance"])
    return Release(pcrs={index: value for index, value in pcrs.items() if value is not None}, **values)
