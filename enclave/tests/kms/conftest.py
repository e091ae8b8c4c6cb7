"""What the KMS tests share: a builder of CMS envelopes in KMS's shape, the public vectors, a scripted endpoint."""

from __future__ import annotations

import asyncio
import base64
import datetime
import hashlib
import json
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_der_public_key
from cryptography.x509.oid import NameOID

from adytum_enclave.shell.kms import KmsClient
from adytum_wire.messages import Credentials

OAEP = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
SHA256_ID = bytes.fromhex("300d06096086480165030402010500")


def tlv(tag: int, *parts: bytes) -> bytes:
    value = b"".join(parts)
    if len(value) < 0x80:
        return bytes([tag, len(value)]) + value
    return bytes([tag, 0x82]) + len(value).to_bytes(2, "big") + value


def indefinite(tag: int, *parts: bytes) -> bytes:
    return bytes([tag, 0x80]) + b"".join(parts) + b"\0\0"


def build_cms(
    *,
    ski: bytes,
    encrypted_key: bytes,
    iv: bytes,
    ciphertext: bytes,
    content: str = "constructed",
    outer: Callable[..., bytes] = indefinite,
) -> bytes:
    """KMS's envelope, as documented by two genuine answers; `outer=tlv` is the same in definite lengths."""
    oaep = tlv(
        0x30,
        bytes.fromhex("06092a864886f70d010107"),
        tlv(
            0x30,
            tlv(0xA0, SHA256_ID),
            tlv(0xA1, tlv(0x30, bytes.fromhex("06092a864886f70d010108"), SHA256_ID)),
        ),
    )
    recipient = tlv(0x30, b"\x02\x01\x02", tlv(0x80, ski), oaep, tlv(0x04, encrypted_key))
    data = {
        "constructed": outer(0xA0, tlv(0x04, ciphertext)),
        "segments": outer(0xA0, tlv(0x04, ciphertext[:7]), outer(0x24, tlv(0x04, ciphertext[7:]), tlv(0x04, b""))),
        "primitive": tlv(0x80, ciphertext),
    }[content]
    cipher = tlv(0x30, bytes.fromhex("060960864801650304012a"), tlv(0x04, iv))
    encrypted = outer(0x30, bytes.fromhex("06092a864886f70d010701"), cipher, data)
    body = outer(0x30, b"\x02\x01\x02", tlv(0x31, recipient), encrypted)
    return outer(0x30, bytes.fromhex("06092a864886f70d010703"), outer(0xA0, body))


def seal_for(
    spki: bytes, plaintext: bytes, *, cek: bytes, pad: bytes | None = None, ski: bytes | None = None, **shape: object
) -> bytes:
    """What KMS would answer for the recipient `spki`. `pad` replaces the PKCS #7 padding."""
    iv = os.urandom(16)
    if pad is None:
        fill = 16 - len(plaintext) % 16
        pad = bytes([fill]) * fill
    encryptor = Cipher(algorithms.AES(cek if len(cek) in (16, 24, 32) else bytes(32)), modes.CBC(iv)).encryptor()
    public = load_der_public_key(spki)
    assert isinstance(public, rsa.RSAPublicKey)
    return build_cms(
        ski=hashlib.sha256(spki).digest() if ski is None else ski,
        encrypted_key=public.encrypt(cek, OAEP),
        iv=iv,
        ciphertext=encryptor.update(plaintext + pad) + encryptor.finalize(),
        **shape,  # type: ignore[arg-type]
    )


@pytest.fixture(scope="session")
def kit() -> SimpleNamespace:
    return SimpleNamespace(build_cms=build_cms, seal_for=seal_for, tlv=tlv, indefinite=indefinite)


@pytest.fixture(scope="session")
def cms_vectors() -> Path:
    for parent in Path(__file__).resolve().parents:
        found = parent.parent / "shared" / "vectors" / "cms"
        if (parent / "enclave").is_dir() and found.is_dir():
            return found
    if os.environ.get("CI"):
        pytest.fail("the public CMS vectors are missing")
    pytest.skip("no public CMS vectors beside this checkout")


# --- a TLS endpoint that does what its script says

HOST = "kms.eu-central-1.amazonaws.com"
ARN = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
NOW_MS = 1_790_000_000_000  # 2026-09: what the trusted clock says; never the machine's own time
NOW = datetime.datetime.fromtimestamp(NOW_MS / 1000, tz=datetime.UTC)
DAY = datetime.timedelta(days=1)


