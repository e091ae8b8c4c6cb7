"""The kernel, its command line and the first ramdisk: what PCR1 measures.

Two sources. Debian's cloud kernel boots under QEMU; it cannot find its devices on real Nitro hardware, where AWS's own
files are needed (`--blobs`, from the package aws-nitro-enclaves-cli): bzImage, init, nsm.ko, cmdline. With these the
first ramdisk holds AWS's init, which starts ours from the second.
"""

from __future__ import annotations

import lzma
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from adytum_image.errors import BuildError
from adytum_image.locks import Package
from adytum_image.rootfs.debs import read_deb
from adytum_image.rootfs.tree import Tree

# in the order of loading; the number in the file name keeps it
MODULES: Final = (
    "drivers/virtio/virtio_mmio",
    "net/vmw_vsock/vsock",
    "net/vmw_vsock/vmw_vsock_virtio_transport_common",
    "net/vmw_vsock/vmw_vsock_virtio_transport",
    "drivers/misc/nsm",
)
# quiet: a serial port is slow and the console shows coded events only. panic=-1: who has no first program reboots.
# init_on_free: pages that held secrets are wiped by the kernel as well. The rest is what AWS's own command line says.
CMDLINE: Final = (
    b"console=ttyS0 quiet loglevel=0 reboot=t panic=-1 i8042.noaux i8042.nomux i8042.nopnp i8042.dumbkbd"
    b" random.trust_cpu=on init_on_alloc=1 init_on_free=1 slab_nomerge page_alloc.shuffle=1 module.sig_enforce=1"
    b" lockdown=confidentiality"
)
INIT: Final = Path(__file__).parent.parent / "guest" / "init.py"


@dataclass(frozen=True, slots=True, kw_only=True)
class Boot:
    """`kernel`, `cmdline`: sections of the image. `ramdisk`: the first. `aws`: the root is /rootfs of the second.

    `release`: for the metadata. `package`: where the kernel comes from, None for files that no lock pins.
    """

    kernel: bytes
    cmdline: bytes
    ramdisk: Tree
    release: str
    aws: bool
    package: Package | None = None


def from_debian(deb: bytes, locked: Package | None = None) -> Boot:
    """From the bytes of a linux-image package, which `locked` describes where it is the lock's.

    Errors: BuildError(KERNEL_INVALID).
    """
    package = read_deb(deb)
    images = [path for path in package.nodes if path.startswith("boot/vmlinuz-")]
    if len(images) != 1:
        raise BuildError("KERNEL_INVALID", "no single kernel in the package")
    release = images[0].removeprefix("boot/vmlinuz-")
    ramdisk = Tree()
    ramdisk.add_file("init", INIT.read_bytes(), 0o755)
    for place in ("dev", "proc", "sys"):
        ramdisk.add_directory(place)
    for number, module in enumerate(MODULES):
        ramdisk.add_file(f"modules/{number}-{Path(module).name}.ko", _module(package, release, module))
    image = package.nodes[images[0]].data
    return Boot(kernel=image, cmdline=CMDLINE, ramdisk=ramdisk, release=release, aws=False, package=locked)


def _module(package: Tree, release: str, module: str) -> bytes:
    for suffix in (".ko.xz", ".ko"):
        for prefix in ("lib", "usr/lib"):
            path = f"{prefix}/modules/{release}/kernel/{module}{suffix}"
            if path in package:
                data = package.nodes[path].data
                return lzma.decompress(data) if suffix == ".ko.xz" else data
    raise BuildError("KERNEL_INVALID", f"no module {module}")


def from_blobs(folder: Path) -> Boot:
    """From AWS's files. Errors: BuildError(BLOBS_INVALID) where one is missing."""
    blobs = {}
    for name in ("bzImage", "cmdline", "init", "nsm.ko"):
        if not (folder / name).is_file():
            raise BuildError("BLOBS_INVALID", f"{name} is missing")
        blobs[name] = (folder / name).read_bytes()
    ramdisk = Tree()
    ramdisk.add_file("init", blobs["init"], 0o755)
    ramdisk.add_file("nsm.ko", blobs["nsm.ko"])
    return Boot(
        kernel=blobs["bzImage"], cmdline=blobs["cmdline"].rstrip(b"\0\n"), ramdisk=ramdisk, release="aws", aws=True
    )
