"""The KMS client against an endpoint that misbehaves in every way that a host, a network or KMS can."""

from __future__ import annotations

import asyncio
import base64
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from adytum_enclave.shell.kms import KmsAnswer, KmsClient
from adytum_wire.errors import AdytumError, Code
from adytum_wire.messages import Credentials

DOCUMENT = b"document" * 500


async def generate(client: KmsClient, arn: str, timeout_s: float = 5.0) -> KmsAnswer:
    return await client.generate_data_key(
        key_arn=arn, context={"adytum:tenant": "acme"}, attestation_document=DOCUMENT, timeout_s=timeout_s
    )


async def decrypt(client: KmsClient, arn: str, timeout_s: float = 5.0) -> KmsAnswer:
    return await client.decrypt(
        key_arn=arn,
        ciphertext_blob=b"sealed",
        context={"adytum:tenant": "acme"},
        attestation_document=DOCUMENT,
        timeout_s=timeout_s,
    )


async def refused(call: Any, code: Code, field: str | None = None) -> AdytumError:
    with pytest.raises(AdytumError) as caught:
        await call
    assert caught.value.code is code
    assert field is None or caught.value.field == field
    assert "secret" not in str(caught.value)
    return caught.value


# --- what goes well


async def test_generates_a_data_key(client: KmsClient, endpoint: Any, arn: str) -> None:
    answer = await generate(client, arn)
    assert (answer.ciphertext_for_recipient, answer.ciphertext_blob, answer.key_id) == (
        b"cms!" * 120,
        b"blob" * 40,
        arn,
    )
    headers, body = endpoint.requests[0]
    assert body == {
        "KeyId": arn,
        "KeySpec": "AES_256",
        "EncryptionContext": {"adytum:tenant": "acme"},
        "Recipient": {
            "KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256",
            "AttestationDocument": base64.b64encode(DOCUMENT).decode(),
        },
    }
    assert headers["X-Amz-Target"] == "TrentService.GenerateDataKey"
    assert headers["Content-Type"] == "application/x-amz-json-1.1"
    assert headers["X-Amz-Security-Token"] == "token"
    assert "/eu-central-1/kms/aws4_request" in headers["Authorization"]
    assert "cms!" not in repr(answer) and "blob'" not in repr(answer)


async def test_decrypts(client: KmsClient, endpoint: Any, arn: str, kms_kit: SimpleNamespace) -> None:
    endpoint.script = [kms_kit.good("CiphertextBlob", "Plaintext", EncryptionAlgorithm="SYMMETRIC_DEFAULT")]
    answer = await decrypt(client, arn)
    assert (answer.ciphertext_blob, answer.key_id) == (b"sealed", arn)
    headers, body = endpoint.requests[0]
    assert headers["X-Amz-Target"] == "TrentService.Decrypt"
    assert body["CiphertextBlob"] == base64.b64encode(b"sealed").decode()
    assert body["KeyId"] == arn and body["EncryptionContext"] == {"adytum:tenant": "acme"}


@pytest.mark.parametrize("plaintext", [None, ""])
async def test_an_empty_plaintext_is_fine(
    client: KmsClient, endpoint: Any, arn: str, kms_kit: SimpleNamespace, plaintext: str | None
) -> None:
    endpoint.script = [kms_kit.good(Plaintext=plaintext), kms_kit.good("Plaintext")]
    await generate(client, arn)
    await generate(client, arn)


async def test_one_connection_serves_many_calls(client: KmsClient, endpoint: Any, arn: str) -> None:
    for _ in range(10):
        await generate(client, arn)
    assert (endpoint.connections, len(endpoint.requests)) == (1, 10)


async def test_never_more_connections_than_allowed(make: Callable[..., KmsClient], endpoint: Any, arn: str) -> None:
    client = make(max_connections=3)
    await asyncio.gather(*(generate(client, arn) for _ in range(20)))
    assert len(endpoint.requests) == 20
    assert endpoint.connections <= 3


