"""SigV4 against AWS's published test suite (aws-sig-v4-test-suite) and against botocore."""

from __future__ import annotations

import datetime
import traceback
from unittest import mock

import botocore.auth
import pytest
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotoCredentials
from hypothesis import given, settings
from hypothesis import strategies as st

from adytum_enclave.shell.sigv4 import Signer
from adytum_wire.messages import Credentials

SUITE = Credentials("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "", 0)
SUITE_MS = 1_440_938_160_000  # 2015-08-30T12:36:00Z
SIGNER = Signer(service="service", region="us-east-1")
UNRESERVED = "-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
ORDER = [("Param2", "value2"), ("Param1", "value1")]
TRIM = [("My-Header1", " value1"), ("My-Header2", ' "a   b   c"')]
FORM = ("Content-Type", "application/x-www-form-urlencoded")

# name in the suite, method, path, query, headers, body, signed headers, signature
PUBLISHED: list[tuple] = [
    ("get-vanilla", "GET", "/", [], [], b"", "host;x-amz-date",
     "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
    ("post-vanilla", "POST", "/", [], [], b"", "host;x-amz-date",
     "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
    ("get-vanilla-empty-query-key", "GET", "/", [("Param1", "value1")], [], b"", "host;x-amz-date",
     "a67d582fa61cc504c4bae71f336f98b97f1ea3c7a6bfe1b6e45aec72011b9aeb"),
    ("get-vanilla-query-order-key-case", "GET", "/", ORDER, [], b"", "host;x-amz-date",
     "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500"),
    ("get-vanilla-utf8-query", "GET", "/", [("\u1234", "bar")], [], b"", "host;x-amz-date",
     "2cdec8eed098649ff3a119c94853b13c643bcf08f8b0a1d91e12c9027818dd04"),
    ("get-unreserved", "GET", "/" + UNRESERVED, [], [], b"", "host;x-amz-date",
     "07ef7494c76fa4850883e2b006601f940f8a34d404d0cfa977f52a65bbf5f24f"),
    ("get-utf8", "GET", "/\u1234", [], [], b"", "host;x-amz-date",
     "8318018e0b0f223aa2bbf98705b62bb787dc9c0e678f255a891fd03141be5d85"),
    ("post-header-key-sort", "POST", "/", [], [("My-Header1", "value1")], b"", "host;my-header1;x-amz-date",
     "c5410059b04c1ee005303aed430f6e6645f61f4dc9e1461ec8f8916fdf18852c"),
    ("post-vanilla-query", "POST", "/", [("Param1", "value1")], [], b"", "host;x-amz-date",
     "28038455d6de14eafc1f9222cf5aa6f1a96197d7deb8263271d420d138af7f11"),
    ("post-x-www-form-urlencoded", "POST", "/", [], [FORM], b"Param1=value1", "content-type;host;x-amz-date",
     "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a"),
    ("get-header-value-trim", "GET", "/", [], TRIM, b"", "host;my-header1;my-header2;x-amz-date",
     "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736"),
]  # fmt: skip


@pytest.mark.parametrize("case", PUBLISHED, ids=[case[0] for case in PUBLISHED])
def test_the_published_suite(case: tuple) -> None:
    _, method, path, query, headers, body, signed, signature = case
    sent = SIGNER.sign(method, "example.amazonaws.com", headers, body, SUITE, now_ms=SUITE_MS, path=path, query=query)
    assert sent[-1] == (
        "Authorization",
        "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, "
        f"SignedHeaders={signed}, Signature={signature}",
    )


def by_botocore(
    service: str, region: str, headers: dict[str, str], body: bytes, credentials: Credentials, now_ms: int
) -> str:
    when = datetime.datetime.fromtimestamp(now_ms / 1000, tz=datetime.UTC)
    request = AWSRequest("POST", f"https://{service}.{region}.amazonaws.com/", headers=headers, data=body)
    frozen = BotoCredentials(
        credentials.access_key_id, credentials.secret_access_key, credentials.session_token or None
    )
    with mock.patch.object(botocore.auth, "get_current_datetime", lambda remove_tzinfo=True: when.replace(tzinfo=None)):
        botocore.auth.SigV4Auth(frozen, service, region).add_auth(request)
    return request.headers["Authorization"]


PRINTABLE = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=40)


@settings(deadline=None)
@given(
    service=st.sampled_from(["kms", "sts", "dynamodb"]),
    region=st.sampled_from(["eu-central-1", "us-gov-west-1", "cn-north-1"]),
    body=st.binary(max_size=300),
    token=st.just("") | PRINTABLE,
    secret=PRINTABLE,
    target=st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30),
    now_ms=st.integers(0, 4_000_000_000_000),
)
def test_signs_as_botocore_signs(
    service: str, region: str, body: bytes, token: str, secret: str, target: str, now_ms: int
) -> None:
    credentials = Credentials("AKIDEXAMPLE", secret, token, 0)
    headers = [("X-Amz-Target", target), ("Content-Type", "application/x-amz-json-1.1")]
    ours = Signer(service=service, region=region).sign(
        "POST", f"{service}.{region}.amazonaws.com", headers, body, credentials, now_ms=now_ms
    )
    assert ours[-1][1] == by_botocore(service, region, dict(headers), body, credentials, now_ms)
    assert ("X-Amz-Security-Token", token) in ours or not token


@pytest.mark.parametrize("header", [("host", "x"), ("X-AMZ-DATE", "x"), ("Authorization", "x"), ("A", "b\r\nC: d")])
def test_a_header_that_would_confuse_the_signature_is_refused(header: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match="header"):
        SIGNER.sign("POST", "h", [header], b"", SUITE, now_ms=0)


def test_credentials_stand_in_no_error_and_no_representation() -> None:
    secret = Credentials("AKIDSECRETID", "hunter2secret", "token\nsecret", 0)
    try:
        SIGNER.sign("POST", "h", [], b"", secret, now_ms=0)
    except ValueError as error:
        text = "".join(traceback.format_exception(error)) + repr(SIGNER) + repr(secret)
    assert not any(part in text for part in ("AKIDSECRETID", "hunter2", "token\nsecret"))
