"""The image itself, built twice and booted: same bytes, real measurements, and nothing in it that should not be.

Marked `image`: needs the network once (packages), and a few minutes for QEMU the first time.
"""

from __future__ import annotations

import gzip
import json
import struct
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from adytum_image import inspect
from adytum_image.build import Built, Source, interpreter
from adytum_image.eif import SectionType, measure, read, write
from adytum_image.eif.signature import sign_pcr0
from adytum_image.locks import read_lock
from adytum_image.rig import Rig
from adytum_image.rootfs import contents, cpio
from adytum_image.rootfs.tree import Tree

pytestmark = pytest.mark.image
READY = "adytum-enclave: ready"
BOOT_TIMEOUT_S = 120


def ask_probe(rig: Rig, eif: Path) -> dict:
    """Boot an image with the probe and return its report, with the console added."""
    with rig.boot(eif) as booted:
        booted.wait_for_line(READY, BOOT_TIMEOUT_S)
        with booted.connect(5000, 60) as stream:
            size = struct.unpack(">I", read_exactly(stream, 4))[0]
            report = json.loads(read_exactly(stream, size))
        deadline = time.monotonic() + 5
        while booted.heartbeats < 1 and time.monotonic() < deadline:
            time.sleep(0.05)
        return report | {"console": booted.console_text(), "heartbeats": booted.heartbeats}


def read_exactly(stream, size: int) -> bytes:
    data = b""
    while len(data) < size:
        chunk = stream.recv(size - len(data))
        assert chunk, "the guest closed the connection"
        data += chunk
    return data


@pytest.fixture(scope="module")
def report(rig: Rig, probe: Built, tmp_path_factory) -> dict:
    path = tmp_path_factory.mktemp("probe") / "probe.eif"
    path.write_bytes(probe.eif)
    return ask_probe(rig, path)


def test_two_builds_in_two_folders_are_byte_equal(real: Built, build_copy, store) -> None:
    again = build_copy(lambda root: None)
    if again.eif != real.eif:
        pytest.fail("\n".join(d.text() for d in differences(store, real.eif, again.eif)) or "unmeasured bytes differ")


def test_a_changed_byte_in_a_python_file_changes_pcr0_and_pcr2_and_diff_names_the_file(
    real: Built, build_copy, store
) -> None:
    name = "enclave/src/adytum_enclave/core/phases.py"

    def change(root: Path) -> None:
        text = (root / name).read_bytes()
        at = text.index(b".")  # in the docstring: not even the byte code would have to change
        (root / name).write_bytes(text[:at] + b"!" + text[at + 1 :])

    changed = build_copy(change)
    assert changed.measurements.pcr0 != real.measurements.pcr0
    assert changed.measurements.pcr2 != real.measurements.pcr2
    assert changed.measurements.pcr1 == real.measurements.pcr1
    named = {difference.path for difference in differences(store, real.eif, changed.eif)}
    assert named == {"usr/lib/adytum/adytum_enclave/core/phases.pyc", "usr/share/adytum/contents.json"}


def differences(store, first: bytes, second: bytes) -> list[inspect.Difference]:
    with interpreter(read_lock(Source.find().packages_lock), store) as python:
        return inspect.compare(*(inspect.open_image(data, python) for data in (first, second)))


def test_the_nsm_reports_what_measure_computes(probe: Built, report: dict) -> None:
    assert report["pcrs"]["0"] == probe.measurements.pcr0.hex()
    assert report["pcrs"]["1"] == probe.measurements.pcr1.hex()
    assert report["pcrs"]["2"] == probe.measurements.pcr2.hex()
    assert report["pcrs"]["8"] == bytes(48).hex()


def test_the_nsm_reports_what_measure_computes_for_a_signed_and_repacked_image(
    rig: Rig, probe: Built, written, release_key
) -> None:
    """Another command line, another compression, a third ramdisk, a signature: PCR8 as well."""
    plain = read(probe.eif)
    extra = Tree()
    extra.add_file("etc/extra", b"third ramdisk")
    root = Tree(dict(probe.root.nodes))
    parts = [
        (SectionType.KERNEL, plain.kernel),
        (SectionType.CMDLINE, plain.cmdline + b" adytum.other=1"),
        (SectionType.METADATA, plain.metadata),
        (SectionType.RAMDISK, plain.ramdisks[0]),
        (SectionType.RAMDISK, gzip.compress(cpio.write(root), 1, mtime=0)),
        (SectionType.RAMDISK, gzip.compress(cpio.write(extra), 1, mtime=0)),
    ]
    pcr0 = measure(read(write(parts))).pcr0
    section = sign_pcr0(pcr0, key_pem=release_key[0], certificate_pem=release_key[1], now=datetime.now(UTC))
    signed = write([*parts, (SectionType.SIGNATURE, section)])
    expected = measure(read(signed))
    found = ask_probe(rig, written(signed))["pcrs"]
    assert found == {"0": expected.pcr0.hex(), "1": expected.pcr1.hex(), "2": expected.pcr2.hex(), "8": found["8"]}
    assert found["8"] == expected.pcr8.hex()
    assert expected.pcr0 != probe.measurements.pcr0


