"""What the sim's tests share: a running stand-in, boto3 clients for its two identities, attested recipients."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from adytum_sim.kms import Credentials, RunningKms, kms_in_thread
from adytum_sim.kms.running import system_clock_ms
from adytum_sim.nsm import SimNsm, cbor
from adytum_sim.pki import DevPki

MODULE_ID = "i-0123456789abcdef0-enc0123456789abcdef"
PCRS = {0: b"\x10" * 48, 1: b"\x11" * 48, 2: b"\x12" * 48}


@pytest.fixture(scope="session")
def vectors() -> Path:
    """The public test vectors beside the repository."""
    path = Path(__file__).resolve().parents[3] / "shared" / "vectors"
    if not path.is_dir():
        if os.environ.get("CI"):
            pytest.fail("the public test vectors are missing")
        pytest.skip("the public test vectors are not on this machine")
    return path


@dataclass(frozen=True)
class Attested:
    """A recipient: the document to send, and the RSA key that opens the answer."""

    key: rsa.RSAPrivateKey
    spki: bytes
    document: bytes

    @property
    def parameter(self) -> dict[str, Any]:
        return {"KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256", "AttestationDocument": self.document}

    @property
    def pem(self) -> bytes:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def attest(nsm: SimNsm, **fields: bytes | None) -> bytes:
    request = cbor.encode({"Attestation": {"user_data": None, "nonce": None, "public_key": None} | fields})
    answer = cbor.decode(nsm.request(request))
    assert isinstance(answer, dict)
    assert "Attestation" in answer, answer
    return answer["Attestation"]["document"]


@pytest.fixture(scope="session")
def openssl() -> str:
    """The `openssl` command, which is not ours."""
    found = shutil.which("openssl")
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("openssl is missing")
        pytest.skip("openssl is not on this machine")
    return found


@pytest.fixture
def open_cms(openssl: str, tmp_path: Path) -> Callable[[bytes, bytes], bytes]:
    """`open_cms(blob, key PEM)`: what OpenSSL finds in it. Errors: subprocess.CalledProcessError."""

    def run(blob: bytes, pem: bytes) -> bytes:
        key, file = tmp_path / "recipient.pem", tmp_path / "answer.ber"
        key.write_bytes(pem)
        file.write_bytes(blob)
        command = [openssl, "cms", "-decrypt", "-inform", "DER", "-in", str(file), "-inkey", str(key)]
        return subprocess.run(command, capture_output=True, check=True, timeout=30).stdout

    return run


@pytest.fixture(scope="session")
def attest_with() -> Callable[..., bytes]:
    return attest


@pytest.fixture(scope="session")
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.fixture(scope="session")
def recipient(rsa_key: rsa.RSAPrivateKey) -> Callable[..., Attested]:
    """`recipient(pki, pcrs=..., clock_ms=..., **SimNsm options)`: an attested recipient."""
    spki = rsa_key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    def make(pki: DevPki, **options: Any) -> Attested:
        options = {"module_id": MODULE_ID, "pcrs": PCRS, "clock_ms": system_clock_ms} | options
        return Attested(key=rsa_key, spki=spki, document=attest(SimNsm(pki, **options), public_key=spki))

    return make


@pytest.fixture(scope="module")
def kms() -> Iterator[RunningKms]:
    with kms_in_thread() as running:
        yield running


@pytest.fixture(scope="module")
def ca_file(kms: RunningKms, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    path.write_bytes(kms.ca_pem)
    return str(path)


@pytest.fixture(scope="module")
def client(kms: RunningKms, ca_file: str) -> Callable[..., Any]:
    """`client(credentials, service="kms")`: a boto3 client of the running stand-in, without retries."""

    def make(credentials: Credentials, service: str = "kms", **changed: str) -> Any:
        keys = {
            "aws_access_key_id": credentials.access_key_id,
            "aws_secret_access_key": credentials.secret_access_key,
            "aws_session_token": credentials.session_token,
            "region_name": kms.region,
        }
        config = Config(retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=20)
        return boto3.client(service, endpoint_url=kms.endpoint, verify=ca_file, config=config, **(keys | changed))

    return make


@pytest.fixture(scope="module")
def operator(kms: RunningKms, client: Callable[..., Any]) -> Any:
    return client(kms.operator)


@pytest.fixture(scope="module")
def role(kms: RunningKms, client: Callable[..., Any]) -> Any:
    return client(kms.role)
