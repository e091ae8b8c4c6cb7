"""The service with the rights of `adytum_service` alone: all of it works, and a thief of its login rewrites nothing."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from wallet import TRANSFER, allow_everything, unsigned

from adytum.client.errors import RefusedError
from adytum.client.signers import KeySigner
from adytum_sim.host import Host, running_host
from adytum_sim.people import Person, signed_policy
from adytum_sim.stack import Stack, running_stack
from adytum_wire.errors import Code
from adytum_wire.types import Algorithm, KeyState

STATES = ["enable_key", "disable_key", "schedule_deletion", "cancel_deletion", "delete_key"]


async def test_the_service_does_its_work_with_its_own_role(short_directory: Path) -> None:
    alice = Person.new("alice")
    short_directory.chmod(0o711)  # PostgreSQL runs as another user when we are root
    (short_directory / "h").mkdir(mode=0o711)
    async with (
        running_stack(short_directory / "s", configure=False) as stack,
        running_host(stack, short_directory / "h", durable=False, least_privilege=True) as host,
        host.client(alice) as client,
    ):
        rules = [allow_everything(), allow_everything("states", operations=STATES)]
        await client.put_policy(signed_policy(stack.policy([alice.as_principal("signer")], rules), *stack.admins))
        key = (await client.generate_key(Algorithm.SECP256K1, labels=["treasury"])).result.key_id
        transaction = bytes.fromhex(unsigned(TRANSFER))
        first = await client.sign_ethereum(key, transaction)
        with pytest.raises(RefusedError):
            await client.generate_key(Algorithm.P256, labels=["elsewhere"])
        assert (await client.reseal(key)).result.record_version == 2

        disabled = await client.disable_key(key)
        assert (disabled.result.state, disabled.result.record_version) == (KeyState.DISABLED, 3)
        with pytest.raises(RefusedError) as refused:
            await client.sign_ethereum(key, transaction)
        assert refused.value.code is Code.KEY_STATE
        assert [k["status"] for k in (await client.get("/v1/keys?tenant=acme&status=disabled"))["keys"]] == ["disabled"]
        await client.enable_key(key)
        assert (await client.sign_ethereum(key, transaction)).result.encoded == first.result.encoded
        await client.schedule_deletion(key, 7)
        [due] = (await client.get("/v1/keys?tenant=acme&status=pending_deletion"))["keys"]
        assert due["deletion_date"] is not None
        assert (await client.get("/v1/keys?tenant=acme&due=true"))["keys"] == []
        with pytest.raises(RefusedError) as refused:
            await client.delete_key(key)
        assert (refused.value.code, refused.value.field) == (Code.KEY_STATE, "$.delete_after")
        await client.cancel_deletion(key)

        address = first.receipt.receipt.summary["to"]
        for query, found in (
            ("label=treasury", 1),
            ("label=cold", 0),
            (f"named={key}", 1),
            (f"named={due['address'].lower()}", 1),
            (f"named={due['public_key']}", 1),
            (f"named={address}", 0),
            ("algorithm=ed25519", 0),
        ):
            assert len((await client.get(f"/v1/keys?tenant=acme&{query}"))["keys"]) == found, query
        for query in ("status=lost", "label=%27", "named=%27%3B--"):
            with pytest.raises(RefusedError) as wrong:
                await client.get(f"/v1/keys?tenant=acme&{query}")
            assert wrong.value.code is Code.REQUEST_INVALID

        thief = await asyncpg.connect(host.dsn.replace("postgres@", "wallet@", 1))
        for statement in (
            "UPDATE receipts SET code = ''",
            "DELETE FROM receipts",
            "UPDATE key_envelopes SET version = 9",
            "DELETE FROM requests",
            "DROP TABLE receipts",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await thief.execute(statement)
        await thief.close()


async def command(config: Path, *arguments: str, status: int = 0) -> dict[str, Any]:
    """`adytum ...` as an operator runs it; what it printed as JSON, and nothing but that."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "from adytum.cli import main; main()", *arguments, "-c", str(config), "--json",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, said = await process.communicate()
    assert b"Traceback" not in said, said.decode()
    assert process.returncode == status, (out, said)
    printed: dict[str, Any] = json.loads(out)
    return printed


async def login(host: Host, name: str, role: str) -> str:
    owner = await asyncpg.connect(host.dsn)
    await owner.execute(f"CREATE ROLE {name} LOGIN IN ROLE {role}")
    await owner.close()
    return host.dsn.replace("postgres@", f"{name}@", 1)


