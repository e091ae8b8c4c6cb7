"""The wall around the image, and the records about it."""

from __future__ import annotations

import gzip
import json

import pytest

from adytum_image import inspect, records
from adytum_image.build import Source
from adytum_image.eif import SectionType, measure, read, write
from adytum_image.errors import BuildError
from adytum_image.inspect import compare, describe, open_image
from adytum_image.locks import Package
from adytum_image.rootfs import contents, cpio, kernel
from adytum_image.rootfs.tree import Node, Tree
from adytum_image.rootfs.wheels import Wheel
from adytum_verify import parse_release


def tree_of(**files: bytes) -> Tree:
    tree = Tree()
    for name, data in files.items():
        tree.add_file(name.replace("__", "/"), data)
    return tree


@pytest.mark.parametrize(
    "path",
    [
        "usr/lib/adytum/adytum_sim/__init__.py",
        "usr/lib/adytum/adytum/__init__.py",
        "usr/lib/adytum/adytum_image/cli.py",
        "usr/lib/adytum/adytum_verify/__init__.py",
        "usr/lib/adytum/boto3/__init__.py",
        "usr/lib/adytum/pip/__init__.py",
        "usr/lib/adytum/adytum_enclave/shell/mock.py",
        "usr/lib/adytum/adytum_enclave/fake_nsm.py",
        "usr/lib/python3.11/unittest/mock.py",
        "bin/sh",
        "usr/bin/busybox",
        "usr/bin/bash",
        "sbin/nc.openbsd",
    ],
)
def test_attack_what_does_not_belong_in_the_image_refuses_the_build(path: str) -> None:
    tree = Tree()
    tree.add_file("usr/bin/python3.11", b"", 0o755)
    tree.add_file("usr/lib/adytum/adytum_enclave/shell/main.py", b"import os\n")
    contents.check(tree)
    tree.add_file(path, b"", 0o755)
    with pytest.raises(BuildError, match="IMAGE_FORBIDDEN"):
        contents.check(tree)


@pytest.mark.parametrize("mode", [0o104755, 0o102755, 0o100777])
def test_attack_set_id_and_world_writable_files_refuse_the_build(mode: int) -> None:
    tree = Tree()
    tree.add("usr/bin/x", Node(mode=mode))
    with pytest.raises(BuildError, match="IMAGE_FORBIDDEN"):
        contents.check(tree)


@pytest.mark.parametrize(
    "line", [b"import adytum_sim", b"from adytum.settings import x", b"  from adytum_verify import y"]
)
def test_attack_our_code_importing_from_outside_the_wall_refuses_the_build(line: bytes) -> None:
    tree = tree_of(usr__lib__adytum__adytum_enclave__a=b"")
    tree.add_file("usr/lib/adytum/adytum_enclave/a.py", b"import os\n" + line + b"\n")
    with pytest.raises(BuildError, match="IMAGE_FORBIDDEN"):
        contents.check(tree)


def test_a_rule_that_matches_nothing_refuses_the_build() -> None:
    rules = contents.Rules(keep={"libx": ["lib/x.so", "lib/y.so"]}, remove={"group": ["usr/doc"]})
    with pytest.raises(BuildError, match=r"CONTENTS_INVALID: libx: lib/y\.so"):
        contents.take(rules, "libx", _with("lib/x.so"))
    with pytest.raises(BuildError, match="nothing is said about package liby"):
        contents.take(rules, "liby", _with("lib/x.so"))
    with pytest.raises(BuildError, match="CONTENTS_INVALID: group"):
        contents.remove(rules, _with("lib/x.so"))


def _with(path: str) -> Tree:
    tree = Tree()
    tree.add_file(path, b"")
    return tree


def test_removing_takes_whole_folders_and_says_which_files() -> None:
    tree = tree_of(a__test__x=b"1", a__test__deep__y=b"2", a__testing=b"3")
    rules = contents.Rules(keep={}, remove={"g": ["a/test"]})
    assert contents.remove(rules, tree) == ["a/test/deep/y", "a/test/x"]
    assert [path for path, _ in tree] == ["a", "a/testing"]


def test_our_own_code_is_the_trusted_distributions_and_passes_the_wall() -> None:
    own = contents.own_code(Source.find().root)
    contents.check(own)
    tops = {path.split("/")[3] for path, _ in own.files()}
    assert tops == {"adytum_wire", "adytum_policy", "adytum_enclave"}
    assert "usr/lib/adytum/adytum_enclave/shell/main.py" in own


def test_the_first_program_is_python_that_the_image_has_and_starts_no_shell() -> None:
    text = kernel.INIT.read_text()
    assert text.startswith("#!/usr/bin/python3.11 -IS\n")
    assert "subprocess" not in text
    assert "os.system" not in text
    assert "adytum_enclave.shell.main" in text


PACKAGE = Package(
    name="libc6", version="2.36-9+deb12u1", use="image", archive="debian", path="pool/x", size=1, sha256="a" * 64
)
WHEEL = Wheel(name="h11", version="0.16.0", filename="h11.whl", sha256="b" * 64, data=b"")


