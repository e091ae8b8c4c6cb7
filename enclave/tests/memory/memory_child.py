"""The process that test_memory_scan.py looks into: uses secrets, wipes them, tells its parent and waits for a byte.

Arguments: scenario, 64 hex digits of a master seed. Every secret is drawn in native code, straight into a slot, from
SHA-256(master || label); so the parent can compute it and this process never has it as `bytes`.
After each stage it writes one JSON line: the stage, the arena's kind, the address of the slot that a control left
alone. It pauses right after the operation, before other work can overwrite what the operation left on the stack.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys

from nacl._sodium import ffi, lib

from adytum_enclave.core import envelope, hpke, keys
from adytum_enclave.core.crypto import p256, secp256k1
from adytum_enclave.core.secrets import Arena
from adytum_enclave.core.warmup import warm_up
from adytum_wire.errors import Code
from adytum_wire.types import Algorithm, SigningScheme

ROUNDS = 3
MESSAGE = bytes(range(32))
AUX = bytes(range(32, 64))
SCHEMES = {
    "ecdsa": (Algorithm.SECP256K1, SigningScheme.ECDSA_SECP256K1),
    "bip340": (Algorithm.SECP256K1, SigningScheme.BIP340),
    "p256": (Algorithm.P256, SigningScheme.ECDSA_P256),
    "ed25519": (Algorithm.ED25519, SigningScheme.ED25519),
}


def fill_of(master: bytes, label: str) -> keys.Fill:
    seed = hashlib.sha256(master + label.encode()).digest()

    def fill(view: memoryview) -> None:
        lib.randombytes_buf_deterministic(ffi.from_buffer(view), len(view), seed)

    return fill


def pause(line: bytes) -> None:
    os.write(1, line)
    os.read(0, 1)


def say(arena: Arena, stage: str, address: int = 0) -> bytes:
    return json.dumps({"stage": stage, "kind": arena.kind, "address": address}).encode() + b"\n"


def sign(arena: Arena, master: bytes) -> None:
    for label, (algorithm, scheme) in SCHEMES.items():
        line, fill = say(arena, label), fill_of(master, label)
        for _ in range(ROUNDS):
            with keys.generate(algorithm, arena, fill) as key:
                key.sign(scheme, MESSAGE, aux=AUX)
        pause(line)


def load(arena: Arena, master: bytes) -> None:
    for label, (algorithm, _) in SCHEMES.items():
        line = say(arena, f"load {label}")
        secret = arena.take(32)
        fill_of(master, label)(secret.view)
        with keys.load(algorithm, secret, code=Code.RECORD_TAMPERED):
            pass
        pause(line)


def bare(arena: Arena, master: bytes) -> None:
    """P-256 without the verification that a WalletKey adds: what crypto/p256.py promises by itself."""
    line = say(arena, "bare load")
    with arena.take(32) as secret:
        fill_of(master, "p256")(secret.view)
        key = p256.load(secret)
    assert key is not None
    del key
    pause(line)
    line = say(arena, "bare sign")
    with arena.take(32) as secret:
        fill_of(master, "p256")(secret.view)
        key = p256.load(secret)
    assert key is not None
    p256.sign(key, MESSAGE)
    del key
    pause(line)


def seal(arena: Arena, master: bytes) -> None:
    line = say(arena, "seal")
    with arena.take(32) as data_key, arena.take(32) as secret:
        fill_of(master, "data key")(data_key.view)
        fill_of(master, "record")(secret.view)
        blob = envelope.seal(b"header", secret, data_key, nonce=bytes(12), arena=arena)
    pause(line)
    line = say(arena, "open")
    with arena.take(32) as data_key:
        fill_of(master, "data key")(data_key.view)
        envelope.open_blob(b"header", blob, data_key, arena).wipe()
    pause(line)


def exchange(arena: Arena, master: bytes) -> None:
    line = say(arena, "hpke seal")
    key = hpke.generate_keypair(arena, fill_of(master, "recipient"))
    key.wipe()
    with arena.take(100) as secret:
        fill_of(master, "plaintext")(secret.view)
        ephemeral = fill_of(master, "ephemeral")
        enc, sealed = hpke.seal_to(key.public_key, secret, info=b"i", aad=b"a", arena=arena, fill=ephemeral)
    pause(line)
    line = say(arena, "hpke open")
    key = hpke.generate_keypair(arena, fill_of(master, "recipient"))
    hpke.open_sealed(key, enc, sealed, info=b"i", aad=b"a", arena=arena).wipe()
    key.wipe()
    pause(line)


def main(scenario: str, master: bytes) -> None:
    arena = Arena(65536, prefer_memfd_secret=scenario.endswith("memfd"))
    warm_up(arena, fill_of(b"", "warm-up"))
    if scenario == "all":
        sign(arena, master)
        load(arena, master)
        bare(arena, master)
        seal(arena, master)
        exchange(arena, master)
        assert arena.in_use == 0
        pause(say(arena, "end"))
    elif scenario in ("control-unwiped", "control-unwiped-memfd"):
        kept = arena.take(32)
        fill_of(master, "ecdsa")(kept.view)
        secp256k1.sign_ecdsa(kept, MESSAGE)
        pause(say(arena, scenario, kept.pointer))
    elif scenario == "control-openssl":  # P-256 without the dummy that follows each signature
        with arena.take(32) as slot:
            fill_of(master, "p256")(slot.view)
            key = p256.load(slot)
        assert key is not None
        key.sign(MESSAGE, p256._scheme())
        pause(say(arena, scenario))
    else:
        with arena.take(32) as slot:
            fill_of(master, "ecdsa")(slot.view)
            copies: dict[str, object] = {
                "control-bytes": bytes(slot.view),
                "control-reversed": bytes(slot.view)[::-1],
                "control-int": int.from_bytes(slot.view, "big"),
            }
        alone = copies.pop(scenario)
        copies.clear()
        pause(say(arena, scenario))
        del alone


if __name__ == "__main__":
    main(sys.argv[1], bytes.fromhex(sys.argv[2]))
