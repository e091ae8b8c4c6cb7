"""The SDK believes nothing that does not verify: each test lets the host lie in one way, and nothing is returned."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from eth_account import Account
from host_fake_enclave import ScriptedEnclave
from test_host_service import UNSIGNED

from adytum.app import Service
from adytum.client import Adytum, KeySigner, RefusedError, Retries, UnreachableError, UntrustedError
from adytum_verify import AllowList
from adytum_wire.errors import AdytumError, Code
from adytum_wire.requests import parse_body
from adytum_wire.types import Algorithm, SigningScheme, sha256

TX = bytes.fromhex(UNSIGNED)


class Liar(httpx.AsyncBaseTransport):
    """A host that lets requests through and edits answers: `edit(path, json) -> json`, or counts and cuts."""

    def __init__(self) -> None:
        self.inner = httpx.AsyncHTTPTransport()
        self.edit: Callable[[str, Any], Any] | None = None
        self.fail_after = 0  # answers to lose
        self.seen: list[tuple[str, bytes]] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        body = await request.aread()
        response = await self.inner.handle_async_request(request)
        content = await response.aread()
        self.seen.append((request.url.path, body))
        if request.method == "POST" and self.fail_after:
            self.fail_after -= 1
            raise httpx.ReadError("cut")
        if self.edit is not None:
            content = json.dumps(self.edit(request.url.path, json.loads(content)), separators=(",", ":")).encode()
        return httpx.Response(response.status_code, content=content)

    async def aclose(self) -> None:
        await self.inner.aclose()


@pytest.fixture
async def liar(connect: Any) -> Any:
    """(transport, client, key id): a client whose host has been honest so far."""
    transport = Liar()
    async with httpx.AsyncClient(transport=transport) as http, connect(http=http) as adytum:
        key = await adytum.generate_key(Algorithm.SECP256K1, labels=["hot"])
        yield transport, adytum, key.result.key_id


async def untrusted(work: Any) -> str:
    with pytest.raises(UntrustedError) as caught:
        await work
    return f"{caught.value.code.value} {caught.value.field}"


async def test_every_operation_works_and_is_proven(connect: Any, enclave: ScriptedEnclave) -> None:
    async with connect() as adytum:
        verified = await adytum.attestation()
        assert verified.binding.boot_id == enclave.boot_id
        key = await adytum.generate_key(Algorithm.SECP256K1, labels=["hot"])
        signed = await adytum.sign_ethereum(key.result.key_id, TX)
        assert Account.recover_transaction(signed.result.encoded["raw_transaction"]) == key.result.address
        digest = await adytum.sign_raw(key.result.key_id, SigningScheme.ECDSA_SECP256K1, digest=b"\x01" * 32)
        assert len(digest.result.signature) == 130
        secret = await adytum.seal(b"a secret", labels=["cold"])
        recipient = X25519PrivateKey.generate()
        assert (await adytum.unseal(secret.result.key_id, recipient)).secret == b"a secret"
        resealed = await adytum.reseal(key.result.key_id)
        assert resealed.result.record_version == 2
        assert (await adytum.sign_ethereum(key.result.key_id, TX)).result.encoded == signed.result.encoded
        imported = await adytum.import_key(
            Algorithm.SECP256K1,
            enclave.secrets[key.result.key_id],
            bytes.fromhex(key.result.public_key),
        )
        assert imported.result.public_key == key.result.public_key
        policy = await adytum.put_policy(b"policy=4")
        assert (policy.version, (await adytum.get_policy()).envelope) == (4, b"policy=4")


async def test_the_blocking_client_does_the_same(service: Service, enclave: ScriptedEnclave) -> None:
    def work() -> bytes:
        with Adytum(
            service.base_url,
            "acme",
            KeySigner(enclave.client_key),
            expected=enclave.allow_list,
            anchors=(enclave.pki.anchor,),
        ) as adytum:
            key = adytum.generate_key(Algorithm.SECP256K1)
            adytum.sign_ethereum(key.result.key_id, TX)
            sealed = adytum.seal(b"s")
            assert len(list(adytum.receipts(enclave.boot_id, page=2))) == 3
            return adytum.unseal(sealed.result.key_id, X25519PrivateKey.generate()).secret

    assert await asyncio.to_thread(work) == b"s"


# --- the lying host


async def test_tampered_signature(liar: Any) -> None:
    transport, adytum, key_id = liar

    def edit(_path: str, answer: Any) -> Any:
        answer["result"]["signature"] = "11" * 65
        return answer

    transport.edit = edit
    assert await untrusted(adytum.sign_ethereum(key_id, TX)) == "RECEIPT_INVALID receipt.result_digest"


async def test_result_of_another_request(liar: Any) -> None:
    transport, adytum, key_id = liar
    kept: list[Any] = []

    def edit(_path: str, answer: Any) -> Any:
        kept.append(answer)
        return kept[0]

    transport.edit = edit
    await adytum.sign_ethereum(key_id, TX)
    assert await untrusted(adytum.sign_ethereum(key_id, TX)) == "RECEIPT_INVALID receipt.request_digest"


async def test_receipt_of_another_request_with_this_result(liar: Any) -> None:
    transport, adytum, key_id = liar
    kept: list[Any] = []

    def edit(_path: str, answer: Any) -> Any:
        kept.append(dict(answer))
        return answer | {"receipt": kept[0]["receipt"]}

    transport.edit = edit
    await adytum.sign_ethereum(key_id, TX)
    assert await untrusted(adytum.sign_ethereum(key_id, TX)) == "RECEIPT_INVALID receipt.request_digest"


@pytest.mark.parametrize(("old", "new"), [('"allow"', '"error"'), ('"alice"', '"mallo"'), ('"time":', '"time":1')])
async def test_tampered_receipt(liar: Any, old: str, new: str) -> None:
    transport, adytum, key_id = liar

    def edit(_path: str, answer: Any) -> Any:
        body = answer["receipt"]["body"]
        assert old in body
        answer["receipt"]["body"] = body.replace(old, new, 1)
        return answer

    transport.edit = edit
    assert await untrusted(adytum.sign_ethereum(key_id, TX)) == "RECEIPT_INVALID $.signature"


async def test_tampered_receipt_signature(liar: Any) -> None:
    transport, adytum, key_id = liar

    def edit(_path: str, answer: Any) -> Any:
        answer["receipt"]["signature"] = answer["receipt"]["signature"][::-1]
        return answer

    transport.edit = edit
    assert await untrusted(adytum.sign_ethereum(key_id, TX)) == "RECEIPT_INVALID $.signature"


async def test_receipt_signed_by_a_key_of_the_hosts(liar: Any, enclave: ScriptedEnclave) -> None:
    """A consistent receipt, of the right chain, by a key that no attestation binds."""
    transport, adytum, key_id = liar
    forger = ScriptedEnclave()
    forger.boot_id = enclave.boot_id

    def edit(path: str, answer: Any) -> Any:
        if path == "/v1/sign":
            raw = transport.seen[-1][1]
            result = json.dumps(answer["result"], separators=(",", ":")).encode()
            answer["receipt"] = json.loads(forger.receipt(parse_body(raw), raw, result=result))
        return answer

    transport.edit = edit
    assert await untrusted(adytum.sign_ethereum(key_id, TX)) == "RECEIPT_INVALID $.key"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"decision": "deny"}, "receipt.decision"),
        ({"code": "POLICY_DENIED"}, "receipt.decision"),
        ({"operation": "sign-raw"}, "receipt.request"),
        ({"tenant": "other"}, "receipt.request"),
        ({"request_id": "r-other-0001"}, "receipt.request"),
        ({"request_digest": "00" * 32}, "receipt.request_digest"),
        ({"result_digest": "00" * 32}, "receipt.result_digest"),
        ({"key_id": "key-" + "0" * 32}, "receipt.key_id"),
        ({"public_key": "02" + "11" * 32}, "receipt.public_key"),
    ],
)
async def test_receipt_that_says_something_else(
    liar: Any, enclave: ScriptedEnclave, monkeypatch: pytest.MonkeyPatch, changes: dict[str, str], field: str
) -> None:
    """Even a receipt with a good signature must be the receipt of this request and this result."""
    _, adytum, key_id = liar
    honest = enclave.receipt
    monkeypatch.setattr(enclave, "receipt", lambda *a, **k: honest(*a, **k | changes))
    assert await untrusted(adytum.sign_ethereum(key_id, TX)) == f"RECEIPT_INVALID {field}"


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        (b'"signature":"', b'"signature":"11', "result.signature"),
        (b'"scheme":"ecdsa-secp256k1"', b'"scheme":"bip340"', "result.signature"),
        (b'"transaction_hash":"0x', b'"transaction_hash":"0x11', "result.encoded"),
        (b'"operation":"sign"', b'"operation":"seal"', "$"),
        (b'"key_id":"key-', b'"key_id":"key-11', "result.request"),
    ],
)
async def test_an_enclave_that_signs_wrongly_is_found_out_too(
    liar: Any, enclave: ScriptedEnclave, monkeypatch: pytest.MonkeyPatch, old: bytes, new: bytes, field: str
) -> None:
    """The receipt covers the wrong result: only checking the signature itself can tell."""
    _, adytum, key_id = liar
    honest = enclave._reply

    def wrong(body: Any, raw: bytes, result: bytes, header: Any, record: Any) -> Any:
        assert old in result
        at = result.index(old)
        edited = result[:at] + new + result[at + len(old) :]
        if len(edited) > len(result):  # keep the hex as long as it was
            edited = edited[: at + len(new)] + edited[at + len(new) + len(edited) - len(result) :]
        if edited == result:  # it begins with 11 by itself
            edited = result[:at] + new[:-2] + b"22" + result[at + len(new) :]
        return honest(body, raw, edited, header, record)

    monkeypatch.setattr(enclave, "_reply", wrong)
    assert await untrusted(adytum.sign_ethereum(key_id, TX)) == f"RECEIPT_INVALID {field}"


async def test_an_enclave_of_another_image_is_not_believed(connect: Any, enclave: ScriptedEnclave) -> None:
    other = AllowList.parse([",".join(f"PCR{index}={'ab' * 48}" for index in range(3))])
    async with connect(expected=other) as adytum:
        assert (await untrusted(adytum.attestation())).startswith("ATTESTATION_FAILED PCR_MISMATCH")
        assert (await untrusted(adytum.generate_key(Algorithm.SECP256K1))).startswith("ATTESTATION_FAILED")
    async with connect(manifest_hash=b"\x11" * 32) as adytum:
        assert (await untrusted(adytum.attestation())).startswith("ATTESTATION_FAILED MANIFEST_MISMATCH")


async def test_a_secret_is_not_sealed_to_an_unproven_key(liar: Any, enclave: ScriptedEnclave) -> None:
    """The host swaps the binding for its own HPKE key."""
    transport, adytum, _ = liar
    mallory = ScriptedEnclave()
    theirs = (await mallory.attest(b"n" * 32)).binding
    import base64

    def edit(path: str, answer: Any) -> Any:
        return answer | {"binding": base64.b64encode(theirs).decode()} if path == "/v1/attestation" else answer

    transport.edit = edit
    before = len(transport.seen)
    assert (await untrusted(adytum.seal(b"secret"))).startswith("ATTESTATION_FAILED USER_DATA_MISMATCH")
    assert {path for path, _ in transport.seen[before:]} == {"/v1/attestation"}  # nothing was sent


async def test_a_replayed_attestation_document_is_refused(liar: Any) -> None:
    transport, adytum, _ = liar
    kept: list[Any] = []

    def edit(path: str, answer: Any) -> Any:
        if path != "/v1/attestation":
            return answer
        kept.append(answer)
        return kept[0]

    transport.edit = edit
    await adytum.attestation()
    assert await untrusted(adytum.attestation()) == "ATTESTATION_FAILED NONCE_MISMATCH"


# --- repeats


async def test_a_lost_answer_is_asked_for_again_with_the_same_bytes(liar: Any, enclave: ScriptedEnclave) -> None:
    transport, adytum, key_id = liar
    transport.fail_after = 2
    before, effects = len(transport.seen), enclave.effects
    signed = await adytum.sign_ethereum(key_id, TX)
    sent = [body for path, body in transport.seen[before:] if path == "/v1/sign"]
    assert len(sent) == 3
    assert len(set(sent)) == 1
    assert enclave.effects == effects + 1
    assert signed.receipt.receipt.request_digest == sha256(sent[0]).hex()


async def test_attempts_end_and_the_error_says_how_to_go_on(liar: Any) -> None:
    transport, adytum, key_id = liar
    transport.fail_after = 99
    with pytest.raises(UnreachableError) as caught:
        await adytum.sign_ethereum(key_id, TX, request_id="r-lost-00001")
    assert (caught.value.code, caught.value.request_id) == (Code.PEER_UNAVAILABLE, "r-lost-00001")
    assert isinstance(caught.value, AdytumError)
    transport.fail_after = 0
    answer = await adytum.repeat(caught.value.body)
    assert answer.result.request_id == "r-lost-00001"
    assert answer.receipt.receipt.request_digest == sha256(caught.value.body).hex()
    assert (await adytum.repeat(caught.value.body)).receipt_bytes == answer.receipt_bytes


async def test_a_body_of_another_tenant_or_a_broken_one_is_not_repeated(liar: Any) -> None:
    _, adytum, _ = liar
    body = b'{"operation":"reseal","v":1,"tenant":"umbrella","request_id":"r-00000001","issued_at":1,"key_id":"key-%s"}'
    for bad in (body.replace(b"%s", b"0" * 32), b"{}"):
        with pytest.raises(AdytumError) as caught:
            await adytum.repeat(bad)
        assert caught.value.code is Code.REQUEST_INVALID


async def test_retryable_refusals_are_repeated_and_final_ones_are_not(connect: Any, enclave: ScriptedEnclave) -> None:
    async with connect(retries=Retries(attempts=2, first_s=0.01)) as adytum:
        enclave.refuse, enclave.refuse_as = Code.KMS_UNAVAILABLE, "error"
        before = enclave.executed
        with pytest.raises(UnreachableError) as gone:
            await adytum.generate_key(Algorithm.SECP256K1)
        assert gone.value.code is Code.KMS_UNAVAILABLE
        assert enclave.executed == before + 2
        enclave.refuse, enclave.refuse_as = Code.POLICY_DENIED, "deny"
        with pytest.raises(RefusedError) as denied:
            await adytum.generate_key(Algorithm.SECP256K1)
        assert denied.value.code is Code.POLICY_DENIED
        assert denied.value.receipt is not None
        assert denied.value.receipt.receipt.code == "POLICY_DENIED"
        assert enclave.executed == before + 3


async def test_a_refusal_that_the_host_invents_comes_without_proof(liar: Any) -> None:
    transport, adytum, key_id = liar

    class Refusing(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            await request.aread()
            error = {"code": "POLICY_DENIED", "field": "", "text": "no", "retry_after_ms": 0}
            return httpx.Response(403, json={"error": error, "receipt": {"body": "{}"}})

    await transport.inner.aclose()
    transport.inner = Refusing()
    with pytest.raises(RefusedError) as caught:
        await adytum.sign_ethereum(key_id, TX)
    assert caught.value.receipt is None


@pytest.mark.parametrize("content", [b"", b"<html>", b"{}", b"[]", b'{"request_id":1}', b"\xff"])
async def test_garbage_with_status_200_is_untrusted(liar: Any, content: bytes) -> None:
    transport, adytum, key_id = liar

    class Garbage(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            return httpx.Response(200, content=content)

    await transport.inner.aclose()
    transport.inner = Garbage()
    assert (await untrusted(adytum.sign_ethereum(key_id, TX))).startswith("MESSAGE_INVALID")


async def test_an_answer_of_an_earlier_boot_is_proven_by_its_stored_document(
    liar: Any, service: Service, enclave: ScriptedEnclave, connect: Any
) -> None:
    _, adytum, key_id = liar
    first = await adytum.sign_ethereum(key_id, TX, request_id="r-before-001")
    raw = [body for path, body in liar[0].seen if path == "/v1/sign"][-1]
    enclave.boot()
    await service.gate.check()

    # A new process, which has never seen the first boot, repeats the request: same issued_at, so the same bytes.
    issued_at = json.loads(raw)["issued_at"]
    async with connect() as later:
        later._talk._now_ms = lambda: issued_at
        again = await later.sign_ethereum(key_id, TX, request_id="r-before-001")
    assert again.receipt_bytes == first.receipt_bytes
    assert again.receipt.receipt.chain != enclave.boot_id


async def test_a_stranger_is_refused_by_name(connect: Any) -> None:
    async with connect(signer=KeySigner(Ed25519PrivateKey.generate())) as adytum:
        with pytest.raises(RefusedError) as caught:
            await adytum.generate_key(Algorithm.SECP256K1)
    assert caught.value.code is Code.PRINCIPAL_UNKNOWN
