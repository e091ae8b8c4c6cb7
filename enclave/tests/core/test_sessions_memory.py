"""Sessions: HMAC as RFC 4231 and the standard library have it, bounds, and slots that go back."""

from __future__ import annotations

import hmac
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adytum_enclave.core.crypto.hkdf import MAC_ROOM, MacKey
from adytum_enclave.core.secrets import Arena, Slot
from adytum_enclave.core.sessions import Sessions
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


def opened(
    sessions: Sessions,
    arena: Arena,
    digest: bytes,
    public_key: bytes = b"k" * 32,
    *,
    until: int = 60,
    tenant: str = "acme",
    tenants: int = 1,
    principal: str = "alice",
) -> bytes:
    return sessions.open(
        digest,
        slot(arena),
        tenant=tenant,
        tenants=tenants,
        principal=principal,
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


def number(at: int) -> bytes:
    return at.to_bytes(32, "big")


def whose(sessions: Sessions) -> Counter[str]:
    return Counter(f"{session.tenant}/{session.principal}" for session in sessions._sessions.values())


def test_one_principal_with_many_keys_has_not_more_sessions_than_one_with_a_single_key() -> None:
    arena = Arena(2 * 1024 * 1024)
    sessions = Sessions(arena)
    for at in range(16 * 64):
        opened(sessions, arena, number(at), number(at // 64))
    assert len(sessions) == limits.MAX_SESSIONS_OF_PRINCIPAL


def test_a_stolen_key_that_opens_without_end_ends_no_session_of_its_owners_other_keys() -> None:
    arena = Arena(2 * 1024 * 1024)
    sessions = Sessions(arena)
    kept = [opened(sessions, arena, b"o" + number(at)[1:], b"o" * 32) for at in range(10)]
    last = b""
    for at in range(200):
        last = opened(sessions, arena, number(at), b"t" * 32)
    assert len(sessions) == limits.MAX_SESSIONS_OF_PRINCIPAL
    for session_id in (*kept, last):
        sessions.check(stamped(session_id, b"m"), b"m", NOW)


@pytest.mark.parametrize("tenants", [2, 10, 1024])
def test_one_tenant_that_opens_all_it_can_leaves_the_others_their_share(tenants: int) -> None:
    """Also with more principals than there are sessions."""
    arena = Arena(2 * 1024 * 1024)
    sessions = Sessions(arena)
    refusals = 0
    for at in range(limits.MAX_SESSIONS + 50):
        try:
            opened(sessions, arena, number(at), number(at), tenants=tenants, principal=f"mallory-{at}")
        except AdytumError as error:
            assert error.code is Code.RESOURCE_EXHAUSTED
            refusals += 1
    taken, before = arena.in_use, whose(sessions)
    assert refusals >= 50
    with pytest.raises(AdytumError):
        opened(sessions, arena, number(9999), number(9999), tenants=tenants, principal="mallory-x")
    assert (arena.in_use, whose(sessions)) == (taken, before)
    own = max(1, limits.MAX_SESSIONS // (2 * tenants))
    for at in range(min(own, 64)):
        session_id = opened(sessions, arena, b"v" + number(at)[1:], tenant="victim", tenants=tenants)
        assert sessions.check(stamped(session_id, b"m"), b"m", NOW).tenant == "victim"
    assert whose(sessions)["victim/alice"] == min(own, 64)
    assert len(sessions) <= limits.MAX_SESSIONS
    sessions.wipe()


def test_in_a_full_tenant_who_has_most_makes_room_and_nobody_is_brought_below_another() -> None:
    arena = Arena(2 * 1024 * 1024)
    sessions = Sessions(arena)
    for at in range(limits.MAX_SESSIONS):
        opened(sessions, arena, number(at), number(at // 64), principal=f"mallory-{at // 64}")
    first = opened(sessions, arena, b"a" * 32, principal="alice")
    assert len(sessions) == limits.MAX_SESSIONS
    assert whose(sessions)["acme/alice"] == 1
    for at in range(500):
        opened(sessions, arena, b"m" + number(at)[1:], number(at % 16), principal=f"mallory-{at % 16}")
    assert sessions.check(stamped(first, b"m"), b"m", NOW).principal == "alice"
    sessions.wipe()
    assert arena.in_use == 0


def test_in_a_full_tenant_of_equals_who_opens_one_more_ends_his_own() -> None:
    arena = Arena(2 * 1024 * 1024)
    sessions = Sessions(arena)
    for at in range(limits.MAX_SESSIONS):
        opened(sessions, arena, number(at), number(at % 32), principal=f"service-{at % 32}")
    before = whose(sessions)
    for at in range(100):
        opened(sessions, arena, b"m" + number(at)[1:], number(31), principal="service-31")
    assert whose(sessions) == before
    sessions.wipe()