async def test_a_chunked_answer_is_read(client: KmsClient, endpoint: Any, arn: str, kms_kit: SimpleNamespace) -> None:
    body = kms_kit.good().split(b"\r\n\r\n", 1)[1]
    endpoint.script = [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    ]
    await generate(client, arn)
    await generate(client, arn)
    assert endpoint.connections == 1


async def test_an_answer_in_drips_is_read(client: KmsClient, endpoint: Any, arn: str, kms_kit: SimpleNamespace) -> None:
    async def drip(_reader: Any, writer: asyncio.StreamWriter) -> None:
        data = kms_kit.good()
        for at in range(0, len(data), 97):
            writer.write(data[at : at + 97])
            await writer.drain()
            await asyncio.sleep(0)

    endpoint.script = [drip]
    await generate(client, arn)


async def test_connection_close_is_honoured(
    client: KmsClient, endpoint: Any, arn: str, kms_kit: SimpleNamespace
) -> None:
    endpoint.script = [kms_kit.http(200, kms_kit.GOOD, "Connection: close")]
    await generate(client, arn)
    await generate(client, arn)
    assert endpoint.connections == 2


# --- who is at the other end


async def rejected_peer(
    make: Callable[..., KmsClient], kms_kit: SimpleNamespace, arn: str, context: ssl.SSLContext, **change: Any
) -> str:
    server = kms_kit.Endpoint()
    await server.start(context)
    try:
        error = await refused(generate(make(dial=server.dial, **change), arn), Code.KMS_ANSWER_INVALID)
        assert server.requests == []  # nothing was sent to it: no document, no credentials
        assert server.connections <= 1  # and it was not asked twice
    finally:
        await server.stop()
    return error.field


async def test_another_ca_is_refused(make: Any, kms_kit: SimpleNamespace, arn: str, tmp_path: Path) -> None:
    other = kms_kit.Authority().server_context(tmp_path)  # the same names, another key
    assert await rejected_peer(make, kms_kit, arn, other) == "tls.certificate"


async def test_a_certificate_for_another_host_is_refused(
    make: Any, authority: Any, kms_kit: SimpleNamespace, arn: str, tmp_path: Path
) -> None:
    for host in ("kms.eu-west-1.amazonaws.com", "amazonaws.com", "*.amazonaws.com"):
        context = authority.server_context(tmp_path, host=host)
        assert await rejected_peer(make, kms_kit, arn, context) == "tls.certificate"


async def test_a_host_name_in_the_common_name_alone_is_refused(
    make: Any, authority: Any, kms_kit: SimpleNamespace, arn: str, tmp_path: Path
) -> None:
    context = authority.server_context(tmp_path, host=None)  # CN is the right name, there is no SAN
    assert await rejected_peer(make, kms_kit, arn, context) == "tls.certificate"


@pytest.mark.parametrize("days", [-30, 30])
async def test_certificates_are_judged_by_the_trusted_clock(
    make: Any, authority: Any, kms_kit: SimpleNamespace, arn: str, tmp_path: Path, days: int
) -> None:
    context = authority.server_context(tmp_path)
    moved = kms_kit.NOW_MS + days * 86_400_000
    field = await rejected_peer(make, kms_kit, arn, context, now_ms=lambda: moved)
    assert field == "tls.certificate.validity"


@pytest.mark.parametrize("year", [2001, 2071])
async def test_the_kernel_s_clock_has_no_say(
    make: Any, kms_kit: SimpleNamespace, arn: str, tmp_path: Path, year: int
) -> None:
    begin = kms_kit.NOW.replace(year=year)
    authority = kms_kit.Authority(begin=begin, life=3 * kms_kit.DAY)
    server = kms_kit.Endpoint()
    await server.start(authority.server_context(tmp_path, begin=begin))
    then = int((begin + kms_kit.DAY).timestamp() * 1000)
    await generate(make(dial=server.dial, roots=[authority.pem], now_ms=lambda: then), arn)
    await server.stop()


