"""`adytum image ...`: build, measure, describe, compare, sign and boot the enclave image.

Exit status: 0 done, 1 refused or failed (a stable code and a sentence), 2 wrong usage; `diff` also ends with 1 when the
images measure differently. `--json` prints one JSON object. Progress goes to standard error.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click

from adytum_image import build as builder
from adytum_image import inspect, records, relock
from adytum_image.eif import measure as measure_eif
from adytum_image.eif import read, rewrite
from adytum_image.eif.signature import sign_pcr0
from adytum_image.errors import BuildError, CpioError, EifError, RigError
from adytum_image.fetch import Store, apt_mirrors, cache_root, write_atomically
from adytum_image.locks import read_lock, write_lock

FILE: Final = click.Path(exists=True, dir_okay=False, path_type=Path)
FOLDER: Final = click.Path(file_okay=False, path_type=Path)
_READY: Final = "adytum-enclave: ready"

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
mirror_option = click.option("--mirror", "mirrors", multiple=True, help="Another Debian archive to fetch from.")
source_option = click.option("--source", type=FOLDER, help="The checkout to build from (default: this one).")


def _say(line: str) -> None:
    click.echo(line, err=True)


def _show(value: dict[str, Any], as_json: bool, text: Callable[[], str]) -> None:
    click.echo(json.dumps(value, indent=1, sort_keys=True) if as_json else text())


@contextmanager
def _failures() -> Iterator[None]:
    """Our own errors as one line and exit status 1; anything else is a fault and shows as one."""
    try:
        yield
    except (EifError, BuildError, RigError, CpioError) as error:
        raise click.ClickException(str(error)) from None


def _store(mirrors: tuple[str, ...]) -> Store:
    known = apt_mirrors()
    more = [mirror.rstrip("/") for mirror in mirrors]
    return Store(cache_root(), {name: [*roots, *more] for name, roots in known.items()}, _say)


def _source(folder: Path | None) -> builder.Source:
    return builder.Source.find() if folder is None else builder.Source.find(folder.resolve())


def _open(source: builder.Source, store: Store, *files: Path) -> list[inspect.Image]:
    with builder.interpreter(read_lock(source.packages_lock), store) as python:
        return [inspect.open_image(file.read_bytes(), python) for file in files]


def _pcrs(values: dict[str, str]) -> str:
    return "\n".join(f"{name}  {value}" for name, value in values.items())


@click.group(name="image")
def image() -> None:
    """Build, measure, describe, compare and boot the enclave image (EIF)."""


@image.command()
@click.option("--blobs", type=FOLDER, help="AWS's bzImage, init, nsm.ko and cmdline, for real Nitro hardware.")
@click.option("--kernel", type=FILE, help="A Debian linux-image package instead of the locked one.")
@click.option("--out", type=FOLDER, default=Path("out/image"), show_default=True, help="Where the files go.")
@click.option("--sign", "signer", type=(FILE, FILE), help="Private key and certificate (PEM), for PCR8.")
@mirror_option
@source_option
@json_option
def build(
    blobs: Path | None,
    kernel: Path | None,
    out: Path,
    signer: tuple[Path, Path] | None,
    mirrors: tuple[str, ...],
    source: Path | None,
    as_json: bool,
) -> None:
    """Build the image from the locks, and what is said of it.

    Writes adytum.eif, measurements.json, provenance.json and sbom.cdx.json.
    """
    if blobs is not None and kernel is not None:
        raise click.UsageError("--blobs and --kernel exclude each other")
    with _failures():
        built = builder.build(_source(source), _store(mirrors), builder.Options(blobs=blobs, kernel=kernel), _say)
        eif = built.eif
        if signer is not None:
            key, certificate = (file.read_bytes() for file in signer)
            pcr0 = built.measurements.pcr0
            section = sign_pcr0(pcr0, key_pem=key, certificate_pem=certificate, now=datetime.now(UTC))
            eif = rewrite(read(eif), signature=section)
        measurements = measure_eif(read(eif))
        write_atomically(out / "adytum.eif", eif)
        write_atomically(out / "measurements.json", records.dump(measurements.as_release()))
        write_atomically(out / "provenance.json", records.dump({**built.provenance, **measurements.as_release()}))
        write_atomically(out / "sbom.cdx.json", records.dump(built.sbom))
    value = {"image": str(out / "adytum.eif"), "size": len(eif), **measurements.as_release()}
    _show(value, as_json, lambda: f"{out / 'adytum.eif'}  {len(eif)} bytes\n{_pcrs(measurements.as_hex())}")


@image.command()
@click.argument("file", type=FILE)
@json_option
def measure(file: Path, as_json: bool) -> None:
    """Compute PCR0, PCR1, PCR2 (and PCR8) of an image from its file."""
    with _failures():
        measurements = measure_eif(read(file.read_bytes()))
    _show(dict(measurements.as_release()), as_json, lambda: _pcrs(measurements.as_hex()))


@image.command()
@click.argument("file", type=FILE)
@mirror_option
@source_option
@json_option
def describe(file: Path, mirrors: tuple[str, ...], source: Path | None, as_json: bool) -> None:
    """Show an image's sections, command line, signature and metadata. The metadata is not measured."""
    with _failures():
        (opened,) = _open(_source(source), _store(mirrors), file)
        value = inspect.describe(opened)
    _show(value, as_json, lambda: json.dumps(value, indent=2))


