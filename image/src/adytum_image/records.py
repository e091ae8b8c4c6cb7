"""What an image is made of, as data: the list inside the image, the provenance beside it, and the SBOM.

`contents.json` lies in the image and is measured with it: names, versions and hashes of packages, wheels and our own
distributions. It holds no commit and no time, so two builds of the same inputs stay byte-equal. The provenance adds
what is true of this build alone. Both are sorted JSON.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from adytum_image.eif import Measurements
from adytum_image.errors import BuildError
from adytum_image.locks import Package
from adytum_image.rootfs.tree import Tree
from adytum_image.rootfs.wheels import Wheel

CONTENTS_PATH: Final = "usr/share/adytum/contents.json"
_NAMESPACE: Final = uuid.UUID("7a2f1d5e-7e0c-5d0e-9b4b-2f6a3c8d9e10")
_OWN: Final = {"adytum-core": ("adytum_wire", "adytum_policy"), "adytum-enclave": ("adytum_enclave",)}


def dump(value: object) -> bytes:
    """JSON with sorted keys, indented, with a final newline."""
    return json.dumps(value, sort_keys=True, indent=1).encode() + b"\n"


def contents(
    *, version: str, packages: Sequence[Package], wheels: Sequence[Wheel], own: Tree, library: str
) -> dict[str, Any]:
    """The list that goes into the image. `own`: our sources below `library`, before compilation."""
    return {
        "v": 1,
        "packages": [{"name": p.name, "version": p.version, "sha256": p.sha256, "use": p.use} for p in packages],
        "wheels": [{"name": w.name, "version": w.version, "file": w.filename, "sha256": w.sha256} for w in wheels],
        "own": [
            {"name": name, "version": version, "files": _hashes(own, library, folders)}
            for name, folders in sorted(_OWN.items())
        ],
    }


def _hashes(own: Tree, library: str, folders: tuple[str, ...]) -> dict[str, str]:
    prefixes = tuple(f"{library}/{folder}/" for folder in folders)
    return {
        path.removeprefix(library + "/"): hashlib.sha256(data).hexdigest()
        for path, data in own.files()
        if path.startswith(prefixes)
    }


def parse_contents(data: bytes) -> dict[str, Any]:
    """Errors: BuildError(CONTENTS_UNKNOWN) where this is not a list that `contents` made."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise BuildError("CONTENTS_UNKNOWN") from None
    if not isinstance(value, dict) or value.get("v") != 1 or set(value) != {"v", "packages", "wheels", "own"}:
        raise BuildError("CONTENTS_UNKNOWN")
    return value


def provenance(
    *,
    root: Path,
    contents_list: dict[str, Any],
    inputs: Sequence[Path],
    eif: bytes,
    measurements: Measurements,
    python: tuple[int, int],
    removed: Sequence[str],
    version: str,
) -> dict[str, Any]:
    """`root`: the checkout. `inputs`: files below it that decide the result. `python`: trusted files and lines."""
    commit, clean = _git(root)
    return {
        "v": 1,
        "tool": f"adytum-image {version}",
        "commit": commit,
        "clean": clean,
        "inputs": {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in inputs},
        "contents": contents_list,
        "image": {"sha256": hashlib.sha256(eif).hexdigest(), "size": len(eif)},
        "trusted_python": {"files": python[0], "lines": python[1]},
        "removed": list(removed),
        **measurements.as_release(),
    }


def _git(root: Path) -> tuple[str | None, bool]:
    """The commit of the checkout, and whether nothing differs from it; (None, False) without git."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(  # noqa: S603
                ["git", "-C", str(root), *arguments],  # noqa: S607
                capture_output=True,
                text=True,
                check=False,
            )
        except FileNotFoundError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    return commit, commit is not None and git("status", "--porcelain") == ""


def sbom(contents_list: dict[str, Any], measurements: Measurements) -> dict[str, Any]:
    """CycloneDX 1.5. The serial number follows from PCR0: the same image has the same SBOM."""
    components = [_debian(entry) for entry in contents_list["packages"]]
    components += [_wheel(entry) for entry in contents_list["wheels"]]
    components += [_own(entry) for entry in contents_list["own"]]
    pcr0 = measurements.pcr0.hex()
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{uuid.uuid5(_NAMESPACE, pcr0)}",
        "version": 1,
        "metadata": {
            "component": {
                "type": "firmware",
                "bom-ref": "adytum-enclave-image",
                "name": "adytum-enclave-image",
                "version": pcr0[:16],
                "properties": [
                    {"name": f"adytum:{name.lower()}", "value": value} for name, value in measurements.as_hex().items()
                ],
            }
        },
        "components": components,
        "dependencies": [
            {"ref": "adytum-enclave-image", "dependsOn": [component["bom-ref"] for component in components]}
        ],
    }


def _debian(entry: dict[str, str]) -> dict[str, Any]:
    purl = f"pkg:deb/debian/{quote(entry['name'])}@{quote(entry['version'])}?arch=amd64&distro=debian-12"
    return _component("operating-system" if entry["use"] == "kernel" else "library", entry, purl)


def _wheel(entry: dict[str, str]) -> dict[str, Any]:
    return _component("library", entry, f"pkg:pypi/{entry['name']}@{quote(entry['version'])}")


def _component(kind: str, entry: dict[str, str], purl: str) -> dict[str, Any]:
    return {
        "type": kind,
        "bom-ref": purl,
        "name": entry["name"],
        "version": entry["version"],
        "purl": purl,
        "hashes": [{"alg": "SHA-256", "content": entry["sha256"]}],
    }


def _own(entry: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "application",
        "bom-ref": entry["name"],
        "name": entry["name"],
        "version": entry["version"],
        "components": [
            {"type": "file", "name": name, "hashes": [{"alg": "SHA-256", "content": digest}]}
            for name, digest in entry["files"].items()
        ],
    }
