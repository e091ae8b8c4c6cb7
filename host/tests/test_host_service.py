"""The request's way through the host: same id, same bytes; nothing leaves before it is durable; the gate."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import asyncpg
import httpx
import pytest
from host_fake_enclave import ScriptedEnclave, now_ms

from adytum.app import Service
from adytum.client.signers import KeySigner
from adytum.service.admit import format_stamp
from adytum_verify import verify_chain
from adytum_wire.errors import Code
from adytum_wire.pae import REQUEST, pae
from adytum_wire.requests import Body, EthereumTransaction, GenerateKey, Reseal, Sign, Stamp
from adytum_wire.strict_json import encode
from adytum_wire.types import Algorithm, SigningScheme, derive_key_id, sha256

# EIP-155's own example: nonce 9, 20 gwei, 21000, to 0x3535.., 1 ether, chain id 1.
UNSIGNED = "ec098504a817c800825208943535353535353535353535353535353535353535880de0b6b3a764000080018080"


def base(request_id: str) -> dict[str, Any]:
    return {"v": 1, "tenant": "acme", "request_id": request_id, "issued_at": now_ms()}


def generate(request_id: str = "r-generate-1", algorithm: Algorithm = Algorithm.SECP256K1) -> GenerateKey:
    return GenerateKey(**base(request_id), algorithm=algorithm, labels=["hot"])


def sign(key_id: str, request_id: str = "r-sign-0001") -> Sign:
    content = EthereumTransaction(unsigned=UNSIGNED)
    return Sign(**base(request_id), key_id=key_id, path="", scheme=SigningScheme.ECDSA_SECP256K1, content=content)


KEY_ID = derive_key_id("acme", "r-generate-1")


class Poster:
    """A client that shows raw bytes and verifies nothing."""

    def __init__(self, service: Service, enclave: ScriptedEnclave) -> None:
        self.http = httpx.AsyncClient(base_url=service.base_url, timeout=20, trust_env=False)
        self.signer = KeySigner(enclave.client_key)

    def stamp(self, raw: bytes, signer: KeySigner | None = None) -> str:
        signer = signer or self.signer
        return format_stamp(Stamp(signer.scheme, signer.public_key, signer.sign(pae(REQUEST, raw))))

    async def post(self, path: str, body: Body | bytes, *, stamp: str | None = None) -> httpx.Response:
        raw = body if isinstance(body, bytes) else encode(body)
        return await self.http.post(path, content=raw, headers={"Adytum-Stamp": stamp or self.stamp(raw)})


@pytest.fixture
async def poster(service: Service, enclave: ScriptedEnclave) -> Any:
    made = Poster(service, enclave)
    yield made
    await made.http.aclose()


def code_of(response: httpx.Response) -> str:
    return str(response.json()["error"]["code"])


async def test_the_same_request_yields_the_same_bytes_without_asking_the_enclave_again(
    poster: Poster, enclave: ScriptedEnclave, fresh: Any
) -> None:
    raw = encode(generate())
    first = await poster.post("/v1/keys", raw)
    assert first.status_code == 200
    executed = enclave.executed
    again = await poster.post("/v1/keys", raw)
    assert (again.status_code, again.content) == (200, first.content)
    assert enclave.executed == executed
    assert await fresh.count("keys") == await fresh.count("key_envelopes") == await fresh.count("requests") == 1
    assert await fresh.count("receipts") == 1


async def test_the_enclaves_bytes_are_spliced_and_not_written_again(poster: Poster, fresh: Any) -> None:
    answer = await poster.post("/v1/keys", generate())
    [row] = await fresh.rows("SELECT result, envelope FROM requests, receipts")
    assert answer.content == b'{"request_id":"r-generate-1","result":%s,"receipt":%s}' % tuple(row)


async def test_same_request_id_with_another_body_conflicts_and_changes_nothing(
    poster: Poster, enclave: ScriptedEnclave, fresh: Any
) -> None:
    await poster.post("/v1/keys", generate())
    executed = enclave.executed
    answer = await poster.post("/v1/keys", generate(algorithm=Algorithm.P256))
    assert (answer.status_code, code_of(answer)) == (409, Code.REQUEST_CONFLICT.value)
    assert enclave.executed == executed
    assert await fresh.count("keys") == 1


async def test_a_stored_answer_is_not_given_to_who_cannot_stamp_it(poster: Poster, enclave: ScriptedEnclave) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    raw = encode(generate())
    await poster.post("/v1/keys", raw)
    good = poster.stamp(raw)
    forged = good[:-2] + ("00" if good[-2:] != "00" else "01")
    answer = await poster.post("/v1/keys", raw, stamp=forged)
    assert (answer.status_code, code_of(answer)) == (401, Code.STAMP_INVALID.value)
    stranger = poster.stamp(raw, KeySigner(Ed25519PrivateKey.generate()))
    answer = await poster.post("/v1/keys", raw, stamp=stranger)
    assert code_of(answer) == Code.PRINCIPAL_UNKNOWN.value  # the enclave's word


async def test_a_stranger_cannot_burn_a_request_id(poster: Poster, fresh: Any) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    theirs = encode(generate(algorithm=Algorithm.P256))
    stranger = poster.stamp(theirs, KeySigner(Ed25519PrivateKey.generate()))
    assert (await poster.post("/v1/keys", theirs, stamp=stranger)).status_code == 401
    assert await fresh.count("requests") == 0
    assert (await poster.post("/v1/keys", generate())).status_code == 200


async def test_the_database_gone_withholds_the_signature_and_a_repeat_gives_the_same_bytes(
    poster: Poster, enclave: ScriptedEnclave, fresh: Any
) -> None:
    await poster.post("/v1/keys", generate())
    raw = encode(sign(KEY_ID))

    async def break_it() -> None:  # between the enclave's work and the audit write
        enclave.on_execute = lambda: None
        await fresh.take_away()

    enclave.on_execute = break_it
    answer = await poster.post("/v1/sign", raw)
    assert (answer.status_code, code_of(answer)) == (503, Code.AUDIT_UNAVAILABLE.value)
    assert int(answer.headers["retry-after"]) >= 1
    assert b"raw_transaction" not in answer.content
    assert enclave.effects == 2
    await fresh.give_back()
    again = await poster.post("/v1/sign", raw)
    assert again.status_code == 200
    assert enclave.effects == 2  # the enclave repeated its answer; it did not sign anew
    assert (await poster.post("/v1/sign", raw)).content == again.content
    assert await fresh.count("receipts") == 2


async def test_a_locked_audit_table_withholds_the_answer(poster: Poster, fresh: Any) -> None:
    raw = encode(generate())
    connection = await asyncpg.connect(fresh.dsn)
    try:
        async with connection.transaction():
            await connection.execute("LOCK TABLE receipts IN SHARE MODE")
            answer = await poster.post("/v1/keys", raw)
            assert (answer.status_code, code_of(answer)) == (503, Code.AUDIT_UNAVAILABLE.value)
    finally:
        await connection.close()
    assert await fresh.count("keys") == 0  # one transaction: all of it or nothing
    assert (await poster.post("/v1/keys", raw)).status_code == 200
    assert await fresh.count("keys") == 1


async def test_a_slow_enclave_is_answered_by_a_deadline_and_its_receipt_is_still_written(
    poster: Poster, enclave: ScriptedEnclave, service: Service, fresh: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service.story, "_deadline_s", 0.2)
    enclave.delay_s = 0.4
    raw = encode(generate())
    answer = await poster.post("/v1/keys", raw)
    assert (answer.status_code, code_of(answer)) == (504, Code.DEADLINE_EXCEEDED.value)
    await service.story.drain()
    assert await fresh.count("receipts") == 1
    enclave.delay_s = 0
    monkeypatch.undo()
    executed = enclave.executed
    assert (await poster.post("/v1/keys", raw)).status_code == 200
    assert enclave.executed == executed


async def test_final_refusals_are_remembered_and_the_others_are_only_in_the_audit(
    poster: Poster, enclave: ScriptedEnclave, fresh: Any
) -> None:
    enclave.refuse, enclave.refuse_as = Code.KMS_UNAVAILABLE, "error"
    raw = encode(generate())
    answer = await poster.post("/v1/keys", raw)
    assert (answer.status_code, code_of(answer)) == (503, Code.KMS_UNAVAILABLE.value)
    assert answer.json()["receipt"]["body"]
    assert (await fresh.count("requests"), await fresh.count("receipts")) == (0, 1)
    enclave.refuse, enclave.refuse_as = Code.POLICY_DENIED, "deny"
    denied = await poster.post("/v1/keys", raw)
    assert (denied.status_code, code_of(denied)) == (403, Code.POLICY_DENIED.value)
    assert (await fresh.count("requests"), await fresh.count("receipts")) == (1, 2)
    enclave.refuse = None
    executed = enclave.executed
    assert (await poster.post("/v1/keys", raw)).content == denied.content
    assert enclave.executed == executed
    assert await fresh.count("keys") == 0


async def test_stamp_failures_leave_no_request_row(poster: Poster, enclave: ScriptedEnclave, fresh: Any) -> None:
    enclave.refuse, enclave.refuse_as = Code.REQUEST_CONFLICT, "deny"  # an enclave that gives even this a receipt
    await poster.post("/v1/keys", generate())
    assert (await fresh.count("requests"), await fresh.count("receipts")) == (0, 1)


async def test_a_crash_between_answer_and_commit_loses_no_key(
    poster: Poster, enclave: ScriptedEnclave, service: Service, fresh: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = encode(generate())
    commit = service.batcher.commit

    async def crash(_outcome: object, **_options: object) -> None:
        raise RuntimeError("power cut")

    monkeypatch.setattr(service.batcher, "commit", crash)
    answer = await poster.post("/v1/keys", raw)
    assert (answer.status_code, code_of(answer)) == (500, Code.INTERNAL.value)
    assert await fresh.count("keys") == 0
    monkeypatch.setattr(service.batcher, "commit", commit)
    again = await poster.post("/v1/keys", raw)
    assert again.status_code == 200
    assert enclave.effects == 1
    assert await fresh.count("key_envelopes") == 1


async def test_a_record_that_was_read_too_early_is_read_again(
    poster: Poster, enclave: ScriptedEnclave, fresh: Any
) -> None:
    """A reseal becomes visible between our read and the enclave's look at it."""
    await poster.post("/v1/keys", generate())
    [old] = await fresh.rows("SELECT * FROM key_envelopes")
    await poster.post("/v1/reseal", Reseal(**base("r-reseal-1"), key_id=KEY_ID))
    service_lookup_is_stale = asyncio.Event()
    connection = await asyncpg.connect(fresh.dsn)
    moved = await connection.fetchrow("DELETE FROM key_envelopes WHERE version = 2 RETURNING *")
    assert moved is not None

    def put_back() -> None:
        if not service_lookup_is_stale.is_set():
            service_lookup_is_stale.set()
            columns = ", ".join(f"${n + 1}" for n in range(len(moved)))
            pending.append(
                asyncio.create_task(
                    connection.execute(f"INSERT INTO key_envelopes VALUES ({columns})", *moved.values())
                )
            )

    pending: list[asyncio.Task[Any]] = []
    enclave.on_execute = put_back
    enclave.delay_s = 0.2
    answer = await poster.post("/v1/sign", sign(KEY_ID))
    await asyncio.gather(*pending)
    await connection.close()
    assert old["version"] == 1
    assert answer.status_code == 200, answer.text
    codes = [r["code"] for r in await fresh.rows("SELECT code FROM receipts ORDER BY sequence")]
    assert codes == ["", "", "RECORD_ROLLBACK", ""]  # the refusal is in the audit too


