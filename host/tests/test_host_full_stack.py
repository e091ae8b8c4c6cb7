"""The host in front of the real enclave program (a process on Unix sockets), a KMS that refuses, and PostgreSQL."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import logging
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from eth_account import Account
from test_host_service import UNSIGNED

from adytum.app import Service, running_service
from adytum.client import AsyncAdytum, RefusedError, Retries, sign_policy
from adytum.service.credentials import static_credentials
from adytum.settings import load
from adytum_sim.people import Person
from adytum_sim.pki.devpki import ROOT_FILE
from adytum_sim.stack import TENANT, Stack, running_stack
from adytum_verify import verify_chain
from adytum_wire.errors import Code
from adytum_wire.manifest import manifest_hash
from adytum_wire.types import Algorithm, SigningScheme

SECRET = hashlib.sha256(b"a secret that must never reach the host").digest()
OPERATIONS = ["sign", "sign-raw", "generate_key", "import_key", "seal", "unseal", "reseal"]


@pytest.fixture
def short_private() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="adh-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
async def whole(short_private: Path, fresh: Any) -> AsyncIterator[tuple[Stack, Service, AsyncAdytum]]:
    """The service configures the enclave itself, from its manifest file and its settings."""
    alice = Person.new("alice")
    async with running_stack(short_private / "s", configure=False) as stack:
        manifest = short_private / "manifest.json"
        manifest.write_bytes(stack.manifest)
        settings = load(None, {
            "APP_TEE_KMSKEYARN": stack.key_arn,
            "APP_TEE_ALLOWEDPCRS": json.dumps(stack.allowed_pcrs),
            "APP_TEE_DEVELOPMENTDIRECTORY": str(short_private / "s"),
            "APP_TEE_MANIFESTFILE": str(manifest),
            "APP_TEE_ATTESTATIONROOTSFILE": str(short_private / "s" / "pki" / ROOT_FILE),
            "APP_TEE_REQUESTTIMEOUTSECONDS": "20",
            "APP_DATABASE_DSN": fresh.dsn,
            "APP_HTTP_PORT": "0",
            "AWS_ACCESS_KEY_ID": stack.credentials.access_key_id,
            "AWS_SECRET_ACCESS_KEY": stack.credentials.secret_access_key,
            "AWS_SESSION_TOKEN": stack.credentials.session_token,
        })  # fmt: skip
        credentials = static_credentials(settings.aws)
        async with running_service(settings, credentials=credentials, supervisor_poll_s=0.1) as service:
            await service.ready(30)
            async with AsyncAdytum(
                service.base_url,
                TENANT,
                alice,
                expected=stack.allow_list,
                anchors=(stack.kms.pki.anchor,),
                manifest_hash=manifest_hash(stack.manifest),
                retries=Retries(attempts=2, first_s=0.1, most_s=0.2),
            ) as adytum:
                rule = {"id": "all", "effect": "allow", "operations": OPERATIONS, "principals": ["role:signer"]}
                rule |= {
                    "labels": ["treasury"],
                    "algorithms": "*",
                    "paths": "*",
                    "times": "*",
                    "approvals": "none",
                    "limits": "none",
                    "content": "*",
                }
                document = json.dumps(stack.policy([alice.as_principal("signer")], [rule])).encode()
                await adytum.put_policy(sign_policy(document, stack.admins[:2]))
                yield stack, service, adytum


async def test_keys_live_in_the_enclave_and_the_database_holds_ciphertext_only(
    whole: tuple[Stack, Service, AsyncAdytum], fresh: Any, caplog: pytest.LogCaptureFixture
) -> None:
    stack, _, adytum = whole
    caplog.set_level(logging.DEBUG)
    unsigned = bytes.fromhex(UNSIGNED)
    key = await adytum.generate_key(Algorithm.SECP256K1, labels=["treasury"])
    signed = await adytum.sign_ethereum(key.result.key_id, unsigned)
    assert Account.recover_transaction(signed.result.encoded["raw_transaction"]) == key.result.address

    imported_key = Ed25519PrivateKey.from_private_bytes(SECRET)
    public = imported_key.public_key()
    imported = await adytum.import_key(Algorithm.ED25519, SECRET, public.public_bytes_raw(), labels=["treasury"])
    raw = await adytum.sign_raw(imported.result.key_id, SigningScheme.ED25519, message=b"hello")
    public.verify(bytes.fromhex(raw.result.signature), b"hello")
    for scheme, algorithm in ((SigningScheme.BIP340, None), (SigningScheme.ECDSA_P256, Algorithm.P256)):
        key_id = key.result.key_id
        if algorithm is not None:
            key_id = (await adytum.generate_key(algorithm, labels=["treasury"])).result.key_id
        await adytum.sign_raw(key_id, scheme, message=b"hello")  # the SDK verifies each

    sealed = await adytum.seal(SECRET, labels=["treasury"])
    assert (await adytum.unseal(sealed.result.key_id, X25519PrivateKey.generate())).secret == SECRET
    assert (await adytum.reseal(key.result.key_id)).result.record_version == 2
    again = await adytum.sign_ethereum(key.result.key_id, unsigned)
    assert again.result.encoded == signed.result.encoded

    with pytest.raises(RefusedError) as denied:
        await adytum.generate_key(Algorithm.P256, labels=["elsewhere"])
    assert denied.value.code is Code.POLICY_DENIED
    assert denied.value.receipt is not None

    # The auditor's view.
    [chain] = (await adytum.get("/v1/chains"))["chains"]
    rows = [row async for row in adytum.receipts(chain["chain"])]
    report = verify_chain(rows, receipt_key=bytes.fromhex(chain["receipt_key"]))
    report.require_intact()
    assert report.records == 12

    # The thief's view: everything that the host ever stored or said.
    dump = await _dump(fresh)
    forms = {SECRET, SECRET.hex().encode(), base64.b64encode(SECRET)}
    forms |= {piece[:16] for piece in (SECRET, SECRET[16:])}
    assert len(dump) > 10_000
    log = "\n".join(record.getMessage() for record in caplog.records).encode()
    for form in forms:
        assert form not in dump
        assert form not in log
    assert stack.credentials.secret_access_key.encode() not in dump + log
    assert UNSIGNED.encode() not in log


async def _dump(fresh: Any) -> bytes:
    tables = await fresh.rows("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'")
    assert len(tables) >= 9
    dump = b""
    for (table,) in tables:
        for row in await fresh.rows(f"SELECT * FROM {table}"):
            for value in row.values():
                dump += value if isinstance(value, bytes) else str(value).encode()
                dump += b"\n"
    return dump


async def test_a_restarted_enclave_is_configured_again_and_signs_the_same_bytes(
    whole: tuple[Stack, Service, AsyncAdytum],
) -> None:
    stack, service, adytum = whole
    unsigned = bytes.fromhex(UNSIGNED)
    key = await adytum.generate_key(Algorithm.SECP256K1, labels=["treasury"])
    before = await adytum.sign_ethereum(key.result.key_id, unsigned)
    await stack.restart_enclave()
    boot = before.receipt.receipt.chain
    async with asyncio.timeout(30):
        while service.supervisor.problem or service.gate.proof is None or service.gate.proof.boot_id == boot:
            await asyncio.sleep(0.05)
    after = await adytum.sign_ethereum(key.result.key_id, unsigned)
    assert after.result.encoded == before.result.encoded
    assert after.receipt.receipt.chain != boot
    assert after.receipt.receipt.sequence == 1


async def test_another_image_in_its_place_is_not_served(whole: tuple[Stack, Service, AsyncAdytum]) -> None:
    stack, service, adytum = whole
    await adytum.generate_key(Algorithm.SECP256K1, labels=["treasury"])
    await stack.restart_enclave(pcrs=dict.fromkeys(range(3), b"Z" * 48))
    async with asyncio.timeout(30):
        while "PCR_MISMATCH" not in service.gate.reason:
            await asyncio.sleep(0.05)
    with pytest.raises(Exception) as caught:
        await adytum.generate_key(Algorithm.SECP256K1, labels=["treasury"])
    assert getattr(caught.value, "code", None) is Code.ATTESTATION_FAILED
    assert (await adytum.get("/v1/keys?tenant=acme"))["keys"]
