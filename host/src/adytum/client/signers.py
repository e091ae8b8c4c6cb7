"""Who stamps requests and signs policies: an object with a scheme, a public key and `sign`. Keys may live anywhere
(file, agent, HSM): anything with these three members is a signer.

    signer = load_signer(Path("client.pem"))           # PKCS #8 PEM: Ed25519, P-256 or secp256k1
    signer = KeySigner(Ed25519PrivateKey.generate())
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from adytum_wire.types import Scheme

MAX_KEY_FILE = 64 * 1024


class Signer(Protocol):
    """`public_key`: 32 bytes (Ed25519) or 33 (SEC 1 compressed). `sign`: 64 bytes over the message."""

    @property
    def scheme(self) -> Scheme: ...
    @property
    def public_key(self) -> bytes: ...
    def sign(self, message: bytes) -> bytes: ...


class SignerError(Exception):
    """The key cannot sign; the text says why."""


class KeySigner:
    """A signer over a private key of the `cryptography` package."""

    def __init__(self, key: Ed25519PrivateKey | ec.EllipticCurvePrivateKey) -> None:
        """Errors: SignerError for another curve than P-256 and secp256k1."""
        self._key = key
        if isinstance(key, Ed25519PrivateKey):
            self.scheme = Scheme.ED25519
            self.public_key = key.public_key().public_bytes_raw()
            return
        schemes = {"secp256r1": Scheme.P256, "secp256k1": Scheme.SECP256K1}
        if key.curve.name not in schemes:
            raise SignerError("want an Ed25519, P-256 or secp256k1 key")
        self.scheme = schemes[key.curve.name]
        self.public_key = key.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)

    def sign(self, message: bytes) -> bytes:
        if isinstance(self._key, Ed25519PrivateKey):
            return self._key.sign(message)
        r, s = decode_dss_signature(self._key.sign(message, ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")

    def __repr__(self) -> str:
        return f"<KeySigner {self.scheme} {self.public_key.hex()}>"


def load_signer(path: Path, password: bytes | None = None) -> KeySigner:
    """The signer of a PEM file (PKCS #8, or SEC 1). Errors: SignerError."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_KEY_FILE)
    except OSError as error:
        raise SignerError(f"{path} cannot be read ({error.strerror})") from None
    try:
        key = load_pem_private_key(data, password)
    except TypeError:
        raise SignerError(f"{path} needs a password, or has none and one was given") from None
    except ValueError:
        raise SignerError(f"{path} is not a private key in PEM that opens") from None
    if not isinstance(key, Ed25519PrivateKey | ec.EllipticCurvePrivateKey):
        raise SignerError(f"{path}: want an Ed25519, P-256 or secp256k1 key")
    return KeySigner(key)
