"""The anchor's key pair in slots: parsed from exactly one encoding, and its signatures are botocore's."""

from __future__ import annotations

import datetime
import gc
import hmac
import json
from unittest import mock

import botocore.auth
import pytest
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotoCredentials
from hypothesis import given, settings
from hypothesis import strategies as st

from adytum_enclave.core.crypto import hkdf
from adytum_enclave.core.secrets import Arena, Slot
from adytum_enclave.core.usage.credentials import AnchorKey
from adytum_enclave.shell.sigv4 import Signer
from adytum_wire.errors import AdytumError, Code

ID = "AKIAIOSFODNN7EXAMPLE"
SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
HEADERS = [("X-Amz-Target", "DynamoDB_20120810.PutItem"), ("Content-Type", "application/x-amz-json-1.0")]
REGION = "eu-west-1"
IDS = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", min_size=16, max_size=64)
SECRETS = st.text(
    st.characters(min_codepoint=33, max_codepoint=126, exclude_characters='"\\'), min_size=16, max_size=60
)


def encoded(key_id: str, secret: str) -> bytes:
    return json.dumps({"access_key_id": key_id, "secret_access_key": secret}, separators=(",", ":")).encode()


def slot_of(arena: Arena, data: bytes) -> Slot:
    slot = arena.take(len(data))
    slot.view[:] = data
    return slot


def key_of(arena: Arena, data: bytes) -> AnchorKey:
    with slot_of(arena, data) as plain:
        return AnchorKey.of(plain, code=Code.REQUEST_INVALID, field="$")


def authorization(key: AnchorKey, body: bytes, now_ms: int) -> str:
    host = f"dynamodb.{REGION}.amazonaws.com"
    signer = Signer(service="dynamodb", region=REGION)
    return signer.sign("POST", host, HEADERS, body, key, now_ms=now_ms)[-1][1]


def by_botocore(key_id: str, secret: str, body: bytes, now_ms: int) -> str:
    when = datetime.datetime.fromtimestamp(now_ms / 1000, tz=datetime.UTC)
    request = AWSRequest("POST", f"https://dynamodb.{REGION}.amazonaws.com/", headers=dict(HEADERS), data=body)
    with mock.patch.object(botocore.auth, "get_current_datetime", lambda remove_tzinfo=True: when.replace(tzinfo=None)):
        botocore.auth.SigV4Auth(BotoCredentials(key_id, secret), "dynamodb", REGION).add_auth(request)
    signed: str = request.headers["Authorization"]
    return signed


@settings(deadline=None, max_examples=40)
@given(IDS, SECRETS, st.lists(st.tuples(st.binary(max_size=80), st.integers(0, 4_000_000_000_000)), max_size=3))
def test_signs_as_botocore_signs(key_id: str, secret: str, asked: list[tuple[bytes, int]]) -> None:
    """Each at its own time: the derived key is made anew when the day changes."""
    arena = Arena(16384, prefer_memfd_secret=False)
    key = key_of(arena, encoded(key_id, secret))
    for body, now_ms in asked:
        assert authorization(key, body, now_ms) == by_botocore(key_id, secret, body, now_ms)
        assert authorization(key, body, now_ms) == by_botocore(key_id, secret, body, now_ms)
        assert arena.in_use == 128, "the secret and one derived key"
    key.wipe()
    assert arena.in_use == 0


@settings(deadline=None, max_examples=100)
@given(
    st.binary(min_size=1, max_size=200)
    | st.builds(
        lambda data, at, by: data[: at % len(data)] + by + data[at % len(data) :],
        st.just(encoded(ID, SECRET)),
        st.integers(0, 200),
        st.binary(max_size=3),
    )
)
def test_only_the_one_encoding_is_taken(data: bytes) -> None:
    """What is taken is what json would write for what was read; and no slot stays behind."""
    arena = Arena(16384, prefer_memfd_secret=False)
    try:
        key = key_of(arena, data)
    except AdytumError as error:
        assert (error.code, error.field) == (Code.REQUEST_INVALID, "$")
        gc.collect()
        assert arena.in_use == 0
        return
    before, after = b'{"access_key_id":"%s","secret_access_key":"' % key.access_key_id.encode(), b'"}'
    secret = data[len(before) : -len(after)]
    assert data == before + secret + after
    assert 16 <= len(key.access_key_id) <= 64
    assert 16 <= len(secret) <= 60
    key.wipe()
    assert arena.in_use == 0


@pytest.mark.parametrize("cut", range(1, len(encoded(ID, SECRET))))
def test_a_part_of_it_is_refused(cut: int) -> None:
    arena = Arena(4096, prefer_memfd_secret=False)
    whole = encoded(ID, SECRET)
    for data in (whole[:cut], whole[cut:]):
        with pytest.raises(AdytumError) as caught:
            key_of(arena, data)
        assert caught.value.code is Code.REQUEST_INVALID
    assert arena.in_use == 0


def test_a_full_arena_leaves_no_slot_and_the_key_usable() -> None:
    arena = Arena(4096, prefer_memfd_secret=False)
    key = key_of(arena, encoded(ID, SECRET))
    held = []
    while arena.in_use < arena.size:
        held.append(arena.take(64))
    for free in range(5):
        in_use = arena.in_use
        try:
            signed = authorization(key, b"{}", 0)
        except AdytumError as error:
            assert error.code is Code.RESOURCE_EXHAUSTED
            assert arena.in_use == in_use, free
        else:
            assert signed == by_botocore(ID, SECRET, b"{}", 0)
            break
        for _ in range(4):
            held.pop().wipe()
    else:
        pytest.fail("it never worked")
    for slot in held:
        slot.wipe()
    key.wipe()
    assert arena.in_use == 0


def test_it_stands_in_no_representation() -> None:
    arena = Arena(4096, prefer_memfd_secret=False)
    key = key_of(arena, encoded(ID, SECRET))
    assert repr(key) == "AnchorKey(...)"
    key.wipe()


@settings(max_examples=60, deadline=None)
@given(st.binary(min_size=1, max_size=64), st.binary(max_size=200))
def test_hmac_of_a_padded_key_is_that_of_the_key(key: bytes, message: bytes) -> None:
    arena = Arena(4096, prefer_memfd_secret=False)
    with slot_of(arena, key.ljust(64, b"\0")) as slot, arena.take(32) as target:
        hkdf.hmac(slot, message, target)
        assert bytes(target.view) == hmac.digest(key, message, "sha256")
    assert arena.in_use == 0


@pytest.mark.parametrize("size", [1, 31, 33, 63, 65])
def test_hmac_takes_no_other_length(size: int) -> None:
    arena = Arena(4096, prefer_memfd_secret=False)
    with arena.take(size) as slot, arena.take(32) as target, pytest.raises(AdytumError) as caught:
        hkdf.hmac(slot, b"", target)
    assert caught.value.code is Code.INTERNAL
