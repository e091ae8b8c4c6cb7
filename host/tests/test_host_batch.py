"""`POST /v1/batch`: each request as if it had come alone, in order; the bounds; the SDK's `batch`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from host_fake_enclave import ScriptedEnclave, now_ms

from adytum.app import Service
from adytum.client import KeySigner, RefusedError, Retries, UnreachableError, UntrustedError
from adytum.client.checks import Answer
from adytum.service.admit import format_stamp
from adytum.service.batch import MAX_BYTES, MAX_ITEMS, read_batch, write_batch
from adytum_wire import limits
from adytum_wire.errors import AdytumError, Code
from adytum_wire.pae import REQUEST, pae
from adytum_wire.requests import GenerateKey, Reseal, Stamp
from adytum_wire.strict_json import encode
from adytum_wire.types import Algorithm, derive_key_id


def generate(number: int, **fields: Any) -> bytes:
    base = {"v": 1, "tenant": "acme", "request_id": f"r-batch-{number:04d}", "issued_at": now_ms()} | fields
    return encode(GenerateKey(**base, algorithm=Algorithm.SECP256K1, labels=["hot"]))


class Batches:
    """A client that shows raw bytes and verifies nothing."""

    def __init__(self, service: Service, enclave: ScriptedEnclave) -> None:
        self.http = httpx.AsyncClient(base_url=service.base_url, timeout=30, trust_env=False)
        self.signer = KeySigner(enclave.client_key)

    def stamp(self, raw: bytes, signer: KeySigner | None = None) -> str:
        signer = signer or self.signer
        return format_stamp(Stamp(signer.scheme, signer.public_key, signer.sign(pae(REQUEST, raw))))

    async def send(self, items: list[tuple[bytes, str]]) -> httpx.Response:
        return await self.http.post("/v1/batch", content=write_batch(items))

    async def all_of(self, raws: list[bytes]) -> list[tuple[int, Any]]:
        came = await self.send([(raw, self.stamp(raw)) for raw in raws])
        assert came.status_code == 200, came.text
        return [(one["status"], one["answer"]) for one in came.json()["answers"]]


@pytest.fixture
async def batches(service: Service, enclave: ScriptedEnclave) -> AsyncIterator[Batches]:
    made = Batches(service, enclave)
    yield made
    await made.http.aclose()


async def test_answers_stand_in_the_order_of_the_requests(batches: Batches, fresh: Any) -> None:
    raws = [generate(number) for number in range(MAX_ITEMS)]
    answers = await batches.all_of(raws)
    assert [status for status, _ in answers] == [200] * MAX_ITEMS
    wanted = [f"r-batch-{number:04d}" for number in range(MAX_ITEMS)]
    assert [one["request_id"] for _, one in answers] == wanted
    assert [one["result"]["key_id"] for _, one in answers] == [derive_key_id("acme", name) for name in wanted]
    assert await fresh.count("keys") == await fresh.count("receipts") == MAX_ITEMS


async def test_an_item_is_answered_with_the_single_routes_bytes_and_the_other_way_round(
    batches: Batches, enclave: ScriptedEnclave
) -> None:
    in_batch, alone = generate(1), generate(2)
    single = await batches.http.post("/v1/keys", content=alone, headers={"Adytum-Stamp": batches.stamp(alone)})
    executed = enclave.executed
    came = await batches.send([(in_batch, batches.stamp(in_batch)), (alone, batches.stamp(alone))])
    assert enclave.executed == executed + 1  # what was done before is not asked again
    first = await batches.http.post("/v1/keys", content=in_batch, headers={"Adytum-Stamp": batches.stamp(in_batch)})
    expected = b'{"answers":[{"status":200,"answer":%s},{"status":200,"answer":%s}]}' % (first.content, single.content)
    assert came.content == expected


async def test_a_batch_again_gives_the_same_bytes_and_has_no_second_effect(
    batches: Batches, enclave: ScriptedEnclave, fresh: Any
) -> None:
    items = [(raw, batches.stamp(raw)) for raw in (generate(number) for number in range(5))]
    first = await batches.send(items)
    executed = enclave.executed
    again = await batches.send(items)
    assert (again.status_code, again.content) == (200, first.content)
    assert enclave.executed == executed
    assert await fresh.count("keys") == 5


async def test_each_item_is_refused_alone(batches: Batches, enclave: ScriptedEnclave, fresh: Any) -> None:
    stranger = KeySigner(Ed25519PrivateKey.generate())
    good, theirs, missing = generate(1), generate(2), generate(3)
    unknown = encode(
        Reseal(v=1, tenant="acme", request_id="r-reseal-0001", issued_at=now_ms(), key_id="key-" + "0" * 32)
    )
    items = [
        (theirs, batches.stamp(theirs, stranger)),
        (b"{}", batches.stamp(b"{}")),
        (good, batches.stamp(good)),
        (missing, ""),
        (unknown, batches.stamp(unknown)),
    ]
    answers = (await batches.send(items)).json()["answers"]
    codes = [one["answer"]["error"]["code"] if "error" in one["answer"] else "" for one in answers]
    assert codes[:4] == ["PRINCIPAL_UNKNOWN", "REQUEST_INVALID", "", "STAMP_INVALID"]
    assert codes[4]
    assert [one["status"] for one in answers][:4] == [401, 400, 200, 401]
    assert await fresh.count("keys") == 1


async def test_a_request_twice_in_one_batch_has_one_effect_and_one_answer(
    batches: Batches, enclave: ScriptedEnclave, fresh: Any
) -> None:
    raw, effects = generate(1), enclave.effects
    first, second = await batches.all_of([raw, raw])
    assert first == second
    assert first[0] == 200
    assert enclave.effects == effects + 1
    assert await fresh.count("keys") == await fresh.count("requests") == 1


async def test_two_bodies_under_one_id_in_one_batch_one_wins_and_the_other_is_told(
    batches: Batches, fresh: Any
) -> None:
    issued = now_ms()
    answers = await batches.all_of([generate(1, issued_at=issued), generate(1, issued_at=issued + 1)])
    assert sorted(status for status, _ in answers) == [200, 409]
    [refused] = [one["error"]["code"] for status, one in answers if status == 409]
    assert refused == Code.REQUEST_CONFLICT.value
    assert await fresh.count("keys") == 1


async def _refused_whole(batches: Batches, enclave: ScriptedEnclave, fresh: Any, content: bytes, field: str) -> None:
    executed = enclave.executed
    came = await batches.http.post("/v1/batch", content=content)
    error = came.json()["error"]
    assert (came.status_code, error["code"], error["field"]) == (400, Code.REQUEST_INVALID.value, field)
    assert enclave.executed == executed
    assert await fresh.count("requests") == await fresh.count("receipts") == 0


async def test_over_a_bound_nothing_of_a_batch_is_carried_out(
    batches: Batches, enclave: ScriptedEnclave, fresh: Any
) -> None:
    raw = generate(1)
    item = json.dumps({"body": raw.decode(), "stamp": batches.stamp(raw)})
    many = b'{"requests":[%s]}' % ",".join([item] * (MAX_ITEMS + 1)).encode()
    await _refused_whole(batches, enclave, fresh, many, "$.requests (count)")
    await _refused_whole(batches, enclave, fresh, b'{"requests":[]}', "$.requests (count)")
    long = b'{"requests":[%s]}%s' % (item.encode(), b" " * MAX_BYTES)
    await _refused_whole(batches, enclave, fresh, long, "$ (too large)")


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: text[:-1],
        lambda text: text.replace('"requests"', '"request"', 1),
        lambda text: text.replace('"stamp":', '"as":"mallory","stamp":', 1),
        lambda text: text.replace('"requests":[', '"requests":[1,', 1),
        lambda text: "[" * 20_000,
        lambda text: text.replace('"body":"', '"body":"\\ud800', 1),
    ],
)
async def test_a_batch_that_cannot_be_read_is_refused_as_a_whole(
    batches: Batches, enclave: ScriptedEnclave, fresh: Any, edit: Any
) -> None:
    raw = generate(1)
    await _refused_whole(batches, enclave, fresh, edit(write_batch([(raw, batches.stamp(raw))]).decode()).encode(), "$")


async def test_an_item_over_the_bound_of_its_own_route_is_refused_alone(batches: Batches, fresh: Any) -> None:
    good, long = generate(1), generate(2) + b" " * limits.MAX_BODY
    (first, _), (second, refusal) = await batches.all_of([good, long])
    assert (first, second, refusal["error"]["code"]) == (200, 400, Code.REQUEST_INVALID.value)
    assert await fresh.count("keys") == 1


async def test_a_batch_that_is_cut_off_has_no_effect(batches: Batches, enclave: ScriptedEnclave, fresh: Any) -> None:
    raw, executed = generate(1), enclave.executed
    content = write_batch([(raw, batches.stamp(raw))])
    url = batches.http.base_url
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(b"POST /v1/batch HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(content) + content[:-1])
    writer.write_eof()
    await reader.read()
    writer.close()
    assert enclave.executed == executed
    assert await fresh.count("requests") == 0


async def test_what_was_begun_is_written_down_when_the_caller_goes_away(
    batches: Batches, enclave: ScriptedEnclave, fresh: Any
) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        begun.set()
        await go_on.wait()

    enclave.on_execute = wait
    raws = [generate(1), generate(2)]
    asking = asyncio.create_task(batches.all_of(raws))
    await begun.wait()
    asking.cancel()
    await asyncio.wait([asking])
    go_on.set()
    answers = await batches.all_of(raws)
    assert [status for status, _ in answers] == [200, 200]
    assert await fresh.count("keys") == await fresh.count("requests") == 2


def test_a_batch_is_read_as_it_was_written() -> None:
    items = [(b'{"a":"\xc3\xa9\\n\\u0000"}', "s"), (b' "spaces" ', ""), (b"", "t")]
    assert [(one.body.encode(), one.stamp) for one in read_batch(write_batch(items))] == items
    for bad in ([], [(b"", "")] * (MAX_ITEMS + 1), [(b"\xff", "")]):
        with pytest.raises(AdytumError) as caught:
            write_batch(bad)
        assert caught.value.code is Code.REQUEST_INVALID


# --- the SDK


async def test_the_sdk_gives_a_proven_answer_or_an_error_for_each(connect: Any, enclave: ScriptedEnclave) -> None:
    async with connect() as adytum:
        await adytum.repeat(generate(2))
        conflict = generate(2, issued_at=now_ms() - 5)
        first, second, third = await adytum.batch([generate(1), conflict, generate(3)])
        assert (first.result.request_id, third.result.request_id) == ("r-batch-0001", "r-batch-0003")
        assert isinstance(second, RefusedError)
        assert second.code is Code.REQUEST_CONFLICT
        with pytest.raises(AdytumError) as other:
            await adytum.batch([generate(4), generate(5, tenant="umbrella")])
        assert other.value.code is Code.REQUEST_INVALID


async def test_only_what_may_pass_is_sent_again(connect: Any, enclave: ScriptedEnclave) -> None:
    async with connect(retries=Retries(attempts=3, first_s=0.001)) as adytum:
        [done] = await adytum.batch([generate(1)])
        enclave.refuse, enclave.refuse_as = Code.KMS_UNAVAILABLE, "error"
        before = enclave.executed
        raws = [generate(2), generate(3)]
        found = await adytum.batch([*raws])
        assert all(isinstance(one, UnreachableError) and one.code is Code.KMS_UNAVAILABLE for one in found)
        assert [one.body for one in found] == raws
        assert enclave.executed == before + 6
        enclave.refuse = None
        again = await adytum.batch(raws)
        assert all(isinstance(one, Answer) for one in again)
        assert isinstance(done, Answer)


class Swapping(httpx.AsyncBaseTransport):
    """A host that edits the answers of batches."""

    def __init__(self, edit: Any) -> None:
        self.inner, self.edit = httpx.AsyncHTTPTransport(), edit

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await self.inner.handle_async_request(request)
        content = await response.aread()
        if request.url.path == "/v1/batch":
            content = json.dumps(self.edit(json.loads(content)), separators=(",", ":")).encode()
        return httpx.Response(response.status_code, content=content)

    async def aclose(self) -> None:
        await self.inner.aclose()


def _swap(answer: Any) -> Any:
    return {"answers": answer["answers"][::-1]}


def _repeat_first(answer: Any) -> Any:
    return {"answers": [answer["answers"][0]] * 2}


@pytest.mark.parametrize(("edit", "proven"), [(_swap, 0), (_repeat_first, 1)])
async def test_a_host_that_mixes_up_the_answers_is_found_out(connect: Any, edit: Any, proven: int) -> None:
    async with httpx.AsyncClient(transport=Swapping(edit)) as http, connect(http=http) as adytum:
        found = await adytum.batch([generate(1), generate(2)])
        assert sum(isinstance(one, Answer) for one in found) == proven
        assert sum(isinstance(one, UntrustedError) for one in found) == 2 - proven


async def test_a_host_that_leaves_answers_out_is_found_out(connect: Any) -> None:
    transport = Swapping(lambda answer: {"answers": answer["answers"][:1]})
    async with httpx.AsyncClient(transport=transport) as http, connect(http=http) as adytum:
        with pytest.raises(UntrustedError):
            await adytum.batch([generate(1), generate(2)])
