"""The host answers the SDK with more than memory holds: it is refused before it is here; the error names the limit."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from adytum.audit.ports import Entry, SinkError
from adytum.audit.s3_sink import S3Sink
from adytum.bounded import MAX_ANSWER, UnboundedError, read, read_sync
from adytum.client import Adytum, AsyncAdytum, KeySigner, Retries, UntrustedError
from adytum.client.asynchronous import clock_ms
from adytum.releases.kms_probe import HttpKmsProbe, KmsUnansweredError
from adytum_verify import AllowList
from adytum_wire.errors import Code
from adytum_wire.messages import Credentials

LIMIT = f"$ (the answer is over {MAX_ANSWER} bytes)"
OPTIONS: dict[str, Any] = {
    "expected": AllowList.parse([",".join(f"PCR{index}={'a' * 96}" for index in range(3))]),
    "retries": Retries(attempts=1),
}
Respond = Callable[[asyncio.StreamWriter], Any]


class Host:
    """A hostile HTTP server on a loop and thread of its own. `sent`: bytes of bodies that it got rid of."""

    def __init__(self) -> None:
        self.respond: Respond = self.announce
        self.status = b"200 OK"
        self.sent = 0
        self.asked: list[bytes] = []
        self.loop = asyncio.new_event_loop()
        self.server = self.loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.server.sockets[0].getsockname()[1]}"
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(30)
        self.server.close()
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            self.asked.append(await reader.readuntil(b"\r\n\r\n"))
            await self.respond(writer)
        writer.close()

    async def announce(self, writer: asyncio.StreamWriter) -> None:
        """A size that is over the limit, and no body: who waits for it waits for ever."""
        writer.write(b"HTTP/1.1 " + self.status + b"\r\nContent-Length: %d\r\n\r\n" % (MAX_ANSWER + 1))
        await writer.drain()
        await asyncio.sleep(3600)

    async def pour(self, writer: asyncio.StreamWriter) -> None:
        """Chunks without end."""
        writer.write(b"HTTP/1.1 " + self.status + b"\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"10000\r\n" + bytes(0x10000) + b"\r\n")
            await writer.drain()
            self.sent += 0x10000

    async def until_closed(self, writer: asyncio.StreamWriter) -> None:
        """No framing at all: the body ends when the connection does, and it does not."""
        writer.write(b"HTTP/1.1 " + self.status + b"\r\n\r\n")
        while True:
            writer.write(bytes(0x10000))
            await writer.drain()
            self.sent += 0x10000

    async def bomb(self, writer: asyncio.StreamWriter) -> None:
        """64 MiB in 64 KiB."""
        body = gzip.compress(bytes(2 * MAX_ANSWER))
        head = b"HTTP/1.1 " + self.status + b"\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n"
        writer.write(head % len(body) + body)
        await writer.drain()

    async def exactly(self, writer: asyncio.StreamWriter) -> None:
        """The largest answer that is allowed."""
        body = b'{"a":"' + bytes(MAX_ANSWER - 8).replace(b"\0", b"x") + b'"}'
        writer.write(b"HTTP/1.1 " + self.status + b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    running = Host()
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture
def signer() -> KeySigner:
    return KeySigner(Ed25519PrivateKey.generate())


async def get(facade: str, host: Host, signer: KeySigner, path: str = "/v1/info") -> Any:
    if facade == "async":
        async with AsyncAdytum(host.url, "acme", signer, **OPTIONS) as adytum:
            return await adytum.get(path)

    def ask() -> Any:
        with Adytum(host.url, "acme", signer, **OPTIONS) as adytum:
            return adytum.get(path)

    return await asyncio.to_thread(ask)


@pytest.mark.parametrize("facade", ["async", "sync"])
@pytest.mark.parametrize("how", ["announce", "pour", "until_closed"])
async def test_an_answer_without_end_is_refused_and_not_kept(
    host: Host, signer: KeySigner, facade: str, how: str
) -> None:
    host.respond, host.sent = getattr(host, how), 0
    async with asyncio.timeout(60):
        with pytest.raises(UntrustedError) as caught:
            await get(facade, host, signer)
    assert (caught.value.code, caught.value.field) == (Code.MESSAGE_INVALID, LIMIT)
    assert host.sent <= 2 * MAX_ANSWER, "what the sockets hold beside the limit"


@pytest.mark.parametrize("facade", ["async", "sync"])
async def test_a_bomb_is_not_unpacked(host: Host, signer: KeySigner, facade: str) -> None:
    host.respond = host.bomb
    host.asked.clear()
    with pytest.raises(UntrustedError) as caught:
        await get(facade, host, signer)
    assert (caught.value.code, caught.value.field) == (Code.MESSAGE_INVALID, "$ (the answer is encoded)")
    assert host.asked[0].lower().count(b"accept-encoding: identity\r\n") == 1
    assert host.asked[0].lower().count(b"accept-encoding") == 1


@pytest.mark.parametrize("facade", ["async", "sync"])
async def test_the_largest_answer_comes_through(host: Host, signer: KeySigner, facade: str) -> None:
    host.respond = host.exactly
    found = await get(facade, host, signer)
    assert len(found["a"]) == MAX_ANSWER - 8


@pytest.mark.parametrize("facade", ["async", "sync"])
async def test_pages_of_receipts_are_bounded_too(host: Host, signer: KeySigner, facade: str) -> None:
    host.respond = host.announce

    def all_of() -> None:
        with Adytum(host.url, "acme", signer, **OPTIONS) as adytum:
            list(adytum.receipts("0" * 32))

    async def all_of_async() -> None:
        async with AsyncAdytum(host.url, "acme", signer, **OPTIONS) as adytum:
            async for _ in adytum.receipts("0" * 32):
                pass

    async with asyncio.timeout(60):
        with pytest.raises(UntrustedError) as caught:
            await (all_of_async() if facade == "async" else asyncio.to_thread(all_of))
    assert caught.value.field == LIMIT


# --- AWS's answers to the host, which come through its network


async def credentials() -> Credentials:
    return Credentials("AKIDEXAMPLE", "secret", "", 0)


@pytest.mark.parametrize("how", ["announce", "pour", "until_closed", "bomb"])
async def test_an_answer_of_s3_or_kms_without_end_is_refused(host: Host, how: str) -> None:
    host.respond, host.sent, host.status = getattr(host, how), 0, b"403 No"
    sink = S3Sink(
        bucket="b", prefix="", region="eu-west-1", retention_days=1, credentials=credentials, now_ms=clock_ms,
        endpoint=host.url,
    )  # fmt: skip
    probe = HttpKmsProbe(host.url, region="eu-west-1", credentials=credentials, now_ms=clock_ms)
    try:
        async with asyncio.timeout(60):
            with pytest.raises(SinkError) as caught:
                await sink.put([Entry(kind="checkpoint", chain="0" * 32, sequence=1, line=b"{}")])
            with pytest.raises(KmsUnansweredError) as unanswered:
                await probe.decrypt("arn:aws:kms:eu-west-1:111122223333:key/a", b"blob", {})
    finally:
        host.status = b"200 OK"
    assert caught.value.reason == "S3_ANSWER_INVALID"
    assert unanswered.value.reason == "KMS_ANSWER_INVALID"
    assert host.sent <= MAX_ANSWER, "what the sockets hold beside 64 KiB, twice"


# --- the reader by itself


def response(pieces: list[bytes], headers: list[tuple[bytes, bytes]]) -> tuple[httpx.Response, httpx.Response]:
    """The same answer for either reader."""

    async def later() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    return httpx.Response(200, headers=headers, content=later()), httpx.Response(
        200, headers=headers, content=iter(pieces)
    )


@given(
    pieces=st.lists(st.binary(max_size=9), max_size=9),
    most=st.integers(0, 40),
    announced=st.none() | st.integers(0, 60).map(str) | st.sampled_from(["9" * 30, "-1", "x", "٣"]),
    encoding=st.sampled_from([None, "", "identity", " Identity ", "gzip", "br", "gzip, identity", "zstd"]),
)
def test_what_is_read_is_what_came_and_never_more_than_the_limit(
    pieces: list[bytes], most: int, announced: str | None, encoding: str | None
) -> None:
    headers = [] if announced is None else [(b"content-length", announced.encode())]
    headers += [] if encoding is None else [(b"content-encoding", encoding.encode())]
    later, now = response(pieces, headers)
    whole = b"".join(pieces)
    results: list[bytes | str] = []
    for work in (lambda: asyncio.run(read(later, most)), lambda: read_sync(now, most)):
        try:
            results.append(work())
        except UnboundedError as error:
            results.append(error.reason)
    assert results[0] == results[1]
    is_plain = encoding is None or encoding.strip().lower() in ("", "identity")
    is_announced = announced is not None and announced.isascii() and announced.isdigit() and int(announced) > most
    if is_plain and not is_announced and len(whole) <= most:
        assert results[0] == whole
    else:
        assert results[0] == ("the answer is encoded" if not is_plain else f"the answer is over {most} bytes")


def test_what_a_transport_has_read_already_is_counted() -> None:
    ready = httpx.Response(200, content=b"12345")
    assert read_sync(ready, 5) == asyncio.run(read(ready, 5)) == b"12345"
    with pytest.raises(UnboundedError):
        read_sync(ready, 4)
