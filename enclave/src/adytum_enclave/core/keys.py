"""A wallet key in memory: one secret in a slot, its public key, and signing that checks itself.

Every signature is verified by the public key before it is returned: a fault (a flipped bit, an induced glitch) in
deterministic signing would otherwise give the secret away. The check costs about as much as the signature again.

Left out: which content may be signed, and hashing it. A key belongs to one thread, like its arena.

>>> arena = Arena(4096)
>>> def fill(view): view[:] = bytes([7]) * len(view)    # the randomness port; the enclave's is the NSM and the kernel
>>> key = generate(Algorithm.SECP256K1, arena, fill)
>>> len(key.sign(SigningScheme.ECDSA_SECP256K1, bytes(32), aux=b""))
65
>>> key.wipe()
>>> arena.in_use
0
"""

from __future__ import annotations

from typing import Final, Protocol

from adytum_enclave.core.crypto import ed25519, p256, secp256k1
from adytum_enclave.core.entropy import Fill
from adytum_enclave.core.secrets import Arena, Slot, Wiped
from adytum_wire.errors import AdytumError, Code
from adytum_wire.types import Algorithm, SigningScheme

SECRET_SIZE: Final = 32  # bytes, for every algorithm
_ATTEMPTS: Final = 16  # a random scalar is refused with probability 2^-32 at most; a broken source is refused for good


class _Pair(Protocol):
    """What an algorithm does with a secret that the key owns."""

    public_key: bytes

    def sign(self, scheme: SigningScheme, payload: bytes, aux: bytes, tweak: bytes) -> bytes | None:
        """The signature, None when it does not verify. Errors: REQUEST_INVALID for a scheme of another algorithm."""

    def wipe(self) -> None: ...


class WalletKey(Wiped):
    """One key pair. Make it with `generate` or `load`; `wipe` it, or use it as a context manager."""

    __slots__ = ("_pair", "algorithm", "public_key", "secret")

    def __init__(self, algorithm: Algorithm, secret: Slot, pair: _Pair) -> None:
        self.algorithm: Final = algorithm
        self.secret: Final = secret
        self.public_key: Final = pair.public_key
        self._pair: _Pair | None = pair

    def sign(self, scheme: SigningScheme, payload: bytes, *, aux: bytes = b"", tweak: bytes = b"") -> bytes:
        """Sign and verify. `payload`: the 32-byte digest for `ecdsa-*`, the 32-byte message for `bip340`, the whole
        message for `ed25519`. `aux`: 32 bytes of auxiliary randomness for `bip340`, unused by the others. `tweak`: for
        `bip340`, 32 bytes that BIP-341 adds to the secret first (the signature verifies under the output key).

        Result: r||s||v (65 bytes) for ecdsa-secp256k1, else 64 bytes.
        Errors: REQUEST_INVALID "$.scheme" for a scheme that the algorithm does not have; INTERNAL for a wrong length, a
        wiped key, or a signature that does not verify (nothing of it leaves).
        """
        if self._pair is None:
            raise AdytumError(Code.INTERNAL)
        if tweak and scheme is not SigningScheme.BIP340:
            raise AdytumError(Code.INTERNAL)
        signature = self._pair.sign(scheme, payload, aux, tweak)
        if signature is None:
            raise AdytumError(Code.INTERNAL)
        return signature

    def wipe(self) -> None:
        """Wipe the secret and all that was derived from it. A second call does nothing."""
        pair, self._pair = self._pair, None
        if pair is not None:
            pair.wipe()
        self.secret.wipe()

    def __repr__(self) -> str:
        return f"<WalletKey {self.algorithm.value} {self.public_key.hex()}>"


def generate(algorithm: Algorithm, arena: Arena, fill: Fill) -> WalletKey:
    """A fresh key in `arena`. Errors: RESOURCE_EXHAUSTED; INTERNAL when `fill` never yields a valid scalar, or for
    algorithm `none`. No slot stays taken then."""
    for _ in range(_ATTEMPTS):
        secret = arena.take(SECRET_SIZE)
        try:
            fill(secret.view)
        except BaseException:
            secret.wipe()
            raise
        pair = _open(algorithm, secret)
        if pair is not None:
            return WalletKey(algorithm, secret, pair)
    raise AdytumError(Code.INTERNAL)


