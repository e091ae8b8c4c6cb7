"""Sessions: a client agrees on an HMAC key once, with its stamp key, and stamps cost microseconds from then on.

A session is its opener's hand: same principal, and gone with the opener's key when a policy no longer has it. It lives
in this boot, at most until it said it would, and only its own boot can check its stamps.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from adytum_enclave.core.crypto.hkdf import MAC_ROOM, MacKey
from adytum_enclave.core.secrets import Arena, Slot
from adytum_wire import limits
from adytum_wire.errors import AdytumError, Code
from adytum_wire.requests import SessionStamp
from adytum_wire.types import Scheme, sha256

KEY_BYTES = 32
MAX_OF_ONE_KEY = 64
_PAE_ROOM = 128  # bytes that pae() puts before a body


class Session(NamedTuple):
    """`scheme`, `public_key`: the stamp key that opened it."""

    key: MacKey
    tenant: str
    scheme: Scheme
    public_key: bytes
    expires_at: int


class Sessions:
    """At most `limits.MAX_SESSIONS`, of them `MAX_OF_ONE_KEY` opened by one stamp key; the oldest of that key makes
    room for its next, so that nobody can push out another's."""

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self._work: Slot | None = None  # one for all checks, which follow each other; made with the first session
        self._sessions: OrderedDict[bytes, Session] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sessions)

    def open(
        self, request_digest: bytes, secret: Slot, *, tenant: str, scheme: Scheme, public_key: bytes, expires_at: int
    ) -> bytes:
        """Take ownership of `secret` (32 bytes); return the session's id (16 bytes), a function of the request.

        Errors: REQUEST_INVALID for another size, RESOURCE_EXHAUSTED. The slot is wiped then.
        """
        if secret.size != KEY_BYTES:
            secret.wipe()
            raise AdytumError(Code.REQUEST_INVALID, "$.sealed")
        try:
            self._room()
        except AdytumError:
            secret.wipe()
            raise
        mine = [name for name, session in self._sessions.items() if session.public_key == public_key]
        if len(mine) >= MAX_OF_ONE_KEY:
            self._close(mine[0])
        if len(self._sessions) >= limits.MAX_SESSIONS:
            secret.wipe()
            raise AdytumError(Code.RESOURCE_EXHAUSTED)
        session_id = sha256(b"adytum/session-id/v1\0" + request_digest)[:16]
        self._close(session_id)
        self._sessions[session_id] = Session(MacKey(secret), tenant, scheme, public_key, expires_at)
        return session_id

    def check(self, stamp: SessionStamp, message: bytes, now_ms: int) -> Session:
        """The session whose key stamped `message`. Errors: SESSION_UNKNOWN, STAMP_INVALID, SESSION_EXPIRED."""
        session = self._sessions.get(stamp.session_id)
        if session is None:
            raise AdytumError(Code.SESSION_UNKNOWN)
        if not session.key.verify(message, stamp.mac, self._room()):
            raise AdytumError(Code.STAMP_INVALID)
        if now_ms >= session.expires_at:
            raise AdytumError(Code.SESSION_EXPIRED)
        return session

    def expire(self, now_ms: int) -> None:
        """Wipe what has expired. An expired session is known a minute longer, to be refused by its name."""
        for name in [n for n, session in self._sessions.items() if session.expires_at + 60_000 <= now_ms]:
            self._close(name)

    def wipe(self) -> None:
        for name in list(self._sessions):
            self._close(name)
        if self._work is not None:
            self._work.wipe()
            self._work = None

    def _room(self) -> Slot:
        if self._work is None:
            self._work = self._arena.take(limits.MAX_BODY + _PAE_ROOM + MAC_ROOM)
        return self._work

    def _close(self, session_id: bytes) -> None:
        session = self._sessions.pop(session_id, None)
        if session is not None:
            session.key.wipe()
