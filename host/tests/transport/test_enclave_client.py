"""The client against the enclave's real server over Unix sockets, on asyncio's loop and on uvloop; loss and return."""

from __future__ import annotations

import asyncio
import socket
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop

from adytum.enclave import Backoff, EnclaveClient, UnixEndpoint
from adytum_enclave.shell.server import Incoming, Port, Server, serve
from adytum_wire import limits
from adytum_wire import messages as m
from adytum_wire.errors import AdytumError, Code
from adytum_wire.record import Record
from adytum_wire.requests import Stamp
from adytum_wire.types import Scheme

STAMP = Stamp(Scheme.ED25519, b"k" * 32, b"s" * 64)
HEALTH = m.HealthReply("ready", "00", 1, 0, 0, 0, {}, 0, {})
ANSWERS: dict[type, Any] = {
    m.Hello: m.HelloReply(1, "waiting", "00", "test"),
    m.Configure: m.ConfigureReply(b"h" * 32, b"p" * 48),
    m.SetCredentials: m.Done(),
    m.PutPolicy: m.PutPolicyReply(3, b"d" * 32),
    m.Attest: m.AttestReply(b"document", b"{}"),
    m.Health: HEALTH,
}
CREDENTIALS = m.Credentials("id", "secret", "token", 0)


def control(batch: Sequence[Incoming]) -> None:
    for incoming in batch:
        incoming.reply(m.encode(ANSWERS[type(m.decode_control(incoming.payload))]))


def data(batch: Sequence[Incoming]) -> None:
    for incoming in batch:
        execute = m.decode_data(incoming.payload)
        incoming.reply(m.encode(m.ExecuteReply(execute.body, b"{}", execute.record)))


def refuse(batch: Sequence[Incoming]) -> None:
    for incoming in batch:
        incoming.reply(m.encode(m.Refusal("POLICY_DENIED", "content", 0, b"receipt")))


Handler = Callable[[Sequence[Incoming]], None]


class Enclave:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.servers: list[Server] = []
        self.ports: dict[int, Port] = {}

    async def start(self, control_handler: Handler = control, data_handler: Handler = data, **bounds: Any) -> None:
        for number, handler in ((limits.CONTROL_PORT, control_handler), (limits.DATA_PORT, data_handler)):
            path = self.folder / f"enclave_{number}.sock"
            path.unlink(missing_ok=True)
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            listener.bind(str(path))
            listener.listen(8)
            self.ports[number] = Port(
                handler, **{"max_in_flight": 64, "max_connections": 8, "frame_timeout_s": 5.0, **bounds}
            )
            self.servers.append(await serve(listener, self.ports[number]))

    async def stop(self) -> None:
        for server in self.servers:
            server.abort()
            await server.wait_closed()
        self.servers.clear()


@asynccontextmanager
async def enclave() -> AsyncIterator[Enclave]:
    with tempfile.TemporaryDirectory(prefix="adytum-") as folder:
        made = Enclave(Path(folder))
        try:
            yield made
        finally:
            await made.stop()


@asynccontextmanager
async def client_of(made: Enclave, **options: Any) -> AsyncIterator[EnclaveClient]:
    client = EnclaveClient(UnixEndpoint(made.folder), timeout_s=2.0, **options)
    try:
        yield client
    finally:
        client.close()


async def code_of(awaitable: Any) -> AdytumError:
    with pytest.raises(AdytumError) as caught:
        await asyncio.wait_for(awaitable, 3)
    return caught.value


async def every_method() -> None:
    async with enclave() as made, client_of(made, connections=2) as client:
        await made.start()
        assert (await client.hello()).phase == "waiting"
        assert (await client.configure(b"{}", CREDENTIALS)).pcr16 == b"p" * 48
        await client.set_credentials(CREDENTIALS)
        assert (await client.put_policy("acme", b"{}")).version == 3
        assert (await client.attest(b"n" * 32)).document == b"document"
        assert await client.health() == HEALTH
        record = Record(b"h", b"c" * 100_000, b"d")
        replies = await asyncio.gather(*[client.execute(b"%d" % n, STAMP, record) for n in range(100)])
        exact = [m.ExecuteReply(b"%d" % n, b"{}", record) for n in range(100)]
        exhausted = [reply for reply in replies if isinstance(reply, m.Refusal)]
        assert all(reply.code == "RESOURCE_EXHAUSTED" for reply in exhausted)
        assert [reply for reply in replies if reply not in exhausted] == [r for r in exact if r in replies]
        assert made.ports[limits.DATA_PORT].accepted == 2
        assert made.ports[limits.CONTROL_PORT].accepted == 1


async def test_every_method_over_the_wire() -> None:
    await every_method()


def test_every_method_over_the_wire_on_uvloop() -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(every_method())


async def test_a_refused_execute_returns_its_receipt_and_a_refused_control_call_raises() -> None:
    async with enclave() as made, client_of(made) as client:
        await made.start(refuse, refuse)
        assert await client.execute(b"{}", STAMP) == m.Refusal("POLICY_DENIED", "content", 0, b"receipt")
        error = await code_of(client.health())
        assert (error.code, error.field) == (Code.POLICY_DENIED, "content")