def make_image(**changes: bytes) -> bytes:
    own = tree_of(usr__lib__adytum__adytum_wire__x=b"code", usr__lib__adytum__adytum_enclave__y=b"code2")
    listed = records.contents(version="1", packages=[PACKAGE], wheels=[WHEEL], own=own, library="usr/lib/adytum")
    root = tree_of(etc__a=b"0123456789", etc__b=b"b")
    root.add_file(records.CONTENTS_PATH, records.dump(listed))
    for path, data in changes.items():
        root.add_file(path.replace("__", "/"), data)
    parts = [
        (SectionType.KERNEL, b"kernel"),
        (SectionType.CMDLINE, b"quiet"),
        (SectionType.METADATA, b"{}"),
        (SectionType.RAMDISK, gzip.compress(cpio.write(_with("init")), mtime=0)),
        (SectionType.RAMDISK, cpio.write(root)),
    ]
    return write(parts)


class NoZstd:
    def unzstd(self, data: bytes) -> bytes:
        raise BuildError("DECOMPRESS_FAILED")


def opened(data: bytes) -> inspect.Image:
    return open_image(data, NoZstd())


def test_diff_names_section_file_and_byte() -> None:
    first, second = opened(make_image()), opened(make_image(etc__a=b"01234x6789", new=b"n"))
    assert [difference.text() for difference in compare(first, second)] == [
        "ramdisk 1: etc/a: differs at byte 5 (PCR0, PCR2)",
        "ramdisk 1: new: only in the second image (PCR0, PCR2)",
    ]
    assert compare(first, opened(make_image())) == []


def test_diff_finds_kernel_cmdline_and_compression_and_ramdisks_of_another_builder() -> None:
    base = read(make_image())
    parts = [(section.type, section.data) for section in base.sections]

    def changed(index: int, data: bytes) -> list[str]:
        other = write([*parts[:index], (parts[index][0], data), *parts[index + 1 :]])
        return [d.text() for d in compare(opened(make_image()), opened(other))]

    assert changed(0, b"kernelX") == ["kernel: differs (6 and 7 bytes) at byte 6 (PCR0, PCR1)"]
    assert changed(1, b"quieT") == ["cmdline: differs at byte 4 (PCR0, PCR1)"]
    assert changed(2, b'{"ImageName":"evil"}') == [], "metadata is not measured"
    (repacked,) = changed(3, gzip.compress(cpio.write(_with("init")), 1, mtime=1))
    assert repacked.startswith("ramdisk 0: differs")
    (foreign,) = changed(4, b"\x28\xb5\x2f\xfdwhatever")
    assert foreign.startswith("ramdisk 1: differs")
    other = write([*parts, (SectionType.RAMDISK, b"more")])
    assert [d.text() for d in compare(opened(make_image()), opened(other))] == [
        "ramdisk 2: only in the second image (PCR0, PCR2)"
    ]


def test_describe_says_what_is_measured_and_what_is_not() -> None:
    value = describe(opened(make_image()))
    assert value["cmdline"] == "quiet"
    assert [section["type"] for section in value["sections"]] == ["kernel", "cmdline", "metadata", "ramdisk", "ramdisk"]
    assert value["sections"][4]["files"] == 3
    assert value["signature"] is None
    assert value["unmeasured_metadata"] == {}


def test_sbom_is_cyclonedx_from_the_measured_list() -> None:
    image = opened(make_image())
    value = records.sbom(image.contents(), image.measurements)
    assert (value["bomFormat"], value["specVersion"]) == ("CycloneDX", "1.5")
    purls = [component.get("purl") for component in value["components"]]
    assert purls[:2] == [
        "pkg:deb/debian/libc6@2.36-9%2Bdeb12u1?arch=amd64&distro=debian-12",
        "pkg:pypi/h11@0.16.0",
    ]
    names = [component["name"] for component in value["components"][2:]]
    assert names == ["adytum-core", "adytum-enclave"]
    assert value["components"][2]["components"][0]["name"] == "adytum_wire/x"
    refs = {component["bom-ref"] for component in value["components"]}
    assert set(value["dependencies"][0]["dependsOn"]) == refs
    assert records.sbom(image.contents(), image.measurements) == value
    json.dumps(value)


def test_an_image_that_lists_nothing_has_no_sbom() -> None:
    parts = [(section.type, section.data) for section in read(make_image()).sections]
    bare = write([*parts[:4], (SectionType.RAMDISK, cpio.write(_with("x")))])
    for data in (bare, make_image(**{records.CONTENTS_PATH.replace("/", "__"): b'{"v":2}'})):
        with pytest.raises(BuildError, match="CONTENTS_UNKNOWN"):
            opened(data).contents()


def test_measurements_are_a_release_that_the_verifier_reads() -> None:
    measurements = measure(read(make_image()))
    policy = parse_release(records.dump(measurements.as_release()))
    assert dict(policy.pcrs) == {0: measurements.pcr0, 1: measurements.pcr1, 2: measurements.pcr2}
