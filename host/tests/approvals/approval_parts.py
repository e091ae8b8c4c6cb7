"""A scripted enclave behind a service, with a policy that asks two approvers, and people who approve."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from host_fake_enclave import ScriptedEnclave, now_ms

from adytum.app import Service
from adytum.client.signers import KeySigner
from adytum.service.admit import format_stamp
from adytum.service.requests.shapes import CANCEL
from adytum_sim.people import Person, approval_statement, signed_policy
from adytum_wire.approvals import Approval
from adytum_wire.pae import REQUEST, pae
from adytum_wire.requests import EthereumTransaction, GenerateKey, Sign, Stamp
from adytum_wire.strict_json import encode
from adytum_wire.types import Algorithm, SigningScheme, derive_key_id, sha256

# EIP-155's own example: nonce 9, 20 gwei, 21000, to 0x3535.., 1 ether, chain id 1.
UNSIGNED = "ec098504a817c800825208943535353535353535353535353535353535353535880de0b6b3a764000080018080"
TENANT = "acme"
KEY_REQUEST = "r-the-key-01"
KEY_ID = derive_key_id(TENANT, KEY_REQUEST)


def rule(**changes: Any) -> dict[str, Any]:
    return {
        "id": "payments",
        "effect": "allow",
        "operations": ["sign"],
        "principals": ["role:signer"],
        "labels": "*",
        "algorithms": "*",
        "paths": "*",
        "times": "*",
        "content": "*",
        "approvals": {"role": "approver", "count": 2},
        "limits": "none",
    } | changes


class People:
    """`alice` asks; `bob`, `carol` and `dave` may approve; `mallory` is nobody."""

    def __init__(self, enclave: ScriptedEnclave) -> None:
        self.alice = Person("alice", KeySigner(enclave.client_key))
        self.bob, self.carol, self.dave = (Person.new(name) for name in ("bob", "carol", "dave"))
        self.mallory = Person.new("mallory")

    def policy(self, version: int = 1, **changes: Any) -> bytes:
        return signed_policy(
            {
                "v": 1,
                "tenant": TENANT,
                "version": version,
                "valid_until": now_ms() + 86_400_000,
                "records": {"generation": 1, "min_generation": 1},
                "recovery": "none",
                "passkeys": "none",
                "recipients": [],
                "limits": [],
                "principals": [
                    self.alice.as_principal("signer", "approver"),
                    *(person.as_principal("approver") for person in (self.bob, self.carol, self.dave)),
                    self.mallory.as_principal(),
                ],
                "rules": [rule(**changes)],
            },
            self.alice,
        )


class Bench:
    """A client of raw HTTP: it verifies nothing, and may say anything."""

    def __init__(self, service: Service, enclave: ScriptedEnclave) -> None:
        self.service = service
        self.enclave = enclave
        self.people = People(enclave)
        self.http = httpx.AsyncClient(base_url=service.base_url, timeout=20, trust_env=False)

    async def prepare(self) -> None:
        """A policy and a key, before anybody asks for approvals."""
        assert (await self.put_policy()).status_code == 200
        body = GenerateKey(
            v=1,
            tenant=TENANT,
            request_id=KEY_REQUEST,
            issued_at=now_ms(),
            algorithm=Algorithm.SECP256K1,
            labels=["hot"],
        )
        assert (await self.post("/v1/keys", encode(body))).status_code == 200
        self.enclave.wants = 2
        self.enclave.effects = 0

    async def put_policy(self, version: int = 1, **changes: Any) -> httpx.Response:
        return await self.http.put(f"/v1/tenants/{TENANT}/policy", content=self.people.policy(version, **changes))

    def stamp(self, raw: bytes, person: Person | None = None, kind: str = REQUEST) -> str:
        signer = (person or self.people.alice).signer
        return format_stamp(Stamp(signer.scheme, signer.public_key, signer.sign(pae(kind, raw))))

    async def post(self, path: str, raw: bytes, stamp: str = "") -> httpx.Response:
        return await self.http.post(path, content=raw, headers={"Adytum-Stamp": stamp or self.stamp(raw)})

    def payment(self, request_id: str = "r-payment-01", **changes: Any) -> bytes:
        values: dict[str, Any] = {
            "v": 1,
            "tenant": TENANT,
            "request_id": request_id,
            "issued_at": now_ms(),
            "key_id": KEY_ID,
            "path": "",
            "scheme": SigningScheme.ECDSA_SECP256K1,
            "content": EthereumTransaction(unsigned=UNSIGNED),
        }
        return encode(Sign(**values | changes))

    async def ask(self, request_id: str = "r-payment-01", **changes: Any) -> bytes:
        """A payment that waits now; its body."""
        raw = self.payment(request_id, **changes)
        answer = await self.post("/v1/sign", raw)
        assert answer.status_code == 202, answer.text
        return raw

    def approval(self, person: Person, raw: bytes, decision: str = "approve", **changes: Any) -> Approval:
        values: dict[str, Any] = {"policy_version": 1, "issued_at": now_ms(), "decision": decision}
        values |= {"tenant": TENANT, "subject": sha256(raw)} | changes
        return person.approval(approval_statement(values.pop("tenant"), values.pop("subject"), **values))

    async def give(self, approval: Approval, request_id: str = "r-payment-01") -> httpx.Response:
        path = f"/v1/requests/{TENANT}/{request_id}/approvals"
        return await self.http.post(path, content=msgspec.json.encode(approval))

    async def look(self, request_id: str = "r-payment-01", wait: int = 0) -> dict[str, Any]:
        answer = await self.http.get(f"/v1/requests/{TENANT}/{request_id}" + (f"?wait={wait}" if wait else ""))
        assert answer.status_code == 200, answer.text
        view: dict[str, Any] = answer.json()
        return view

    async def cancel(self, request_id: str = "r-payment-01", person: Person | None = None) -> httpx.Response:
        raw = json.dumps({"v": 1, "tenant": TENANT, "request_id": request_id}).encode()
        stamp = self.stamp(raw, person, CANCEL)
        return await self.post(f"/v1/requests/{TENANT}/{request_id}/cancel", raw, stamp)


def code_of(answer: httpx.Response) -> str:
    return str(answer.json()["error"]["code"])


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.005)


def stranger() -> KeySigner:
    return KeySigner(Ed25519PrivateKey.generate())
