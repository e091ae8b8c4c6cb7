"""Get or build what the rig needs, into the cache outside the tree, and say what is done.

QEMU: Debian's own binary has no `nitro-enclave` machine (it is built without libcbor), so it is built from Debian's
source tarball with that one machine: some 1300 files, three minutes on two cores, once. The vsock device
and the firmware are Debian packages, unpacked and not installed.

As root, missing build dependencies are installed with apt-get; otherwise they are named and nothing is touched.
"""

from __future__ import annotations

import hashlib
import io
import lzma
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from adytum_image.errors import RigError
from adytum_image.fetch import Store, write_atomically
from adytum_image.locks import Lock
from adytum_image.rig.machine import Rig
from adytum_image.rootfs.debs import read_deb

BUILD_PACKAGES: Final = (
    "gcc",
    "libc6-dev",
    "libcbor-dev",
    "libfdt-dev",
    "libglib2.0-dev",
    "libgnutls28-dev",
    "ninja-build",
    "pkg-config",
    "zlib1g-dev",
)
_PKG_CONFIG: Final = ("libcbor", "glib-2.0", "gnutls", "zlib")
_PROGRAMS: Final = ("gcc", "ninja", "pkg-config")
_FDT_HEADER: Final = Path("/usr/include/libfdt.h")
_PYTHON_TOOLS: Final = Path(__file__).with_name("qemu-build.lock")
_DEVICES: Final = "CONFIG_NITRO_ENCLAVE=y\n"
_CONFIGURE: Final = (
    "--target-list=x86_64-softmmu",
    "--without-default-features",
    "--without-default-devices",
    "--with-devices-x86_64=adytum",
    "--enable-tcg",
    "--enable-kvm",
    "--enable-fdt=system",
    "--enable-gnutls",
    "--enable-libcbor",
    "--enable-vhost-user",
    "--enable-vhost-kernel",
    "--disable-docs",
    "--disable-tools",
    "--disable-guest-agent",
    "--disable-download",
    "--disable-install-blobs",
    "--disable-werror",
    "--disable-debug-info",
)
_KVM_TRIAL_S: Final = 2.0

Say = Callable[[str], None]


def prepare(lock: Lock, store: Store, say: Say = lambda _line: None, accelerator: str | None = None) -> Rig:
    """The rig, ready to boot images; `accelerator` is "kvm" or "tcg", by default the one that works.

    Errors: RigError, BuildError(FETCH_FAILED).
    """
    if platform.machine() != "x86_64" or platform.system() != "Linux":
        raise RigError("MACHINE_UNSUPPORTED", "the rig runs on Linux on x86-64")
    rig = store.root / "rig"
    qemu = _qemu(lock, store, rig, say)
    vsock = _unpack(lock, store, "vhost-device-vsock", rig) / "usr/bin/vhost-device-vsock"
    firmware = (
        _unpack(lock, store, "qemu-system-data", rig) / "usr/share/qemu",
        _unpack(lock, store, "seabios", rig) / "usr/share/seabios",
    )
    accelerator = accelerator or ("kvm" if kvm_works(qemu, firmware) else "tcg")
    say(f"rig ready: {accelerator}")
    return Rig(qemu=qemu, vsock_device=vsock, firmware=firmware, accelerator=accelerator)


def kvm_works(qemu: Path, firmware: tuple[Path, ...], device: Path = Path("/dev/kvm")) -> bool:
    """True where QEMU can start a processor under KVM. To open the device is not enough: where virtual machines are
    nested, some let a machine be created and then refuse its registers."""
    if not os.access(device, os.R_OK | os.W_OK):
        return False
    command = [str(qemu), "-M", "microvm", "-accel", "kvm", "-cpu", "host", "-m", "64M", "-nodefaults", "-S"]
    command += ["-display", "none", *(part for folder in firmware for part in ("-L", str(folder)))]
    process = subprocess.Popen(  # noqa: S603
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        process.wait(_KVM_TRIAL_S)
    except subprocess.TimeoutExpired:
        return True  # it runs
    finally:
        process.kill()
        process.wait()
    return False


def _unpack(lock: Lock, store: Store, name: str, rig: Path) -> Path:
    """The folder that holds the files of a locked package."""
    package = lock.one(name)
    folder = rig / package.sha256
    if not (folder / "complete").is_file():
        for path, node in read_deb(store.package(package)):
            if node.is_file:
                write_atomically(folder / path, node.data, node.mode & 0o777)
            elif node.is_link and not (folder / path).is_symlink():
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).symlink_to(node.data.decode("ascii"))
        write_atomically(folder / "complete", b"")
    return folder


