"""Keys derived from a seed: BIP-32 for secp256k1, SLIP-10 for Ed25519 and P-256. All of it happens in the arena.

A `Node` is a secret and its chain code. A `Seed` keeps the seed and the last few keys that were derived from it, so
that an address in use costs no derivation; all of it is wiped together.

Left out: mnemonics (`import_file`), extended keys in any encoding, derivation from public keys.

>>> arena = Arena(4096)
>>> slot = arena.take(16)
>>> slot.view[:] = bytes(range(16))     # test vector 1 of BIP-32
>>> with Seed(slot) as seed:
...     seed.key("m/0'", Algorithm.SECP256K1).public_key.hex()
'035a784662a4a20a65bf6aab9ae98a6c068a81c52e4b032c0fb5400c706cfccc56'
>>> arena.in_use
0
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from adytum_enclave.core import keys
from adytum_enclave.core.crypto import p256, p256_scalars, secp256k1
from adytum_enclave.core.crypto.hmac512 import HASH_SIZE, hmac, hmac_named
from adytum_enclave.core.keys import SECRET_SIZE, WalletKey
from adytum_enclave.core.secrets import Arena, Slot, Wiped, copy
from adytum_wire.errors import AdytumError, Code
from adytum_wire.paths import HARDENED, parse_path
from adytum_wire.types import Algorithm

MIN_SEED: Final = 16  # bytes (BIP-32)
MAX_SEED: Final = 64  # bytes
MAX_CHILDREN: Final = 8  # derived keys that a seed keeps, 192 bytes of arena each

_CHILD: Final = 1 + SECRET_SIZE + 4  # bytes: what a child is hashed from
_MASTER: Final = {
    Algorithm.SECP256K1: b"Bitcoin seed",
    Algorithm.ED25519: b"ed25519 seed",
    Algorithm.P256: b"Nist256p1 seed",
}


class Node(Wiped):
    """An extended private key. The owner wipes it, or uses it as a context manager."""

    __slots__ = ("_chain", "_public", "_secret", "algorithm")

    def __init__(self, algorithm: Algorithm, secret: Slot, chain: Slot) -> None:
        """Takes ownership of both slots, 32 bytes each."""
        self.algorithm: Final = algorithm
        self._secret = secret
        self._chain = chain
        self._public = b""

    def public_key(self) -> bytes:
        """As in `Algorithm`."""
        if not self._public and self.algorithm is Algorithm.SECP256K1:
            self._public = secp256k1.public_key(self._secret)
        elif not self._public:
            with self.key() as key:
                self._public = key.public_key
        return self._public

    def key(self) -> WalletKey:
        """The node's key, in a slot of its own; the caller owns it."""
        secret = self._secret.arena.take(SECRET_SIZE)
        copy(self._secret.view, secret)
        return keys.load(self.algorithm, secret, code=Code.INTERNAL)

    def child(self, index: int) -> Node:
        """CKDpriv of BIP-32 and SLIP-10. `index`: with `HARDENED` added for hardened ones. The caller owns the result.

        Errors: REQUEST_INVALID "$.path" where there is no such child: an unhardened one of Ed25519, or an index that
        BIP-32 skips (once in 2^127).
        """
        hardened = index >= HARDENED
        if self.algorithm is Algorithm.ED25519 and not hardened:
            raise refuse_path()
        arena = self._secret.arena
        with arena.take(_CHILD) as data, arena.take(HASH_SIZE) as digest:
            data.view[SECRET_SIZE + 1 :] = index.to_bytes(4, "big")
            if hardened:
                copy(self._secret.view, data, 1)
            else:
                data.view[: SECRET_SIZE + 1] = self.public_key()
            hmac(self._chain, data, digest)
            while True:
                node = Node(self.algorithm, *_halves(arena, digest))
                try:
                    if self._add_to(node._secret):
                        return node
                    if self.algorithm is not Algorithm.P256:
                        raise refuse_path()
                    data.view[:1] = b"\x01"
                    copy(node._chain.view, data, 1)
                except BaseException:
                    node.wipe()
                    raise
                node.wipe()
                hmac(self._chain, data, digest)

    def descend(self, indices: Sequence[int]) -> Node:
        """The node at the end of a path that begins here. The caller owns it; this one stays. Errors: as `child`."""
        arena = self._secret.arena
        with arena.take(HASH_SIZE) as both:
            copy(self._secret.view, both)
            copy(self._chain.view, both, SECRET_SIZE)
            node = Node(self.algorithm, *_halves(arena, both))
        for index in indices:
            with node as parent:
                node = parent.child(index)
        return node

    def _add_to(self, secret: Slot) -> bool:
        """secret = secret + ours modulo the order; False when that is no child."""
        if self.algorithm is Algorithm.SECP256K1:
            # Not the other way round: the left half is the tweak, and must be below n by itself.
            with _copied(secret) as tweak:
                copy(self._secret.view, secret)
                return secp256k1.tweak_secret(secret, tweak)
        if self.algorithm is Algorithm.P256:
            return p256_scalars.add(secret, self._secret, secret)
        return True  # Ed25519's child is the left half itself

    def wipe(self) -> None:
        self._secret.wipe()
        self._chain.wipe()


