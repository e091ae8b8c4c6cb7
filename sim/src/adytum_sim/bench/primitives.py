"""The bare primitives that a signing request needs, timed in this process by the libraries that the enclave uses.

Each number is microseconds of this thread's processor time for one call, the median of several short runs. They are
measured before and after each round of load, because the machines on which this runs are noisy: only the ratio of two
numbers from the same second says something.

>>> sorted(Primitives(batch=20).measure(runs=1))[:3]
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
from adytum_enclave.core.chain import MAX_GROUP
from adytum_enclave.core.crypto import ed25519, p256, secp256k1
from adytum_enclave.core.secrets import Arena
from adytum_sim.bench.workload import StampBy
from adytum_wire import signatures
from adytum_wire.types import Scheme, SigningScheme

_MESSAGE_SIZE: Final = 400  # bytes, about as long as a stamped body
_GROUP: Final = MAX_GROUP  # receipts that share a signature at depth 64

_STAMPS: Final = {
    StampBy.ED25519: "ed25519-verify",
    StampBy.P256: "p256-verify",
    StampBy.SECP256K1: "secp256k1-verify",
    StampBy.SESSION: "hmac-sha256",
}
# What a signature costs: to make it, and to check one's own work.
_SIGNATURES: Final = {
    SigningScheme.ECDSA_SECP256K1: ("secp256k1-sign", "secp256k1-recover"),
    SigningScheme.BIP340: ("bip340-sign", "bip340-verify"),
    SigningScheme.ED25519: ("ed25519-sign", "ed25519-verify"),
    SigningScheme.ECDSA_P256: ("p256-sign", "p256-verify"),
}


class Primitives:
    """Inputs prepared once; `measure` may be called often."""

    def __init__(self, *, batch: int = 60) -> None:
        self._batch = batch
        self._calls = _calls(batch)

    def measure(self, *, runs: int = 5) -> dict[str, float]:
        """Name -> microseconds of processor time a call, the median of `runs`. Takes a tenth of a second."""
        return {name: _time(call, self._batch, runs) for name, call in self._calls.items()}


def needed(prices: dict[str, float], stamp: StampBy, scheme: SigningScheme, depth: int) -> float:
    """Microseconds that the primitives of one warm request take: verify the stamp, sign, verify the own signature, and
    this request's part of a receipt signature that up to `depth` requests share."""
    sign, check = _SIGNATURES[scheme]
    group = min(depth, _GROUP)
    return prices[_STAMPS[stamp]] + prices[sign] + prices[check] + prices["ed25519-sign"] / group


def sign_price(prices: dict[str, float], scheme: SigningScheme) -> float:
    """Microseconds of the bare signature alone."""
    return prices[_SIGNATURES[scheme][0]]


def _time(call: Callable[[int], object], batch: int, runs: int) -> float:
    call(0)
    taken = []
    for _ in range(runs):
        start = time.thread_time_ns()
        for at in range(batch):
            call(at)
        taken.append((time.thread_time_ns() - start) / batch / 1000)
    return statistics.median(taken)


def _calls(count: int) -> dict[str, Callable[[int], object]]:
    """Name -> a call with the input of that number. Inputs differ: on one that repeats, the processor's branch
    prediction learns the way through a variable-time verification, and it looks a tenth faster than it is."""
    arena = Arena(64 * 1024)
    secret = arena.take(keys.SECRET_SIZE)
    secret.view[:] = b"\x01" * keys.SECRET_SIZE
    pair = secp256k1.make_keypair(secret)
    verifier = secp256k1.Verifier(secp256k1.public_key(secret))
    expanded, edwards = ed25519.expand(secret)
    nist = p256.load(secret)
    if nist is None:
        raise RuntimeError("P-256 does not work here")
    point = p256.public_key(nist)

    messages = [at.to_bytes(2, "big") * (_MESSAGE_SIZE // 2) for at in range(count)]
    digests = [hashlib.sha256(message).digest() for message in messages]
    recoverable = [secp256k1.sign_ecdsa(secret, digest) for digest in digests]
    schnorr = [secp256k1.sign_bip340_with(pair, digest, digest) for digest in digests]
    edwards_signed = [ed25519.sign_with(expanded, message) for message in messages]
    nist_signed = [p256.sign(nist, digest) for digest in digests]
    return {
        "secp256k1-sign": lambda at: secp256k1.sign_ecdsa(secret, digests[at]),
        "secp256k1-verify": lambda at: verifier.ecdsa(digests[at], recoverable[at][:64]),
        "secp256k1-recover": lambda at: secp256k1.recover(digests[at], recoverable[at]),
        "bip340-sign": lambda at: secp256k1.sign_bip340_with(pair, digests[at], digests[at]),
        "bip340-verify": lambda at: verifier.bip340(digests[at], schnorr[at]),
        "ed25519-sign": lambda at: ed25519.sign_with(expanded, messages[at]),
        "ed25519-verify": lambda at: ed25519.verify(edwards, messages[at], edwards_signed[at]),
        "p256-sign": lambda at: p256.sign(nist, digests[at]),
        "p256-verify": lambda at: signatures.is_valid(Scheme.P256, point, messages[at], nist_signed[at]),
        "hmac-sha256": lambda at: hmac.digest(digests[at], messages[at], "sha256"),
    }