def _qemu(lock: Lock, store: Store, rig: Path, say: Say) -> Path:
    source = lock.one("qemu-source")
    recipe = "\n".join([source.sha256, *_CONFIGURE, _DEVICES, _PYTHON_TOOLS.read_text("ascii")])
    binary = rig / f"qemu-{hashlib.sha256(recipe.encode()).hexdigest()[:16]}" / "qemu-system-x86_64"
    if not _runs(binary):
        _build_dependencies(say)
        rig.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=rig, prefix="build-") as folder:
            built = _build_qemu(store.package(source), Path(folder), say)
            write_atomically(binary, built.read_bytes(), 0o755)
        if not _runs(binary):
            raise RigError("QEMU_BUILD", "the binary that was built does not offer the nitro-enclave machine")
    return binary


def _runs(binary: Path) -> bool:
    """Whether the binary is there, finds its libraries and has the machine."""
    if not binary.is_file():
        return False
    done = subprocess.run([str(binary), "-M", "help"], capture_output=True, text=True, check=False)  # noqa: S603
    return done.returncode == 0 and "nitro-enclave" in done.stdout


def _build_dependencies(say: Say) -> None:
    if not _missing():
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise RigError("BUILD_DEPENDENCIES", f"install these as root, then try again: {' '.join(BUILD_PACKAGES)}")
    say(f"apt-get install {' '.join(BUILD_PACKAGES)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "-y", "--no-install-recommends", *BUILD_PACKAGES]
    for command in (["apt-get", "update"], install):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode or _missing():
        raise RigError("BUILD_DEPENDENCIES", f"apt-get could not install them: {done.stderr.strip()[-300:]}")


def _missing() -> list[str]:
    missing = [name for name in _PROGRAMS if shutil.which(name) is None]
    if "pkg-config" not in missing:
        for module in _PKG_CONFIG:
            command = ["pkg-config", "--exists", module]
            if subprocess.run(command, capture_output=True, check=False).returncode:  # noqa: S603
                missing.append(module)
    if not _FDT_HEADER.is_file():
        missing.append("libfdt")
    return missing


def _build_qemu(tarball: bytes, folder: Path, say: Say) -> Path:
    say("build QEMU from Debian's source, once: about three minutes on two cores")
    with tarfile.open(fileobj=io.BytesIO(lzma.decompress(tarball)), mode="r:") as tar:
        tar.extractall(folder / "src", filter="tar")
    (root,) = (folder / "src").iterdir()
    # the "+ds" tarball leaves the edk2 images out; the build asks for them all the same
    blobs = root / "pc-bios" / "meson.build"
    text = blobs.read_text("utf-8")
    if "if unpack_edk2_blobs" not in text:
        raise RigError("QEMU_BUILD", "pc-bios/meson.build is not as expected")
    blobs.write_text(text.replace("if unpack_edk2_blobs", "if false", 1), "utf-8")
    (root / "configs/devices/x86_64-softmmu/adytum.mak").write_text(_DEVICES)
    build = root / "build"
    build.mkdir()
    python = folder / "python"
    log = folder.parent / "qemu-build.log"
    with log.open("wb") as output:
        _step([sys.executable, "-m", "venv", str(python)], folder, output)
        pip = [
            str(python / "bin/python"),
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
        ]
        _step([*pip, "--requirement", str(_PYTHON_TOOLS)], folder, output)
        _step(["../configure", f"--python={python / 'bin/python'}", *_CONFIGURE], build, output)
        _step(["nice", "-n", "10", "ninja", f"-j{os.cpu_count() or 1}", "qemu-system-x86_64"], build, output)
    return build / "qemu-system-x86_64"


def _step(command: list[str], folder: Path, output: io.BufferedWriter) -> None:
    done = subprocess.run(command, cwd=folder, stdout=output, stderr=output, check=False)  # noqa: S603
    if done.returncode:
        raise RigError("QEMU_BUILD", f"{Path(command[0]).name} failed, see {output.name}")
