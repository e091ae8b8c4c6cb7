"""Several enclaves behind one service: routing, loss, repeats, policies, and the gates of releases."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from host_fake_enclave import ScriptedEnclave, scripted_settings
from test_host_service import KEY_ID, Poster, code_of, generate, sign

from adytum.app import Service, running_service
from adytum.client import hpke
from adytum.enclave.client import NOT_SENT
from adytum.releases import rollover, store
from adytum.releases.images import Images
from adytum.releases.release import Release
from adytum.service.pool import Pool
from adytum.storage.database import Database
from adytum_verify import verify_chain
from adytum_wire.errors import AdytumError, Code
from adytum_wire.messages import PutPolicyReply
from adytum_wire.requests import Seal, Sealed, import_info
from adytum_wire.strict_json import encode
from adytum_wire.types import Scheme, derive_key_id

NEXT_PCRS = {index: bytes([index + 101]) * 48 for index in range(3)}


async def until(condition: Callable[[], bool], timeout_s: float = 5) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.01)


async def reported(database: Database, wanted: dict[str, str]) -> None:
    """Wait until the hosts have said so, for half a second without a change: a report may be older than what is."""
    good = 0
    async with asyncio.timeout(10):
        while good < 10:
            found = {r.release: r.state for r in await store.reports(database) if r.is_proven}
            good = good + 1 if found == wanted else 0
            await asyncio.sleep(0.05)


class Two:
    """Two enclaves of one image that hold the same keys, their service, and a client without retries."""

    def __init__(self, service: Service, enclaves: list[ScriptedEnclave], http: Poster) -> None:
        self.service, self.enclaves, self.http = service, enclaves, http

    @property
    def pool(self) -> Pool:
        return self.service.pool

    async def all_serve(self) -> None:
        await until(lambda: len(self.pool.serving()) == 2)

    def of_key(self, key: str) -> tuple[ScriptedEnclave, ScriptedEnclave]:
        """(the one that gets requests for `key`, the other)."""
        chosen = self.pool.choose(key)
        assert chosen is not None
        first = next(e for e in self.enclaves if e is chosen.enclave)
        return first, next(e for e in self.enclaves if e is not first)

    async def sign(self, request_id: str) -> httpx.Response:
        return await self.http.post("/v1/sign", sign(KEY_ID, request_id))


@pytest.fixture
async def two(fresh: Any, tmp_path: Path) -> AsyncIterator[Two]:
    enclaves = [ScriptedEnclave(), ScriptedEnclave()]
    enclaves[1].client_key, enclaves[1].secrets = enclaves[0].client_key, enclaves[0].secrets
    enclaves[1].latest = enclaves[0].latest
    settings = scripted_settings(enclaves[0], tmp_path, enclaves="16,17")
    by_name = dict(zip(("enclave-1", "enclave-2"), enclaves, strict=True))
    async with running_service(
        settings, enclave=lambda address: by_name[address.name], database=fresh.dsn, supervisor_poll_s=0.02
    ) as service:
        http = Poster(service, enclaves[0])
        made = Two(service, enclaves, http)
        await made.all_serve()
        assert (await http.post("/v1/keys", generate())).status_code == 200
        yield made
        await http.http.aclose()


async def test_requests_for_one_key_go_to_one_enclave(two: Two) -> None:
    first, other = two.of_key(KEY_ID)
    before = (first.executed, other.executed)
    for number in range(5):
        assert (await two.sign(f"r-sign-{number:04}")).status_code == 200
    assert (first.executed - before[0], other.executed - before[1]) == (5, 0)


async def test_keys_spread_and_only_those_of_a_lost_enclave_move(two: Two) -> None:
    keys = [f"key-{number:032x}" for number in range(400)]
    where = {key: two.pool.choose(key) for key in keys}
    share = sum(member is two.pool.members[0] for member in where.values())
    assert 120 < share < 280
    two.enclaves[1].down = True
    await until(lambda: len(two.pool.serving()) == 1)
    assert all(two.pool.choose(key) is two.pool.members[0] for key in keys)
    two.enclaves[1].down = False
    await two.all_serve()
    assert {key: two.pool.choose(key) for key in keys} == where


async def test_a_signature_survives_the_loss_of_its_enclave_and_both_chains_are_whole(two: Two, fresh: Any) -> None:
    first, other = two.of_key(KEY_ID)
    execute = first.execute

    async def lost(*_: Any, **__: Any) -> Any:
        raise AdytumError(Code.PEER_UNAVAILABLE)

    first.execute = lost  # type: ignore[method-assign]
    raw = encode(sign(KEY_ID, "r-sign-0001"))
    answer = await two.http.post("/v1/sign", raw)
    assert answer.status_code == 200
    assert answer.json()["receipt"]["body"].find(other.boot_id) > 0
    assert (await two.http.post("/v1/sign", raw)).content == answer.content
    assert "adytum_requests_moved_total 1.0" in two.service.metrics.render().decode()
    first.execute = execute  # type: ignore[method-assign]
    await two.all_serve()
    assert (await two.sign("r-sign-0002")).json()["receipt"]["body"].find(first.boot_id) > 0  # brought back
    for enclave in two.enclaves:
        rows = await fresh.rows("SELECT envelope FROM receipts WHERE chain = $1 ORDER BY sequence", enclave.boot_id)
        key = enclave.receipt_key.public_key().public_bytes_raw()
        verify_chain([row["envelope"] for row in rows], receipt_key=key).require_intact()


def lose_answer(enclave: ScriptedEnclave) -> None:
    """It carries the request out, and the connection is lost before it can say so."""

    def lose() -> None:
        enclave.on_execute = lambda: None
        executed = enclave.execute

        async def lost(*arguments: Any, **more: Any) -> Any:
            enclave.execute = executed  # type: ignore[method-assign]
            await executed(*arguments, **more)
            raise AdytumError(Code.PEER_UNAVAILABLE)

        enclave.execute = lost  # type: ignore[method-assign]

    lose()


async def test_a_key_whose_answer_was_lost_is_not_made_a_second_time_elsewhere(two: Two) -> None:
    first, other = two.of_key("acme/r-generate-2")
    lose_answer(first)
    raw = encode(generate("r-generate-2"))
    good, first.pcrs = first.pcrs, dict.fromkeys(range(3), b"w" * 48)  # taken out, it will not come back by itself
    lost = await two.http.post("/v1/keys", raw)
    assert (lost.status_code, code_of(lost)) == (503, Code.PEER_UNAVAILABLE.value)
    effects = (first.effects, other.effects)
    for _ in range(3):
        assert code_of(await two.http.post("/v1/keys", raw)) == Code.PEER_UNAVAILABLE.value
    first.pcrs = good
    await two.all_serve()
    again = await two.http.post("/v1/keys", raw)
    assert again.status_code == 200
    assert (first.effects, other.effects) == effects  # its memory answered; nobody made another key
    assert again.json()["receipt"]["body"].find(first.boot_id) > 0


async def test_a_key_request_goes_elsewhere_when_its_enclave_has_gone_for_good(two: Two) -> None:
    first, _ = two.of_key("acme/r-generate-2")
    lose_answer(first)
    raw = encode(generate("r-generate-2"))
    assert (await two.http.post("/v1/keys", raw)).status_code == 503
    old = first.boot_id
    first.boot()  # what it knew is gone
    await until(lambda: two.pool.members[two.enclaves.index(first)].boot_id not in ("", old))
    assert (await two.http.post("/v1/keys", raw)).status_code == 200


async def test_a_key_request_that_was_never_sent_moves_at_once(two: Two) -> None:
    first, other = two.of_key("acme/r-generate-2")

    async def unreachable(*_: Any, **__: Any) -> Any:
        raise AdytumError(Code.PEER_UNAVAILABLE, NOT_SENT)

    first.execute = unreachable  # type: ignore[method-assign]
    effects = other.effects
    assert (await two.http.post("/v1/keys", generate("r-generate-2"))).status_code == 200
    assert other.effects == effects + 1


async def test_a_restarted_enclave_that_awaits_its_manifest_passes_the_request_on(two: Two) -> None:
    from adytum_wire.messages import Refusal

    first, _ = two.of_key(KEY_ID)

    async def waiting(*_: Any, **__: Any) -> Refusal:
        return Refusal(Code.PHASE_INVALID.value)

    first.execute = waiting  # type: ignore[method-assign]
    assert (await two.sign("r-sign-0001")).status_code == 200


async def test_what_is_sealed_to_the_lead_goes_to_the_lead(two: Two) -> None:
    lead = next(e for e in two.enclaves if e is two.pool.lead().enclave)
    public = lead.hpke_key.public_key().public_bytes_raw()
    for number in range(6):
        request_id = f"r-seal-{number:05}"
        info = import_info("seal", "acme", request_id, Scheme.ED25519, lead.client_key.public_key().public_bytes_raw())
        enc, ciphertext = hpke.seal(public, b"secret", info=info)
        sealed = Sealed(enc=enc.hex(), ciphertext=ciphertext.hex())
        body = Seal(v=1, tenant="acme", request_id=request_id, issued_at=1, labels=["hot"], sealed=sealed)
        assert (await two.http.post("/v1/secrets", body)).status_code == 200
        assert lead.secrets[derive_key_id("acme", request_id)] == b"secret"


async def test_an_unproven_enclave_gets_no_request(two: Two) -> None:
    first, other = two.of_key(KEY_ID)
    first.pcrs = dict.fromkeys(range(3), b"w" * 48)
    assert not await two.pool.members[two.enclaves.index(first)].gate.check()
    executed = first.executed
    assert (await two.sign("r-sign-0001")).status_code == 200
    assert first.executed == executed
    other.pcrs = first.pcrs
    assert not await two.pool.members[two.enclaves.index(other)].gate.check()
    refused = await two.sign("r-sign-0002")
    assert (refused.status_code, code_of(refused)) == (503, Code.ATTESTATION_FAILED.value)


async def test_an_answer_of_a_boot_that_nobody_verified_is_withheld(two: Two, fresh: Any) -> None:
    """The right enclave's proof counts: that the other one is proven does not help."""
    first, _ = two.of_key(KEY_ID)

    def swap() -> None:
        first.on_execute = lambda: None
        first.boot()
        first.pcrs = dict.fromkeys(range(3), b"f" * 48)

    first.on_execute = swap
    answer = await two.sign("r-sign-0001")
    assert code_of(answer) == Code.ATTESTATION_FAILED.value
    assert b"raw_transaction" not in answer.content


