"""`AsyncAdytum`: the client for asyncio."""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from types import TracebackType
from typing import Any, TypeVar

import httpx
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from adytum.bounded import MAX_ANSWER, PLAIN, UnboundedError, read
from adytum.client.batch import send_batch
from adytum.client.checks import Answer
from adytum.client.conversation import Conversation, Network, PolicyInForce, Unsealed, receipts_page
from adytum.client.facades import AsyncApprovals, AsyncRequests, steps_of
from adytum.client.imports import FileFormat
from adytum.client.signers import Signer
from adytum.client.steps import Call, Came, Pause, Retries, Steps, unbounded
from adytum_verify import AWS_ANCHOR, AllowList, Anchor, PcrPolicy, VerifiedEnclave
from adytum_wire.errors import AdytumError
from adytum_wire.receipts import Receipt
from adytum_wire.requests import Content
from adytum_wire.types import Algorithm, SigningScheme

T = TypeVar("T")
TIMEOUT_S = 15.0


def clock_ms() -> int:
    """The caller's own clock, ms since the epoch."""
    return time.time_ns() // 1_000_000


def jitter() -> float:
    """0.5 to 1: spreads repeats, protects nothing."""
    return random.uniform(0.5, 1.0)  # noqa: S311


class AsyncAdytum:
    """Calls of one tenant, stamped by `signer`. Every answer is verified before you get it (`adytum.client.checks`).

    `expected`: the images you allow (there is no way to allow any). `anchors`: AWS's root, unless you run a stand-in.
    `manifest_hash` (32 bytes): where given, only enclaves configured with that manifest are believed. `http`: a client
    of your own (TLS settings, proxies), which you close; else one is made. `request_id`: a name of your own, once
    for each request; left out, a random one is used. Repeats within a call send the same bytes; `repeat` does so later.

    Errors of all calls: `adytum.client.errors`.

        async with AsyncAdytum(url, "acme", signer, expected=AllowList.parse([...])) as adytum:
            key = await adytum.generate_key(Algorithm.SECP256K1, labels=["hot"])
            signed = await adytum.sign_ethereum(key.result.key_id, unsigned)
    """

    def __init__(
        self,
        base_url: str,
        tenant: str,
        signer: Signer,
        *,
        expected: AllowList | PcrPolicy,
        anchors: Sequence[Anchor] = (AWS_ANCHOR,),
        manifest_hash: bytes | None = None,
        http: httpx.AsyncClient | None = None,
        retries: Retries | None = None,
        now_ms: Callable[[], int] = clock_ms,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._url = base_url.rstrip("/")
        self._own = http is None
        self._http = http or httpx.AsyncClient(timeout=TIMEOUT_S, trust_env=False)
        self._talk = Conversation(
            tenant,
            signer,
            expected=expected,
            anchors=anchors,
            manifest_hash=manifest_hash,
            now_ms=now_ms,
            random_bytes=random_bytes,
            retries=retries or Retries(jitter=jitter),
        )
        requests, approvals, mine = steps_of(self._talk, now_ms)
        self.requests = AsyncRequests(self._run, requests)
        self.approvals = AsyncApprovals(self._run, approvals, mine)

    async def __aenter__(self) -> AsyncAdytum:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        if self._own:
            await self._http.aclose()

    async def attestation(self) -> VerifiedEnclave:
        """Verify the enclave that serves now, with a fresh nonce."""
        return await self._run(self._talk.trust.attest())

    async def generate_key(self, algorithm: Algorithm, *, labels: Sequence[str] = (), request_id: str = "") -> Answer:
        """A new key inside the enclave. `result`: GenerateKeyResult."""
        return await self._run(self._talk.generate_key(algorithm, labels, request_id))

    async def import_key(
        self,
        algorithm: Algorithm,
        secret: bytes,
        public_key: bytes,
        *,
        labels: Sequence[str] = (),
        request_id: str = "",
    ) -> Answer:
        """Bring a key (32 bytes) in: sealed to the attested enclave before it leaves this process."""
        return await self._run(self._talk.import_key(algorithm, secret, public_key, labels, request_id))

    async def generate_seed(self, *, labels: Sequence[str] = (), request_id: str = "") -> Answer:
        """A new seed inside the enclave, to derive keys from. `result`: GenerateSeedResult."""
        return await self._run(self._talk.generate_seed(labels, request_id))

    async def derive(self, key_id: str, path: str, algorithm: Algorithm, *, request_id: str = "") -> Answer:
        """The public key at a path of a seed, and its addresses. `result`: DeriveKeyResult."""
        return await self._run(self._talk.derive(key_id, path, algorithm, request_id))

    async def sign(
        self,
        key_id: str,
        scheme: SigningScheme,
        content: Content,
        *,
        path: str = "",
        public_key: bytes = b"",
        request_id: str = "",
    ) -> Answer:
        """Sign any content of `adytum_wire.requests`. `path`: for a seed. `public_key`: who must have signed, as an
        earlier `derive` said; UntrustedError otherwise. `result`: SignResult."""
        return await self._run(self._talk.sign(key_id, scheme, content, request_id, path, public_key))

    async def sign_ethereum(self, key_id: str, unsigned: bytes, *, path: str = "", request_id: str = "") -> Answer:
        """Sign type||rlp(fields), or rlp(9 fields) (EIP-155). `result`: SignResult, with `raw_transaction`."""
        return await self._run(self._talk.sign_ethereum(key_id, unsigned, request_id, path))

    async def sign_psbt(
        self,
        key_id: str,
        psbt: bytes,
        *,
        taproot: bool = False,
        network: Network = "mainnet",
        path: str = "",
        request_id: str = "",
    ) -> Answer:
        """Sign a PSBT's P2WPKH and P2SH-P2WPKH inputs, or with `taproot` its P2TR inputs. `path`: of a seed's account;
        the PSBT says what is at which path below it. `result`: SignResult, with `psbt`, and `raw_transaction` when
        nothing is missing."""
        return await self._run(self._talk.sign_psbt(key_id, psbt, network, request_id, path, taproot=taproot))

    async def sign_raw(
        self,
        key_id: str,
        scheme: SigningScheme,
        *,
        digest: bytes | None = None,
        message: bytes | None = None,
        path: str = "",
        request_id: str = "",
    ) -> Answer:
        """Sign what the enclave cannot understand: a right of its own (`sign-raw`). Give one of digest and message."""
        return await self._run(self._talk.sign_raw(key_id, scheme, digest, message, request_id, path))

    async def seal(self, secret: bytes, *, labels: Sequence[str] = (), request_id: str = "") -> Answer:
        """Store a secret of 1 to 16,384 bytes."""
        return await self._run(self._talk.seal(secret, labels, request_id))

    async def seal_anchor(
        self, access_key_id: str, secret_access_key: bytes, *, labels: Sequence[str] = (), request_id: str = ""
    ) -> Answer:
        """Seal the credentials of the anchor's table to the enclave: from then on nobody else has them, once every
        other copy is destroyed. The newest are in force within seconds; spec/usage.md, U-14."""
        return await self._run(self._talk.seal_anchor(access_key_id, secret_access_key, labels, request_id))

    async def unseal(self, key_id: str, recipient: X25519PrivateKey, *, request_id: str = "") -> Unsealed:
        """Get a stored secret, encrypted to `recipient` inside the enclave and opened here."""
        return await self._run(self._talk.unseal(key_id, recipient, request_id))

    async def import_file(
        self,
        kind: FileFormat,
        file: bytes,
        *,
        password: bytes = b"",
        labels: Sequence[str] = (),
        expected: str = "",
        request_id: str = "",
    ) -> Answer:
        """Bring in what others wrote (`adytum.client.imports`): file and password leave this process sealed to the
        attested enclave. `expected`: the address or public key that it must be, where there is one."""
        return await self._run(self._talk.import_file(kind, password, file, labels, expected, request_id))

    async def export(self, key_id: str, recipient: str, *, request_id: str = "") -> Answer:
        """Key material, sealed by the enclave to a recipient that the policy names. `result`: ExportResult; its owner
        opens it with `adytum.client.imports.open_export`."""
        return await self._run(self._talk.export(key_id, recipient, request_id))

    async def made_before(self, request_id: str) -> Receipt | None:
        """The verified receipt of this request, which made a key, or None when the host knows of none."""
        return await self._run(self._talk.made_before(request_id))

    async def reseal(self, key_id: str, *, request_id: str = "") -> Answer:
        """Encrypt the record again under a fresh data key; the older version is refused from then on."""
        return await self._run(self._talk.reseal(key_id, request_id))

    async def open_session(self, *, ttl_seconds: int = 3600, request_id: str = "") -> Answer:
        """Agree on an HMAC key with the attested enclave; later requests are stamped with it, at a fraction of a
        signature's cost, with the rights of this client's key. At most 12 hours. When the enclave has forgotten the
        session, requests go under the key itself again: open another one when you like."""
        return await self._run(self._talk.open_session(1000 * ttl_seconds, request_id))

    def close_session(self) -> None:
        """Forget the session here; the enclave forgets it in its time."""
        self._talk.close_session()

    async def enable_key(self, key_id: str, *, request_id: str = "") -> Answer:
        """Make a disabled key active again."""
        return await self._run(self._talk.enable_key(key_id, request_id))

    async def disable_key(self, key_id: str, *, request_id: str = "") -> Answer:
        """The enclave uses the key for nothing until it is enabled again."""
        return await self._run(self._talk.disable_key(key_id, request_id))

    async def schedule_deletion(self, key_id: str, waiting_days: int, *, request_id: str = "") -> Answer:
        """From now the key is used for nothing; after 7 to 30 days it can be deleted for good."""
        return await self._run(self._talk.schedule_deletion(key_id, waiting_days, request_id))

    async def cancel_deletion(self, key_id: str, *, request_id: str = "") -> Answer:
        """Before it was deleted: the key is disabled then."""
        return await self._run(self._talk.cancel_deletion(key_id, request_id))

    async def delete_key(self, key_id: str, *, request_id: str = "") -> Answer:
        """After the waiting period: the enclave confirms it and the sealed record is destroyed."""
        return await self._run(self._talk.delete_key(key_id, request_id))

    async def repeat(self, body: bytes) -> Answer:
        """Send a signed body again as it was (`UnreachableError.body`, or kept by you): the same answer comes back, or
        the request is carried out now if it never was. Only within the enclave's request window."""
        return await self._run(self._talk.repeat(body))

    async def batch(self, bodies: Sequence[bytes]) -> list[Answer | AdytumError]:
        """Send many signed bodies at once: for each, in order, its proven answer, or the error that `repeat` would have
        raised. No transaction: each stands alone. Errors: of the batch as a whole (`adytum.client.batch`)."""
        return await self._run(send_batch(self._talk, bodies))

    async def put_policy(self, envelope: bytes) -> PolicyInForce:
        """Put a policy that the tenant's admin quorum signed (`adytum.client.policy`)."""
        return await self._run(self._talk.put_policy(envelope))

    async def get_policy(self) -> PolicyInForce:
        """The newest policy that the host has: verify its signatures before you believe it."""
        return await self._run(self._talk.get_policy())

    async def get_usage(self) -> dict[str, Any]:
        """What of the tenant's limits is used and held. Unproven: the host's word; receipts prove each charge."""
        return await self._run(self._talk.get_usage())

    async def reset_usage(self, envelope: bytes) -> dict[str, Any]:
        """Open limits that a start has closed, with what the admin quorum signed (`adytum.client.usage`)."""
        return await self._run(self._talk.reset_usage(envelope))

    async def get(self, path: str) -> dict[str, Any]:
        """A read of the HTTP API as it is. Unproven: the host's word."""
        return await self._run(self._talk.get(path))

    async def receipts(self, chain: str, *, after: int = 0, page: int = 500) -> AsyncIterator[bytes]:
        """The receipt envelopes of a chain as they came, in order. Unverified: feed them to `adytum_verify`."""
        while True:
            came = await self._call(Call(method="GET", path=f"/v1/receipts?chain={chain}&after={after}&limit={page}"))
            rows, following = receipts_page(came)
            for row in rows:
                yield row
            if following is None:
                return
            after = following

    async def _run(self, steps: Steps[T]) -> T:
        try:
            step = next(steps)
            while True:
                if isinstance(step, Pause):
                    await asyncio.sleep(step.seconds)
                    step = steps.send(Came(0, b""))
                else:
                    step = steps.send(await self._call(step))
        except StopIteration as done:
            value: T = done.value
            return value

    async def _call(self, call: Call) -> Came:
        headers = {**(call.headers or {}), **PLAIN}
        sent = self._http.stream(call.method, self._url + call.path, content=call.content, headers=headers)
        try:
            async with sent as response:
                return Came(response.status_code, await read(response, MAX_ANSWER))
        except httpx.TransportError:
            return Came(0, b"")
        except UnboundedError as error:
            raise unbounded(error) from None