async def test_an_expired_root_is_refused(make: Any, kms_kit: SimpleNamespace, arn: str, tmp_path: Path) -> None:
    authority = kms_kit.Authority(begin=kms_kit.NOW - 9 * kms_kit.DAY, life=kms_kit.DAY)
    context = authority.server_context(tmp_path)
    field = await rejected_peer(make, kms_kit, arn, context, roots=[authority.pem])
    assert field == "tls.certificate.validity"


async def test_tls_1_2_is_the_oldest_spoken(
    make: Any, authority: Any, kms_kit: SimpleNamespace, arn: str, tmp_path: Path
) -> None:
    client = make()
    assert client._context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert client._context.verify_mode is ssl.CERT_REQUIRED and client._context.check_hostname
    context = authority.server_context(tmp_path)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    server = kms_kit.Endpoint()
    await server.start(context)
    await generate(make(dial=server.dial), arn)
    await server.stop()


@pytest.mark.parametrize("roots", [[], [""], ["not a certificate"]])
def test_no_roots_trust_nobody(make: Callable[..., KmsClient], roots: list[str]) -> None:
    with pytest.raises(AdytumError) as caught:
        make(roots=roots)
    assert caught.value.code is Code.MANIFEST_INVALID


async def test_a_host_that_answers_in_plain_text_is_not_kms(make: Any, arn: str) -> None:
    async def liar(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        writer.close()

    server = await asyncio.start_server(liar, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]

    async def dial() -> socket.socket:
        return await asyncio.to_thread(socket.create_connection, ("127.0.0.1", port))

    await refused(generate(make(dial=dial), arn), Code.KMS_UNAVAILABLE)
    server.close()


# --- answers that fail their checks


ANSWERS = {
    "Plaintext": lambda k: k.good(Plaintext="AAAA"),
    "KeyId": lambda k: k.good(KeyId=k.ARN[:-1] + "c"),
    "KeyId ": lambda k: k.good(KeyId=k.ARN.split("/")[1]),  # an id is not the ARN
    "$.KeyId": lambda k: k.good(KeyId=7),
    "$": lambda k: k.good("CiphertextForRecipient"),
    "CiphertextBlob": lambda k: k.good("CiphertextBlob"),
    "CiphertextBlob ": lambda k: k.good(CiphertextBlob=base64.b64encode(bytes(6145)).decode()),
    "CiphertextForRecipient": lambda k: k.good(CiphertextForRecipient=""),
    "CiphertextForRecipient ": lambda k: k.good(CiphertextForRecipient="!!!!"),
    "CiphertextForRecipient  ": lambda k: k.good(CiphertextForRecipient=base64.b64encode(bytes(6145)).decode()),
    "$ (not strict JSON)": lambda k: k.http(200, b"{"),
    "$ (not strict JSON) ": lambda k: k.http(200, b'{"KeyId":"a","KeyId":"b"}'),
    "$ (not strict JSON)  ": lambda k: k.http(200, b""),
    "$ ": lambda k: k.http(200, b"[]"),
    "http.status": lambda k: k.http(302, b"", "Location: https://elsewhere/"),
    "http": lambda k: b"SSH-2.0-OpenSSH\r\n\r\n",
    "http ": lambda k: b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000,
    "http.body": lambda k: b"HTTP/1.1 200 OK\r\nContent-Length: 65537\r\n\r\n",
    "http.body ": lambda k: b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n20000\r\n" + b" " * 0x20000,
    "http.body  ": lambda k: b"HTTP/1.1 200 OK\r\n\r\n" + k.good().split(b"\r\n\r\n")[1],
}


@pytest.mark.parametrize("name", ANSWERS)
async def test_an_answer_that_fails_a_check_is_refused_and_not_retried(
    client: KmsClient, endpoint: Any, arn: str, kms_kit: SimpleNamespace, name: str
) -> None:
    endpoint.script = [ANSWERS[name](kms_kit)]
    await refused(generate(client, arn), Code.KMS_ANSWER_INVALID, name.strip())
    assert len(endpoint.requests) == 1
    await generate(client, arn)  # and the next call is as if nothing had been


async def test_a_decrypt_by_another_algorithm_is_refused(
    client: KmsClient, endpoint: Any, arn: str, kms_kit: SimpleNamespace
) -> None:
    endpoint.script = [kms_kit.good(EncryptionAlgorithm="RSAES_OAEP_SHA_1")]
    await refused(decrypt(client, arn), Code.KMS_ANSWER_INVALID, "EncryptionAlgorithm")


async def test_surplus_bytes_are_never_the_next_answer(
    client: KmsClient, endpoint: Any, arn: str, kms_kit: SimpleNamespace
) -> None:
    endpoint.script = [kms_kit.good() + kms_kit.good(Plaintext="AAAA")]
    await generate(client, arn)
    await generate(client, arn)
    assert endpoint.connections == 2


# --- refusals


@pytest.mark.parametrize(
    ("name", "code", "field"),
    [
        ("AccessDeniedException", Code.KMS_DENIED, "AccessDeniedException"),
        ("com.amazonaws.kms#DisabledException", Code.KMS_DENIED, "DisabledException"),
        ("ValidationException:http://internal.amazon.com/", Code.KMS_DENIED, "ValidationException"),
        ("SomethingNovelException", Code.KMS_DENIED, ""),
        ("", Code.KMS_DENIED, ""),
        ("ExpiredTokenException", Code.KMS_UNAVAILABLE, "credentials"),
        ("UnrecognizedClientException", Code.KMS_UNAVAILABLE, "credentials"),
        ("InvalidCiphertextException", Code.RECORD_TAMPERED, "data_key_ciphertext"),
        ("IncorrectKeyException", Code.RECORD_TAMPERED, "data_key_ciphertext"),
    ],
)
async def test_a_refusal_is_never_retried(
    client: KmsClient, endpoint: Any, arn: str, kms_kit: SimpleNamespace, name: str, code: Code, field: str
) -> None:
    endpoint.script = [kms_kit.fault(name)]
    error = await refused(decrypt(client, arn), code, field)
    assert len(endpoint.requests) == 1
    assert "arn:aws:sts" not in str(error)
    await decrypt(client, arn)
    assert endpoint.connections == 1  # a refusal is an answer: the connection is kept


async def test_invalid_ciphertext_means_tampering_only_when_decrypting(
    client: KmsClient, endpoint: Any, arn: str, kms_kit: SimpleNamespace
) -> None:
    endpoint.script = [kms_kit.fault("InvalidCiphertextException")]
    await refused(generate(client, arn), Code.KMS_DENIED)


@pytest.mark.parametrize("size", [0, 6145])
async def test_a_blob_that_kms_would_not_take_is_not_sent(
    client: KmsClient, endpoint: Any, arn: str, size: int
) -> None:
    call = client.decrypt(
        key_arn=arn, ciphertext_blob=bytes(size), context={}, attestation_document=DOCUMENT, timeout_s=5
    )
    await refused(call, Code.RECORD_TAMPERED)
    assert endpoint.connections == 0


async def test_without_credentials_nothing_is_sent(
    make: Callable[..., KmsClient], endpoint: Any, arn: str, kms_kit: SimpleNamespace
) -> None:
    expired = Credentials("A", "S", "T", kms_kit.NOW_MS)
    broken = Credentials("A", "S", "T\r\nX-Evil: 1", 0)
    for credentials in (None, expired, broken):
        client = make(credentials=lambda credentials=credentials: credentials)
        await refused(generate(client, arn), Code.KMS_UNAVAILABLE, "credentials")
    assert endpoint.connections == 0