def rotating(stack: Stack, alice: Person, rotator: Person, *, version: int, generation: int, floor: int) -> bytes:
    rules = [
        allow_everything(operations=["sign", "generate_key", "import_key"]),
        allow_everything(
            "rotate", labels="*", operations=["reseal", "rotation_statement"], principals=["role:rotator"]
        ),
    ]
    people = [alice.as_principal("signer"), rotator.as_principal("rotator")]
    document = stack.policy(people, rules, version=version)
    document["records"] = {"generation": generation, "min_generation": floor}
    return signed_policy(document, *stack.admins)


async def test_rotation_monitoring_and_backup_work_with_the_roles_that_the_documents_name(
    short_directory: Path,
) -> None:
    """adytum_service for the service and the workers, adytum_auditor to look on, adytum_migrator for the rest."""
    alice, secret = Person.new("alice"), Ed25519PrivateKey.generate()
    rotator = Person("rotator", KeySigner(secret))
    short_directory.chmod(0o711)  # PostgreSQL runs as another user when we are root
    (short_directory / "h").mkdir(mode=0o711)
    signer_file = short_directory / "rotator.pem"
    signer_file.write_bytes(secret.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    async with (
        running_stack(short_directory / "s", configure=False) as stack,
        running_host(stack, short_directory / "h", durable=False, least_privilege=True) as host,
        host.client(alice) as client,
        httpx.AsyncClient(base_url=host.service.base_url, trust_env=False) as http,
    ):

        def config(name: str, dsn: str) -> Path:
            tee = {"kmsKeyARN": stack.key_arn, "allowedPCRs": stack.allowed_pcrs,
                   "manifestFile": str(short_directory / "h" / "manifest.json"),
                   "attestationRootsFile": str(short_directory / "h" / "roots.pem"),
                   "developmentDirectory": str(stack.directory)}  # fmt: skip
            rotation = {"url": host.service.base_url, "signerFile": str(signer_file)}
            path = short_directory / f"{name}.yaml"
            path.write_text(json.dumps({"tee": tee, "database": {"dsn": dsn}, "rotation": rotation}))
            return path

        service = config("service", host.dsn.replace("postgres@", "wallet@", 1))
        auditor = config("auditor", await login(host, "looker", "adytum_auditor"))
        migrator = config("migrator", await login(host, "deploy", "adytum_migrator"))

        async def put(version: int, generation: int, floor: int) -> None:
            policy = rotating(stack, alice, rotator, version=version, generation=generation, floor=floor)
            await client.put_policy(policy)

        await put(1, 1, 1)
        assert (await http.get("/metrics")).status_code == 200
        assert (await http.get("/v1/jobs")).json() == {"jobs": []}
        assert (await http.get("/v1/health")).json()["database_problem"] == ""
        brought = Ed25519PrivateKey.generate()
        await client.import_key(
            Algorithm.ED25519, brought.private_bytes_raw(), brought.public_key().public_bytes_raw(), labels=["treasury"]
        )
        for _ in range(4):
            await client.generate_key(Algorithm.SECP256K1, labels=["treasury"])

        await put(2, 2, 1)
        job = (await command(service, "rotate", "start", "--tenant", "acme"))["id"]
        await command(service, "rotate", "pause", job)
        await command(service, "rotate", "resume", job)
        worker = await asyncio.create_subprocess_exec(
            sys.executable, "-c", "from adytum.cli import main; main()", "rotate", "worker", "--until-done",
            "-c", str(service),
        )  # fmt: skip
        assert await worker.wait() == 0
        await put(3, 2, 2)
        await command(service, "rotate", "finish", job)
        for reader in (service, auditor):
            [listed] = (await command(reader, "rotate", "list"))["jobs"]
            assert (listed["id"], listed["state"], listed["resealed"]) == (job, "finished", 5)
        [listed] = (await http.get("/v1/jobs")).json()["jobs"]
        assert (listed["state"], listed["failed"]) == ("finished", 0)
        assert (await http.get("/metrics")).status_code == 200
        assert (await command(auditor, "rotate", "start", "--tenant", "acme", status=1))["error"]["code"] == (
            "DATABASE_PRIVILEGES_MISSING"
        )

        refused = await command(service, "migrate", "grant", status=1)
        assert refused["error"]["code"] == "GRANT_INCOMPLETE"
        assert (await command(migrator, "migrate", "status"))["pending"] == []
        await command(migrator, "migrate", "up")
        assert (await command(migrator, "migrate", "grant"))["missing"] == []
        await command(migrator, "backup", "create", "--out", str(short_directory / "backup"))
        assert (await command(migrator, "restore", "check"))["findings"] == []
        assert (short_directory / "backup" / "database.dump").stat().st_size > 0
        assert (await http.get("/v1/health")).json()["ready"]
