"""Retries, deadlines and the circuit breaker of the KMS client, against an endpoint that misbehaves on cue."""

from __future__ import annotations

import asyncio
import socket
from types import SimpleNamespace
from typing import Any

import pytest

from adytum_enclave.shell.kms import KmsAnswer, KmsClient
from adytum_wire.errors import AdytumError, Code

DOCUMENT = b"document" * 500


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


async def generate(client: KmsClient, arn: str, timeout_s: float = 5.0) -> KmsAnswer:
    return await client.generate_data_key(
        key_arn=arn, context={"adytum:tenant": "acme"}, attestation_document=DOCUMENT, timeout_s=timeout_s
    )


async def refused(call: Any, code: Code, field: str | None = None) -> AdytumError:
    with pytest.raises(AdytumError) as caught:
        await call
    assert caught.value.code is code
    assert field is None or caught.value.field == field
    assert "secret" not in str(caught.value)
    return caught.value


async def hang(_reader: Any, _writer: Any) -> None:
    await asyncio.sleep(3600)


async def drop(_reader: Any, _writer: Any) -> bool:
    return False


async def half(_reader: Any, writer: asyncio.StreamWriter) -> bool:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{")
    await writer.drain()
    return False


@pytest.mark.parametrize("trouble", ["ThrottlingException", "RequestLimitExceeded", "429", "500", "503", drop, half])
async def test_what_may_pass_is_retried(
    client: KmsClient, endpoint: Any, arn: str, kms_kit: SimpleNamespace, trouble: Any
) -> None:
    if isinstance(trouble, str):
        trouble = kms_kit.http(int(trouble), b"") if trouble.isdigit() else kms_kit.fault(trouble)
    endpoint.script = [trouble, trouble]
    await generate(client, arn)
    assert len(endpoint.requests) == 3
    endpoint.script = [trouble] * 4
    error = await refused(generate(client, arn), Code.KMS_UNAVAILABLE)
    assert error.retry_after_ms > 0
    assert len(endpoint.requests) in (6, 7)  # 7: a kept connection that dropped does not count


async def test_each_attempt_is_signed_anew(make: Any, endpoint: Any, arn: str, kms_kit: SimpleNamespace) -> None:
    times = iter(range(kms_kit.NOW_MS, kms_kit.NOW_MS + 10**6, 1000))
    endpoint.script = [kms_kit.http(500, b"")]
    await generate(make(now_ms=lambda: next(times)), arn)
    first, second = (headers["X-Amz-Date"] for headers, _ in endpoint.requests)
    assert first < second


async def test_back_off_grows_and_follows_the_jitter(
    make: Any, endpoint: Any, arn: str, kms_kit: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    real = asyncio.sleep

    async def sleep(delay: float) -> None:
        slept.append(delay)
        await real(0)

    client = make(attempts=8, jitter=lambda: 0.5)
    endpoint.script = [kms_kit.fault("ThrottlingException")] * 8
    monkeypatch.setattr("adytum_enclave.shell.aws.asyncio.sleep", sleep)
    await refused(generate(client, arn), Code.KMS_UNAVAILABLE)
    assert slept == [0.05, 0.1, 0.2, 0.4, 0.5, 0.5, 0.5]


async def test_a_slow_kms_is_given_up_on_and_asked_again(make: Any, endpoint: Any, arn: str) -> None:
    client = make(attempt_timeout_s=0.1)
    endpoint.script = [hang]
    await generate(client, arn)
    assert endpoint.connections == 2
    endpoint.script = [hang] * 3
    await refused(generate(client, arn), Code.KMS_UNAVAILABLE)


async def test_the_deadline_covers_everything(make: Any, endpoint: Any, arn: str, kms_kit: SimpleNamespace) -> None:
    loop = asyncio.get_running_loop()
    endpoint.script = [kms_kit.http(500, b""), hang]
    started = loop.time()
    await refused(generate(make(), arn, timeout_s=0.2), Code.DEADLINE_EXCEEDED)
    assert loop.time() - started < 1.0

    async def never() -> socket.socket:
        await asyncio.sleep(3600)
        raise OSError

    await refused(generate(make(dial=never), arn, timeout_s=0.05), Code.DEADLINE_EXCEEDED)
    one = make(max_connections=1)
    endpoint.script = [hang]
    first = asyncio.create_task(generate(one, arn, timeout_s=0.3))
    await asyncio.sleep(0.05)
    await refused(generate(one, arn, timeout_s=0.1), Code.DEADLINE_EXCEEDED)  # it waited for a connection
    await refused(first, Code.DEADLINE_EXCEEDED)
    await generate(one, arn)  # the place is free again


async def test_a_late_answer_is_never_the_answer_to_the_next_call(
    client: KmsClient, endpoint: Any, arn: str, kms_kit: SimpleNamespace
) -> None:
    async def late(_reader: Any, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.15)
        writer.write(kms_kit.good(KeyId="late"))

    endpoint.script = [kms_kit.good(), late]
    await generate(client, arn)
    await refused(generate(client, arn, timeout_s=0.05), Code.DEADLINE_EXCEEDED)
    await asyncio.sleep(0.2)
    await generate(client, arn)
    assert endpoint.connections == 2


async def test_a_stale_connection_is_replaced_without_counting(
    make: Any, endpoint: Any, arn: str, kms_kit: SimpleNamespace
) -> None:
    async def answer_and_leave(_reader: Any, writer: asyncio.StreamWriter) -> bool:
        writer.write(kms_kit.good())
        await writer.drain()
        return False

    client = make(attempts=1)
    for _ in range(4):
        endpoint.script = [answer_and_leave]
        await generate(client, arn)
        await asyncio.sleep(0.02)
    assert endpoint.connections == 4
    assert client._breaker.state == "closed"
    endpoint.script = [drop]  # the replacement fails too: that counts
    await refused(generate(client, arn), Code.KMS_UNAVAILABLE)


async def test_a_kept_connection_that_breaks_off_an_answer_counts(
    make: Any, endpoint: Any, arn: str, kms_kit: SimpleNamespace
) -> None:
    client = make(attempts=1)
    endpoint.script = [kms_kit.good(), half]
    await generate(client, arn)
    await refused(generate(client, arn), Code.KMS_UNAVAILABLE, "")
    assert len(endpoint.requests) == 2


async def test_a_kms_that_outlasts_deadlines_opens_the_circuit(make: Any, endpoint: Any, arn: str) -> None:
    clock = Clock()
    client = make(monotonic=clock)

    async def slow(_reader: Any, _writer: Any) -> None:
        clock.now += 1.5
        await asyncio.sleep(3600)

    endpoint.script = [slow] * 5
    for _ in range(5):
        await refused(generate(client, arn, timeout_s=0.1), Code.DEADLINE_EXCEEDED)
    await refused(generate(client, arn), Code.KMS_UNAVAILABLE, "circuit")


async def test_the_circuit_opens_after_five_failures_and_one_probe_closes_it(
    make: Any, endpoint: Any, arn: str, kms_kit: SimpleNamespace
) -> None:
    clock = Clock()
    client = make(attempts=1, monotonic=clock)
    endpoint.script = [kms_kit.http(500, b"")] * 5
    for _ in range(5):
        await refused(generate(client, arn), Code.KMS_UNAVAILABLE, "")
    error = await refused(generate(client, arn), Code.KMS_UNAVAILABLE, "circuit")
    assert 0 < error.retry_after_ms <= 2000
    assert len(endpoint.requests) == 5  # it was left in peace

    clock.now += 2.0
    endpoint.script = [kms_kit.http(500, b"")]
    await refused(generate(client, arn), Code.KMS_UNAVAILABLE, "")  # the probe fails: open again
    await refused(generate(client, arn), Code.KMS_UNAVAILABLE, "circuit")

    clock.now += 2.0
    release = asyncio.Event()

    async def wait(_reader: Any, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        writer.write(kms_kit.good())

    endpoint.script = [wait]
    probe = asyncio.create_task(generate(client, arn))
    await asyncio.sleep(0.05)
    await refused(generate(client, arn), Code.KMS_UNAVAILABLE, "circuit")  # one probe at a time
    release.set()
    await probe
    await generate(client, arn)
    assert len(endpoint.requests) == 8


async def test_refusals_and_throttling_do_not_open_the_circuit(
    make: Any, endpoint: Any, arn: str, kms_kit: SimpleNamespace
) -> None:
    client = make(attempts=1)
    for name in ["AccessDeniedException", "ThrottlingException"] * 5:
        endpoint.script = [kms_kit.fault(name)]
        await refused(generate(client, arn), Code.KMS_DENIED if name[0] == "A" else Code.KMS_UNAVAILABLE)
    await generate(client, arn)


async def test_a_caller_in_a_hurry_cannot_open_the_circuit_for_others(make: Any, endpoint: Any, arn: str) -> None:
    client = make()
    endpoint.script = [hang] * 6
    for _ in range(6):
        await refused(generate(client, arn, timeout_s=0.02), Code.DEADLINE_EXCEEDED)
    endpoint.script = []
    await generate(client, arn)


async def test_an_abandoned_probe_makes_room_for_the_next(
    make: Any, endpoint: Any, arn: str, kms_kit: SimpleNamespace
) -> None:
    clock = Clock()
    client = make(attempts=1, monotonic=clock)
    endpoint.script = [drop] * 5
    for _ in range(5):
        await refused(generate(client, arn), Code.KMS_UNAVAILABLE)
    clock.now += 2.0
    endpoint.script = [hang]
    await refused(generate(client, arn, timeout_s=0.05), Code.DEADLINE_EXCEEDED)
    await generate(client, arn)


async def test_nobody_listening_is_unavailable(make: Any, arn: str) -> None:
    async def dial() -> socket.socket:
        raise ConnectionRefusedError

    await refused(generate(make(dial=dial), arn), Code.KMS_UNAVAILABLE)


async def test_after_aclose_no_call_is_made(client: KmsClient, endpoint: Any, arn: str) -> None:
    await generate(client, arn)
    await client.aclose()
    await refused(generate(client, arn), Code.KMS_UNAVAILABLE, "closed")
    assert len(endpoint.requests) == 1


async def test_a_cancelled_call_leaves_no_connection_behind(client: KmsClient, endpoint: Any, arn: str) -> None:
    endpoint.script = [hang]
    task = asyncio.create_task(generate(client, arn))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await generate(client, arn)
    assert endpoint.connections == 2
