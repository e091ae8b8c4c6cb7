"""Call every primitive once with dummies, before the first secret exists.

The dynamic linker resolves a native function at its first call and then spills the registers, which can hold a key, to
the stack. Calling each primitive with dummies first takes away most of that, not all: the first call of any function
after an operation may spill what the operation left in the registers. So the program is started with LD_BIND_NOW=1, and
this is the second belt. It also blinds libsecp256k1's context, and finds out at the start whether the libraries work.
"""

from __future__ import annotations

from typing import Final

from adytum_enclave.core import envelope, hd, hpke, keys
from adytum_enclave.core.crypto import secp256k1
from adytum_enclave.core.entropy import Fill
from adytum_enclave.core.secrets import Arena, equal
from adytum_wire.errors import AdytumError, Code
from adytum_wire.types import Algorithm, SigningScheme

_SCHEMES: Final = (
    (Algorithm.SECP256K1, SigningScheme.ECDSA_SECP256K1),
    (Algorithm.SECP256K1, SigningScheme.BIP340),
    (Algorithm.P256, SigningScheme.ECDSA_P256),
    (Algorithm.ED25519, SigningScheme.ED25519),
)
_HEADER: Final = b"warm-up"


def warm_up(arena: Arena, fill: Fill) -> None:
    """Generate, load, sign, seal, open, derive, HPKE, each with fresh dummies that are wiped. About two milliseconds.

    Errors: INTERNAL when a primitive does not give back what went in, RESOURCE_EXHAUSTED. No slot stays taken.
    """
    secp256k1.randomise(arena, fill)
    for algorithm, scheme in _SCHEMES:
        with keys.generate(algorithm, arena, fill) as key:
            key.sign(scheme, bytes(32), aux=bytes(32))
            _seal_and_open(key, arena, fill)
    for algorithm in (Algorithm.SECP256K1, Algorithm.ED25519, Algorithm.P256):
        with arena.take(32) as seed:
            fill(seed.view)
            hd.derive(seed, "m/0'", algorithm).wipe()
    _exchange(arena, fill)


def _seal_and_open(key: keys.WalletKey, arena: Arena, fill: Fill) -> None:
    with arena.take(envelope.DATA_KEY_SIZE) as data_key:
        fill(data_key.view)
        blob = envelope.seal(_HEADER, key.secret, data_key, nonce=bytes(envelope.NONCE_SIZE), arena=arena)
        opened = envelope.open_blob(_HEADER, blob, data_key, arena)
    with keys.load(key.algorithm, opened, code=Code.INTERNAL) as again:
        if again.public_key != key.public_key:
            raise AdytumError(Code.INTERNAL)


def _exchange(arena: Arena, fill: Fill) -> None:
    key = hpke.generate_keypair(arena, fill)
    with key.secret, arena.take(32) as secret:
        fill(secret.view)
        enc, ciphertext = hpke.seal_to(key.public_key, secret, info=_HEADER, aad=b"", arena=arena, fill=fill)
        with hpke.open_sealed(key, enc, ciphertext, info=_HEADER, aad=b"", arena=arena) as opened:
            if not equal(opened.view, secret.view):
                raise AdytumError(Code.INTERNAL)
