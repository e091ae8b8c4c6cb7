"""A payment above a threshold waits for two people, through the real enclave, the real host and PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from coincurve import PublicKey
from eth_account import Account
from eth_account.typed_transactions import TypedTransaction
from hexbytes import HexBytes
from wallet import TRANSFER, allow_everything, unsigned

from adytum.app import Service
from adytum.client import AsyncAdytum, KeyApprover, PendingError, RefusedError
from adytum_sim.host import Host, running_host
from adytum_sim.passkeys import Passkey
from adytum_sim.people import Person, signed_policy
from adytum_sim.stack import Stack, running_stack
from adytum_verify import verify_chain
from adytum_wire.approvals import PasskeyProof
from adytum_wire.errors import Code
from adytum_wire.types import Algorithm

RP = "vault.example"
THRESHOLD = 10**18
LARGE = TRANSFER | {"value": 3 * THRESHOLD}


class WithPasskey:
    """Approves as a browser would."""

    def __init__(self, passkey: Passkey) -> None:
        self._passkey = passkey

    def prove(self, statement: bytes) -> PasskeyProof:
        return self._passkey.assertion(statement)


def payments(**changes: Any) -> dict[str, Any]:
    conditions = {
        "type": "ethereum-transaction",
        "chain_ids": [1],
        "contract_creation": False,
        "to": "*",
        "min_value": "*",
        "max_value": "*",
        "max_fee": "*",
        "selectors": ["none"],
        "erc20": "*",
    }
    return allow_everything(operations=["sign"], content=[conditions | changes])


@dataclass(slots=True)
class Bank:
    """`alice` asks; `bob` approves with a key, `carol` with a passkey, `dave` with either nobody needs."""

    stack: Stack
    place: Path
    alice: Person
    bob: Person
    carol: Person
    dave: Person
    passkey: Passkey
    host: Host | None = None
    key_id: str = ""
    address: str = ""

    @property
    def service(self) -> Service:
        assert self.host is not None
        return self.host.service

    def client(self, person: Person) -> AsyncAdytum:
        assert self.host is not None
        return self.host.client(person)

    def policy(self, version: int) -> bytes:
        small = payments(max_value=str(THRESHOLD)) | {"id": "small"}
        large = payments() | {"id": "large", "approvals": {"role": "approver", "count": 2}}
        keys = allow_everything("keys", operations=["generate_key"])
        sessions = allow_everything("sessions", operations=["open_session"], labels="*")
        people = [
            self.alice.as_principal("signer", "approver"),
            self.bob.as_principal("approver"),
            self.carol.as_principal("approver", passkeys=[self.passkey]),
            self.dave.as_principal("approver"),
        ]
        document = self.stack.policy(people, [small, large, keys, sessions], version=version)
        document["passkeys"] = {"rp_id": RP, "origins": [f"https://{RP}"]}
        return signed_policy(document, *self.stack.admins)

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """The host service, on the database that it left."""
        async with running_host(self.stack, self.place, durable=False) as host:
            self.host = host
            yield

    async def prepare(self) -> None:
        async with self.client(self.alice) as alice:
            await alice.put_policy(self.policy(1))
            key: Any = (await alice.generate_key(Algorithm.SECP256K1, labels=["treasury"])).result
        self.key_id, self.address = key.key_id, key.address

    async def ask(self, request_id: str = "", **changes: Any) -> PendingError:
        async with self.client(self.alice) as alice:
            with pytest.raises(PendingError) as caught:
                await alice.sign_ethereum(self.key_id, bytes.fromhex(unsigned(LARGE | changes)), request_id=request_id)
        return caught.value

    async def approve(self, request_id: str, *people: Person, decision: str = "approve") -> None:
        for person in people:
            async with self.client(person) as client:
                review = await client.approvals.review(request_id)
                assert review.initiator == "alice"
                approver = WithPasskey(self.passkey) if person is self.carol else KeyApprover(person.signer)
                give = client.approvals.approve if decision == "approve" else client.approvals.reject
                await give(review, approver)

    async def answer(self, pending: PendingError) -> Any:
        async with self.client(self.alice) as alice:
            return await alice.requests.wait(pending.body, timeout_s=60)

    def check(self, answer: Any, value: int = LARGE["value"]) -> None:
        raw = answer.result.encoded["raw_transaction"]
        assert Account.recover_transaction(raw) == self.address
        assert TypedTransaction.from_bytes(HexBytes(raw)).as_dict()["value"] == value


@pytest.fixture
async def bank(short_directory: Path) -> AsyncIterator[Bank]:
    short_directory.chmod(0o711)  # PostgreSQL runs as another user when we are root
    async with running_stack(short_directory / "s", configure=False) as stack:
        place = short_directory / "h"
        place.mkdir(mode=0o711)
        people = [Person.new(name) for name in ("alice", "bob", "carol", "dave")]
        yield Bank(stack, place, *people, passkey=Passkey.new(RP))


async def test_a_large_payment_waits_for_a_key_and_a_passkey(bank: Bank) -> None:
    async with bank.open():
        await bank.prepare()
        async with bank.client(bank.alice) as alice:
            small = await alice.sign_ethereum(bank.key_id, bytes.fromhex(unsigned(TRANSFER)))
        bank.check(small, TRANSFER["value"])  # below the threshold nobody is asked
        pending = await bank.ask()
        assert pending.receipt is not None
        assert pending.receipt.receipt.code == Code.APPROVALS_MISSING.value
        [wanted] = pending.wanted
        assert (wanted.role, wanted.count, wanted.missing) == ("approver", 2, ["bob", "carol", "dave"])
        waiting = asyncio.create_task(bank.answer(pending))
        await bank.approve(pending.request_id, bank.bob, bank.carol)
        answer = await waiting
        bank.check(answer)
        counted = {(one.principal, one.outcome) for one in answer.receipt.receipt.approvals}
        assert counted == {("bob", "approve"), ("carol", "approve")}
        again = await bank.answer(pending)
        assert (again.result_bytes, again.receipt_bytes) == (answer.result_bytes, answer.receipt_bytes)
        assert bank.host is not None
        verify_chain(await bank.host.receipts(), receipt_key=answer.receipt.key).require_intact()


async def test_one_rejection_ends_it_with_a_signed_denial(bank: Bank) -> None:
    async with bank.open():
        await bank.prepare()
        pending = await bank.ask()
        await bank.approve(pending.request_id, bank.bob)
        await bank.approve(pending.request_id, bank.carol, decision="reject")
        with pytest.raises(RefusedError) as caught:
            await bank.answer(pending)
        assert caught.value.code is Code.APPROVALS_REJECTED
        receipt = caught.value.receipt
        assert receipt is not None
        assert ("carol", "reject") in {(one.principal, one.outcome) for one in receipt.receipt.approvals}


async def test_an_approval_under_an_older_policy_does_not_count(bank: Bank) -> None:
    async with bank.open():
        await bank.prepare()
        pending = await bank.ask()
        await bank.approve(pending.request_id, bank.bob)
        async with bank.client(bank.alice) as alice:
            await alice.put_policy(bank.policy(2))
        await bank.approve(pending.request_id, bank.carol)
        async with bank.client(bank.dave) as dave:
            view = await dave.requests.get(pending.request_id)
            assert {(a.principal, a.outcome) for a in view.approvals} == {
                ("bob", "policy-version"),
                ("carol", "approve"),
            }
            assert view.state == "pending"
        await bank.approve(pending.request_id, bank.dave)
        answer = await bank.answer(pending)
        bank.check(answer)
        assert answer.receipt.receipt.policy_version == 2
        assert {one.principal for one in answer.receipt.receipt.approvals} == {"carol", "dave"}


async def test_one_signature_approves_a_batch_of_three(bank: Bank) -> None:
    async with bank.open():
        await bank.prepare()
        pending = [await bank.ask(nonce=nonce) for nonce in range(3)]
        ids = [one.request_id for one in pending]
        for person in (bank.bob, bank.carol):
            approver = WithPasskey(bank.passkey) if person is bank.carol else None
            async with bank.client(person) as client:
                reviews = [await client.approvals.review(request_id) for request_id in ids]
                given = await client.approvals.approve_batch(reviews, approver)
            assert [isinstance(view, RefusedError) for view in given.values()] == [False] * 3
        answers = [await bank.answer(one) for one in pending]
        for answer in answers:
            bank.check(answer)
        statements = {tuple(sorted(a.digest for a in answer.receipt.receipt.approvals)) for answer in answers}
        assert len(statements) == 1  # the same two statements stand in all three receipts


async def test_a_restart_of_the_host_in_between_loses_nothing(bank: Bank) -> None:
    async with bank.open():
        await bank.prepare()
        pending = await bank.ask()
        await bank.approve(pending.request_id, bank.bob)
    async with bank.open():
        await bank.approve(pending.request_id, bank.carol)
        bank.check(await bank.answer(pending))


async def test_a_restart_of_the_enclave_in_between_loses_nothing(bank: Bank) -> None:
    async with bank.open():
        await bank.prepare()
        pending = await bank.ask()
        await bank.approve(pending.request_id, bank.bob)
        await bank.stack.restart_enclave()
        await bank.service.ready(60)
        await bank.approve(pending.request_id, bank.carol)
        answer = await bank.answer(pending)
        bank.check(answer)
        assert {one.principal for one in answer.receipt.receipt.approvals} == {"bob", "carol"}


async def test_a_request_under_a_session_outlives_the_session(bank: Bank) -> None:
    """A session ends with its enclave; what waits was stamped with the key as well."""
    async with bank.open():
        await bank.prepare()
        async with bank.client(bank.alice) as alice:
            await alice.open_session(ttl_seconds=600)
            with pytest.raises(PendingError) as caught:
                await alice.sign_ethereum(bank.key_id, bytes.fromhex(unsigned(LARGE)))
        await bank.stack.restart_enclave()
        await bank.service.ready(60)
        await bank.approve(caught.value.request_id, bank.bob, bank.carol)
        bank.check(await bank.answer(caught.value))


async def test_a_key_sealed_under_a_session_waits_and_opens_under_the_key(bank: Bank) -> None:
    """Sealed for the stamp key: its session's stamp counts for it, and so does the one that is left with the host."""
    secret = Account.create()
    async with bank.open():
        await bank.prepare()
        rules = [
            allow_everything("sessions", operations=["open_session"], labels="*"),
            allow_everything("at-once", operations=["seal"]),
            allow_everything("imports", operations=["import_key"], approvals={"role": "approver", "count": 1}),
        ]
        document = bank.stack.policy(
            [bank.alice.as_principal("signer"), bank.bob.as_principal("approver")], rules, version=2
        )
        public = PublicKey.from_secret(bytes(secret.key)).format()
        async with bank.client(bank.alice) as alice:
            await alice.put_policy(signed_policy(document, *bank.stack.admins))
            await alice.open_session(ttl_seconds=600)
            assert (await alice.seal(b"a secret", labels=["treasury"])).receipt.receipt.decision == "allow"
            with pytest.raises(PendingError) as caught:
                await alice.import_key(Algorithm.SECP256K1, bytes(secret.key), public, labels=["treasury"])
        await bank.approve(caught.value.request_id, bank.bob)
        answer = await bank.answer(caught.value)
        assert answer.result.address == secret.address