async def test_gate_closed_refuses_sensitive_operations_while_reads_and_audit_go_on(
    poster: Poster, enclave: ScriptedEnclave, service: Service
) -> None:
    await poster.post("/v1/keys", generate())
    enclave.pcrs = dict.fromkeys(range(3), b"w" * 48)  # another image
    assert not await service.gate.check()
    executed = enclave.executed
    for path, body in (("/v1/keys", generate("r-generate-2")), ("/v1/sign", sign(KEY_ID))):
        answer = await poster.post(path, body)
        assert (answer.status_code, code_of(answer)) == (503, Code.ATTESTATION_FAILED.value)
        assert int(answer.headers["retry-after"]) >= 1
    put = await poster.http.put("/v1/tenants/acme/policy", content=b"policy=1")
    assert code_of(put) == Code.ATTESTATION_FAILED.value
    assert enclave.executed == executed
    assert (await poster.http.get(f"/v1/keys/{KEY_ID}")).status_code == 200
    assert (await poster.http.get(f"/v1/receipts?chain={enclave.boot_id}")).json()["receipts"]
    health = await poster.http.get("/v1/health")
    assert health.status_code == 503
    assert health.json()["gate"] == {"open": False, "reason": "PCR_MISMATCH pcrs[0]"}
    enclave.pcrs = {index: bytes([index + 1]) * 48 for index in range(3)}
    assert await service.gate.check()
    assert (await poster.post("/v1/sign", sign(KEY_ID))).status_code == 200


