"""The bare primitives that a signing request needs, timed in this process by the libraries that the enclave uses.

Each number is microseconds of this thread's processor time for one call, the median of several short runs. They are
measured before and after each scenario, because the machines on which this runs are noisy: only the ratio of two
numbers from the same minute says something.

>>> sorted(measure(batch=20, runs=1))[:3]
['ed25519-sign', 'ed25519-verify', 'hmac-sha256']
"""

from __future__ import annotations

import hashlib
import hmac
import statistics
import time
from collections.abc import Callable
from typing import Final

from adytum_enclave.core import keys
from adytum_enclave.core.crypto import ed25519, p256, secp256k1
from adytum_enclave.core.secrets import Arena
from adytum_enclave.shell.entropy import fill
from adytum_wire import signatures
from adytum_wire.types import Algorithm, Scheme, SigningScheme

MESSAGE: Final = b"m" * 400  # about as long as a stamped body
_DIGEST: Final = hashlib.sha256(MESSAGE).digest()
_GROUP: Final = 64  # receipts that share a signature at depth 64

_STAMPS: Final = {
    Scheme.ED25519: "ed25519-verify",
    Scheme.P256: "p256-verify",
    Scheme.SECP256K1: "secp256k1-verify",
}
# What a signature costs: to make it, and to check one's own work.
_SIGNATURES: Final = {
    SigningScheme.ECDSA_SECP256K1: ("secp256k1-sign", "secp256k1-recover"),
    SigningScheme.BIP340: ("bip340-sign", "bip340-verify"),
    SigningScheme.ED25519: ("ed25519-sign", "ed25519-verify"),
    SigningScheme.ECDSA_P256: ("p256-sign", "p256-verify"),
}


def measure(*, batch: int = 200, runs: int = 5) -> dict[str, float]:
    """Name -> microseconds of processor time a call. About a third of a second with the defaults."""
    return {name: _time(call, batch, runs) for name, call in _calls().items()}


def needed(prices: dict[str, float], stamp: Scheme, scheme: SigningScheme, depth: int) -> float:
    """Microseconds that the primitives of one warm request take: verify the stamp, sign, verify the own signature, and
    this request's part of a receipt signature that up to `depth` requests share."""
    sign, check = _SIGNATURES[scheme]
    group = min(depth, _GROUP)
    return prices[_STAMPS[stamp]] + prices[sign] + prices[check] + prices["ed25519-sign"] / group


def sign_price(prices: dict[str, float], scheme: SigningScheme) -> float:
    """Microseconds of the bare signature alone."""
    return prices[_SIGNATURES[scheme][0]]


def _time(call: Callable[[], object], batch: int, runs: int) -> float:
    call()
    taken = []
    for _ in range(runs):
        start = time.thread_time_ns()
        for _ in range(batch):
            call()
        taken.append((time.thread_time_ns() - start) / batch / 1000)
    return statistics.median(taken)


def _calls() -> dict[str, Callable[[], object]]:
    arena = Arena(64 * 1024)
    secret = arena.take(keys.SECRET_SIZE)
    secret.view[:] = b"\x01" * keys.SECRET_SIZE
    pair = secp256k1.make_keypair(secret)
    point = secp256k1.public_key(secret)
    recoverable = secp256k1.sign_ecdsa(secret, _DIGEST)
    schnorr = secp256k1.sign_bip340_with(pair, _DIGEST, _DIGEST)
    verifier = secp256k1.Verifier(point)
    expanded, edwards = ed25519.expand(secret)
    edwards_signature = ed25519.sign_with(expanded, MESSAGE)
    nist = keys.generate(Algorithm.P256, arena, fill)
    nist_key = p256.load(nist.secret)
    if nist_key is None:
        raise RuntimeError("P-256 does not work here")
    nist_signature = p256.sign(nist_key, _DIGEST)
    return {
        "secp256k1-sign": lambda: secp256k1.sign_ecdsa(secret, _DIGEST),
        "secp256k1-verify": lambda: verifier.ecdsa(_DIGEST, recoverable[:64]),
        "secp256k1-recover": lambda: secp256k1.recover(_DIGEST, recoverable),
        "bip340-sign": lambda: secp256k1.sign_bip340_with(pair, _DIGEST, _DIGEST),
        "bip340-verify": lambda: verifier.bip340(_DIGEST, schnorr),
        "ed25519-sign": lambda: ed25519.sign_with(expanded, MESSAGE),
        "ed25519-verify": lambda: ed25519.verify(edwards, MESSAGE, edwards_signature),
        "p256-sign": lambda: p256.sign(nist_key, _DIGEST),
        "p256-verify": lambda: signatures.is_valid(Scheme.P256, nist.public_key, MESSAGE, nist_signature),
        "hmac-sha256": lambda: hmac.digest(_DIGEST, MESSAGE, "sha256"),
    }
