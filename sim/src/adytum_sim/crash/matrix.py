"""`adytum bench crash`: every cell of the matrix, as a table, as JSON, and as docs/reference/crash-matrix.md."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec
from rich.console import Console

from adytum.cli.output import table
from adytum_sim.crash.cell import CLIENTS, CellResult, broken, run_cell
from adytum_sim.crash.points import EXPLAINED, Point, Victim
from adytum_wire.errors import AdytumError

_COLUMNS: Final = (
    "step", "killed", "kills", "recovered", "same bytes", "conflicts", "double effects", "lost receipts",
    "leaked reservations", "broken chains", "median s", "worst s",
)  # fmt: skip

_PAGE: Final = """# The crash matrix

A request passes ten steps. At each of them the enclave, the host service or PostgreSQL is killed with SIGKILL, under
load, and started again; the client sends the same bytes until it has a final answer. What must hold, and is counted
otherwise:

- **Same bytes.** The request ends well, and each answer to it, also to three later repeats, has the same result bytes.
- **No double effects.** One result for each request id; one stored key for each request that made one; the versions of
  a record are 1, 2, 3 ... without a gap, one for each reseal.
- **No lost receipts.** Each answer that a client ever got has its receipt in the database, and the receipt proves it
  under the key that the boot's attestation document binds. The chain of a boot that was not killed is whole from
  number 1 to its last.
- **No leaked reservations.** When it is quiet, usage equals the sum over the distinct requests that succeeded, nothing
  is held, a restart of the enclave changes nothing, and of requests sent at once exactly as many pass as the limit
  leaves. The anchor is `host`: the sealed snapshot is stored in the transaction of the receipt.

The designated requests take turns: a signature that counts against two limits, a new key, a reseal, and a signature
that needs an approval. So does what becomes of the message at the step: it passes and the kill follows at once; the
kill comes first and the message goes on to whoever is left; it is lost and its connection ends; or it is held up until
the killed part is back (at most four seconds), and goes on then. {clients} other clients sign all the time with keys of
their own, under a limit; what they are told is judged like the rest.

{summary}

| {head} |
|{rule}|
{rows}

Receipts that no client was told of can die with a killed enclave: it had decided, and its host had neither the answer
nor, five seconds later, the chance to fetch the receipt. In these runs {unheard} such numbers are missing in the chains
of killed enclaves, each before a receipt that did arrive; an audit names them. For none of them did an answer leave.

## The steps

{steps}

Steps are recognised on the wire, not by time: relays between client, host, enclave, PostgreSQL and KMS cut the streams
into messages (HTTP, frames, the PostgreSQL protocol, TLS records) and look for the request's id; the KMS steps are the
records that carry an attestation document and its answer while the request is at the enclave.

## Again

    adytum bench crash --repeats 20 --json > crash.json      # about an hour on two cores
    adytum bench crash --page crash.json > docs/reference/crash-matrix.md
    adytum bench crash --steps commit --killed host --repeats 4
"""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """`repeats`: kills that were asked for in each cell."""

    repeats: int
    cells: list[CellResult]

    @property
    def failures(self) -> int:
        return sum(cell.failures + (self.repeats - cell.kills) for cell in self.cells)


async def run(
    directory: Path,
    points: Sequence[Point],
    victims: Sequence[Victim],
    repeats: int,
    told: Callable[[Report], None],
) -> Report:
    """Each cell in a deployment of its own. `told` gets the report so far, after each. A cell whose deployment does not
    come up, or not back, counts as failed."""
    cells: list[CellResult] = []
    for point in points:
        for victim in victims:
            place = directory / f"{point.value}-{victim.value}"
            try:
                cells.append(await run_cell(place, point, victim, repeats))
            except (OSError, RuntimeError, TimeoutError, AdytumError, httpx.HTTPError) as error:
                cells.append(broken(point, victim, f"{type(error).__name__}: {error}"))
            shutil.rmtree(place, ignore_errors=True)
            told(Report(repeats=repeats, cells=cells))
    return Report(repeats=repeats, cells=cells)


def merged(parts: Sequence[Report]) -> Report:
    """One report of a run in parts, in the matrix's order. Of a cell that was run again the later result counts."""
    order = {(point.value, victim.value): (n, m) for n, point in enumerate(Point) for m, victim in enumerate(Victim)}
    newest = {(cell.point, cell.victim): cell for part in parts for cell in part.cells}
    cells = [newest[place] for place in sorted(newest, key=order.__getitem__)]
    return Report(repeats=min(part.repeats for part in parts), cells=cells)


def show(report: Report, console: Console) -> None:
    """As a table."""
    shown = table(*(name.upper() for name in _COLUMNS), rows=[_row(cell) for cell in report.cells])
    console.print(shown)
    console.print(_summary(report))
    for cell in report.cells:
        for problem in cell.problems:
            console.print(f"{cell.point}, {cell.victim}: {problem}", markup=False)


def page(report: Report) -> str:
    """The reference page."""
    rows = [[str(value) for value in _row(cell)] for cell in report.cells]
    return _PAGE.format(
        clients=["No", "One", "Two", "Three", "Four"][CLIENTS] if CLIENTS < 5 else CLIENTS,
        summary=_summary(report),
        head=" | ".join(_COLUMNS),
        rule="|".join(["---", "---", *["--:"] * (len(_COLUMNS) - 2)]),
        rows="\n".join(f"| {' | '.join(row)} |" for row in rows),
        unheard=sum(cell.unheard for cell in report.cells),
        steps="\n".join(f"- **{point.value}**: {EXPLAINED[point]}" for point in Point),
    )


def _row(cell: CellResult) -> tuple[Any, ...]:
    return (
        cell.point, cell.victim, cell.kills, cell.recovered, cell.same_bytes, cell.conflicts + cell.unfinished,
        cell.double_effects, cell.lost_receipts, cell.leaked_reservations, cell.broken_chains,
        f"{cell.median_s:.1f}", f"{cell.worst_s:.1f}",
    )  # fmt: skip


def _summary(report: Report) -> str:
    cells = report.cells
    kills = sum(cell.kills for cell in cells)
    return (
        f"{len(cells)} of {len(Point) * len(Victim)} cells, {kills} kills, "
        f"{sum(cell.load for cell in cells):,} requests of the load meanwhile, "
        f"{sum(cell.receipts for cell in cells):,} receipts verified: {sum(cell.double_effects for cell in cells)} "
        f"double effects, {sum(cell.lost_receipts for cell in cells)} lost receipts, "
        f"{sum(cell.leaked_reservations for cell in cells)} leaked reservations."
    )
