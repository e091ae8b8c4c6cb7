"""The steps of a request at which something is killed, and how a relay tells that a request has come to one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from adytum_sim.crash.wires import Direction, Forward, Passing

CLIENT, DATABASE, ENCLAVE, KMS = "client", "database", "enclave", "kms"

_LOOKUP: Final = b"AS q(tenant, request_id, key_id, n)"
_RECEIPTS: Final = b"INSERT INTO receipts"
_APPLICATION_DATA: Final = 23  # TLS record type; handshakes' records of this type are shorter than what follows
_KMS_ASKED: Final = 1500  # bytes: a request carries an attestation document
_KMS_ANSWERED: Final = 500


class Point(StrEnum):
    REQUEST = "request"
    LOOKUP = "lookup"
    EXECUTE = "execute"
    KMS_ASKED = "kms-asked"
    KMS_ANSWERED = "kms-answered"
    REPLY = "reply"
    INSERT = "insert"
    COMMIT = "commit"
    COMMITTED = "committed"
    ANSWER = "answer"


EXPLAINED: Final[dict[Point, str]] = {
    Point.REQUEST: "client to host: the request's bytes",
    Point.LOOKUP: "host to PostgreSQL: is this request stored, and which record does it name",
    Point.EXECUTE: "host to enclave: the frame with body, stamp and record",
    Point.KMS_ASKED: "enclave to KMS: the data key is asked for",
    Point.KMS_ANSWERED: "KMS to enclave: the data key's envelope",
    Point.REPLY: "enclave to host: the frame with result, receipt, record and usage snapshot",
    Point.INSERT: "host to PostgreSQL: the receipt is inserted",
    Point.COMMIT: "host to PostgreSQL: COMMIT",
    Point.COMMITTED: "PostgreSQL to host: committed",
    Point.ANSWER: "host to client: the answer's bytes",
}


class Victim(StrEnum):
    ENCLAVE = "enclave"
    HOST = "host"
    DATABASE = "database"


class Mode(StrEnum):
    """What becomes of the message at the point."""

    PASSED = "passed"  # it goes on, and the kill follows at once
    LATE = "late"  # the kill first, and the message goes on to whoever is left
    LOST = "lost"  # the kill, and the connection ends without the message
    HELD = "held"  # the kill first, and the message goes on when the killed part is back


HELD_S: Final = 4.0  # at most; less than a statement's time at the host


@dataclass(slots=True)
class Strike:
    """`kill` is called once, when the request of `request_id` is at `point`. `done` is set then; the
    striker sets `revived`."""

    point: Point
    mode: Mode
    request_id: str
    kill: Callable[[], None]
    done: asyncio.Event = field(default_factory=asyncio.Event)
    revived: asyncio.Event = field(default_factory=asyncio.Event)
    spent: bool = False


class Watch:
    """The hook of all wires. `strike`: what is to happen, if anything."""

    def __init__(self) -> None:
        self.strike: Strike | None = None
        self._at_enclave = False

    def arm(self, strike: Strike) -> None:
        self.strike, self._at_enclave = strike, False

    async def hook(self, passing: Passing, forward: Forward) -> bool:
        strike = self.strike
        if passing.wire == DATABASE:
            _learn(passing)
        reached = None if strike is None else self._reached(passing, strike.request_id.encode())
        if strike is None or strike.spent or reached is not strike.point:
            await forward()
            return True
        strike.spent = True
        if strike.mode is Mode.PASSED:
            await forward()
        strike.kill()
        strike.done.set()
        if strike.mode is Mode.HELD:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(strike.revived.wait(), HELD_S)
        if strike.mode in (Mode.LATE, Mode.HELD):
            with contextlib.suppress(OSError):
                await forward()
        return strike.mode is not Mode.LOST

    def _reached(self, passing: Passing, request_id: bytes) -> Point | None:
        notes, message, is_up = passing.connection.notes, passing.message, passing.direction is Direction.UP
        if passing.wire == CLIENT:
            if is_up and request_id in message:
                notes["asked"] = True
                return Point.REQUEST
            return Point.ANSWER if not is_up and notes.pop("asked", False) else None
        if passing.wire == ENCLAVE and request_id in message:
            self._at_enclave = is_up
            return Point.EXECUTE if is_up else Point.REPLY
        if passing.wire == KMS and self._at_enclave and message[0] == _APPLICATION_DATA:
            if is_up and len(message) > _KMS_ASKED:
                notes["asked"] = True
                return Point.KMS_ASKED
            if not is_up and len(message) > _KMS_ANSWERED and notes.pop("asked", False):
                return Point.KMS_ANSWERED
        if passing.wire == DATABASE:
            return _database_point(passing, request_id)
        return None


def _learn(passing: Passing) -> None:
    """The name of a prepared statement, by its text: `Parse` is 'P', length, name, NUL, query, NUL."""
    message = passing.message
    if passing.direction is Direction.UP and message[:1] == b"P" and (_LOOKUP in message or _RECEIPTS in message):
        name = message[5:].partition(b"\0")[0]
        passing.connection.notes[name.decode()] = Point.LOOKUP if _LOOKUP in message else Point.INSERT


def _database_point(passing: Passing, request_id: bytes) -> Point | None:
    notes, message = passing.connection.notes, passing.message
    if passing.direction is Direction.DOWN:  # CommandComplete is 'C', length, tag
        is_end = message[:1] == b"C" and message[5:].startswith(b"COMMIT")
        return Point.COMMITTED if is_end and notes.pop("committing", False) else None
    if message[:1] == b"B" and request_id in message:  # Bind is 'B', length, portal, NUL, statement, NUL, ...
        statement = message[5:].split(b"\0", 2)[1].decode()
        point: Point | None = notes.get(statement)
        notes["written"] = point is Point.INSERT
        return point
    if message[:1] == b"Q" and message[5:11].upper() == b"COMMIT" and notes.pop("written", False):
        notes["committing"] = True
        return Point.COMMIT
    return None
