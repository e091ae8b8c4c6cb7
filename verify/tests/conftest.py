"""Shared by the tests of adytum_verify: public vectors, receipts, and a PKI in which any single rule can be broken.

The PKI is written against the table of genuine chains (subjects, lifetimes, extensions), with python cryptography's
certificate builder, and the CBOR with an encoder that shares nothing with the reader under test.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import NameOID

from adytum_verify import Anchor
from adytum_wire import receipts

VECTORS = Path(__file__).resolve().parents[3] / "shared" / "vectors" / "attestation"
NOW_MS = 1_790_000_000_000  # 2026-09-21, the time of all documents of the test PKI
MODULE = "i-0123456789abcdef0-enc0123456789abcdef"
INSTANCE = MODULE.partition("-enc")[0]
PCRS = {index: bytes(48) for index in range(16)} | {i: bytes([i + 1]) * 48 for i in (0, 1, 2, 3, 4)}


@pytest.fixture(scope="session")
def vectors() -> Path:
    if not VECTORS.is_dir():
        if os.environ.get("CI"):
            pytest.fail(f"public vectors are missing: {VECTORS}")
        pytest.skip(f"public vectors are not here: {VECTORS}")
    assert len(list(VECTORS.glob("*.bin"))) >= 6
    assert len(list((VECTORS / "negative").glob("*.bin"))) >= 13
    return VECTORS


# --- CBOR, written out


def head(major: int, argument: int) -> bytes:
    if argument < 24:
        return bytes([major << 5 | argument])
    for info, width in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if argument < 1 << (8 * width):
            return bytes([major << 5 | info]) + argument.to_bytes(width, "big")
    raise ValueError(argument)


def cbor(value: Any, *, indefinite: bool = False) -> bytes:
    """Encode. `indefinite`: the outermost map gets an indefinite length. `Raw` bytes go in as they are."""
    match value:
        case Raw():
            return value.data
        case None:
            return b"\xf6"
        case bool():
            return b"\xf5" if value else b"\xf4"
        case int():
            return head(0, value) if value >= 0 else head(1, -1 - value)
        case bytes():
            return head(2, len(value)) + value
        case str():
            return head(3, len(value.encode())) + value.encode()
        case list() | tuple():
            return head(4, len(value)) + b"".join(cbor(item) for item in value)
        case dict():
            body = b"".join(cbor(key) + cbor(item) for key, item in value.items())
            return b"\xbf" + body + b"\xff" if indefinite else head(5, len(value)) + body
    raise TypeError(type(value))


@dataclass(frozen=True)
class Raw:
    data: bytes


# --- certificates


@dataclass
class Spec:
    """One certificate. The defaults of `SPECS` are the genuine profile; tests replace single fields."""

    subject: x509.Name
    lifetime: tuple[timedelta, timedelta]
    ca: bool | None
    path_length: int | None
    usage: tuple[str, ...] | None
    constraints_critical: bool = True
    usage_critical: bool = True
    curve: ec.EllipticCurve = field(default_factory=ec.SECP384R1)
    rsa: bool = False
    hash: hashes.HashAlgorithm = field(default_factory=hashes.SHA384)
    issuer: x509.Name | None = None  # claim this issuer instead of the real one
    forged: bool = False  # sign with a key that is not the issuer's
    extension: x509.UnrecognizedExtension | None = None
    extension_critical: bool = True


def name(common_name: str, *, zonal: bool = False) -> x509.Name:
    """RDNs in the order that AWS uses: the zonal certificate has its own."""
    organisation = [(NameOID.ORGANIZATIONAL_UNIT_NAME, "AWS"), (NameOID.ORGANIZATION_NAME, "Amazon")]
    if zonal:
        rest = [
            (NameOID.COUNTRY_NAME, "US"),
            (NameOID.STATE_OR_PROVINCE_NAME, "WA"),
            (NameOID.LOCALITY_NAME, "Seattle"),
        ]
        order = [(NameOID.COMMON_NAME, common_name), *organisation, *rest]
    else:
        order = [(NameOID.COUNTRY_NAME, "US"), *reversed(organisation), (NameOID.COMMON_NAME, common_name)]
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in order])


def specs() -> dict[str, Spec]:
    def days(before: float, after: float) -> tuple[timedelta, timedelta]:
        return timedelta(days=before), timedelta(days=after)

    ca = ("digital_signature", "key_cert_sign", "crl_sign")
    zone = name("00112233aabbccdd.zonal.eu-test-1.aws.nitro-enclaves", zonal=True)
    return {
        "root": Spec(name("aws.nitro-enclaves test only"), days(1000, 9000), True, None, ca),
        "region": Spec(name("aabbccdd00112233.eu-test-1.aws.nitro-enclaves"), days(5, 15), True, 2, ca),
        "zone": Spec(zone, days(1, 5), True, 1, ca),
        "instance": Spec(name(f"{INSTANCE}.eu-test-1.aws.nitro-enclaves"), days(0.2, 0.8), True, 0, ("key_cert_sign",)),
        "leaf": Spec(
            name(f"{MODULE}.eu-test-1.aws"),
            (timedelta(minutes=10), timedelta(hours=2, minutes=50)),
            False,
            None,
            ("digital_signature", "content_commitment"),
            usage_critical=False,
        ),
    }


PLACES = ("root", "region", "zone", "instance", "leaf")
_USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


class TestPki:
    """Five certificates and the leaf's key. `TestPki(leaf={"ca": True})` breaks one thing."""

    __test__ = False

    def __init__(self, **changes: dict[str, Any]) -> None:
        self.certificates: dict[str, bytes] = {}
        self.signers: dict[str, Any] = {}
        found = specs()
        for place, change in changes.items():
            for key, value in change.items():
                assert hasattr(found[place], key)
                setattr(found[place], key, value)
        issuer_key: Any = None
        issuer_name: x509.Name | None = None
        for place in PLACES:
            spec = found[place]
            key: Any = rsa.generate_private_key(65537, 2048) if spec.rsa else ec.generate_private_key(spec.curve)
            signer = ec.generate_private_key(ec.SECP384R1()) if spec.forged else issuer_key or key
            self.certificates[place] = self._build(spec, key, signer, spec.issuer or issuer_name or spec.subject)
            self.signers[place] = signer
            issuer_key, issuer_name = key, spec.subject
        self.leaf_key = issuer_key

    @staticmethod
    def _build(spec: Spec, key: Any, signer: Any, issuer: x509.Name) -> bytes:
        now = datetime.fromtimestamp(NOW_MS / 1000, UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(spec.subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - spec.lifetime[0])
            .not_valid_after(now + spec.lifetime[1])
        )
        if spec.ca is not None:
            constraints = x509.BasicConstraints(ca=spec.ca, path_length=spec.path_length)
            builder = builder.add_extension(constraints, critical=spec.constraints_critical)
        if spec.usage is not None:
            usage = x509.KeyUsage(**{flag: flag in spec.usage for flag in _USAGES})
            builder = builder.add_extension(usage, critical=spec.usage_critical)
        if spec.extension is not None:
            builder = builder.add_extension(spec.extension, critical=spec.extension_critical)
        return builder.sign(signer, spec.hash).public_bytes(serialization.Encoding.DER)

    def resigned(self, place: str, old: bytes, new: bytes) -> bytes:
        """The certificate with `old` replaced in what is signed, signed again: what no builder makes.

        A change of length is allowed for direct children of the signed part only.
        """
        found = x509.load_der_x509_certificate(self.certificates[place])
        to_sign = found.tbs_certificate_bytes
        assert to_sign.count(old) == 1
        assert to_sign[:2] == b"\x30\x82"
        content = to_sign[4:].replace(old, new)
        to_sign = b"\x30\x82" + len(content).to_bytes(2, "big") + content
        signature = b"\0" + self.signers[place].sign(to_sign, ec.ECDSA(hashes.SHA384()))
        bits = b"\x03" + bytes([len(signature)]) + signature
        body = to_sign + bytes.fromhex("300a06082a8648ce3d040303") + bits
        return b"\x30\x82" + len(body).to_bytes(2, "big") + body

    @property
    def anchor(self) -> Anchor:
        return Anchor(hashlib.sha256(self.certificates["root"]).digest())

    @property
    def root_pem(self) -> bytes:
        return x509.load_der_x509_certificate(self.certificates["root"]).public_bytes(serialization.Encoding.PEM)

    def payload(self, **changes: Any) -> dict[str, Any]:
        """The nine fields in AWS's order; a change to `...` leaves the field out."""
        fields: dict[str, Any] = {
            "module_id": MODULE,
            "digest": "SHA384",
            "timestamp": NOW_MS,
            "pcrs": dict(PCRS),
            "certificate": self.certificates["leaf"],
            "cabundle": [self.certificates[place] for place in PLACES[:-1]],
            "public_key": None,
            "user_data": None,
            "nonce": None,
        }
        fields.update(changes)
        return {key: value for key, value in fields.items() if value is not ...}

    def document(
        self,
        *,
        indefinite: bool = True,
        protected: bytes = bytes.fromhex("a1013822"),
        unprotected: Any = Raw(b"\xa0"),
        tag: bytes = b"",
        payload: bytes | None = None,
        **changes: Any,
    ) -> bytes:
        """A document, signed over whatever was put into it. `changes`: payload fields."""
        if payload is None:
            payload = cbor(self.payload(**changes), indefinite=indefinite)
        to_sign = cbor(["Signature1", protected, b"", payload])
        r, s = decode_dss_signature(self.leaf_key.sign(to_sign, ec.ECDSA(hashes.SHA384())))
        # A leaf on another curve is refused before its signature is looked at; that only has to be 96 bytes.
        fits = max(r, s).bit_length() <= 384
        signature = r.to_bytes(48, "big") + s.to_bytes(48, "big") if fits else bytes(96)
        return tag + cbor([protected, unprotected, payload, signature])


