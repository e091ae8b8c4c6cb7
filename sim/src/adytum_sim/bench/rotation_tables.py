"""What `adytum bench rotation` measured, as tables for a person."""

from __future__ import annotations

import msgspec
from msgspec import Struct
from rich.console import Console
from rich.table import Table

from adytum.cli.output import table
from adytum_sim.bench.rotation import RotationMeasured


def show(measured: list[RotationMeasured], console: Console) -> None:
    rates: Table = table(
        "RECORDS", "SECONDS", "A SECOND", "FIRST FIFTH", "LAST FIFTH", "STATE", "RESEALED", "SIGNED", "FAILED", "WRONG",
        "KMS CALLS", "EACH MS", "IN FLIGHT", "DOCUMENTS",
        rows=[
            (m.records, f"{m.seconds:.1f}", f"{m.rate:.1f}", f"{m.first_rate:.1f}", f"{m.last_rate:.1f}", m.state,
             m.resealed, m.signatures.signed, m.signatures.failed, m.signatures.wrong, m.kms.calls,
             f"{m.kms.each_ms:.1f}", f"{m.kms.in_flight:.1f}", m.kms.documents)
            for m in measured
        ],
    )  # fmt: skip
    console.print(rates)
    console.print("\nprocessor time for one record, milliseconds:")
    console.print(_each([m.split for m in measured], measured))
    console.print("\nof which the enclave, as its stack was seen, milliseconds:")
    kinds = list(measured[0].enclave)
    rows = [(m.records, *(f"{m.enclave[kind]:.2f}" for kind in kinds)) for m in measured]
    console.print(table("RECORDS", *kinds, rows=rows))
    console.print("\ncores that a part was on, on average:")
    console.print(_each([m.busy for m in measured], measured))
    console.print("\nand with what it waited for one:")
    console.print(_each([m.wanted for m in measured], measured))
    for m in measured:
        console.print(f"{m.records} records: other programs were on {m.others:.2f} of {m.cores} cores")
    for m in measured:
        if m.kills:
            console.print(f"\nkilled while {m.records} records were rotated:")
            console.print(
                table(
                    "PART", "KILLS", "UP AGAIN S", "WORST", "RATE BACK S", "WORST", "NEVER",
                    rows=[
                        (one.part, one.kills, f"{one.down_s:.1f}", f"{one.down_worst_s:.1f}", f"{one.back_s:.1f}",
                         f"{one.back_worst_s:.1f}", one.never)
                        for one in m.kills
                    ],
                )
            )  # fmt: skip
    console.print("\nwhat was left behind:")
    names = [name for name in _names(measured[0].verdict) if name != "problems"]
    console.print(
        table(*names, "opened", rows=[(*(getattr(m.verdict, n) for n in names), m.opened.opened) for m in measured])
    )
    for m in measured:
        for problem in (*m.verdict.problems, *m.signatures.problems, *m.opened.problems, *m.stopped):
            console.print(f"  {problem}")


def _names(one: Struct) -> list[str]:
    return [found.name for found in msgspec.structs.fields(one)]


def _each(found: list[Struct], measured: list[RotationMeasured]) -> Table:
    names = _names(found[0])
    rows = [
        (m.records, *(f"{getattr(one, name):.2f}" for name in names)) for m, one in zip(measured, found, strict=True)
    ]
    return table("RECORDS", *names, rows=rows)