class Authority:
    """A throwaway CA."""

    def __init__(
        self, name: str = "test root", *, begin: datetime.datetime = NOW - DAY, life: datetime.timedelta = 2 * DAY
    ):
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = self._certificate(self.name, self.key.public_key(), begin, life, ca=True)
        self.pem = certificate.public_bytes(Encoding.PEM).decode()

    def _certificate(self, subject, public_key, begin, life, *, ca, san=None):
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(begin + life)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if san:
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(san)]), critical=False)
        return builder.sign(self.key, hashes.SHA256())

    def server_context(self, directory: Path, *, host=HOST, begin=NOW - DAY, life=2 * DAY) -> ssl.SSLContext:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOST)])
        certificate = self._certificate(subject, key.public_key(), begin, life, ca=False, san=host)
        path = directory / f"{os.urandom(8).hex()}.pem"
        path.write_bytes(
            certificate.public_bytes(Encoding.PEM)
            + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context


class Endpoint:
    """Takes one action from `script` for each request; when it is empty, answers well.

    An action is bytes to write (an answer), or a coroutine function of (reader, writer) that does what it likes; after
    an action that returns False the connection is dropped.
    """

    def __init__(self) -> None:
        self.script: list[Any] = []
        self.connections = 0
        self.requests: list[tuple[dict[str, str], dict[str, Any]]] = []
        self.port = 0
        self._server: asyncio.Server | None = None
        self._handlers: set[asyncio.Task[Any]] = set()

    async def start(self, context: ssl.SSLContext) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=context)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for handler in self._handlers:
            handler.cancel()
        await asyncio.gather(*self._handlers)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        handler = asyncio.current_task()
        assert handler is not None
        self._handlers.add(handler)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                headers = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
                body = await reader.readexactly(int(headers["Content-Length"]))
                self.requests.append((headers, json.loads(body)))
                action = self.script.pop(0) if self.script else good()
                if isinstance(action, bytes):
                    writer.write(action)
                    await writer.drain()
                elif await action(reader, writer) is False:
                    return
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError, ssl.SSLError):
            pass
        finally:
            self._handlers.discard(handler)
            writer.transport.abort()

    async def dial(self) -> socket.socket:
        raw = socket.socket()
        raw.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", self.port))
        except BaseException:
            raw.close()
            raise
        return raw


def http(status: int, body: bytes | dict[str, Any], *extra: str) -> bytes:
    if isinstance(body, dict):
        body = json.dumps(body).encode()
    head = [f"HTTP/1.1 {status} Scripted", f"Content-Length: {len(body)}", *extra]
    return ("\r\n".join(head) + "\r\n\r\n").encode() + body


GOOD = {
    "KeyId": ARN,
    "CiphertextBlob": base64.b64encode(b"blob" * 40).decode(),
    "CiphertextForRecipient": base64.b64encode(b"cms!" * 120).decode(),
    "Plaintext": None,
    "KeyMaterialId": "f" * 64,
}


def good(*without: str, **change: Any) -> bytes:
    return http(200, {key: value for key, value in (GOOD | change).items() if key not in without})


def fault(name: str, status: int = 400) -> bytes:
    return http(status, {"__type": name, "Message": "User: arn:aws:sts::secret is not authorized"})


@pytest.fixture
def kms_kit() -> SimpleNamespace:
    names = {"Authority": Authority, "Endpoint": Endpoint, "http": http, "good": good, "fault": fault, "GOOD": GOOD}
    return SimpleNamespace(HOST=HOST, ARN=ARN, NOW=NOW, NOW_MS=NOW_MS, DAY=DAY, **names)


@pytest.fixture(scope="session")
def authority() -> Authority:
    return Authority()


@pytest_asyncio.fixture
async def endpoint(authority: Authority, tmp_path: Path) -> AsyncIterator[Endpoint]:
    started = Endpoint()
    await started.start(authority.server_context(tmp_path))
    yield started
    await started.stop()


@pytest_asyncio.fixture
async def make(endpoint: Any, authority: Any):
    clients: list[KmsClient] = []

    def build(**change: Any) -> KmsClient:
        arguments: dict[str, Any] = {
            "dial": endpoint.dial,
            "host": HOST,
            "region": "eu-central-1",
            "roots": [authority.pem],
            "credentials": lambda: Credentials("AKIDEXAMPLE", "secret", "token", 0),
            "now_ms": lambda: NOW_MS,
            "jitter": lambda: 0.0,
        }
        clients.append(KmsClient(**(arguments | change)))
        return clients[-1]

    yield build
    for client in clients:
        await client.aclose()


@pytest.fixture
def client(make: Callable[..., KmsClient]) -> KmsClient:
    return make()


@pytest.fixture
def arn() -> str:
    return ARN
