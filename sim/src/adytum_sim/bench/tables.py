"""Results as tables for a person."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from adytum_sim.bench.enclave import Report
from adytum_sim.bench.http import HttpReport


def show_enclave(report: Report, console: Console) -> None:
    table = Table(title="one enclave process, one connection", title_justify="left", padding=(0, 0))
    table.add_column("request", overflow="fold")
    table.add_column("depth", justify="right", min_width=5)
    for name in ("a second", "p50 ms", "p95 ms", "p99 ms", "of sign", "of needed", "by cpu"):
        table.add_column(name, justify="right", min_width=6)
    for line in report.measured:
        case = line.case
        key = ", strict" if case.strict else ""
        table.add_row(
            f"{case.scheme.value} {case.kind.value}, {case.stamp.value}{key}",
            str(case.depth),
            f"{line.rate:,.0f}",
            f"{line.p50_ms:.2f}",
            f"{line.p95_ms:.2f}",
            f"{line.p99_ms:.2f}",
            f"{line.of_sign:.2f}",
            f"{line.of_needed:.2f}",
            f"{line.of_needed_cpu:.2f}",
        )
    console.print(table)
    console.print(
        "of sign: rate / bare signing on one core. of needed: rate / what the primitives of a request allow.\n"
        "by cpu: processor time of those primitives / processor time of the enclave, for one request.\n"
    )
    show_primitives(report.primitives_us, console)


def show_http(report: HttpReport, console: Console) -> None:
    table = Table(title="HTTP, durable receipt before the answer", title_justify="left")
    for name in (
        "clients",
        "a second",
        "p50 ms",
        "p95 ms",
        "p99 ms",
        "errors",
        "of needed",
        "service us",
        "enclave us",
    ):
        table.add_column(name, justify="right")
    for line in report.measured:
        table.add_row(
            str(line.clients),
            f"{line.rate:,.0f}",
            f"{line.p50_ms:.2f}",
            f"{line.p95_ms:.2f}",
            f"{line.p99_ms:.2f}",
            str(line.errors),
            f"{line.service_us:.0f}",
            f"{line.enclave_us:.0f}",
        )
    console.print(table)
    show_primitives(report.primitives_us, console)


def show_primitives(prices: dict[str, float], console: Console) -> None:
    table = Table(title="bare primitives, one thread, in the same minutes", title_justify="left")
    table.add_column("primitive")
    table.add_column("us", justify="right")
    table.add_column("a second", justify="right")
    for name, microseconds in prices.items():
        table.add_row(name, f"{microseconds:.1f}", f"{1e6 / microseconds:,.0f}")
    console.print(table)