def load(algorithm: Algorithm, secret: Slot, *, code: Code) -> WalletKey:
    """The key of a 32-byte secret. Takes ownership of `secret`, also when it refuses: the slot is wiped then.

    Errors: `code` for a wrong size, an invalid scalar, or algorithm `none` (RECORD_TAMPERED for what was unsealed,
    REQUEST_INVALID for what a client sent); RESOURCE_EXHAUSTED.
    """
    pair = _open(algorithm, secret)
    if pair is None:
        raise AdytumError(code)
    return WalletKey(algorithm, secret, pair)


def _open(algorithm: Algorithm, secret: Slot) -> _Pair | None:
    """The pair of a secret, or None when there is none. Unless it returns a pair, the secret is wiped."""
    pair: _Pair | None = None
    try:
        if secret.size != SECRET_SIZE:
            return None
        if algorithm is Algorithm.SECP256K1:
            pair = _Secp256k1(secret) if secp256k1.is_valid_secret(secret) else None
        elif algorithm is Algorithm.ED25519:
            pair = _Ed25519(secret)
        elif algorithm is Algorithm.P256:
            key = p256.load(secret)
            pair = _P256(key) if key is not None else None
        return pair
    finally:
        if pair is None:
            secret.wipe()


def _refuse_scheme() -> AdytumError:
    return AdytumError(Code.REQUEST_INVALID, "$.scheme")


class _Secp256k1:
    """The BIP-340 keypair (128 bytes of arena) is made at the first BIP-340 signature and kept."""

    __slots__ = ("_keypair", "_secret", "_verifier", "public_key")

    def __init__(self, secret: Slot) -> None:
        self._secret = secret
        self._keypair: Slot | None = None
        self.public_key = secp256k1.public_key(secret)
        self._verifier = secp256k1.Verifier(self.public_key)

    def sign(self, scheme: SigningScheme, payload: bytes, aux: bytes, tweak: bytes) -> bytes | None:
        if scheme is SigningScheme.ECDSA_SECP256K1:
            signature = secp256k1.sign_ecdsa(self._secret, payload)
            # The recovery id is not covered by a verification, so it is recovered; that checks r and s as well.
            return signature if secp256k1.recover(payload, signature) == self.public_key else None
        if scheme is SigningScheme.BIP340 and tweak:
            with secp256k1.make_keypair(self._secret) as pair:
                output = secp256k1.tweak_keypair(pair, tweak)
                signature = secp256k1.sign_bip340_with(pair, payload, aux)
            return signature if secp256k1.verify_bip340(output, payload, signature) else None
        if scheme is SigningScheme.BIP340:
            if self._keypair is None:
                self._keypair = secp256k1.make_keypair(self._secret)
            signature = secp256k1.sign_bip340_with(self._keypair, payload, aux)
            return signature if self._verifier.bip340(payload, signature) else None
        raise _refuse_scheme()

    def wipe(self) -> None:
        if self._keypair is not None:
            self._keypair.wipe()


class _Ed25519:
    __slots__ = ("_expanded", "public_key")

    def __init__(self, secret: Slot) -> None:
        self._expanded, self.public_key = ed25519.expand(secret)

    def sign(self, scheme: SigningScheme, payload: bytes, aux: bytes, tweak: bytes) -> bytes | None:
        if scheme is not SigningScheme.ED25519:
            raise _refuse_scheme()
        signature = ed25519.sign_with(self._expanded, payload)
        return signature if ed25519.verify(self.public_key, payload, signature) else None

    def wipe(self) -> None:
        self._expanded.wipe()


class _P256:
    __slots__ = ("_key", "_verifier", "public_key")

    def __init__(self, key: p256.PrivateKey) -> None:
        self._key: p256.PrivateKey | None = key
        self.public_key = p256.public_key(key)
        self._verifier = p256.Verifier(self.public_key)

    def sign(self, scheme: SigningScheme, payload: bytes, aux: bytes, tweak: bytes) -> bytes | None:
        if scheme is not SigningScheme.ECDSA_P256:
            raise _refuse_scheme()
        if self._key is None:
            raise AdytumError(Code.INTERNAL)
        signature = p256.sign(self._key, payload)
        return signature if self._verifier.ecdsa(payload, signature) else None

    def wipe(self) -> None:
        self._key = None  # the last reference: OpenSSL overwrites its copy and frees it