async def test_an_answer_of_the_wrong_kind_is_refused() -> None:
    async with enclave() as made, client_of(made) as client:
        await made.start(lambda batch: [i.reply(m.encode(m.Done())) for i in batch] and None, control)  # type: ignore[arg-type]
        assert (await code_of(client.health())).code is Code.MESSAGE_INVALID


async def test_a_full_signing_queue_does_not_blind_the_operator() -> None:
    async with enclave() as made, client_of(made) as client:
        await made.start(data_handler=lambda _batch: None, max_in_flight=4)
        waiting = [asyncio.ensure_future(client.execute(b"{}", STAMP)) for _ in range(4)]
        await asyncio.sleep(0.05)
        reply = await client.execute(b"{}", STAMP, timeout_s=0.5)
        assert isinstance(reply, m.Refusal)
        assert (reply.code, reply.retry_after_ms) == ("RESOURCE_EXHAUSTED", limits.RETRY_AFTER_MS)
        assert await client.health(timeout_s=0.5) == HEALTH
        for task in waiting:
            task.cancel()


async def test_reconnect_after_a_restart() -> None:
    async with enclave() as made, client_of(made) as client:
        await made.start()
        await client.health()
        await made.stop()
        await asyncio.sleep(0.01)
        await made.start()
        assert await client.health() == HEALTH  # a connection that worked is made again without waiting
        assert isinstance(await client.execute(b"{}", STAMP), m.ExecuteReply)


async def test_back_off_doubles_is_jittered_and_fails_at_once_in_between() -> None:
    jitters = iter([1.0, 0.5, 1.0])
    async with enclave() as made, client_of(made, backoff=Backoff(first=0.2, jitter=lambda: next(jitters))) as client:
        hints = []
        for _ in range(3):
            error = await code_of(client.health())  # an attempt
            hints.append(error.retry_after_ms)
            again = await code_of(client.health())  # none: it would be too early
            assert (error.code, again.code) == (Code.PEER_UNAVAILABLE, Code.PEER_UNAVAILABLE)
            assert 0 < again.retry_after_ms <= error.retry_after_ms
            await asyncio.sleep(again.retry_after_ms / 1000 + 0.01)
        for hint, wanted in zip(hints, (200, 200, 800), strict=True):  # 0.2 * 1, 0.4 * 0.5, 0.8 * 1
            assert wanted - 90 < hint <= wanted
        await made.start()
        assert await client.health() == HEALTH


async def test_being_turned_away_counts_as_a_failure() -> None:
    """A server that accepts and closes must not be hammered."""
    async with enclave() as made, client_of(made, backoff=Backoff(first=5.0)) as client:
        await made.start(max_connections=0)
        first = await code_of(client.health())
        assert first.code in (Code.RESOURCE_EXHAUSTED, Code.PEER_UNAVAILABLE)
        for _ in range(5):
            assert (await code_of(client.health())).code is Code.PEER_UNAVAILABLE
        assert made.ports[limits.CONTROL_PORT].turned_away == 1


async def test_many_callers_share_one_attempt_and_one_connection() -> None:
    async with enclave() as made, client_of(made) as client:
        await made.start()
        await asyncio.gather(*[client.health() for _ in range(10)])
        assert made.ports[limits.CONTROL_PORT].accepted == 1


async def test_a_caller_that_gives_up_does_not_disturb_the_attempt() -> None:
    class Slow(UnixEndpoint):
        async def dial(self, port: int) -> socket.socket:
            await asyncio.sleep(0.1)
            return await super().dial(port)

    async with enclave() as made:
        await made.start()
        client = EnclaveClient(Slow(made.folder), timeout_s=2.0)
        patient = asyncio.ensure_future(client.health())
        assert (await code_of(client.health(timeout_s=0.02))).code is Code.DEADLINE_EXCEEDED
        assert await patient == HEALTH
        client.close()


async def test_a_closed_client_stays_closed() -> None:
    async with enclave() as made, client_of(made) as client:
        await made.start()
        await client.health()
        client.close()
        assert (await code_of(client.health())).code is Code.PEER_UNAVAILABLE
        assert (await code_of(client.execute(b"", STAMP))).code is Code.PEER_UNAVAILABLE


async def test_close_during_an_attempt() -> None:
    class Never(UnixEndpoint):
        async def dial(self, port: int) -> socket.socket:
            await asyncio.sleep(60)
            return await super().dial(port)

    async with enclave() as made:
        client = EnclaveClient(Never(made.folder), timeout_s=2.0)
        task = asyncio.ensure_future(client.health())
        await asyncio.sleep(0.01)
        client.close()
        assert (await code_of(task)).code is Code.PEER_UNAVAILABLE


def test_back_off_is_bounded() -> None:
    backoff = Backoff(first=0.05, most=5.0, jitter=lambda: 1.0)
    waits = [backoff.wait(failures) for failures in range(1, 60)]
    assert waits[:4] == [0.05, 0.1, 0.2, 0.4]
    assert max(waits) == 5.0
    assert all(0.025 <= Backoff(first=0.05).wait(1) <= 0.05 for _ in range(50))


def test_a_client_without_data_connections_is_refused() -> None:
    with pytest.raises(ValueError, match="data connection"):
        EnclaveClient(UnixEndpoint(Path()), connections=0)
