"""Many sealed records at once: made in this process with the enclave's own envelope and the stand-in KMS's own keys,
and copied straight into PostgreSQL. About a millisecond a record, where asking enclave and KMS takes twenty.

Only a stand-in can do that: it takes the KMS's key material. What comes out is what an enclave would have made.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import asyncpg
import msgspec

from adytum.storage.rows import to_base64
from adytum_enclave.core import envelope, keys
from adytum_enclave.core.secrets import Arena
from adytum_sim.kms import keys as kms_keys
from adytum_sim.stack import TENANT, Stack
from adytum_wire.record import Header, Record, encode_header, encryption_context
from adytum_wire.types import Algorithm, KeyState, RecordKind, derive_key_id

_CHUNK = 2000
_ARENA = 64 * 1024


@dataclass(frozen=True, slots=True)
class Seeded:
    """One record, version 1."""

    header: Header
    record: Record

    @property
    def key_id(self) -> str:
        return self.header.key_id


def fill(target: memoryview) -> None:
    """The kernel's randomness."""
    target[:] = os.urandom(len(target))


def make_records(
    stack: Stack, count: int, *, label: str, generation: int = 1, kms_key: str = "", first: int = 0
) -> Iterator[Seeded]:
    """`count` secp256k1 keys of the stack's tenant, sealed under `kms_key` (default: the stack's)."""
    arn = kms_key or stack.key_arn
    kms_key_ = stack.kms.service.state.keys[arn.rsplit("/", 1)[1]]
    arena, now_ms = Arena(_ARENA), stack.now_ms()
    for number in range(first, first + count):
        with keys.generate(Algorithm.SECP256K1, arena, fill) as key:
            header = Header(
                tenant=TENANT,
                key_id=derive_key_id(TENANT, f"seeded-{number:09d}"),
                node_id="node-1",
                kind=RecordKind.SIGNING_KEY,
                algorithm=Algorithm.SECP256K1,
                public_key=key.public_key.hex(),
                version=1,
                generation=generation,
                labels=[label],
                state=KeyState.ACTIVE,
                delete_after=0,
                kms_key_arn=arn,
                created_at=now_ms,
            )
            header_bytes = encode_header(header)
            with arena.take(envelope.DATA_KEY_SIZE) as data_key:
                fill(data_key.view)
                nonce = os.urandom(envelope.NONCE_SIZE)
                blob = envelope.seal(header_bytes, key.secret, data_key, nonce=nonce, arena=arena)
                sealed = kms_keys.seal(kms_key_, bytes(data_key.view), encryption_context(header), os.urandom)
        yield Seeded(header, Record(header_bytes, blob, sealed))


async def seed(dsn: str, records: Iterator[Seeded]) -> list[str]:
    """Copy records into the database as if the service had stored them. Returns the key ids."""
    made: list[str] = []
    connection = await asyncpg.connect(dsn)
    try:
        while chunk := list(islice(records, _CHUNK)):
            await _copy(connection, chunk)
            made += [one.key_id for one in chunk]
    finally:
        await connection.close()
    return made


async def _copy(connection: asyncpg.Connection, chunk: list[Seeded]) -> None:
    key_rows: list[tuple[Any, ...]] = []
    rows: list[tuple[Any, ...]] = []
    for one in chunk:
        h, record = one.header, one.record
        labels = msgspec.json.encode(h.labels).decode()
        key_rows.append((h.key_id, h.tenant, h.public_key, str(h.algorithm), str(h.kind), "active", labels))
        blob, data_key = to_base64(record.ciphertext_blob), to_base64(record.data_key_ciphertext)
        rows.append((h.key_id, h.node_id, h.version, str(h.kind), record.header, blob, data_key, h.kms_key_arn))
    key_columns = ["key_id", "tenant", "public_key", "algorithm", "kind", "status", "labels"]
    await connection.copy_records_to_table("keys", records=key_rows, columns=key_columns)
    columns = ["key_id", "node_id", "version", "kind", "header", "ciphertext_blob", "data_key_ciphertext", "kms_key_id"]
    await connection.copy_records_to_table("key_envelopes", records=rows, columns=columns)
