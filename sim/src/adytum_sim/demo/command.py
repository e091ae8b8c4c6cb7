"""The command `adytum demo`."""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console

from adytum_sim.demo import evidence
from adytum_sim.demo.evidence import Files
from adytum_sim.demo.story import DemoError, Fact, Report, Result, tell
from adytum_sim.host import running_host
from adytum_sim.stack import Guest, running_stack
from adytum_wire.errors import AdytumError


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
@click.option(
    "--enclave",
    type=click.Choice(["process", "qemu"]),
    default="process",
    show_default=True,
    help="The trusted program as a process, or as the real image, booted in QEMU.",
)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Keep the evidence in this folder.")
def demo(as_json: bool, enclave: str, out: Path | None) -> None:
    """One key, one signature, one refusal, on this machine, with nothing of AWS.

    Starts PostgreSQL, a KMS stand-in, an enclave process and the host service; ends with "demo: ok" when everything
    held, exit status 1 when something did not. With --enclave qemu it builds and boots the enclave image instead (the
    first time, QEMU too: minutes).
    """
    console = Console(quiet=as_json, highlight=False)
    started = time.monotonic()
    # Unix sockets need short paths, whatever TMPDIR is.
    work = Path(tempfile.mkdtemp(prefix="adytum-", dir="/tmp"))
    work.chmod(0o711)  # as root, PostgreSQL runs as another user, who must be able to enter
    try:
        files = Files(out or work / "out")
        files.directory.mkdir(parents=True, exist_ok=True)
        result = asyncio.run(_run(work, files, _printer(console), _image(work) if enclave == "qemu" else None))
    except (DemoError, AdytumError, RuntimeError, OSError) as error:
        click.echo(f"demo: failed: {error}", err=True)
        sys.exit(1)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    if as_json:
        click.echo(json.dumps(asdict(result)))
    if out is not None:
        console.print(f"\nevidence in {out}")
    console.print(f"\n[bold green]demo: ok[/]  ({time.monotonic() - started:.1f} s)")


def _image(work: Path) -> Guest:
    """Build the image and the rig. Errors: RuntimeError, which says what is missing."""
    try:
        from adytum_image.errors import BuildError, EifError, RigError
        from adytum_sim.guest import GuestEnclave, build_image
    except ImportError:
        raise RuntimeError("--enclave qemu needs the distribution adytum-image") from None
    try:
        rig, image = build_image(work)
    except (BuildError, EifError, RigError) as error:
        raise RuntimeError(str(error)) from None
    return Guest(image.pcrs, lambda pki: GuestEnclave(rig, image, pki))


async def _run(work: Path, files: Files, report: Report, guest: Guest | None) -> Result:
    log_file = work / "logs.txt"
    handler = logging.FileHandler(log_file)
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)  # everything that any library would say
    try:
        async with (
            running_stack(work / "s", witness=True, configure=False, guest=guest) as stack,
            running_host(stack, work) as host,
        ):
            result = await tell(host, report)
            handler.flush()
            logs = log_file.read_text() + "\n".join(stack.enclave.log) + "\n"
            await evidence.collect(host, result, files, logs)
            evidence.verify(files, report)
            await evidence.prove_absence(host, files, report)
            return result
    finally:
        root.removeHandler(handler)
        handler.close()


def _printer(console: Console) -> Report:
    """Print facts as they come, grouped by step."""
    seen: list[str] = []

    def show(fact: Fact) -> None:
        if fact.step not in seen:
            seen.append(fact.step)
            console.print(f"\n[bold cyan]{fact.step}[/]")
        console.print(f"  {fact.name:<24} [dim]{fact.value}[/]", soft_wrap=True)

    return show