async def test_an_answer_is_not_lost_with_its_enclave(two: Two) -> None:
    """It answered, and died before the answer was durable: the boot was proven when it was asked."""
    first, _ = two.of_key(KEY_ID)
    commit = two.service.batcher.commit

    async def die_first(outcome: Any, **options: Any) -> Any:
        first.down = True
        two.pool.members[two.enclaves.index(first)].gate.close("PEER_UNAVAILABLE")
        return await commit(outcome, **options)

    two.service.batcher.commit = die_first  # type: ignore[method-assign]
    answer = await two.sign("r-sign-0001")
    assert answer.status_code == 200
    assert answer.json()["receipt"]["body"].find(first.boot_id) > 0


async def test_a_policy_reaches_every_enclave_or_those_without_it_serve_nothing(two: Two) -> None:
    put = await two.http.http.put("/v1/tenants/acme/policy", content=b"policy=7")
    assert put.status_code == 200
    assert [enclave.policies["acme"][0] for enclave in two.enclaves] == [7, 7]
    lead = two.pool.lead()
    other = next(member for member in two.pool.members if member is not lead)
    put_policy = other.enclave.put_policy

    async def lost(*_: Any, **__: Any) -> PutPolicyReply:
        raise AdytumError(Code.DEADLINE_EXCEEDED)

    other.enclave.put_policy = lost  # type: ignore[method-assign]
    assert (await two.http.http.put("/v1/tenants/acme/policy", content=b"policy=8")).status_code == 200
    assert two.pool.serving() == [lead]
    other.enclave.put_policy = put_policy  # type: ignore[method-assign]
    await two.all_serve()
    assert [enclave.policies["acme"][0] for enclave in two.enclaves] == [8, 8]


