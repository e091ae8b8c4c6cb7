"""The SDK of who asks and of who approves: what it shows, what it signs, and a host that shows something else."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from approval_parts import KEY_ID, TENANT, UNSIGNED, Bench
from host_fake_enclave import ScriptedEnclave

from adytum.client import Adytum, AsyncAdytum, KeyApprover, PendingError, RefusedError, UntrustedError
from adytum.client.device import DeviceApprover
from adytum.client.signers import SignerError
from adytum_policy.content import decode_content
from adytum_sim.people import Person
from adytum_wire.errors import Code
from adytum_wire.requests import EthereumTransaction, parse_body
from adytum_wire.types import SigningScheme, sha256

TX = bytes.fromhex(UNSIGNED)
OTHER = "ec098504a817c800825208943535353535353535353535353535353535353536880de0b6b3a764000080018080"
Open = Callable[..., Any]


@pytest.fixture
def as_person(connect: Any, bench: Bench) -> Open:
    def open_client(person: Person, **changes: Any) -> Any:
        return connect(signer=person.signer, **changes)

    return open_client


async def pending(as_person: Open, bench: Bench) -> PendingError:
    async with as_person(bench.people.alice) as alice:
        with pytest.raises(PendingError) as caught:
            await alice.sign_ethereum(KEY_ID, TX, request_id="r-payment-01")
    return caught.value


async def test_a_call_that_waits_says_so_and_the_answer_comes_later(as_person: Open, bench: Bench) -> None:
    found = await pending(as_person, bench)
    assert (found.code, found.request_id) == (Code.REQUEST_PENDING, "r-payment-01")
    assert found.receipt is not None
    assert found.receipt.receipt.code == Code.APPROVALS_MISSING.value
    assert [(w.role, w.count, w.missing) for w in found.wanted] == [("approver", 2, ["bob", "carol", "dave"])]
    async with as_person(bench.people.alice) as alice:
        waiting = asyncio.create_task(alice.requests.wait(found.body, timeout_s=30))
        for person in (bench.people.bob, bench.people.carol):
            async with as_person(person) as approver:
                review = await approver.approvals.review("r-payment-01")
                assert (review.initiator, review.raw, review.policy_version) == ("alice", found.body, 1)
                assert review.summary["to"] == "0x3535353535353535353535353535353535353535"
                await approver.approvals.approve(review)
        answer = await waiting
        assert answer.result.encoded["raw_transaction"]
        assert (await alice.requests.wait(found.body, timeout_s=0)).result_bytes == answer.result_bytes
        assert (await alice.requests.get("r-payment-01")).state == "done"
        with pytest.raises(RefusedError) as ended:
            await alice.approvals.review("r-payment-01")
        assert ended.value.code is Code.REQUEST_REPLAYED


async def test_when_the_time_is_up_it_is_still_pending(as_person: Open, bench: Bench) -> None:
    found = await pending(as_person, bench)
    async with as_person(bench.people.alice) as alice:
        with pytest.raises(PendingError) as caught:
            await alice.requests.wait(found.body, timeout_s=0)
        assert caught.value.body == found.body
        assert [view.request_id for view in await alice.requests.list()] == ["r-payment-01"]


async def test_a_rejection_and_a_cancellation_are_refusals(as_person: Open, bench: Bench) -> None:
    found = await pending(as_person, bench)
    async with as_person(bench.people.dave) as dave:
        await dave.approvals.reject(await dave.approvals.review("r-payment-01"))
    async with as_person(bench.people.alice) as alice:
        with pytest.raises(RefusedError) as caught:
            await alice.requests.wait(found.body, timeout_s=30)
        assert caught.value.code is Code.APPROVALS_REJECTED
        with pytest.raises(PendingError) as second:
            await alice.sign_ethereum(KEY_ID, TX, request_id="r-payment-02")
        assert (await alice.requests.cancel("r-payment-02")).state == "cancelled"
        with pytest.raises(RefusedError) as cancelled:
            await alice.requests.wait(second.value.body, timeout_s=30)
        assert cancelled.value.code is Code.REQUEST_CANCELLED


async def test_the_blocking_client_does_the_same(bench: Bench, enclave: ScriptedEnclave) -> None:
    def work() -> str:
        def client(person: Person) -> Adytum:
            return Adytum(
                bench.service.base_url,
                TENANT,
                person.signer,
                expected=enclave.allow_list,
                anchors=(enclave.pki.anchor,),
            )

        with client(bench.people.alice) as alice, client(bench.people.bob) as bob, client(bench.people.carol) as carol:
            bodies = []
            for n in range(2):
                with pytest.raises(PendingError) as caught:
                    alice.sign_ethereum(KEY_ID, TX, request_id=f"r-blocking-{n}")
                bodies.append(caught.value.body)
            ids = [view.request_id for view in alice.requests.list()]
            assert ids == ["r-blocking-0", "r-blocking-1"]
            given = bob.approvals.approve_batch([bob.approvals.review(one) for one in ids])
            assert not any(isinstance(view, RefusedError) for view in given.values())
            carol.approvals.approve(carol.approvals.review(ids[0]))
            carol.approvals.reject(carol.approvals.review(ids[1]))
            with pytest.raises(RefusedError):
                alice.requests.wait(bodies[1], timeout_s=30)
            assert alice.requests.settled(ids[1], timeout_s=30).state == "rejected"
            assert alice.requests.get(ids[1]).code == Code.APPROVALS_REJECTED.value
            return alice.requests.wait(bodies[0], timeout_s=30).receipt.receipt.operation

    assert await asyncio.to_thread(work) == "sign"


# --- a host that lies


class Lying(httpx.AsyncBaseTransport):
    """Edits what the host says of requests; counts what is posted."""

    def __init__(self, edit: Callable[[dict[str, Any]], None]) -> None:
        self._real = httpx.AsyncHTTPTransport()
        self._edit = edit
        self.posted = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.posted += request.method == "POST"
        answer = await self._real.handle_async_request(request)
        if not request.url.path.startswith("/v1/requests/"):
            return answer
        data = json.loads(await answer.aread())
        self._edit(data)
        return httpx.Response(answer.status_code, json=data)

    async def aclose(self) -> None:
        await self._real.aclose()


def other_body(view: dict[str, Any]) -> None:
    """The host's own payment under the same request id: the approver's signature would be for that."""
    raw = base64.b64decode(view["body"]).replace(UNSIGNED.encode(), OTHER.encode())
    view["body"], view["body_hash"] = base64.b64encode(raw).decode(), sha256(raw).hex()


def other_body_and_summary(view: dict[str, Any]) -> None:
    other_body(view)
    content = decode_content(EthereumTransaction(unsigned=OTHER), SigningScheme.ECDSA_SECP256K1)
    view["summary"] = content.summary


def nicer_summary(view: dict[str, Any]) -> None:
    view["summary"]["to"] = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"


def other_initiator(view: dict[str, Any]) -> None:
    view["initiator"] = "the-boss"


def older_policy(view: dict[str, Any]) -> None:
    view["policy_version"] = 0


def other_id(view: dict[str, Any]) -> None:
    raw = base64.b64decode(view["body"]).replace(b"r-payment-01", b"r-payment-99")
    view["body"] = base64.b64encode(raw).decode()


def no_body(view: dict[str, Any]) -> None:
    view["body"] = ""


def forged_receipt(view: dict[str, Any]) -> None:
    view["receipt"]["body"] = view["receipt"]["body"].replace('"alice"', '"carol"')


def no_receipt(view: dict[str, Any]) -> None:
    view["receipt"] = None


@pytest.mark.parametrize(
    "lie",
    [
        other_body,
        other_body_and_summary,
        nicer_summary,
        other_initiator,
        older_policy,
        other_id,
        no_body,
        forged_receipt,
        no_receipt,
    ],
)
async def test_a_host_that_shows_another_request_than_it_wants_signed_is_found_out_before_anything_is_signed(
    as_person: Open, bench: Bench, fresh: Any, lie: Callable[[dict[str, Any]], None]
) -> None:
    await pending(as_person, bench)
    transport = Lying(lie)
    async with (
        httpx.AsyncClient(transport=transport, trust_env=False) as http,
        as_person(bench.people.bob, http=http) as bob,
    ):
        bob: AsyncAdytum
        with pytest.raises(UntrustedError):
            await bob.approvals.review("r-payment-01")
    assert transport.posted == 0
    assert await fresh.count("approvals") == 0


async def test_the_lie_of_the_test_above_is_what_breaks_it(as_person: Open, bench: Bench) -> None:
    await pending(as_person, bench)
    async with (
        httpx.AsyncClient(transport=Lying(lambda view: None), trust_env=False) as http,
        as_person(bench.people.bob, http=http) as bob,
    ):
        review = await bob.approvals.review("r-payment-01")
        assert parse_body(review.raw) == review.body


async def test_another_measurement_is_no_enclave_to_believe(as_person: Open, bench: Bench) -> None:
    from adytum_verify import AllowList

    await pending(as_person, bench)
    nobody = AllowList.parse([",".join(f"PCR{index}={'ee' * 48}" for index in range(3))])
    async with as_person(bench.people.bob, expected=nobody) as bob:
        with pytest.raises(UntrustedError):
            await bob.approvals.review("r-payment-01")


async def test_an_approver_of_ones_own(as_person: Open, bench: Bench) -> None:
    """The client's key need not be the approver's."""
    await pending(as_person, bench)
    async with as_person(bench.people.mallory) as client:
        review = await client.approvals.review("r-payment-01")
        view = await client.approvals.approve(review, KeyApprover(bench.people.bob.signer))
        assert [(a.principal, a.outcome) for a in view.approvals] == [("bob", "approve")]
        with pytest.raises(ValueError, match="valid for up to"):
            await client.approvals.approve(review, valid_ms=8 * 86_400_000)


def test_without_a_security_key_there_is_a_sentence() -> None:
    pytest.importorskip("fido2")
    approver = DeviceApprover(
        rp_id="vault.example", origin="https://vault.example", credentials=[b"x"], tell=print, ask_pin=lambda: ""
    )
    with pytest.raises(SignerError, match="security key"):
        approver.prove(b"{}")
