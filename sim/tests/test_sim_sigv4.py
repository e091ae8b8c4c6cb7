"""SigV4: what botocore signs is believed, and nothing else. Each attack asserts the code."""

from __future__ import annotations

import datetime
from typing import Any

import botocore.auth
import pytest
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotoCredentials
from hypothesis import given
from hypothesis import strategies as st

from adytum_sim.kms import Credentials, KmsFault
from adytum_sim.kms.caller import session_caller, user_caller
from adytum_sim.kms.sigv4 import SignedRequest, verify

NOW = datetime.datetime(2026, 9, 21, 12, 0, 0, tzinfo=datetime.UTC)
NOW_MS = int(NOW.timestamp() * 1000)
BODY = b'{"KeyId":"x"}'
USER = Credentials(
    access_key_id="AKIAEXAMPLE",
    secret_access_key="secret",
    caller=user_caller(account="111122223333", user="u", user_id="AIDA", policies=()),
)
SESSION = Credentials(
    access_key_id="ASIAEXAMPLE",
    secret_access_key="secret2",
    session_token="token+/=",
    expires_ms=NOW_MS + 600_000,
    caller=session_caller(account="111122223333", role="r", session="s1", role_id="AROA", policies=()),
)
KNOWN = {c.access_key_id: c for c in (USER, SESSION)}


def sign(
    credentials: Credentials = USER,
    *,
    body: bytes = BODY,
    url: str = "https://kms.us-east-1.amazonaws.com/",
    at: datetime.datetime = NOW,
    region: str = "us-east-1",
    service: str = "kms",
    headers: dict[str, str] | None = None,
) -> SignedRequest:
    """Let botocore sign."""
    request = AWSRequest(
        method="POST",
        url=url,
        data=body,
        headers={"X-Amz-Target": "TrentService.Decrypt", "Content-Type": "application/x-amz-json-1.1"}
        | (headers or {}),
    )
    boto = BotoCredentials(credentials.access_key_id, credentials.secret_access_key, credentials.session_token)
    signer = botocore.auth.SigV4Auth(boto, service, region)
    patch = pytest.MonkeyPatch()
    patch.setattr(botocore.auth, "get_current_datetime", lambda: at.replace(tzinfo=None))
    try:
        signer.add_auth(request)
    finally:
        patch.undo()
    prepared = request.prepare()
    host = url.split("/")[2]
    sent = {k.lower(): v.decode() if isinstance(v, bytes) else v for k, v in prepared.headers.items()}
    sent.setdefault("host", host)
    path = "/" + url.split("/", 3)[3]
    return SignedRequest(method="POST", target=path, headers=list(sent.items()), body=body)


def check(request: SignedRequest, now_ms: int = NOW_MS) -> Credentials:
    return verify(request, KNOWN, now_ms=now_ms, region="us-east-1", service="kms")