async def test_a_receipt_of_an_unverified_boot_is_stored_but_its_answer_withheld(
    poster: Poster, enclave: ScriptedEnclave, service: Service, fresh: Any
) -> None:
    """Another enclave takes the place of the verified one in the middle of a request."""
    await poster.post("/v1/keys", generate())

    def swap() -> None:
        enclave.on_execute = lambda: None
        enclave.boot()
        enclave.pcrs = dict.fromkeys(range(3), b"f" * 48)

    enclave.on_execute = swap
    answer = await poster.post("/v1/sign", sign(KEY_ID))
    assert code_of(answer) == Code.ATTESTATION_FAILED.value
    assert b"raw_transaction" not in answer.content
    assert await fresh.count("receipts") == 2


async def test_sixty_four_at_once_are_all_answered_and_chained(
    poster: Poster, enclave: ScriptedEnclave, fresh: Any
) -> None:
    answers = await asyncio.gather(*(poster.post("/v1/keys", generate(f"r-many-{n:04}")) for n in range(64)))
    assert {answer.status_code for answer in answers} == {200}
    rows = (await poster.http.get(f"/v1/receipts?chain={enclave.boot_id}&limit=1000")).json()
    assert len(rows["receipts"]) == 64
    stored = [r["envelope"] for r in await fresh.rows("SELECT envelope FROM receipts ORDER BY sequence")]
    key = enclave.receipt_key.public_key().public_bytes_raw()
    verify_chain(stored, receipt_key=key).require_intact()