@pytest.fixture(scope="module")
def release_key() -> tuple[bytes, bytes]:
    from datetime import timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "release")])
    now = datetime.now(UTC)
    certificate = x509.CertificateBuilder(
        name, name, key.public_key(), 1, now - timedelta(hours=1), now + timedelta(hours=1)
    ).sign(key, hashes.SHA384())
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return private, certificate.public_bytes(pem)


def test_the_enclave_program_has_no_rights_left(report: dict) -> None:
    status = report["status"]
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[name][0], 16) == 0, name
    assert status["Uid"] == status["Gid"] == ["65532"] * 4
    assert status["Groups"] == []
    assert status["NoNewPrivs"] == ["1"]
    assert report["pid"] == 1
    refused = report["attempts"]
    assert refused == {
        "write /": 30,  # EROFS
        "write /proc/sys": 30,
        "open /dev/console": 13,  # EACCES
        "run a shell": 2,  # ENOENT
        "become root": 1,  # EPERM
        "internet socket": 101,  # ENETUNREACH
    }


def test_the_guest_holds_what_admission_asks_for(report: dict) -> None:
    assert report["rng"] == "nsm-hwrng"
    assert report["clock"] in {"tsc", "kvm-clock"}
    assert report["core"] == [0, 0]
    assert report["memlock"] == [-1, -1]
    assert report["mlockall"] == 0
    assert report["modules_disabled"] == "1"
    assert report["core_pattern"] == ""


def test_only_the_devices_mounts_and_modules_that_are_needed_are_there(report: dict) -> None:
    assert report["devices"] == ["console", "nsm", "null", "random", "urandom", "zero"]
    mounts = {place: (kind, options.split(",")) for place, kind, options in report["mounts"]}
    assert mounts.keys() == {"/", "/proc", "/sys"}
    for _, options in mounts.values():
        assert "ro" in options
        assert "nosuid" in options
    assert report["modules"] == [
        "nsm",
        "virtio_mmio",
        "vmw_vsock_virtio_transport",
        "vmw_vsock_virtio_transport_common",
        "vsock",
    ]


def test_the_interpreter_is_isolated_and_the_allocator_overwrites(report: dict) -> None:
    assert report["path"] == [
        "/usr/lib/python311.zip",
        "/usr/lib/python3.11",
        "/usr/lib/python3.11/lib-dynload",
        "/usr/lib/adytum",
    ]
    assert report["flags"] == {"no_site": 1, "no_user_site": 1, "safe_path": True}
    assert report["environment"] == {
        "LANG": "C.UTF-8",
        "LD_BIND_NOW": "1",
        "GLIBC_TUNABLES": "glibc.malloc.perturb=170:glibc.malloc.tcache_count=0",
        "PYTHONMALLOC": "malloc",
    }


def test_the_console_shows_coded_events_only(report: dict) -> None:
    assert report["heartbeats"] == 1
    lines = [line for line in report["console"].splitlines() if line.strip()]
    events = [line for line in lines if line.startswith(("adytum-init: ", "adytum-enclave: "))]
    assert events == [
        "adytum-init: MODULES_LOADED",
        "adytum-init: HEARTBEAT_ANSWERED",
        "adytum-init: READY",
        "adytum-enclave: ready",
    ]
    # before the kernel knows its command line, its decompressor may say a line of its own
    assert set(lines) - set(events) <= {"Poking KASLR using RDRAND RDTSC...", "Probing EDD (edd=off to disable)... ok"}


def test_no_stand_in_no_host_and_no_shell_is_in_the_image(real: Built, report: dict) -> None:
    contents.check(real.root)
    files = [path for path, _ in real.root.files()]
    assert not [path for path in files if path.endswith((".py", ".sh", ".pl"))], (
        "only byte code is in the second ramdisk"
    )
    programs = [path for path, node in real.root if node.is_file and node.data.startswith((b"#!", b"\x7fELF"))]
    assert [path for path in programs if ".so" not in path] == ["usr/bin/python3.11"]
    packages = {path.split("/")[3] for path in files if path.startswith("usr/lib/adytum/adytum")}
    assert packages == {"adytum_wire", "adytum_policy", "adytum_enclave"}
    outside = set(report["files"]) - {"/" + path for path, node in real.root if not node.is_directory}
    assert outside == {"/init"} | {path for path in report["files"] if path.startswith("/modules/")}
