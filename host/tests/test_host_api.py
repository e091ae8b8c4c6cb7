"""The cold routes: reads, policies, receipts, attestation, health, metrics; and the supervisor behind them."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from host_fake_enclave import ARN, ScriptedEnclave, now_ms, scripted_settings

from adytum.app import Service, running_service
from adytum.service.ports import AWAITING_MANIFEST
from adytum.settings import load
from adytum.storage import reads
from adytum.storage.database import Database
from adytum_verify import verify_archived_enclave, verify_chain, verify_enclave
from adytum_wire.errors import Code
from adytum_wire.messages import Credentials
from adytum_wire.types import Algorithm, sha256


@pytest.fixture
async def http(service: Service) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=service.base_url, timeout=20, trust_env=False) as client:
        yield client


async def until(condition: Callable[[], Any], seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


async def test_keys_are_listed_by_page_and_tenant(http: httpx.AsyncClient, connect: Any) -> None:
    async with connect() as adytum:
        made = [(await adytum.generate_key(Algorithm.SECP256K1, labels=["hot"])).result.key_id for _ in range(5)]
    first = (await http.get("/v1/keys?tenant=acme&limit=3")).json()
    second = (await http.get(f"/v1/keys?tenant=acme&limit=3&after={first['next_after']}")).json()
    assert [k["key_id"] for k in first["keys"] + second["keys"]] == sorted(made)
    assert second["next_after"] is None
    assert (await http.get("/v1/keys?tenant=other")).json() == {"keys": [], "next_after": None}
    [shown] = [k for k in first["keys"] if k["key_id"] == first["keys"][0]["key_id"]]
    assert (await http.get(f"/v1/keys/{shown['key_id']}")).json() == shown
    assert (shown["status"], shown["version"], shown["labels"], shown["kms_key_id"]) == ("active", 1, ["hot"], ARN)


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/v1/keys", 400, Code.REQUEST_INVALID),
        ("/v1/keys?tenant=A'--", 400, Code.REQUEST_INVALID),
        ("/v1/keys?tenant=acme&limit=1001", 400, Code.REQUEST_INVALID),
        ("/v1/keys?tenant=acme&limit=-1", 400, Code.REQUEST_INVALID),
        ("/v1/keys?tenant=acme&after=x", 400, Code.REQUEST_INVALID),
        ("/v1/keys/key-" + "0" * 32, 404, Code.NOT_FOUND),
        ("/v1/keys/nothing", 400, Code.REQUEST_INVALID),
        ("/v1/requests/acme/r-nothing-1", 404, Code.NOT_FOUND),
        ("/v1/receipts?chain=x", 400, Code.REQUEST_INVALID),
        ("/v1/chains/" + "0" * 32, 404, Code.NOT_FOUND),
        ("/v1/attestation?nonce=00", 400, Code.REQUEST_INVALID),
        ("/v1/attestation?nonce=zz", 400, Code.REQUEST_INVALID),
        ("/v1/attestation?nonce=" + "00" * 65, 400, Code.REQUEST_INVALID),
        ("/v1/tenants/acme/policy", 404, Code.NOT_FOUND),
        ("/nothing", 404, Code.NOT_FOUND),
        ("/v1/sign", 404, Code.NOT_FOUND),
    ],
)
async def test_reads_that_are_refused(http: httpx.AsyncClient, path: str, status: int, code: Code) -> None:
    answer = await http.get(path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code.value)


async def test_the_attestation_answers_the_callers_challenge(http: httpx.AsyncClient, enclave: ScriptedEnclave) -> None:
    nonce = b"\x07" * 32
    answer = (await http.get(f"/v1/attestation?nonce={nonce.hex()}")).json()
    verified = verify_enclave(
        base64.b64decode(answer["document"]),
        base64.b64decode(answer["binding"]),
        expected=enclave.allow_list,
        now_ms=now_ms(),
        nonce=nonce,
        anchors=(enclave.pki.anchor,),
    )
    assert verified.binding.boot_id == enclave.boot_id


async def test_exported_receipts_and_their_attestation_verify_without_the_service(
    http: httpx.AsyncClient, enclave: ScriptedEnclave, connect: Any
) -> None:
    async with connect() as adytum:
        for _ in range(5):
            await adytum.generate_key(Algorithm.SECP256K1)
        envelopes = [row async for row in adytum.receipts(enclave.boot_id, page=2)]
    [chain] = (await http.get("/v1/chains")).json()["chains"]
    assert (chain["chain"], chain["receipts"]) == (enclave.boot_id, 5)
    stored = (await http.get(f"/v1/chains/{enclave.boot_id}")).json()
    verified = verify_archived_enclave(
        base64.b64decode(stored["document"]),
        base64.b64decode(stored["binding"]),
        expected=enclave.allow_list,
        anchors=(enclave.pki.anchor,),
    )
    report = verify_chain(envelopes, receipt_key=bytes.fromhex(verified.binding.receipt_key))
    report.require_intact()
    assert report.records == 5


async def test_a_requests_state_is_shown_without_its_result(http: httpx.AsyncClient, connect: Any) -> None:
    async with connect() as adytum:
        await adytum.generate_key(Algorithm.SECP256K1, request_id="r-state-0001")
    found = (await http.get("/v1/requests/acme/r-state-0001")).json()
    assert (found["state"], found["operation"], found["code"]) == ("done", "generate_key", "")
    assert "result" not in found
    assert found["receipt"]["signature"]


# --- policies and the supervisor


async def test_a_policy_is_stored_once_the_enclave_took_it(
    http: httpx.AsyncClient, enclave: ScriptedEnclave, fresh: Any
) -> None:
    answer = await http.put("/v1/tenants/acme/policy", content=b"policy=3")
    assert (answer.status_code, answer.json()["version"]) == (200, 3)
    found = (await http.get("/v1/tenants/acme/policy")).json()
    assert base64.b64decode(found["envelope"]) == b"policy=3"
    assert found["digest"] == sha256(b"policy=3").hex()
    older = await http.put("/v1/tenants/acme/policy", content=b"policy=2")
    assert (older.status_code, older.json()["error"]["code"]) == (409, Code.POLICY_ROLLBACK.value)
    large = await http.put("/v1/tenants/acme/policy", content=b"x" * (256 * 1024 + 1))
    assert large.json()["error"]["code"] == Code.REQUEST_INVALID.value
    assert await fresh.count("policies") == 1
    assert enclave.policies["acme"][0] == 3


async def test_a_restarted_enclave_gets_its_policies_and_proves_itself_again(
    http: httpx.AsyncClient, enclave: ScriptedEnclave, service: Service, fresh: Any
) -> None:
    await http.put("/v1/tenants/acme/policy", content=b"policy=1")
    await http.put("/v1/tenants/acme/policy", content=b"policy=2")
    first = enclave.boot_id
    enclave.boot()
    await until(lambda: enclave.policies.get("acme") == (2, b"policy=2"))
    await until(lambda: service.gate.proof is not None and service.gate.proof.boot_id == enclave.boot_id)
    await until(lambda: not service.supervisor.problem)
    await until(lambda: service.gate._unsaved is None)
    assert first != enclave.boot_id
    assert {c["chain"] for c in (await http.get("/v1/chains")).json()["chains"]} == {first, enclave.boot_id}


async def test_a_policy_that_the_new_boot_refuses_does_not_stop_the_others(
    http: httpx.AsyncClient, enclave: ScriptedEnclave, service: Service
) -> None:
    await http.put("/v1/tenants/acme/policy", content=b"policy=1")
    enclave.refuse_policy = Code.POLICY_QUORUM
    enclave.boot()
    await until(lambda: service.gate.proof is not None and service.gate.proof.boot_id == enclave.boot_id)
    await until(lambda: not service.supervisor.problem)
    assert enclave.policies == {}


async def test_a_lost_enclave_closes_the_gate_and_its_return_opens_it(
    http: httpx.AsyncClient, enclave: ScriptedEnclave, service: Service
) -> None:
    enclave.down = True
    await until(lambda: service.gate.proof is None)
    health = await http.get("/v1/health")
    assert health.status_code == 503
    assert health.json()["gate"]["reason"] == Code.PEER_UNAVAILABLE.value
    assert (await http.get("/v1/attestation?nonce=" + "00" * 32)).status_code == 503
    assert (await http.get("/v1/keys?tenant=acme")).status_code == 200
    enclave.down = False
    await service.ready()
    assert (await http.get("/v1/health")).status_code == 200


async def test_the_supervisor_configures_an_enclave_that_waits_for_its_manifest(
    fresh: Any, enclave: ScriptedEnclave, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = b"{the manifest}"
    read = SimpleNamespace(bounds=SimpleNamespace(approval_past_ms=86_400_000))
    monkeypatch.setattr("adytum.app.parse_manifest", lambda _data: read)
    (tmp_path / "manifest.json").write_bytes(manifest)
    enclave.phase = AWAITING_MANIFEST
    given = [Credentials("one", "secret", "", 0)]

    async def provide() -> Credentials:
        return given[-1]

    monkeypatch.setattr("adytum.service.supervisor.CREDENTIALS_S", 0.0)
    settings = scripted_settings(enclave, tmp_path, manifestFile=str(tmp_path / "manifest.json"))
    async with running_service(
        settings, enclave=enclave, database=fresh.dsn, credentials=provide, supervisor_poll_s=0.02
    ) as service:
        await until(lambda: enclave.manifests == [manifest])
        assert enclave.credentials == [given[0]]
        given.append(Credentials("two", "secret", "", 0))
        await until(lambda: enclave.credentials[-1] == given[1])
        assert len(enclave.credentials) == 2  # pushed when they change, not each time
        # The scripted enclave binds another manifest hash than that of our file: the gate stays shut.
        await until(lambda: service.gate.reason.startswith("MANIFEST_MISMATCH"))


async def test_the_service_starts_and_stops_without_database_and_enclave(
    fresh: Any, enclave: ScriptedEnclave, tmp_path: Path
) -> None:
    await fresh.take_away()
    enclave.down = True
    async with (
        running_service(
            scripted_settings(enclave, tmp_path), enclave=enclave, database=fresh.dsn, supervisor_poll_s=0.02
        ) as service,
        httpx.AsyncClient(base_url=service.base_url, trust_env=False) as http,
    ):
        health = (await http.get("/v1/health")).json()
        assert (health["ready"], health["database"], health["enclave"]) == (False, "down", None)
        keys = await http.get("/v1/keys?tenant=acme")
        assert (keys.status_code, keys.json()["error"]["code"]) == (503, Code.STORAGE_UNAVAILABLE.value)
        enclave.down = False
        await fresh.give_back()
        await service.ready()
        assert (await http.get("/v1/health")).json()["ready"]


async def test_disabled_serves_reads_and_refuses_the_rest(fresh: Any) -> None:
    environ = {"APP_TEE_ENABLED": "false", "APP_DATABASE_DSN": "postgresql:///x", "APP_HTTP_PORT": "0"}
    async with (
        running_service(load(None, environ), database=fresh.dsn) as service,
        httpx.AsyncClient(base_url=service.base_url, trust_env=False) as http,
    ):
        assert (await http.get("/v1/keys?tenant=acme")).status_code == 200
        assert (await http.get("/v1/health")).status_code == 503
        answer = await http.get("/v1/attestation?nonce=" + "00" * 32)
        assert answer.json()["error"]["code"] == Code.PEER_UNAVAILABLE.value


async def test_a_document_that_could_not_be_stored_is_stored_later(
    fresh: Any, database: Database, enclave: ScriptedEnclave, service: Service
) -> None:
    enclave.boot()
    await fresh.take_away()
    await until(lambda: service.gate.proof is not None and service.gate.proof.boot_id == enclave.boot_id)
    await fresh.give_back()
    await service.gate._save()
    found = await reads.get_attestation(database, enclave.boot_id)
    assert found.document


async def test_the_gate_asks_again_at_four_fifths_of_the_certificates_life(service: Service) -> None:
    assert await service.gate.check()
    proof = service.gate.proof
    assert proof is not None
    left_s = (proof.verified.document.valid_until_ms - proof.at_ms) / 1000
    assert service.gate._pause_s() == 600
    service.gate._interval_s = 10**9
    assert service.gate._pause_s() == pytest.approx(0.8 * left_s)


async def test_an_old_proof_ends_by_itself(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even when the task that asks again is stuck."""
    later = now_ms() + 700_000
    monkeypatch.setattr(service.gate, "_now_ms", lambda: later)
    assert service.gate.proof is None


async def test_metrics_name_operations_and_codes_but_no_tenant_or_key(
    http: httpx.AsyncClient, connect: Any, enclave: ScriptedEnclave
) -> None:
    async with connect() as adytum:
        key = await adytum.generate_key(Algorithm.SECP256K1)
    text = (await http.get("/metrics")).text
    assert 'adytum_requests_total{code="OK",operation="generate_key"} 1.0' in text
    assert "adytum_gate_open 1.0" in text
    assert 'adytum_stage_seconds_count{stage="audit"} 1.0' in text
    assert key.result.key_id not in text
    assert "acme" not in text
