"""Sessions: HMAC as RFC 4231 and the standard library have it, bounds, and slots that go back."""

from __future__ import annotations

import hmac

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adytum_enclave.core.crypto.hkdf import MAC_ROOM, MacKey
from adytum_enclave.core.secrets import Arena, Slot
from adytum_enclave.core.sessions import MAX_OF_ONE_KEY, Sessions
from adytum_wire import limits
from adytum_wire.errors import AdytumError, Code
from adytum_wire.pae import REQUEST, pae
from adytum_wire.requests import SessionStamp
from adytum_wire.types import Scheme

KEY = bytes(range(32))
NOW = 1_800_000_000_000


def slot(arena: Arena, secret: bytes = KEY) -> Slot:
    taken = arena.take(len(secret))
    taken.view[:] = secret
    return taken


@given(st.binary(max_size=300), st.binary(min_size=32, max_size=32))
@settings(max_examples=60)
def test_a_mac_is_that_of_the_standard_library(message: bytes, key: bytes) -> None:
    arena = Arena(64 * 1024)
    mac_key = MacKey(slot(arena, key))
    with arena.take(300 + MAC_ROOM) as work:
        good = hmac.digest(key, message, "sha256")
        assert mac_key.verify(message, good, work)
        assert not mac_key.verify(message, bytes(32), work)
        assert not mac_key.verify(message + b"x", good, work) or len(message) == 300
        assert not mac_key.verify(message, good[:31], work)
    mac_key.wipe()
    assert arena.in_use == 0


def opened(sessions: Sessions, arena: Arena, digest: bytes, public_key: bytes = b"k" * 32, *, until: int = 60) -> bytes:
    return sessions.open(
        digest,
        slot(arena),
        tenant="acme",
        scheme=Scheme.ED25519,
        public_key=public_key,
        expires_at=NOW + until * 1000,
    )


def stamped(session_id: bytes, message: bytes) -> SessionStamp:
    return SessionStamp(session_id, hmac.digest(KEY, message, "sha256"))


def test_the_largest_body_can_be_stamped() -> None:
    arena = Arena(1024 * 1024)
    sessions = Sessions(arena)
    session_id = opened(sessions, arena, b"d" * 32)
    message = pae(REQUEST, bytes(limits.MAX_BODY))
    assert sessions.check(stamped(session_id, message), message, NOW).tenant == "acme"


def test_expired_sessions_are_refused_by_name_and_then_forgotten() -> None:
    arena = Arena(1024 * 1024)
    sessions = Sessions(arena)
    lasting = opened(sessions, arena, b"l" * 32, until=600)
    before = arena.in_use
    session_id = opened(sessions, arena, b"d" * 32, until=1)
    for now, code in ((NOW + 1000, Code.SESSION_EXPIRED), (NOW + 61_000, Code.SESSION_UNKNOWN)):
        sessions.expire(now)
        with pytest.raises(AdytumError) as caught:
            sessions.check(stamped(session_id, b"m"), b"m", now)
        assert caught.value.code is code
    assert arena.in_use == before
    assert sessions.check(stamped(lasting, b"m"), b"m", NOW).public_key == b"k" * 32


def test_an_arena_without_room_refuses_and_keeps_nothing() -> None:
    arena = Arena(4096)
    sessions = Sessions(arena)
    with pytest.raises(AdytumError) as caught:
        opened(sessions, arena, b"d" * 32)
    assert caught.value.code is Code.RESOURCE_EXHAUSTED
    assert (arena.in_use, len(sessions)) == (0, 0)


def test_when_all_sessions_are_taken_the_next_is_refused_and_leaves_nothing() -> None:
    arena = Arena(2 * 1024 * 1024)
    sessions = Sessions(arena)
    for at in range(limits.MAX_SESSIONS):
        opened(sessions, arena, at.to_bytes(32, "big"), (at // MAX_OF_ONE_KEY).to_bytes(32, "big"))
    taken = arena.in_use
    with pytest.raises(AdytumError) as caught:
        opened(sessions, arena, b"e" * 32, b"z" * 32)
    assert caught.value.code is Code.RESOURCE_EXHAUSTED
    assert (arena.in_use, len(sessions)) == (taken, limits.MAX_SESSIONS)
    opened(sessions, arena, b"f" * 32, bytes(32))  # the first key's own oldest makes room
    assert len(sessions) == limits.MAX_SESSIONS
    sessions.wipe()
    assert arena.in_use == 0
