"""The real enclave in the rig: real kernel, real ioctl, real AF_VSOCK, and a KMS stand-in that checks its PCRs.

The stand-in is told to accept QEMU's unsigned documents, here and nowhere else. Marked `image`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import rlp

from adytum.enclave.client import EnclaveClient
from adytum.enclave.connection import EnclaveConnection
from adytum.enclave.endpoint import VhostEndpoint
from adytum.pipe import Pipe
from adytum_image.build import Built
from adytum_image.eif import read
from adytum_image.errors import EifError, RigError
from adytum_image.rig import Booted, Rig
from adytum_sim.kms.running import RunningKms, running_kms, system_clock_ms
from adytum_sim.people import Person, request_body, signed_policy
from adytum_sim.stack import TENANT, build_manifest, default_bounds, key_policy, put_key_policy
from adytum_verify import AttestationError
from adytum_verify.document import parse_unverified
from adytum_verify.enclave import manifest_pcr
from adytum_wire import limits, results
from adytum_wire.errors import Code
from adytum_wire.manifest import manifest_hash
from adytum_wire.messages import Credentials, ExecuteReply, Health, HealthReply, Hello, HelloReply, Refusal
from adytum_wire.record import Record

pytestmark = pytest.mark.image
READY = "adytum-enclave: ready"
BOOT_TIMEOUT_S = 120
CALL_TIMEOUT_S = 60
# 0.1 ether to somebody, as eth-account encodes it
_FIELDS = [1, 7, 10**9, 30 * 10**9, 21_000, bytes.fromhex("70997970C51812dc3A010C7d01b50e0d17dc79C8"), 10**17, b"", []]
TRANSFER = {"type": "ethereum-transaction", "unsigned": (b"\x02" + rlp.encode(_FIELDS)).hex()}


@pytest.fixture
def booted(rig: Rig, real: Built, written) -> Any:
    with rig.boot(written(real.eif)) as machine:
        machine.wait_for_line(READY, BOOT_TIMEOUT_S)
        yield machine


async def test_the_enclave_answers_over_its_vsock(booted: Booted, real: Built, record_property) -> None:
    connection = await EnclaveConnection.open(VhostEndpoint(booted.vsock), limits.CONTROL_PORT)
    try:
        hello = await connection.call(Hello(protocol=1), timeout_s=CALL_TIMEOUT_S)
        health = await connection.call(Health(), timeout_s=CALL_TIMEOUT_S)
    finally:
        connection.close()
    assert isinstance(hello, HelloReply)
    assert isinstance(health, HealthReply)
    assert hello.phase == health.phase == "awaiting-manifest"
    assert hello.boot_id == health.boot_id
    assert booted.console_text().count(READY) == 1
    assert len(real.eif) < 45 * 1024 * 1024


@contextlib.asynccontextmanager
async def deployment(rig: Rig, eif: Path, kms: RunningKms, manifest: bytes) -> AsyncIterator[EnclaveClient]:
    """Boot an image, give it the pipe to KMS and its manifest."""
    with rig.boot(eif) as machine:
        machine.wait_for_line(READY, BOOT_TIMEOUT_S)
        endpoint = VhostEndpoint(machine.vsock)
        async with Pipe(
            endpoint,
            limits.KMS_PORT,
            kms.host,
            443,
            allow=frozenset({(kms.host, 443)}),
            dial_to=("127.0.0.1", kms.port),
        ):
            client = EnclaveClient(endpoint)
            try:
                await client.configure(
                    manifest, Credentials(kms.access_key_id, kms.secret_access_key, kms.session_token, 0)
                )
                yield client
            finally:
                client.close()


def policy(client: Person) -> dict[str, Any]:
    rule = {
        "id": "treasury",
        "effect": "allow",
        "operations": ["generate_key", "sign"],
        "principals": ["role:signer"],
        "labels": ["treasury"],
        "algorithms": "*",
        "paths": "*",
        "times": "*",
        "approvals": "none",
        "limits": "none",
        "content": "*",
    }
    return {
        "v": 1,
        "tenant": TENANT,
        "version": 1,
        "valid_until": system_clock_ms() + 86_400_000,
        "records": {"generation": 1, "min_generation": 1},
        "recovery": "none",
        "passkeys": "none",
        "recipients": [],
        "limits": [],
        "principals": [client.as_principal("signer")],
        "rules": [rule],
    }


async def test_the_demos_flow_runs_in_the_guest_and_kms_refuses_an_image_with_one_byte_changed(
    rig: Rig, real: Built, build_copy: Callable[..., Built], written
) -> None:
    admins, alice = [Person.new(name) for name in ("admin-a", "admin-b")], Person.new("alice")
    envelope = signed_policy(policy(alice), *admins)
    async with running_kms(accept_unsigned_documents=True) as kms:
        key_arn = kms.create_key()
        manifest = build_manifest(kms, [key_arn], admins, default_bounds(), threshold=2, anchor={"kind": "none"})
        measured = real.measurements
        pcrs = {0: measured.pcr0, 1: measured.pcr1, 2: measured.pcr2, 16: manifest_pcr(manifest_hash(manifest))}
        put_key_policy(kms, key_arn, key_policy(kms, pcrs))

        async with deployment(rig, written(real.eif), kms, manifest) as client:
            nonce = os.urandom(32)
            reply = await client.attest(nonce)
            with pytest.raises(AttestationError):
                parse_unverified(reply.document)  # QEMU's documents are refused wherever it matters
            found = parse_unverified(reply.document, allow_unsigned_shape=True)
            assert {index: found.pcrs[index] for index in pcrs} == pcrs
            assert found.nonce == nonce
            await client.put_policy(TENANT, envelope)
            reply = await ask(client, alice, "generate_key", algorithm="secp256k1", labels=["treasury"])
            assert isinstance(reply, ExecuteReply), reply
            made, record = results.parse_result(reply.result), reply.record
            fields = {"key_id": made.key_id, "path": "", "scheme": "ecdsa-secp256k1", "content": TRANSFER}
            reply = await ask(client, alice, "sign", record, **fields)
            assert isinstance(reply, ExecuteReply), reply
            other = {"type": "ethereum-transaction", "unsigned": "02c0"}
            reply = await ask(client, alice, "sign", record, **(fields | {"content": other}))
            assert isinstance(reply, Refusal)
            assert reply.code == Code.CONTENT_INVALID.value

        changed = build_copy(change_a_byte)
        assert changed.measurements.pcr0 != measured.pcr0
        async with deployment(rig, written(changed.eif), kms, manifest) as client:
            await client.put_policy(TENANT, envelope)
            reply = await ask(client, alice, "generate_key", algorithm="secp256k1", labels=["treasury"])
            assert isinstance(reply, Refusal)
            assert reply.code == Code.KMS_DENIED.value
            reply = await ask(client, alice, "sign", record, **fields)  # the key of the good image
            assert isinstance(reply, Refusal)
            assert reply.code == Code.KMS_DENIED.value


async def ask(
    client: EnclaveClient, person: Person, operation: str, record: Record | None = None, **fields: Any
) -> ExecuteReply | Refusal:
    body = request_body(TENANT, operation, system_clock_ms(), **fields)
    return await client.execute(body, person.stamp(body), record, timeout_s=CALL_TIMEOUT_S)


def change_a_byte(root: Path) -> None:
    path = root / "enclave/src/adytum_enclave/core/phases.py"
    text = path.read_bytes()
    at = text.index(b".")
    path.write_bytes(text[:at] + b"!" + text[at + 1 :])


def test_an_image_that_is_damaged_does_not_start(rig: Rig, real: Built, written) -> None:
    """QEMU checks the CRC as the hypervisor does; nothing is left running."""
    damaged = bytearray(real.eif)
    damaged[-1] ^= 1
    with pytest.raises(RigError, match=r"START|NOT_READY"), rig.boot(written(bytes(damaged))) as machine:
        machine.wait_for_line(READY, 20)
    with pytest.raises(EifError, match="EIF_CRC"):
        read(bytes(damaged))
