"""Sessions: a client agrees on an HMAC key once, with its stamp key, and stamps cost microseconds from then on.

A session is its opener's hand: same principal, and gone with the opener's key when a policy no longer has it. It lives
in this boot, at most until it said it would, and only its own boot can check its stamps.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import NamedTuple

from adytum_enclave.core.crypto.hkdf import MAC_ROOM, MacKey
from adytum_enclave.core.secrets import Arena, Slot
from adytum_enclave.core.shares import Shares
from adytum_wire import limits
from adytum_wire.errors import AdytumError, Code
from adytum_wire.requests import SessionStamp
from adytum_wire.types import Scheme, sha256

KEY_BYTES = 32
_PAE_ROOM = 128  # bytes that pae() puts before a body


def session_id_of(request_digest: bytes) -> bytes:
    """The id (16 bytes) of the session that this request opens."""
    return sha256(b"adytum/session-id/v1\0" + request_digest)[:16]


class Session(NamedTuple):
    """`scheme`, `public_key`: the stamp key that opened it, `principal`'s then."""

    key: MacKey
    tenant: str
    principal: str
    scheme: Scheme
    public_key: bytes
    expires_at: int


class Sessions:
    """At most `limits.MAX_SESSIONS`, which tenants share as `Shares` says, and `MAX_SESSIONS_OF_PRINCIPAL` of one
    principal.

    Where there is no room, one of the same tenant ends: of the principal who has most sessions, of its key that has
    most, the oldest. Who opens many ends his own; nobody is brought below what another has. A refusal instead would
    last until the sessions expire, for hours, and whoever has stolen one key could bring it about; a session that was
    ended is opened again.
    """

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self._work: Slot | None = None  # one for all checks, which follow each other; made with the first session
        self._sessions: OrderedDict[bytes, Session] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sessions)

    def open(
        self,
        request_digest: bytes,
        secret: Slot,
        *,
        tenant: str,
        tenants: int,
        principal: str,
        scheme: Scheme,
        public_key: bytes,
        expires_at: int,
    ) -> bytes:
        """Take ownership of `secret` (32 bytes); return the session's id (16 bytes), a function of the request.
        `tenants`: how many share the room.

        Errors: REQUEST_INVALID for another size; RESOURCE_EXHAUSTED, also when everybody else of the tenant has no
        more sessions than the principal, which has none. The slot is wiped then.
        """
        if secret.size != KEY_BYTES:
            secret.wipe()
            raise AdytumError(Code.REQUEST_INVALID, "$.sealed")
        try:
            self._room()
            self._make_room(tenant, tenants, principal)
        except AdytumError:
            secret.wipe()
            raise
        session_id = session_id_of(request_digest)
        self._close(session_id)
        self._sessions[session_id] = Session(MacKey(secret), tenant, principal, scheme, public_key, expires_at)
        return session_id

    def _make_room(self, tenant: str, tenants: int, principal: str) -> None:
        """Errors: RESOURCE_EXHAUSTED."""
        shares = Shares(limits.MAX_SESSIONS, tenants)
        for session in self._sessions.values():
            shares.take(session.tenant)
        counts = Counter(session.principal for session in self._sessions.values() if session.tenant == tenant)
        if counts[principal] >= limits.MAX_SESSIONS_OF_PRINCIPAL:
            whose = principal
        elif not shares.is_full(tenant):
            return
        else:
            whose, most = counts.most_common(1)[0] if counts else (principal, 0)
            if most <= counts[principal]:
                whose = principal
            if counts[whose] <= (whose != principal):  # nothing of the principal's own, and nobody has two
                raise AdytumError(Code.RESOURCE_EXHAUSTED)
        theirs = {n: s for n, s in self._sessions.items() if (s.tenant, s.principal) == (tenant, whose)}
        key, _ = Counter(session.public_key for session in theirs.values()).most_common(1)[0]
        self._close(next(name for name, session in theirs.items() if session.public_key == key))

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
