"""The data key of usage snapshots: in the arena and nowhere else, and gone with the boot.

The snapshot is opened here by other people's libraries, written from spec/usage.md (U-6, U-7) alone.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from limited import open_limited
from memory import found, require_readable
from outsider import opened

from adytum_sim.stack import TENANT
from adytum_wire.messages import ExecuteReply


async def test_the_snapshots_data_key_is_in_the_arena_only(short_directory: Path) -> None:
    async with open_limited(short_directory, "host", most=100) as limited:
        require_readable(limited)  # type: ignore[arg-type]  # it looks at the stack only
        for _ in range(20):
            assert isinstance(await limited.sign(), ExecuteReply)
        header, blob, encrypted = msgspec.msgpack.decode(limited.stored)
        kind = {"adytum:tenant": TENANT, "adytum:key": "usage", "adytum:kind": "usage", "adytum:version": "1"}
        data_key = opened(limited.stack, limited.stack.key_arn, kind, encrypted)
        derived = HKDF(hashes.SHA256(), 64, b"adytum/usage/v1", hashlib.sha256(header).digest()).derive(data_key)
        assert blob[:32] == derived[32:]
        state = msgspec.msgpack.decode(AESGCM(derived[:32]).decrypt(blob[32:44], blob[44:], header))
        assert state[0:2] == [1, 5]
        assert [(c[0], c[1], c[2], sum(int.from_bytes(n, "big") for _, n in c[3])) for c in state[6]] == [
            ("daily", "tenant", 3_600_000, 20)
        ]
        assert len(state[7]) == 20
        hits = found(limited, {"data key": data_key, "derived key": derived[:32]})  # type: ignore[arg-type]
        # memfd_secret hides the arena even from root; a locked mapping shows the data key once.
        assert {hit.name.split("/")[0] for hit in hits} <= {"data key"}
        assert len({hit.address // 4096 for hit in hits}) <= 1
        await limited.restart()
        assert found(limited, {"data key": data_key}) == []  # type: ignore[arg-type]