async def test_the_traffic_is_the_promoted_releases_and_falls_back_to_an_accepted_one(
    two: Two, database: Database
) -> None:
    one, two_ = two.pool.members
    two.enclaves[1].pcrs = NEXT_PCRS
    assert not await two_.gate.check()
    await rollover.add(database, "a", Release(name="a", pcrs=two.enclaves[0].pcrs))
    await rollover.add(database, "b", Release(name="b", pcrs=NEXT_PCRS))
    await reported(database, {"a": "serving", "b": "serving"})
    await rollover.promote(database, "b")
    await until(lambda: two.pool.serving() == [two_])
    assert {two.pool.choose(f"key-{number}") for number in range(20)} == {two_}
    two.enclaves[1].down = True
    await until(lambda: two.pool.serving() == [one])  # accepted, so better than nothing
    two.enclaves[1].down = False
    await until(lambda: two.pool.serving() == [two_])
    await reported(database, {"a": "proven", "b": "serving"})
    await rollover.retire(database, "a")
    await until(lambda: one.gate.reason == "RELEASE_RETIRED")  # though the settings name it
    assert not await one.gate.check()
    await reported(database, {"b": "serving"})
    found = (await two.http.http.get("/v1/releases")).json()
    assert [(r["name"], r["state"], r["serving"]) for r in found["releases"]] == [
        ("a", "retired", 0),
        ("b", "promoted", 1),
    ]
    await rollover.add(database, "a", again=True)
    await until(lambda: one.boot_id != "")
    assert two.pool.serving() == [two_]


async def test_no_gate_opens_before_the_database_said_what_is_retired(
    fresh: Any, enclave: ScriptedEnclave, tmp_path: Path
) -> None:
    await fresh.take_away()
    settings = scripted_settings(enclave, tmp_path)
    async with running_service(settings, enclave=enclave, database=fresh.dsn, supervisor_poll_s=0.02) as service:
        assert not service.pool.images.is_known
        assert not await service.gate.check()
        await fresh.give_back()
        await service.ready()


def test_a_pool_needs_an_enclave() -> None:
    from adytum.service.metrics import Metrics

    with pytest.raises(ValueError, match="at least one"):
        Pool([], metrics=Metrics())
    assert Images.unknown().allowed is None
