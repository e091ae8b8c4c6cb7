"""A whole deployment on one machine, below the HTTP service: KMS stand-in, byte pipe, enclave process, its client.

    async with running_stack(directory) as stack:
        await stack.put_policy(stack.policy(...))
        reply = await stack.ask(client, "generate_key", algorithm="secp256k1", labels=["treasury"])

The caller plays the host: it holds the records, and may do with them what a hostile host would.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from adytum.enclave.client import EnclaveClient
from adytum.enclave.endpoint import Endpoint
from adytum.kms_policy import Image, Roles
from adytum.kms_policy.render import key_policy as render_key_policy
from adytum.pipe import Pipe
from adytum_enclave.shell.imds import HOST as IMDS_HOST
from adytum_sim.enclave.config import StandInConfig
from adytum_sim.enclave.measure import source_pcrs
from adytum_sim.enclave.process import EnclaveProcess
from adytum_sim.enclave.witness import SECRET_BYTES
from adytum_sim.imds import running_imds
from adytum_sim.kms.running import RunningKms, running_kms, system_clock_ms
from adytum_sim.people import Person, request_body, signed_policy
from adytum_sim.pki import DevPki
from adytum_verify import AllowList
from adytum_verify.enclave import manifest_pcr
from adytum_wire import limits
from adytum_wire.manifest import manifest_hash
from adytum_wire.messages import Credentials, ExecuteReply, PutPolicyReply, Refusal
from adytum_wire.record import Record

IMDS_PORT = 80
TENANT = "acme"
PARENT_ROLE = "arn:aws:iam::111122223333:role/adytum-enclave"
DAY_MS = 86_400_000

Json = dict[str, Any]


def default_bounds() -> Json:
    return {
        "request_past_ms": 300_000,
        "request_future_ms": 60_000,
        "approval_past_ms": 86400000,
        "key_ttl_seconds": 60,
        "key_max_uses": 1000,
        "max_warm_keys": 1000,
    }


def key_policy(kms: RunningKms, pcrs: Mapping[int, bytes]) -> Json:
    """As `adytum kms-policy render` writes it for one image: the operator is the break-glass role."""
    roles = Roles(
        parent=kms.role_arn,
        admin=f"arn:aws:iam::{kms.account}:role/adytum-key-admin",
        break_glass=kms.operator.caller.principal_arn,
    )
    return render_key_policy(roles, [Image("stand-in", pcrs)], [TENANT])


class RunningEnclave(Protocol):
    """What a stack needs of its enclave: the process (`EnclaveProcess`) or a booted image (`guest.GuestEnclave`)."""

    @property
    def endpoint(self) -> Endpoint: ...
    @property
    def log(self) -> list[str]: ...
    def client(self) -> EnclaveClient: ...
    async def start(self) -> None: ...
    async def stop(self) -> None: ...
    async def witnessed(self) -> set[tuple[str, int, bytes]]: ...


@dataclass(frozen=True, slots=True)
class Guest:
    """An image to boot: its PCR 0, 1 and 2, and how to make the enclave for a PKI."""

    pcrs: dict[int, bytes]
    enclave: Callable[[DevPki], RunningEnclave]


@dataclass(slots=True)
class Stack:
    """A running deployment. `pcrs`: 0, 1, 2 and 16, as the release and the key policy have them."""

    directory: Path
    kms: RunningKms
    key_arn: str
    manifest: bytes
    pcrs: dict[int, bytes]
    admins: list[Person]
    enclave: RunningEnclave
    pipe: Pipe
    endpoint: Endpoint
    client: EnclaveClient
    credentials: Credentials
    kms_secrets: list[bytes]
    imds: bool = False

    @property
    def process(self) -> EnclaveProcess:
        """The enclave, where it is a process of ours and not a guest."""
        if not isinstance(self.enclave, EnclaveProcess):
            raise TypeError("this enclave is a guest")
        return self.enclave

    @property
    def allow_list(self) -> AllowList:
        return AllowList.parse(self.allowed_pcrs)

    @property
    def allowed_pcrs(self) -> list[str]:
        """As `tee.allowedPCRs` takes them."""
        return [",".join(f"PCR{index}={value.hex()}" for index, value in sorted(self.pcrs.items()))]

    def now_ms(self) -> int:
        return system_clock_ms()

    def policy(self, principals: list[Json], rules: list[Json], *, version: int = 1, days: int = 30) -> Json:
        """A policy document of this tenant."""
        return {
            "v": 1,
            "tenant": TENANT,
            "version": version,
            "valid_until": self.now_ms() + days * DAY_MS,
            "records": {"generation": 1, "min_generation": 1},
            "recovery": "none",
            "passkeys": "none",
            "recipients": [],
            "limits": [],
            "principals": principals,
            "rules": rules,
        }

    async def put_policy(self, document: Json, *admins: Person) -> PutPolicyReply:
        """Signed by `admins`, by default all."""
        return await self.client.put_policy(TENANT, signed_policy(document, *(admins or self.admins)))

    async def ask(
        self,
        person: Person,
        operation: str,
        *,
        record: Record | None = None,
        issued_at: int | None = None,
        timeout_s: float | None = None,
        **fields: Any,
    ) -> ExecuteReply | Refusal:
        """Write, stamp and send one request."""
        body = request_body(TENANT, operation, self.now_ms() if issued_at is None else issued_at, **fields)
        return await self.client.execute(body, person.stamp(body), record, timeout_s=timeout_s)

    async def restart_enclave(self, *, pcrs: Mapping[int, bytes] | None = None) -> None:
        """A new boot, of the same image or of another; it awaits its manifest afterwards."""
        config = self.process.config
        await self.enclave.stop()
        if pcrs is not None:
            config = _config(self.directory, Path(config.pki), pcrs, witness=config.witness)
        self.enclave = EnclaveProcess(config)
        await self.enclave.start()

    def reconnect(self) -> None:
        """A client of its own connections, as after a restart of the host."""
        self.client.close()
        self.client = self.enclave.client()

    async def configure(self) -> None:
        await self.client.configure(self.manifest, None if self.imds else self.credentials)


def _config(directory: Path, pki: Path, pcrs: Mapping[int, bytes], *, witness: bool) -> StandInConfig:
    return StandInConfig(
        directory=str(directory),
        pki=str(pki),
        pcrs={str(index): value.hex() for index, value in pcrs.items()},
        parent_role=PARENT_ROLE,
        witness=witness,
    )


def build_manifest(
    kms: RunningKms,
    key_arns: list[str],
    admins: list[Person],
    bounds: Json,
    *,
    threshold: int,
    anchor: Json,
    credentials: str = "pushed",
) -> bytes:
    return json.dumps(
        {
            "v": 1,
            "deployment": "stand-in",
            "epoch": 1,
            "debug": False,
            "node_id": "node-1",
            "kms": {
                "region": kms.region,
                "account": kms.account,
                "keys": key_arns,
                "host": kms.host,
                "port": limits.KMS_PORT,
                "roots": [kms.ca_pem.decode()],
                "credentials": credentials,
            },
            "tenants": [
                {
                    "id": TENANT,
                    "kms_key": key_arns[0],
                    "admins": [admin.as_admin() for admin in admins],
                    "threshold": threshold,
                }
            ],
            "bounds": bounds,
            "anchor": anchor,
        }
    ).encode()


@contextlib.asynccontextmanager
async def running_stack(
    directory: Path,
    *,
    bounds: Json | None = None,
    threshold: int = 2,
    witness: bool = False,
    variant: str = "",
    configure: bool = True,
    guest: Guest | None = None,
    anchor: Json | None = None,
    imds: bool = False,
    kms_keys: int = 1,
    kms: RunningKms | None = None,
) -> AsyncIterator[Stack]:
    """Start everything, and stop it when the block ends. `directory`: private and short (Unix sockets live there).

    `bounds` replaces some of `default_bounds`; `variant` names another image of the same source; without `configure`
    the enclave still awaits its manifest. `guest`: a booted image in the place of the process, see
    `guest.py`. `anchor`: the manifest's, "none" unless given. `imds`: the enclave fetches its credentials from the
    stand-in's metadata service, and nothing is pushed. `kms_keys`: how many the manifest lists; the first is the
    tenant's. `kms`: keys and identities of a stand-in that the caller serves elsewhere, with the pipe to it.
    """
    admins = [Person.new(name) for name in ("admin-a", "admin-b", "admin-c")]
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    async with contextlib.AsyncExitStack() as cleanup:
        kms_secrets: list[bytes] = []
        random_bytes = _remembering(kms_secrets) if witness else os.urandom
        is_ours = kms is None
        if kms is None:
            kms = await cleanup.enter_async_context(
                running_kms(random_bytes=random_bytes, accept_unsigned_documents=guest is not None)
            )
        pki = directory / "pki"
        kms.pki.save(pki)
        key_arn, *others = [kms.create_key() for _ in range(kms_keys)]
        manifest = build_manifest(
            kms,
            [key_arn, *others],
            admins,
            default_bounds() | (bounds or {}),
            threshold=threshold,
            anchor=anchor or {"kind": "none"},
            credentials="imds" if imds else "pushed",
        )
        image = source_pcrs(variant) if guest is None else guest.pcrs
        pcrs = image | {16: manifest_pcr(manifest_hash(manifest))}
        for arn in (key_arn, *others):
            put_key_policy(kms, arn, key_policy(kms, pcrs))
        enclave: RunningEnclave
        if guest is None:
            enclave = EnclaveProcess(_config(directory, pki, image, witness=witness))
        else:
            enclave = guest.enclave(kms.pki)
        cleanup.push_async_callback(enclave.stop)
        await enclave.start()
        endpoint = enclave.endpoint
        pipe = Pipe(
            endpoint,
            limits.KMS_PORT,
            kms.host,
            443,
            allow=frozenset({(kms.host, 443)}),
            dial_to=("127.0.0.1", kms.port),
        )
        if is_ours:
            await cleanup.enter_async_context(pipe)
        if imds:
            metadata = await cleanup.enter_async_context(
                running_imds(kms.service, now_ms=system_clock_ms, random_bytes=os.urandom)
            )
            port = int(metadata.rsplit(":", 1)[1])
            source = (IMDS_HOST, IMDS_PORT)
            await cleanup.enter_async_context(
                Pipe(endpoint, limits.IMDS_PORT, *source, allow=frozenset({source}), dial_to=("127.0.0.1", port))
            )
        stack = Stack(
            directory=directory,
            kms=kms,
            key_arn=key_arn,
            manifest=manifest,
            pcrs=pcrs,
            admins=admins,
            enclave=enclave,
            pipe=pipe,
            endpoint=endpoint,
            client=enclave.client(),
            kms_secrets=kms_secrets,
            credentials=Credentials(kms.access_key_id, kms.secret_access_key, kms.session_token, 0),
            imds=imds,
        )
        cleanup.push_async_callback(_stop_enclave, stack)
        if configure:
            await stack.configure()
        yield stack


def _remembering(secrets: list[bytes]) -> Callable[[int], bytes]:
    """Randomness that keeps what could be a key: with `witness`, KMS's data keys are looked for in files, too."""

    def random_bytes(count: int) -> bytes:
        made = os.urandom(count)
        if count == SECRET_BYTES:
            secrets.append(made)
        return made

    return random_bytes


async def _stop_enclave(stack: Stack) -> None:
    stack.client.close()
    await stack.enclave.stop()


def put_key_policy(kms: RunningKms, key_arn: str, policy: Json) -> None:
    """PutKeyPolicy as the operator."""
    kms.service.handle(
        "TrentService.PutKeyPolicy",
        {"KeyId": key_arn, "PolicyName": "default", "Policy": json.dumps(policy)},
        kms.operator.caller,
    )
