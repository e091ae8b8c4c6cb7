"""A tenant's records and a service that reseals them, without an enclave: what the job itself does is tested here."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from adytum.client.errors import RefusedError, UnreachableError
from adytum.rotation.batch import request_id
from adytum.rotation.job import Job
from adytum.rotation.plan import Target
from adytum.rotation.queue import Queue
from adytum.rotation.worker import Worker
from adytum.storage.batcher import AuditBatcher
from adytum.storage.database import Database
from adytum.storage.rows import Outcome, ReceiptRow, RecordRow, RequestRow
from adytum_wire.errors import AdytumError, Code
from adytum_wire.record import Header, Record, encode_header
from adytum_wire.requests import Reseal, parse_body
from adytum_wire.types import Algorithm, KeyState, RecordKind, sha256

OLD_KEY = "arn:aws:kms:us-east-1:111122223333:key/old"
KEY = "arn:aws:kms:us-east-1:111122223333:key/new"
CHAIN = "cd" * 16
PAST_MS = 300_000


def target(**changes: Any) -> Target:
    values: dict[str, Any] = {
        "tenant": "acme",
        "generation": 2,
        "min_generation": 1,
        "policy_version": 7,
        "kms_key": KEY,
        "kms_keys": (KEY, OLD_KEY),
        "request_past_ms": PAST_MS,
    }
    return Target(**values | changes)


def key_id(number: int) -> str:
    return f"key-{number:032x}"


def record(number: int, *, version: int = 1, generation: int = 1, kms_key: str = KEY, label: str = "hot") -> RecordRow:
    header = Header(
        tenant="acme",
        key_id=key_id(number),
        node_id="node-1",
        kind=RecordKind.SIGNING_KEY,
        algorithm=Algorithm.SECP256K1,
        public_key="02" * 33,
        version=version,
        generation=generation,
        labels=[label],
        state=KeyState.ACTIVE,
        delete_after=0,
        kms_key_arn=kms_key,
        created_at=1,
    )
    blob = b"blob %d of %d" % (version, number)
    return RecordRow(header=header, record=Record(encode_header(header), blob, b"wrapped"))


class FakeService:
    """Carries a reseal out as the service would, and remembers what it was asked. `before`: called with each request;
    it may raise what the client would raise. `after`: called once the record is durable, before the answer."""

    def __init__(self, database: Database) -> None:
        self.asked: list[bytes] = []
        self.before: Callable[[Reseal], None] = lambda body: None
        self.after: Callable[[Reseal], None] = lambda body: None
        self.most_at_once = 0
        self.most_in_call = 0
        self._at_once = 0
        self._database = database
        self._batcher = AuditBatcher(database)
        self._sequence = 0

    def receipt(self, request: str) -> ReceiptRow:
        self._sequence += 1
        return ReceiptRow(
            chain=CHAIN,
            sequence=self._sequence,
            envelope=b"{}",
            body_hash=sha256(b"%d" % self._sequence),
            tenant="acme",
            request_id=request,
            time=1,
            decision="allow",
            code="",
        )

    async def fill(self, rows: list[RecordRow]) -> None:
        await asyncio.gather(
            *(self._batcher.commit(Outcome(receipt=self.receipt("r-seeded00"), record=row)) for row in rows)
        )

    async def batch(self, raws: Sequence[bytes]) -> list[Any]:
        self.most_in_call = max(self.most_in_call, len(raws))
        return list(await asyncio.gather(*map(self.repeat, raws), return_exceptions=True))

    async def repeat(self, raw: bytes) -> Any:
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            await asyncio.sleep(0)
            return await self._reseal(raw)
        except RefusedError:
            raise
        except AdytumError as error:
            raise UnreachableError(error.code) from None
        finally:
            self._at_once -= 1

    async def _reseal(self, raw: bytes) -> Any:
        body = parse_body(raw)
        assert isinstance(body, Reseal)
        self.asked.append(raw)
        self.before(body)
        rows = await self._database.fetch(
            "SELECT version, header FROM key_envelopes WHERE key_id = $1 ORDER BY version DESC LIMIT 1", body.key_id
        )
        old = msgspec.json.decode(rows[0]["header"], type=Header)
        new = msgspec.structs.replace(old, version=old.version + 1, generation=2, kms_key_arn=KEY)
        row = RecordRow(header=new, record=Record(encode_header(new), raw[-40:], b"wrapped"))
        receipt = self.receipt(body.request_id)
        request = RequestRow(
            tenant="acme",
            request_id=body.request_id,
            body_hash=sha256(raw),
            stamp_key=b"k" * 32,
            operation="reseal",
            result=b"{}",
            receipt=b"{}",
        )
        try:
            await self._batcher.commit(Outcome(receipt=receipt, request=request, record=row))
        except AdytumError as error:
            if error.code.retryable:
                raise UnreachableError(error.code, request_id=body.request_id, body=raw) from None
            raise RefusedError(error.code, error.field, status=error.code.http_status) from None
        self.after(body)
        return None


def worker(database: Database, service: FakeService, **options: Any) -> Worker:
    def what(job: Job) -> Target:
        return target(generation=job.generation, kms_key=job.kms_key_id)

    values: dict[str, Any] = {"now_ms": lambda: 1_000_000, "poll_s": 0.02, "lease_s": 30.0} | options
    return Worker(
        database=database,
        queue=Queue(),
        resealer=lambda _tenant: service,
        target=what,
        identity=uuid.uuid4(),
        **values,
    )


async def work(database: Database, service: FakeService, **options: Any) -> Worker:
    """One worker until no job runs."""
    one = worker(database, service, **options)
    async with asyncio.timeout(90):
        await one.run(asyncio.Event(), until_done=True)
    return one


def refusal(code: Code, field: str = "") -> RefusedError:
    return RefusedError(code, field, status=code.http_status)


def away(code: Code = Code.KMS_UNAVAILABLE) -> UnreachableError:
    return UnreachableError(code)


__all__ = ["FakeService", "away", "key_id", "record", "refusal", "request_id", "target", "work", "worker"]