def change(request: SignedRequest, **headers: str | None) -> SignedRequest:
    """The same request with headers replaced (None removes)."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    kept = [(k, v) for k, v in request.headers if k not in names]
    added = [(k, v) for k, v in names.items() if v is not None]
    return SignedRequest(method=request.method, target=request.target, headers=kept + added, body=request.body)


def refused(request: SignedRequest, now_ms: int = NOW_MS) -> str:
    with pytest.raises(KmsFault) as caught:
        check(request, now_ms)
    assert caught.value.status == 400
    return caught.value.code


@pytest.mark.parametrize("credentials", [USER, SESSION])
@pytest.mark.parametrize("url", ["https://kms.us-east-1.amazonaws.com/", "https://127.0.0.1:8443/"])
def test_what_botocore_signs_is_believed(credentials: Credentials, url: str) -> None:
    assert check(sign(credentials, url=url)) is credentials


@given(st.binary(max_size=300), st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=30))
def test_any_body_and_header_that_botocore_signs_is_believed(body: bytes, value: str) -> None:
    assert check(sign(body=body, headers={"X-Amz-Extra": value})) is USER


@pytest.mark.parametrize(("offset", "code"), [(299, None), (301, "InvalidSignatureException")])
@pytest.mark.parametrize("direction", [1, -1])
def test_the_clock_may_be_five_minutes_off(offset: int, code: str | None, direction: int) -> None:
    request = sign(at=NOW - datetime.timedelta(seconds=offset * direction))
    if code is None:
        assert check(request) is USER
    else:
        assert refused(request) == code


def test_a_changed_body_is_refused() -> None:
    request = sign()
    changed = SignedRequest(method="POST", target="/", headers=request.headers, body=BODY + b" ")
    assert refused(changed) == "InvalidSignatureException"


def test_a_changed_target_is_refused() -> None:
    assert refused(change(sign(), x_amz_target="TrentService.Encrypt")) == "InvalidSignatureException"


def test_a_changed_host_is_refused() -> None:
    assert refused(change(sign(), host="evil.example")) == "InvalidSignatureException"


def test_a_changed_query_or_method_is_refused() -> None:
    request = sign()
    for method, target in (("POST", "/?a=1"), ("POST", "/?"), ("PUT", "/"), ("POST", "/x")):
        moved = SignedRequest(method=method, target=target, headers=request.headers, body=BODY)
        assert refused(moved) == "InvalidSignatureException"


def test_a_wrong_secret_is_refused() -> None:
    thief = Credentials(access_key_id="AKIAEXAMPLE", secret_access_key="guess", caller=USER.caller)
    assert refused(sign(thief)) == "InvalidSignatureException"


def test_an_unknown_access_key_is_refused() -> None:
    stranger = Credentials(access_key_id="AKIASTRANGER", secret_access_key="secret", caller=USER.caller)
    assert refused(sign(stranger)) == "UnrecognizedClientException"


@pytest.mark.parametrize("token", [None, "other", ""])
def test_a_session_without_its_token_is_refused(token: str | None) -> None:
    without = Credentials(
        access_key_id=SESSION.access_key_id,
        secret_access_key=SESSION.secret_access_key,
        session_token=token,
        caller=SESSION.caller,
    )
    assert refused(sign(without)) == "UnrecognizedClientException"


def test_a_token_beside_long_term_keys_is_refused() -> None:
    odd = Credentials(access_key_id="AKIAEXAMPLE", secret_access_key="secret", session_token="t", caller=USER.caller)
    assert refused(sign(odd)) == "UnrecognizedClientException"


def test_an_expired_session_is_refused() -> None:
    late = NOW + datetime.timedelta(seconds=600)
    assert refused(sign(SESSION, at=late), int(late.timestamp() * 1000)) == "ExpiredTokenException"


@pytest.mark.parametrize(("region", "service"), [("us-west-2", "kms"), ("us-east-1", "sts"), ("us-east-1", "s3")])
def test_another_scope_is_refused(region: str, service: str) -> None:
    assert refused(sign(region=region, service=service)) == "InvalidSignatureException"


def test_an_unsigned_amz_header_is_refused() -> None:
    assert refused(change(sign(), x_amz_added="1")) == "InvalidSignatureException"


def test_no_authorization_is_refused() -> None:
    assert refused(change(sign(), authorization=None)) == "MissingAuthenticationTokenException"


def _auth(request: SignedRequest) -> str:
    return request.header("authorization") or ""


@pytest.mark.parametrize(
    ("edit", "code"),
    [
        (lambda a: a.replace("AWS4-HMAC-SHA256", "AWS4-HMAC-SHA1"), "IncompleteSignatureException"),
        (lambda a: a.replace("Signature=", "Sig="), "IncompleteSignatureException"),
        (lambda a: a + ", Signature=0", "IncompleteSignatureException"),
        (lambda a: a[:-1] + ("0" if a[-1] != "0" else "1"), "InvalidSignatureException"),
        (lambda a: a.replace("/aws4_request", ""), "IncompleteSignatureException"),
        (lambda a: a.replace("aws4_request", "aws5_request"), "InvalidSignatureException"),
        (lambda a: a.replace("/20260921/", "/20260920/"), "InvalidSignatureException"),
        (lambda a: a.replace("host;", ""), "InvalidSignatureException"),
        (lambda a: a.replace("content-type;host", "host;content-type"), "InvalidSignatureException"),
        (lambda a: a.replace("SignedHeaders=", "SignedHeaders=absent;"), "InvalidSignatureException"),
        (lambda a: "", "IncompleteSignatureException"),
    ],
)
def test_an_edited_authorization_is_refused(edit: Any, code: str) -> None:
    request = sign()
    assert refused(change(request, authorization=edit(_auth(request)))) == code


@pytest.mark.parametrize("date", [None, "yesterday", "20261399T000000Z"])
def test_a_missing_or_broken_date_is_refused(date: str | None) -> None:
    code = refused(change(sign(), x_amz_date=date))
    assert code in ("IncompleteSignatureException", "InvalidSignatureException")


@given(st.text(max_size=120))
def test_any_authorization_is_refused_with_a_fault(text: str) -> None:
    assert refused(change(sign(), authorization=text)).endswith("Exception")
