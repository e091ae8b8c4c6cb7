"""Bitcoin addresses and the output scripts they stand for, and the scripts that a single key can spend.

    script_of("bc1q...")            the script, 22 to 42 bytes, of an address of any of the networks
    address_of_script(script, MAINNET)
    own_scripts(public_key)         P2WPKH, P2SH-P2WPKH and P2TR (key path, BIP-86) of one key

BIP-341 adds points. `cryptography` cannot, so `add_tweak` is slow (1 ms); who has a curve library gives its own.

Sources: BIP-13, BIP-141, BIP-173, BIP-341, BIP-350, BIP-86.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

from cryptography.hazmat.primitives.asymmetric import ec

from adytum_policy.content import base58, bech32
from adytum_policy.content.ripemd160 import ripemd160

_FIELD = 2**256 - 2**32 - 977


class BitcoinAddressError(ValueError):
    """Text that is no address, or a key that is no point. Carries no data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    name: str
    prefix: str
    key_hash: int
    script_hash: int


MAINNET = Network(name="mainnet", prefix="bc", key_hash=0x00, script_hash=0x05)
TESTNET = Network(name="testnet", prefix="tb", key_hash=0x6F, script_hash=0xC4)
REGTEST = Network(name="regtest", prefix="bcrt", key_hash=0x6F, script_hash=0xC4)
NETWORKS = (MAINNET, TESTNET, REGTEST)


# (x of a point, 32 bytes; tweak, 32 bytes) -> x of the point with that x and even y, plus tweak times the generator;
# None for an x that is on no point, or a tweak that is not below the order.
AddTweak: TypeAlias = Callable[[bytes, bytes], bytes | None]


class OwnScripts:
    """What one key can spend alone. Each is computed when it is asked for first: a claim of a PSBT is about one."""

    __slots__ = ("_add_tweak", "_nested", "_output", "_redeem", "public_key")

    def __init__(self, public_key: bytes, add_tweak: AddTweak) -> None:
        self.public_key = public_key
        self._add_tweak = add_tweak
        self._redeem = self._nested = self._output = b""

    @property
    def redeem(self) -> bytes:
        """The script behind `nested`."""
        if not self._redeem:
            self._redeem = b"\x00\x14" + hash160(self.public_key)
        return self._redeem

    @property
    def segwit(self) -> bytes:
        return self.redeem

    @property
    def nested(self) -> bytes:
        if not self._nested:
            self._nested = b"\xa9\x14" + hash160(self.redeem) + b"\x87"
        return self._nested

    @property
    def internal(self) -> bytes:
        """The x-only public key that the tweak is added to."""
        return self.public_key[1:]

    @property
    def tweak(self) -> bytes:
        """What BIP-341 adds to the private key (32 bytes) for `taproot`, a key path without scripts (BIP-86)."""
        return tagged_hash("TapTweak", self.internal)

    @property
    def taproot(self) -> bytes:
        """Errors: BitcoinAddressError for a key that is no point."""
        if not self._output:
            output = self._add_tweak(self.internal, self.tweak)
            if output is None:
                raise BitcoinAddressError
            self._output = b"\x51\x20" + output
        return self._output


def sha256d(data: bytes) -> bytes:
    return hashlib.sha256(hashlib.sha256(data).digest()).digest()


def hash160(data: bytes) -> bytes:
    """By OpenSSL where it has RIPEMD-160: a hundred times faster, and a PSBT may ask for a hundred of them."""
    inner = hashlib.sha256(data).digest()
    try:
        return hashlib.new("ripemd160", inner, usedforsecurity=False).digest()
    except ValueError:
        return ripemd160(inner)


def tagged_hash(tag: str, data: bytes) -> bytes:
    """BIP-340's."""
    prefix = hashlib.sha256(tag.encode()).digest()
    return hashlib.sha256(prefix + prefix + data).digest()


def is_taproot(script: bytes) -> bool:
    """Whether it is P2TR's."""
    return len(script) == 34 and script[:2] == b"\x51\x20"


def add_tweak(x: bytes, tweak: bytes) -> bytes | None:
    """`AddTweak` by OpenSSL, which multiplies points and does not add them. Nothing here is secret."""
    try:
        point = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256K1(), b"\x02" + x).public_numbers()
        other = ec.derive_private_key(int.from_bytes(tweak, "big"), ec.SECP256K1()).public_key().public_numbers()
    except ValueError:
        return None
    if point.x == other.x:
        return None  # cannot happen but by breaking SHA-256
    slope = (other.y - point.y) * pow(other.x - point.x, -1, _FIELD) % _FIELD
    return ((slope * slope - point.x - other.x) % _FIELD).to_bytes(32, "big")


@lru_cache(maxsize=512)
def own_scripts(public_key: bytes, add_tweak: AddTweak = add_tweak) -> OwnScripts:
    """`public_key`: SEC 1 compressed, 33 bytes. Errors: BitcoinAddressError for another size; see `OwnScripts`."""
    if len(public_key) != 33:
        raise BitcoinAddressError
    return OwnScripts(public_key, add_tweak)


def address_of_script(script: bytes, network: Network) -> str | None:
    """None where the script has no address."""
    if len(script) == 25 and script[:3] == b"\x76\xa9\x14" and script[23:] == b"\x88\xac":
        return _base58check(network.key_hash, script[3:23])
    if len(script) == 23 and script[:2] == b"\xa9\x14" and script[22:] == b"\x87":
        return _base58check(network.script_hash, script[2:22])
    if not 4 <= len(script) <= 42 or len(script) != script[1] + 2:
        return None
    if script[0] == 0:
        return bech32.encode(network.prefix, 0, script[2:]) if script[1] in (20, 32) else None
    return bech32.encode(network.prefix, script[0] - 0x50, script[2:]) if 0x51 <= script[0] <= 0x60 else None


def script_of(text: str) -> bytes:
    """The output script of an address of any network. Errors: BitcoinAddressError."""
    for network in NETWORKS:
        if text.startswith(network.prefix + "1"):
            try:
                version, program = bech32.decode(network.prefix, text)
            except bech32.Bech32Error:
                raise BitcoinAddressError from None
            return bytes([version + 0x50 if version else 0, len(program)]) + program
    try:
        data = base58.decode(text)
    except base58.Base58Error:
        raise BitcoinAddressError from None
    if len(data) != 25 or sha256d(data[:21])[:4] != data[21:]:
        raise BitcoinAddressError
    if data[0] in {network.key_hash for network in NETWORKS}:
        return b"\x76\xa9\x14" + data[1:21] + b"\x88\xac"
    if data[0] in {network.script_hash for network in NETWORKS}:
        return b"\xa9\x14" + data[1:21] + b"\x87"
    raise BitcoinAddressError


def _base58check(version: int, payload: bytes) -> str:
    data = bytes([version]) + payload
    return base58.encode(data + sha256d(data)[:4])