class Seed(Wiped):
    """A seed in memory, and the keys last derived from it, which it owns. `wipe` it, or use it as a context manager."""

    __slots__ = ("_children", "secret")

    def __init__(self, secret: Slot) -> None:
        """Takes ownership of `secret`, also when it refuses. Errors: RECORD_TAMPERED for a size that no seed has."""
        if not MIN_SEED <= secret.size <= MAX_SEED:
            secret.wipe()
            raise AdytumError(Code.RECORD_TAMPERED)
        self.secret: Final = secret
        self._children: OrderedDict[tuple[str, Algorithm], WalletKey] = OrderedDict()

    def master(self, algorithm: Algorithm) -> Node:
        """The root; the caller owns it. Errors: REQUEST_INVALID for `none`, or a seed that has none (BIP-32)."""
        name = _MASTER.get(algorithm)
        if name is None:
            raise AdytumError(Code.REQUEST_INVALID, "$.algorithm")
        arena = self.secret.arena
        with arena.take(HASH_SIZE) as digest:
            hmac_named(name, self.secret, digest)
            while True:
                node = Node(algorithm, *_halves(arena, digest))
                try:
                    if _is_valid(algorithm, node._secret):
                        return node
                    if algorithm is not Algorithm.P256:
                        raise AdytumError(Code.REQUEST_INVALID, "$.key_id")
                except BaseException:
                    node.wipe()
                    raise
                node.wipe()
                with _copied(digest) as again:
                    hmac_named(name, again, digest)

    def node(self, path: str, algorithm: Algorithm) -> Node:
        """The node at `path` ("m/…"); the caller owns it. Errors: REQUEST_INVALID."""
        with self.master(algorithm) as master:
            return master.descend(parse_path(path))

    def key(self, path: str, algorithm: Algorithm) -> WalletKey:
        """The key at `path`. It stays the seed's: use it before the seed does anything else. Errors: REQUEST_INVALID,
        RESOURCE_EXHAUSTED."""
        name = (path, algorithm)
        key = self._children.get(name)
        if key is not None:
            self._children.move_to_end(name)
            return key
        with self.node(path, algorithm) as node:
            key = node.key()
        while len(self._children) >= MAX_CHILDREN:
            self._children.popitem(last=False)[1].wipe()
        self._children[name] = key
        return key

    def wipe(self) -> None:
        """Wipe the seed and every key that it keeps. A second call does nothing."""
        while self._children:
            self._children.popitem()[1].wipe()
        self.secret.wipe()


def derive(seed: Slot, path: str, algorithm: Algorithm) -> WalletKey:
    """The key at `path` of a seed that stays the caller's; the caller owns the key. Errors: as `Seed`."""
    with Seed(_copied(seed)) as whole, whole.node(path, algorithm) as node:
        return node.key()


def refuse_path() -> AdytumError:
    return AdytumError(Code.REQUEST_INVALID, "$.path")


def _halves(arena: Arena, digest: Slot) -> tuple[Slot, Slot]:
    secret = arena.take(SECRET_SIZE)
    try:
        chain = arena.take(SECRET_SIZE)
    except BaseException:
        secret.wipe()
        raise
    copy(digest.view[:SECRET_SIZE], secret)
    copy(digest.view[SECRET_SIZE:], chain)
    return secret, chain


def _copied(slot: Slot) -> Slot:
    found = slot.arena.take(slot.size)
    copy(slot.view, found)
    return found


def _is_valid(algorithm: Algorithm, secret: Slot) -> bool:
    """True when 0 < secret < n; Ed25519 takes any."""
    if algorithm is Algorithm.SECP256K1:
        return secp256k1.is_valid_secret(secret)
    return algorithm is Algorithm.ED25519 or p256.load(secret) is not None