async def test_the_same_request_many_times_at_once_has_one_effect(
    poster: Poster, enclave: ScriptedEnclave, fresh: Any
) -> None:
    enclave.delay_s = 0.05
    raw = encode(generate())
    answers = await asyncio.gather(*(poster.post("/v1/keys", raw) for _ in range(10)))
    assert {answer.content for answer in answers} == {answers[0].content}
    assert enclave.effects == 1
    assert await fresh.count("keys") == 1


@pytest.mark.parametrize(
    ("path", "body", "code", "field"),
    [
        ("/v1/sign", encode(generate()), Code.REQUEST_INVALID, "$.operation"),
        ("/v1/keys", b"{", Code.REQUEST_INVALID, "$ (not strict JSON)"),
        ("/v1/keys", b"\xff\xfe", Code.REQUEST_INVALID, "$ (not strict JSON)"),
        ("/v1/keys", encode(generate()).replace(b'"acme"', b'"ACME"'), Code.REQUEST_INVALID, "$.tenant"),
        ("/v1/keys", encode(generate()).replace(b'"v":1', b'"v":1,"x":1'), Code.REQUEST_INVALID, "$"),
        ("/v1/keys", b" " * (64 * 1024 + 1), Code.REQUEST_INVALID, "$ (too large)"),
    ],
)
async def test_bodies_that_are_refused_at_the_door(
    poster: Poster, enclave: ScriptedEnclave, path: str, body: bytes, code: Code, field: str
) -> None:
    answer = await poster.post(path, body)
    assert (answer.status_code, code_of(answer), answer.json()["error"]["field"]) == (400, code.value, field)
    assert enclave.executed == 0


@pytest.mark.parametrize(
    "stamp", ["", "x", "ed25519;00;00", "ed25519;zz;00", "rsa;00;00", "ed25519;" + "AA" * 32 + ";" + "AA" * 64]
)
async def test_stamps_that_are_refused_at_the_door(poster: Poster, enclave: ScriptedEnclave, stamp: str) -> None:
    raw = encode(generate())
    answer = await poster.http.post("/v1/keys", content=raw, headers={"Adytum-Stamp": stamp})
    assert (answer.status_code, code_of(answer)) == (401, Code.STAMP_INVALID.value)
    two = [("Adytum-Stamp", poster.stamp(raw)), ("Adytum-Stamp", poster.stamp(raw))]
    assert code_of(await poster.http.post("/v1/keys", content=raw, headers=two)) == Code.STAMP_INVALID.value
    assert enclave.executed == 0


async def test_too_many_in_flight_are_told_to_come_back(
    poster: Poster, enclave: ScriptedEnclave, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service.story, "_max_in_flight", 1)
    enclave.delay_s = 0.2
    one, two = await asyncio.gather(
        poster.post("/v1/keys", generate("r-first-001")), poster.post("/v1/keys", generate("r-second-01"))
    )
    codes = sorted(("200" if a.status_code == 200 else code_of(a)) for a in (one, two))
    assert codes == ["200", Code.RESOURCE_EXHAUSTED.value]
    refused = one if one.status_code != 200 else two
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "1"


async def test_logs_hold_ids_codes_and_durations_only(
    poster: Poster, enclave: ScriptedEnclave, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("DEBUG"):
        raw = encode(generate())
        answer = await poster.post("/v1/keys", raw)
        await poster.post("/v1/sign", sign(KEY_ID))
        with contextlib.suppress(httpx.HTTPError):
            await poster.post("/v1/keys", b"{" * 10)
    ours = [r.getMessage() for r in caplog.records if r.name.startswith("adytum")]
    assert any("request_id=r-generate-1 operation=generate_key code=OK ms=" in line for line in ours)
    text = "\n".join(r.getMessage() for r in caplog.records)
    for secret in (enclave.secrets[KEY_ID].hex(), UNSIGNED, answer.json()["result"]["public_key"], sha256(raw).hex()):
        assert secret not in text
