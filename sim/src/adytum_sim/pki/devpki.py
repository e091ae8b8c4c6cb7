"""`DevPki`: holds the root, issues the four certificates below it when they are needed, reuses them while they live.

What `save` writes is the root and its key alone; each process mints its own certificates below it, so that several
stand-ins (an enclave's NSM, KMS) share one anchor without sharing anything else.
"""

from __future__ import annotations

import os
import re
import threading
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from adytum_sim.pki import certificates
from adytum_sim.pki.certificates import Issued, moment
from adytum_verify import Anchor, anchor_from_pem

_MODULE_ID = re.compile(r"(i-[0-9a-f]{17})-enc([0-9a-f]{16})")
_REGION = re.compile(r"[a-z]{2}(-[a-z]+)+-[0-9]")

ROOT_FILE = "attestation-root.pem"
KEY_FILE = "attestation-root.key"


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """What one document carries, in DER: `cabundle` is root, regional, zonal, instance; `certificate` is the leaf."""

    leaf_key: ec.EllipticCurvePrivateKey
    certificate: bytes
    cabundle: tuple[bytes, bytes, bytes, bytes]


class DevPki:
    """One development root. Safe for use by several threads."""

    def __init__(self, root: Issued, *, region: str) -> None:
        if not _REGION.fullmatch(region):
            raise ValueError("region is not the name of an AWS region")
        self.region = region
        self._root = root
        self._lock = threading.Lock()
        self._regional: Issued | None = None
        self._zonal: Issued | None = None
        self._instances: dict[str, Issued] = {}
        self._leaves: dict[str, Issued] = {}

    @classmethod
    def create(cls, now_ms: int, *, region: str = "us-east-1") -> DevPki:
        """A new root, valid from one day before `now_ms` (milliseconds since the epoch) for 30 years."""
        return cls(certificates.root(moment(now_ms)), region=region)

    @classmethod
    def load(cls, directory: Path, *, region: str = "us-east-1") -> DevPki:
        """Read what `save` wrote. Errors: OSError, ValueError when the two files do not belong together."""
        certificate = x509.load_pem_x509_certificate((directory / ROOT_FILE).read_bytes())
        key = load_pem_private_key((directory / KEY_FILE).read_bytes(), password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise ValueError("the stored key is not the root's")
        return cls(Issued(key=key, certificate=certificate), region=region)

    def save(self, directory: Path) -> None:
        """Write the root and its key into `directory`, readable by the owner alone."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        key = self._root.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        for name, data in ((KEY_FILE, key), (ROOT_FILE, self.root_pem)):
            write_private(directory / name, data)

    @property
    def root_pem(self) -> bytes:
        return self._root.certificate.public_bytes(Encoding.PEM)

    @property
    def root_der(self) -> bytes:
        return self._root.der

    @property
    def anchor(self) -> Anchor:
        """What a verifier pins to accept documents of this PKI."""
        return anchor_from_pem(self.root_pem)

    def chain(self, *, module_id: str, now_ms: int) -> Chain:
        """The chain for `module_id` (`i-<17 hex>-enc<16 hex>`) at `now_ms`; a living leaf is reused for up to 3 hours.

        As with the real thing, a document that is signed shortly before its leaf expires dies with the leaf.
        Errors: ValueError for another form of module id.
        """
        match = _MODULE_ID.fullmatch(module_id)
        if match is None:
            raise ValueError("a module id is i-<17 hex>-enc<16 hex>")
        at, instance_id = moment(now_ms), match[1]
        with self._lock:
            if self._regional is None or not self._regional.is_fresh(at, certificates.ZONAL_LIFE):
                self._regional, self._zonal = certificates.regional(self._root, self.region, at), None
            if self._zonal is None or not self._zonal.is_fresh(at, certificates.INSTANCE_LIFE):
                self._zonal = certificates.zonal(self._regional, self.region, at)
                self._instances.clear()
            instance = self._instances.get(instance_id)
            if instance is None or not instance.is_fresh(at, certificates.LEAF_LIFE):
                instance = certificates.instance(self._zonal, self.region, instance_id, at)
                self._instances[instance_id] = instance
                self._leaves = {m: c for m, c in self._leaves.items() if not m.startswith(instance_id)}
            leaf = self._leaves.get(module_id)
            if leaf is None or not leaf.is_fresh(at, timedelta(seconds=60)):
                leaf = certificates.leaf(instance, self.region, module_id, at)
                self._leaves[module_id] = leaf
            bundle = (self._root.der, self._regional.der, self._zonal.der, instance.der)
            return Chain(leaf_key=leaf.key, certificate=leaf.der, cabundle=bundle)


def write_private(path: Path, data: bytes) -> None:
    """Write a file that its owner alone may read. Errors: OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
