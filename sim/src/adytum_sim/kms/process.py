"""The stand-in as a process of its own, with its state in a directory that other processes may read.

In the directory: `state.json` (keys, aliases, credentials), `attestation-root.pem` and `.key` (the attestation PKI,
for `DevPki.load`), `tls-ca.pem` and `.key`, `trail.jsonl`. All are readable by the owner alone. A second start on the
same directory finds everything as it was.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from adytum_sim.imds import running_imds
from adytum_sim.kms.faultport import running_fault_port
from adytum_sim.kms.policies import attested_key_policy
from adytum_sim.kms.running import RunningKms, running_kms, system_clock_ms
from adytum_sim.kms.state import State
from adytum_sim.kms.tls import DevCa
from adytum_sim.kms.trail import Trail
from adytum_sim.pki import DevPki
from adytum_sim.pki.devpki import KEY_FILE, ROOT_FILE, write_private

ALIAS: Final = "alias/adytum-development"
STATE_FILE: Final = "state.json"
CA_FILE: Final = "tls-ca.pem"
CA_KEY_FILE: Final = "tls-ca.key"
TRAIL_FILE: Final = "trail.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """`pcrs`: what the development key demands (index to 48 bytes); empty makes a key under AWS's default policy."""

    directory: Path
    port: int
    region: str
    account: str
    pcrs: Mapping[int, bytes]
    accept_unsigned_documents: bool = False
    fault_port: int = 0
    imds_port: int | None = None


def _load_pki(options: Options) -> DevPki:
    if (options.directory / KEY_FILE).exists():
        return DevPki.load(options.directory, region=options.region)
    pki = DevPki.create(system_clock_ms(), region=options.region)
    pki.save(options.directory)
    return pki


def _load_ca(directory: Path) -> DevCa:
    if (directory / CA_KEY_FILE).exists():
        return DevCa.load((directory / CA_FILE).read_bytes(), (directory / CA_KEY_FILE).read_bytes())
    ca = DevCa.create(system_clock_ms())
    write_private(directory / CA_KEY_FILE, ca.key_pem)
    write_private(directory / CA_FILE, ca.pem)
    return ca


def _load_state(options: Options) -> State:
    path = options.directory / STATE_FILE
    if not path.exists():
        return State(account=options.account, region=options.region, path=path)
    state = State.load(path)
    if (state.account, state.region) != (options.account, options.region):
        raise ValueError("the state directory belongs to another account or region")
    return state


def _development_key(kms: RunningKms, pcrs: Mapping[int, bytes]) -> str:
    state = kms.service.state
    if ALIAS in state.aliases:
        return state.key_arn(state.aliases[ALIAS][0])
    policy = attested_key_policy(account=kms.account, role_arn=kms.role_arn, pcrs=pcrs) if pcrs else None
    arn = kms.create_key(policy)
    alias = {"AliasName": ALIAS, "TargetKeyId": arn}
    kms.service.handle("TrentService.CreateAlias", alias, kms.operator.caller)
    return arn


@contextlib.asynccontextmanager
async def running_process(options: Options) -> AsyncIterator[dict[str, Any]]:
    """Serve while the block runs; gives what the ready line says. Errors: OSError, ValueError."""
    directory = options.directory.resolve()
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    pki, ca, state = _load_pki(options), _load_ca(directory), _load_state(options)
    async with contextlib.AsyncExitStack() as stack:
        kms = await stack.enter_async_context(
            running_kms(
                pki=pki,
                ca=ca,
                state=state,
                port=options.port,
                accept_unsigned_documents=options.accept_unsigned_documents,
                trail=Trail(directory / TRAIL_FILE),
            )
        )
        faults = await stack.enter_async_context(running_fault_port(kms.faults, options.fault_port))
        ready = {
            "endpoint": kms.endpoint,
            "port": kms.port,
            "host": kms.host,
            "ca_file": str(directory / CA_FILE),
            "region": kms.region,
            "account": kms.account,
            "key_arn": _development_key(kms, options.pcrs),
            "role_arn": kms.role_arn,
            "access_key_id": kms.access_key_id,
            "secret_access_key": kms.secret_access_key,
            "session_token": kms.session_token,
            "operator_access_key_id": kms.operator.access_key_id,
            "operator_secret_access_key": kms.operator.secret_access_key,
            "anchor_file": str(directory / ROOT_FILE),
            "pki_directory": str(directory),
            "trail_file": str(directory / TRAIL_FILE),
            "fault_endpoint": faults,
        }
        if options.imds_port is not None:
            ready["imds_endpoint"] = await stack.enter_async_context(
                running_imds(kms.service, now_ms=system_clock_ms, random_bytes=os.urandom, port=options.imds_port)
            )
        state.save()
        yield ready


async def serve(options: Options, announce: Callable[[dict[str, Any]], None]) -> None:
    """Run until SIGTERM or SIGINT; `announce` is called once, when requests are taken."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with running_process(options) as ready:
        announce(ready)
        await stop.wait()