@image.command()
@click.argument("first", type=FILE)
@click.argument("second", type=FILE)
@mirror_option
@source_option
@json_option
@click.pass_context
def diff(
    ctx: click.Context, first: Path, second: Path, mirrors: tuple[str, ...], source: Path | None, as_json: bool
) -> None:
    """Say why two images measure differently: section, file, byte. Exit status 1 when they do."""
    with _failures():
        found = inspect.compare(*_open(_source(source), _store(mirrors), first, second))
    rows = [{"section": d.section, "path": d.path, "at": d.at, "what": d.what, "pcrs": d.pcrs} for d in found]
    lines = [difference.text() for difference in found] or ["the images measure the same"]
    _show({"differences": rows}, as_json, lambda: "\n".join(lines))
    ctx.exit(1 if found else 0)


@image.command()
@click.argument("file", type=FILE)
@mirror_option
@source_option
def sbom(file: Path, mirrors: tuple[str, ...], source: Path | None) -> None:
    """Print the bill of materials of an image (CycloneDX JSON)."""
    with _failures():
        (opened,) = _open(_source(source), _store(mirrors), file)
        click.echo(records.dump(records.sbom(opened.contents(), opened.measurements)), nl=False)


@image.command()
@click.argument("file", type=FILE)
@click.option("--memory", type=click.IntRange(64, 65536), default=512, show_default=True, help="MiB for the guest.")
@click.option("--accel", type=click.Choice(["tcg", "kvm"]), help="Instead of the one that works here.")
@click.option("--timeout", type=click.IntRange(1, 600), default=120, show_default=True, help="Seconds to wait.")
@mirror_option
@source_option
@json_option
def boot(
    file: Path,
    memory: int,
    accel: str | None,
    timeout: int,
    mirrors: tuple[str, ...],
    source: Path | None,
    as_json: bool,
) -> None:
    """Boot an image in the rig (QEMU, no AWS), until Ctrl-C. Prints where its vsock is."""
    from adytum_image.rig import Machine, prepare

    with _failures():
        rig = prepare(read_lock(_source(source).packages_lock), _store(mirrors), _say, accelerator=accel)
        with rig.boot(file, Machine(memory_mib=memory)) as booted:
            seconds = booted.wait_for_line(_READY, timeout)
            value = {
                "vsock": str(booted.vsock),
                "console": str(booted.console),
                "accelerator": rig.accelerator,
                "ready_after_s": round(seconds, 1),
            }
            _show(value, as_json, lambda: "\n".join(f"{name}: {text}" for name, text in value.items()))
            try:
                while booted.running:
                    time.sleep(1)
            except KeyboardInterrupt:
                return
            raise RigError("ENDED", f"the machine ended:\n{booted.console_text()[-2000:]}")


@image.command()
@mirror_option
@source_option
def rig(mirrors: tuple[str, ...], source: Path | None) -> None:
    """Get or build what `boot` needs.

    That is QEMU with the nitro-enclave machine, the vsock device and the firmware.
    """
    from adytum_image.rig import prepare

    with _failures():
        prepare(read_lock(_source(source).packages_lock), _store(mirrors), _say)


@image.command()
@source_option
def lock(source: Path | None) -> None:
    """Renew image/packages.lock from this machine's Debian mirrors. The measurements change with it."""
    with _failures():
        where = _source(source).packages_lock
        renewed = relock.renew(cache_root(), apt_mirrors(), _say)
        write_atomically(where, write_lock(renewed).encode("ascii"))
    click.echo(f"{where}: {len(renewed.packages)} packages")
