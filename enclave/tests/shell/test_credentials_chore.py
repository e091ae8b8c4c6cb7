"""The chore that keeps AWS credentials fresh, and what a hostile or odd metadata service can do to it: make it wait."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adytum_enclave.shell import imds as module
from adytum_enclave.shell.imds import Imds, ImdsError, keep
from adytum_wire.errors import AdytumError, Code
from adytum_wire.messages import Credentials

NOW_MS = 1_790_000_000_000
GOOD = Credentials("AKIA", "secret-of-the-role", "token", NOW_MS + 6 * 3600_000)


class _StopError(BaseException):
    """Ends the chore from within its own sleep."""


class Source:
    """In place of `Imds`: gives what the script says, then ends the chore at its next sleep."""

    def __init__(self, script: list[Credentials | Exception]) -> None:
        self._script = iter(script)
        self.events: list[str] = []
        self.slept: list[float] = []
        self.renewed: list[Credentials] = []
        self.left = len(script)

    async def credentials(self) -> Credentials:
        self.left -= 1
        found = next(self._script)
        if isinstance(found, Exception):
            raise found
        return found

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        if not self.left:
            raise _StopError

    async def run(self, **changed: Any) -> None:
        options: dict[str, Any] = {
            "is_wanted": lambda: True,
            "now_ms": lambda: NOW_MS,
            "renew": self.renewed.append,
            "report": self.events.append,
            "sleep": self.sleep,
        }
        with pytest.raises(_StopError):
            await keep(self, **(options | changed))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "trouble",
    [ImdsError(), AdytumError(Code.KMS_UNAVAILABLE), OverflowError("date"), ValueError("secret-of-the-role")],
)
async def test_no_failure_ends_the_chore_and_the_log_says_so_without_a_secret(trouble: Exception) -> None:
    source = Source([trouble, trouble, GOOD, trouble, GOOD])
    await source.run()
    assert source.renewed == [GOOD, GOOD]
    assert source.events == ["credentials-failed", "credentials-renewed"] * 2
    assert source.slept[:2] == [2.0, 4.0]
    assert source.slept[3] == 2.0  # each row of failures begins anew


async def test_the_back_off_grows_up_to_a_minute() -> None:
    source = Source([ImdsError()] * 40)
    await source.run()
    assert source.slept[:6] == [2.0, 4.0, 8.0, 16.0, 32.0, 60.0]
    assert set(source.slept[6:]) == {60.0}
    assert source.events == ["credentials-failed"]


async def test_what_takes_the_credentials_may_fail_too() -> None:
    def refuse(_found: Credentials) -> None:
        raise AdytumError(Code.PHASE_INVALID)

    source = Source([GOOD, GOOD])
    await source.run(renew=refuse)
    assert source.events == ["credentials-failed"]


async def test_credentials_that_have_expired_do_not_replace_those_in_force() -> None:
    source = Source([Credentials("AKIA", "old", "token", NOW_MS)])
    await source.run()
    assert source.renewed == []
    assert source.events == ["credentials-failed"]


async def test_an_expiry_in_the_far_future_is_asked_again_within_the_hour() -> None:
    source = Source([Credentials("AKIA", "secret", "token", 253_402_300_799_000)])
    await source.run()
    assert source.slept == [module.MAX_WAIT_S]


async def test_nothing_is_asked_before_the_manifest_says_so() -> None:
    answers = iter([False, False, True])
    source = Source([GOOD])
    await source.run(is_wanted=lambda: next(answers))
    assert source.slept == [0.2, 0.2, module.MAX_WAIT_S]


# --- odd answers of the service itself


@pytest.fixture(scope="module")
def service() -> Iterator[Callable[[bytes], int]]:
    """A metadata service on a thread of its own. Call it with the last answer's body; gives the port."""
    listening = socket.create_server(("127.0.0.1", 0))
    document = [b""]

    def serve() -> None:
        while True:
            try:
                line, _ = listening.accept()
            except OSError:
                return
            with line:
                asked = line.recv(4096)
                body = b"name" if asked.startswith(b"PUT") or asked.split(b" ")[1].endswith(b"/") else document[0]
                line.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    port = listening.getsockname()[1]

    def set_document(body: bytes) -> int:
        document[0] = body
        return int(port)

    yield set_document
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()
    thread.join(5)


@asynccontextmanager
async def asking(port: int) -> AsyncIterator[Imds]:
    async def dial() -> socket.socket:
        line = socket.socket()
        line.setblocking(False)
        await asyncio.get_running_loop().sock_connect(line, ("127.0.0.1", port))
        return line

    yield Imds(dial)


def document(expiration: object) -> bytes:
    return json.dumps(
        {"AccessKeyId": "AKIA", "SecretAccessKey": "secret", "Token": "token", "Expiration": expiration}
    ).encode()


@pytest.mark.parametrize(
    "expiration",
    ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "2026-11-23T18:00:00", "never", "", 17, None],
)
async def test_an_expiry_that_is_no_time_is_refused_in_one_way(
    service: Callable[[bytes], int], expiration: object
) -> None:
    async with asking(service(document(expiration))) as imds:
        with pytest.raises(ImdsError):
            await imds.credentials()


@pytest.mark.parametrize(("expiration", "at_ms"), [("0001-01-01T00:00:00Z", 1), ("2026-11-23T18:00:00Z", None)])
async def test_an_expiry_that_is_a_time_is_taken(
    service: Callable[[bytes], int], expiration: str, at_ms: int | None
) -> None:
    async with asking(service(document(expiration))) as imds:
        found = await imds.credentials()
    assert found.expires_at == (at_ms or 1_795_456_800_000)


@settings(max_examples=60, deadline=None)
@given(body=st.one_of(st.binary(max_size=200), st.datetimes(timezones=st.timezones()).map(lambda d: document(str(d)))))
def test_whatever_the_service_answers_is_credentials_or_one_error(service: Callable[[bytes], int], body: bytes) -> None:
    async def ask() -> None:
        async with asking(service(body)) as imds:
            try:
                await imds.credentials()
            except ImdsError:
                return

    asyncio.run(ask())
