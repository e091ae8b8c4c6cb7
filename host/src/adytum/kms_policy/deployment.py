"""What a key policy is made of: roles, tenants, and the images that may use the key. Read from a deployment file.

    v: 1
    key: arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab
    roles:
      parent: arn:aws:iam::111122223333:role/adytum-parent
      admin: arn:aws:iam::111122223333:role/adytum-key-admin
      break_glass: arn:aws:iam::111122223333:role/adytum-break-glass
    tenants: [acme]
    pin_parent_role: true
    images:
      - {name: v1, measurements: v1/measurements.json, manifest: manifest.json}

Each image needs PCR0, 1, 2 and 16: the program and the manifest that it obeys. A second image is for the overlap of a
release; further ones for nodes with manifests of their own.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Final, Literal

import msgspec
import yaml
from msgspec import Meta, Struct

from adytum.kms_policy.errors import KmsPolicyError
from adytum_verify import AttestationError, PcrPolicy, manifest_pcr, parse_release
from adytum_wire.errors import AdytumError
from adytum_wire.manifest import manifest_hash, parse_manifest
from adytum_wire.types import KeyArn, Label, TenantId

MAX_IMAGES: Final = 8
REQUIRED: Final = (0, 1, 2, 16)
_OPTIONAL: Final = (3, 8)
_MAX_FILE: Final = 256 * 1024  # bytes
_PARENT_ROLE: Final = 3
_MANIFEST: Final = 16
_KEY = re.compile(r"arn:(aws[a-z-]*):kms:([a-z0-9-]+):([0-9]{12}):key/.+")
_USER_OR_ROLE = re.compile(r"arn:(aws[a-z-]*):iam::([0-9]{12}):(role|user)/[\w+=,.@/-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Roles:
    """IAM ARNs. `parent`: the instance's role, which uses the key. `admin`: manages it, and can neither use it nor say
    who may. `break_glass`: may change the key policy and delete the key, and cannot use it.

    Errors on construction: KmsPolicyError when one is no role or user, or two are the same, or of two accounts.
    """

    parent: str
    admin: str
    break_glass: str

    def __post_init__(self) -> None:
        everyone = (self.parent, self.admin, self.break_glass)
        matches = [_USER_OR_ROLE.fullmatch(arn) for arn in everyone]
        if not all(matches):
            raise KmsPolicyError("Each of the roles is the ARN of one IAM role or user, without wildcards.")
        if len(set(everyone)) != len(everyone):
            raise KmsPolicyError("The parent, the admin and the break-glass role must be three different ones.")
        if len({(m[1], m[2]) for m in matches if m}) != 1:
            raise KmsPolicyError("The roles belong to different accounts.")

    @property
    def account(self) -> str:
        return self.parent.split(":")[4]


@dataclass(frozen=True, slots=True)
class Image:
    """One image that may use the key: PCR index -> 48 bytes. PCR0, 1, 2 and 16 are needed, 3 and 8 may be added.

    PCR4 is not taken: it pins one instance, and the key would be lost with it. Errors on construction: KmsPolicyError.
    """

    name: str
    pcrs: Mapping[int, bytes]

    def __post_init__(self) -> None:
        for index in REQUIRED:
            if index not in self.pcrs:
                raise KmsPolicyError(f"Image {self.name}: PCR{index} is missing.")
        if strange := set(self.pcrs) - {*REQUIRED, *_OPTIONAL}:
            raise KmsPolicyError(f"Image {self.name}: PCR{min(strange)} cannot be pinned here.")
        for index, value in self.pcrs.items():
            if len(value) != 48:
                raise KmsPolicyError(f"Image {self.name}: PCR{index} is not 48 bytes.")
            if not any(value):
                raise KmsPolicyError(f"Image {self.name}: PCR{index} is zero, as an enclave in debug mode shows it.")
        object.__setattr__(self, "pcrs", MappingProxyType(dict(sorted(self.pcrs.items()))))


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """Everything that `render` needs. Errors on construction: KmsPolicyError."""

    key: str
    roles: Roles
    tenants: tuple[str, ...]
    images: tuple[Image, ...]

    def __post_init__(self) -> None:
        match = _KEY.fullmatch(self.key)
        if match is None:
            raise KmsPolicyError("The key is not the full ARN of a KMS key (aliases can be moved to another key).")
        if match[3] != self.roles.account:
            raise KmsPolicyError("The key and the roles belong to different accounts.")
        check_parts(self.images, self.tenants)


def check_parts(images: tuple[Image, ...], tenants: tuple[str, ...]) -> None:
    """Empty lists allow nobody, and are a mistake here. Errors: KmsPolicyError."""
    if not 1 <= len(images) <= MAX_IMAGES:
        raise KmsPolicyError(f"A key policy is for 1 to {MAX_IMAGES} images.")
    if len({image.name for image in images}) != len(images):
        raise KmsPolicyError("Two images have the same name.")
    if len({frozenset(image.pcrs.items()) for image in images}) != len(images):
        raise KmsPolicyError("Two images have the same PCRs.")
    if len({frozenset(image.pcrs) for image in images}) != 1:
        raise KmsPolicyError("All images must pin the same PCRs: a Deny over a PCR that one lacks would deny it.")
    if not tenants or len(set(tenants)) != len(tenants):
        raise KmsPolicyError("At least one tenant is needed, each once.")


def parent_role_pcr(role_arn: str) -> bytes:
    """PCR3 (48 bytes) of an enclave whose parent instance has this IAM role: SHA-384 of 48 zero bytes and the ARN."""
    return hashlib.sha384(bytes(48) + role_arn.encode()).digest()


class _Roles(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    parent: str
    admin: str
    break_glass: str


class _Image(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    name: Label
    measurements: str | None = None
    manifest: str | None = None
    pcrs: dict[str, str] = {}


class _File(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    v: Literal[1]
    key: KeyArn
    roles: _Roles
    images: Annotated[list[_Image], Meta(min_length=1, max_length=MAX_IMAGES)]
    tenants: Annotated[list[TenantId], Meta(max_length=1024)] = []
    pin_parent_role: bool = False


def parse_deployment(data: bytes, *, read_file: Callable[[str], bytes]) -> Deployment:
    """Read a deployment file (YAML or JSON).

    `read_file`: the bytes of a file that it names (`measurements`: the JSON of `nitro-cli` or `adytum image measure`;
    `manifest`: the operator's manifest, from which PCR16 and the tenants follow). Errors: KmsPolicyError, OSError.
    """
    if len(data) > _MAX_FILE:
        raise KmsPolicyError("The deployment file is too long.")
    try:
        found = msgspec.convert(yaml.safe_load(data), _File)
    except msgspec.ValidationError as error:
        raise KmsPolicyError(f"The deployment file is not usable: {error}.") from None
    except (yaml.YAMLError, RecursionError, ValueError):
        raise KmsPolicyError("The deployment file is neither YAML nor JSON.") from None
    tenants: set[str] = set(found.tenants)
    images = []
    for image in found.images:
        pcrs, of_manifest = _pcrs(image, found, read_file)
        if found.tenants and not of_manifest <= set(found.tenants):
            raise KmsPolicyError(f"Image {image.name}: its manifest has a tenant that the deployment file has not.")
        tenants |= of_manifest
        images.append(Image(image.name, pcrs))
    roles = Roles(parent=found.roles.parent, admin=found.roles.admin, break_glass=found.roles.break_glass)
    return Deployment(key=found.key, roles=roles, tenants=tuple(sorted(tenants)), images=tuple(images))


def _pcrs(image: _Image, found: _File, read_file: Callable[[str], bytes]) -> tuple[dict[int, bytes], set[str]]:
    """(PCRs, tenants of the manifest). A PCR that is given twice must be given the same."""
    sources: list[Mapping[int, bytes]] = []
    tenants: set[str] = set()
    try:
        if image.measurements is not None:
            sources.append(parse_release(read_file(image.measurements)).pcrs)
        if image.pcrs:
            # PcrPolicy.parse wants PCR0 to 2; the file may leave them to the measurements.
            known = dict(sources[0]) if sources else {}
            entries = [f"PCR{index}={value}" for index, value in image.pcrs.items()]
            given = {e.partition("=")[0] for e in entries}
            filled = [f"PCR{i}={v.hex()}" for i, v in known.items() if f"PCR{i}" not in given]
            sources.append(PcrPolicy.parse([*entries, *filled]).pcrs)
        if image.manifest is not None:
            data = read_file(image.manifest)
            tenants = _tenants(data, found.key, image.name)
            sources.append({_MANIFEST: manifest_pcr(manifest_hash(data))})
    except (AttestationError, AdytumError) as error:
        raise KmsPolicyError(f"Image {image.name}: {error}") from None
    if found.pin_parent_role:
        sources.append({_PARENT_ROLE: parent_role_pcr(found.roles.parent)})
    merged: dict[int, bytes] = {}
    for source in sources:
        for index, value in source.items():
            if merged.setdefault(index, value) != value:
                raise KmsPolicyError(f"Image {image.name}: PCR{index} is given twice and differs.")
    return merged, tenants


def _tenants(data: bytes, key: str, name: str) -> set[str]:
    """The tenants of a manifest whose records are sealed under `key`."""
    manifest = parse_manifest(data)
    if key not in manifest.kms.keys:
        raise KmsPolicyError(f"Image {name}: its manifest does not name this key.")
    if manifest.debug:
        raise KmsPolicyError(f"Image {name}: its manifest is one for debug mode.")
    return {tenant.id for tenant in manifest.tenants}
