"""The HTTP and TLS face: host names, keep-alive, and what is sent that boto3 would never send."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from collections.abc import Iterator
from typing import Any

import pytest

from adytum_sim.kms import RunningKms, kms_in_thread

TARGET = {"X-Amz-Target": "TrentService.ListKeys", "Content-Type": "application/x-amz-json-1.1"}


@pytest.fixture
def connection(kms: RunningKms) -> Iterator[http.client.HTTPSConnection]:
    context = ssl.create_default_context(cadata=kms.ca_pem.decode())
    connection = http.client.HTTPSConnection("127.0.0.1", kms.port, context=context, timeout=20)
    yield connection
    connection.close()


def ask(connection: http.client.HTTPSConnection, method: str = "POST", path: str = "/", **headers: str) -> Any:
    sent = TARGET | {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body=b"{}", headers=sent)
    answer = connection.getresponse()
    body = answer.read()
    assert answer.getheader("content-type") == "application/x-amz-json-1.1"
    return answer.status, json.loads(body)


@pytest.mark.parametrize(
    "name", ["kms.us-east-1.amazonaws.com", "sts.us-east-1.amazonaws.com", "localhost", "127.0.0.1"]
)
def test_the_certificate_is_valid_for_the_real_host_names(kms: RunningKms, name: str) -> None:
    context = ssl.create_default_context(cadata=kms.ca_pem.decode())
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    with (
        socket.create_connection(("127.0.0.1", kms.port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=name) as tls,
    ):
        assert tls.version() in ("TLSv1.2", "TLSv1.3")


@pytest.mark.parametrize("name", ["kms.eu-west-1.amazonaws.com", "example.com"])
def test_no_other_name_and_no_other_root_is_believed(kms: RunningKms, name: str) -> None:
    with kms_in_thread() as other:
        for context, host in (
            (ssl.create_default_context(cadata=kms.ca_pem.decode()), name),
            (ssl.create_default_context(cadata=other.ca_pem.decode()), "localhost"),
        ):
            with (
                socket.create_connection(("127.0.0.1", kms.port), timeout=10) as plain,
                pytest.raises(ssl.SSLCertVerificationError),
            ):
                context.wrap_socket(plain, server_hostname=host)


def test_an_unsigned_request_is_refused_and_the_connection_lives_on(connection: http.client.HTTPSConnection) -> None:
    for _ in range(3):
        status, body = ask(connection)
        assert (status, body["__type"]) == (400, "MissingAuthenticationTokenException")


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("GET", "/", {}),
        ("POST", "/keys", {}),
        ("POST", "/?Action=ListKeys", {}),
        ("POST", "/", {"Content_Type": "text/plain"}),
    ],
)
def test_what_is_not_the_protocol_is_unknown(
    connection: http.client.HTTPSConnection, method: str, path: str, headers: dict[str, str]
) -> None:
    status, body = ask(connection, method, path, **headers)
    assert (status, body["__type"]) == (404, "UnknownOperationException")


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"POST / HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n" + b"x" * 2_000_000,
        b"POST / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 200_000,
    ],
)
def test_garbage_closes_the_connection_and_the_server_lives_on(kms: RunningKms, data: bytes) -> None:
    context = ssl.create_default_context(cadata=kms.ca_pem.decode())
    with (
        socket.create_connection(("127.0.0.1", kms.port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as tls,
    ):
        try:
            tls.sendall(data)
            assert tls.recv(100) == b""
        except (ConnectionError, ssl.SSLError):
            pass
    again = http.client.HTTPSConnection("127.0.0.1", kms.port, context=context, timeout=20)
    assert ask(again)[0] == 400
    again.close()


@pytest.mark.parametrize("body", [b"[]", b"{", b"[" * 100_000, b'{"KeyId": "\\ud800"}', b"\xff"])
def test_a_signed_body_that_is_no_object_is_refused(kms: RunningKms, ca_file: str, body: bytes) -> None:
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials
    from botocore.httpsession import URLLib3Session

    request = AWSRequest(method="POST", url=kms.endpoint + "/", data=body, headers=TARGET)
    credentials = Credentials(kms.access_key_id, kms.secret_access_key, kms.session_token)
    SigV4Auth(credentials, "kms", kms.region).add_auth(request)
    session = URLLib3Session(verify=ca_file)
    answer = session.send(request.prepare())
    assert (answer.status_code, json.loads(answer.content)["__type"]) == (400, "SerializationException")
    session.close()