async def test_approvals_together_carry_it_out_once(bank: Bank) -> None:
    async with bank.open():
        await bank.prepare()
        pending = await bank.ask()
        await asyncio.gather(*(bank.approve(pending.request_id, person) for person in (bank.bob, bank.dave)))
        bank.check(await bank.answer(pending))
        assert bank.host is not None
        codes = [r for r in await bank.host.receipts() if pending.request_id.encode() in r and b"large" in r]
        assert sum(b'\\"decision\\":\\"allow\\"' in r for r in codes) == 1


async def test_cancelled_or_carried_out_and_never_both(bank: Bank) -> None:
    async with bank.open():
        await bank.prepare()
        for nonce in range(3):
            pending = await bank.ask(nonce=nonce)
            await bank.approve(pending.request_id, bank.bob)
            async with bank.client(bank.alice) as alice:
                cancel = alice.requests.cancel(pending.request_id)
                given, view = await asyncio.gather(
                    bank.approve(pending.request_id, bank.dave), cancel, return_exceptions=True
                )
                assert not isinstance(view, BaseException), view
                settled = await alice.requests.settled(pending.request_id, timeout_s=60)
            assert settled.state in ("done", "cancelled")
            if settled.state == "done":
                bank.check(await bank.answer(pending))
                continue
            assert given is None or isinstance(given, RefusedError)
            with pytest.raises(RefusedError) as caught:
                await bank.answer(pending)
            assert caught.value.code is Code.REQUEST_CANCELLED