@pytest.fixture(scope="session")
def pki() -> TestPki:
    """One sound PKI for all tests that break something else."""
    return TestPki()


@pytest.fixture(scope="session")
def make_pki() -> type[TestPki]:
    return TestPki


# --- receipts


class Ledger:
    """An enclave shard's receipts, signed in groups. Forks and edits are for the tests to make."""

    def __init__(self, seed: int = 1, chain: str = "ab" * 16) -> None:
        self.signer = Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)
        self.key = self.signer.public_key().public_bytes_raw()
        self.chain = chain
        self.sequence = 0
        self.link = receipts.GENESIS

    def receipt(self, **changes: Any) -> receipts.Receipt:
        fields: dict[str, Any] = {
            "chain": self.chain,
            "sequence": self.sequence + 1,
            "previous": self.link.hex(),
            "time": NOW_MS + self.sequence,
            "tenant": "acme",
            "principal": "treasury",
            "request_id": f"request-{self.sequence + 1}",
            "operation": "sign",
            "request_digest": "00" * 32,
            "decision": "allow",
            "code": "",
            "rules": [receipts.RuleOutcome("hot", "allow")],
            "approvals": [],
            "wanted": [],
            "limits": [],
            "policy_version": 3,
            "policy_digest": "11" * 32,
            "key_id": "key-" + "0" * 32,
            "record_version": 1,
            "public_key": "02" + "33" * 32,
            "summary": {"to": "0x" + "44" * 20, "value": "100000"},
            "result_digest": "22" * 32,
        }
        return receipts.Receipt(**{**fields, **changes})

    def group(self, size: int, **changes: Any) -> list[bytes]:
        """The next `size` receipts under one head, as envelopes."""
        bodies: list[bytes] = []
        for _ in range(size):
            bodies.append(receipts.encode(self.receipt(**changes)))
            self.link = self._link(self.link, bodies[-1])
            self.sequence += 1
        signature = self.signer.sign(self._head()).hex()
        digests = [hashlib.sha256(body).hexdigest() for body in bodies]
        return [
            receipts.encode(
                receipts.ReceiptEnvelope(
                    body=body.decode(), following=digests[index + 1 :], key=self.key.hex(), signature=signature
                )
            )
            for index, body in enumerate(bodies)
        ]

    def groups(self, *sizes: int) -> list[bytes]:
        return [envelope for size in sizes for envelope in self.group(size)]

    @staticmethod
    def _link(link: bytes, body: bytes) -> bytes:
        """Written out from spec, not taken from the code under test."""
        return hashlib.sha256(b"adytum/receipt-link/v1" + link + hashlib.sha256(body).digest()).digest()

    def _head(self) -> bytes:
        kind = b"application/vnd.adytum.receipt-head.v1"
        payload = bytes.fromhex(self.chain) + self.sequence.to_bytes(8, "big") + self.link
        return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture(scope="session")
def make_ledger() -> type[Ledger]:
    return Ledger
