"""Which of a PSBT's inputs and outputs are ours.

For a record that is a key: those whose script this very key can spend. Derivation paths that the PSBT gives prove
nothing then.

For a seed: those of which the PSBT says at which path below the request's their key lies, and whose script that key can
spend. This is a claim. It decides what the policy sees; the enclave derives every key that was claimed and compares it
before it signs anything (`Decoded.claims`), so a claim that is a lie makes no signature.

Sources: BIP-32, BIP-174 (PSBT_IN_BIP32_DERIVATION), BIP-371 (PSBT_IN_TAP_BIP32_DERIVATION).
"""

from __future__ import annotations

from dataclasses import dataclass

from adytum_policy.content import psbt
from adytum_policy.content.address_bitcoin import AddTweak, OwnScripts, add_tweak, is_taproot, own_scripts
from adytum_policy.content.bitcoin_tx import BitcoinTransactionError, Reader
from adytum_policy.content.decoded import Claim
from adytum_wire.paths import HARDENED

MAX_CLAIMS = 80  # keys below a seed's path in one PSBT: each costs two derivations and a point (P-24)
_MAX_DEPTH = 16  # levels of a path; BIP-44's have 5
_CHAINS = (0, 1)  # BIP-44: addresses to receive at, and change


class NotOursError(ValueError):
    """Derivations that are malformed, or contradict the script. Carries no data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """A key of ours. `public_key`: 33 bytes; its sign is a guess when `claim` has only the x coordinate."""

    public_key: bytes
    scripts: OwnScripts
    claim: Claim | None = None

    def spends(self, script: bytes) -> bool:
        """Errors: BitcoinAddressError for a key that is no point, where that shows."""
        size = 33 if self.claim is None else len(self.claim.public_key)
        if is_taproot(script):
            return (self.claim is None or size == 32) and script == self.scripts.taproot
        if size != 33:
            return False
        # The form first: hashes cost more than all else here.
        return script == self.scripts.segwit if len(script) == 22 else script == self.scripts.nested


class Owners:
    """`path`: the indices of the request's path, None for a record that is a key; then `public_key` is it."""

    def __init__(self, path: tuple[int, ...] | None, public_key: bytes, add_tweak: AddTweak = add_tweak) -> None:
        self._path = path
        self._add_tweak = add_tweak
        self._claimed: set[Claim] = set()
        self._single = (
            Owner(public_key=public_key, scripts=own_scripts(public_key, add_tweak)) if path is None else None
        )

    def of(self, fields: psbt.Map, script: bytes, *, plain: bytes, taproot: bytes) -> Owner | None:
        """Who of us can spend `script`, or None. `plain`, `taproot`: the types of the map's derivation fields.

        Errors: NotOursError where a derivation below our path leads to another script: a lie, or a script that is not
        one of ours alone; and for the claim that is one too many.
        """
        if self._single is not None:
            return self._single if self._single.spends(script) else None
        found = None
        for key, value in fields.items():
            if key[:1] == plain:
                claim = _claim(key[1:], value)
            elif key[:1] == taproot:
                claim = _taproot_claim(key[1:], value)
            else:
                continue
            if not self._is_below(claim.path):
                continue
            self._claimed.add(claim)
            if len(self._claimed) > MAX_CLAIMS:
                raise NotOursError
            public_key = claim.public_key if len(claim.public_key) == 33 else b"\x02" + claim.public_key
            owner = Owner(public_key=public_key, scripts=own_scripts(public_key, self._add_tweak), claim=claim)
            if found is not None or not owner.spends(script):
                raise NotOursError
            found = owner
        return found

    def _is_below(self, path: tuple[int, ...]) -> bool:
        """The request's path itself, or BIP-44's two levels below it. Anything else below it would be coins that no
        wallet finds again."""
        mine = self._path
        if mine is None or path[: len(mine)] != mine:
            return False
        rest = path[len(mine) :]
        if rest and not (len(rest) == 2 and rest[0] in _CHAINS and rest[1] < HARDENED):
            raise NotOursError
        return True


def _claim(public_key: bytes, origin: bytes) -> Claim:
    if len(origin) < 4 or len(origin) % 4 or len(origin) > 4 + 4 * _MAX_DEPTH:
        raise NotOursError
    indices = tuple(int.from_bytes(origin[at : at + 4], "little") for at in range(4, len(origin), 4))
    return Claim(path=indices, public_key=public_key, fingerprint=origin[:4])


def _taproot_claim(public_key: bytes, value: bytes) -> Claim:
    """Of the internal key: its value begins with the number of leaves that it stands in, which is none."""
    read = Reader(value)
    try:
        leaves = read.length()
        read.take(32 * leaves)
        return _claim(public_key, read.rest())
    except BitcoinTransactionError:
        raise NotOursError from None
