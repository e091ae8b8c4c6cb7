"""Partially signed Bitcoin transactions, versions 0 and 2, as containers: maps in, an unsigned transaction out.

Strict: a field that is unknown, of another version, twice there or of another size refuses the whole PSBT, and what
parses is written back byte for byte. What the fields mean for a signature is `bitcoin`'s business.

Sources: BIP-174, BIP-370, BIP-371.
"""

from __future__ import annotations

from dataclasses import dataclass

from adytum_policy.content import bitcoin_tx
from adytum_policy.content.bitcoin_tx import BitcoinTransactionError, Input, Output, Reader, Transaction, compact

_MAGIC = b"psbt\xff"
_MAX_COUNT = 64  # inputs, and outputs; a receipt lists each
_LOCKTIME_THRESHOLD = 500_000_000  # below: block heights, from here: times

# Field -> bytes of key data that follow its type.
_GLOBAL = {0x00: 0, 0x01: 78, 0x02: 0, 0x03: 0, 0x04: 0, 0x05: 0, 0x06: 0, 0xFB: 0}
_INPUT = dict.fromkeys((0x00, 0x01, 0x03, 0x04, 0x0E, 0x0F, 0x10, 0x11, 0x12, 0x13, 0x17), 0) | {
    0x02: 33,
    0x06: 33,
    0x16: 32,
}
_OUTPUT = {0x00: 0, 0x02: 33, 0x03: 0, 0x04: 0, 0x05: 0, 0x07: 32}
_ONLY_V2 = ((0x02, 0x03, 0x04, 0x05, 0x06), (0x0E, 0x0F, 0x10, 0x11, 0x12), (0x03, 0x04))

UNSIGNED, TX_VERSION, FALLBACK, INPUTS, OUTPUTS, MODIFIABLE, VERSION = (
    bytes([kind]) for kind in (0x00, 0x02, 0x03, 0x04, 0x05, 0x06, 0xFB)
)
PREVIOUS_TX, WITNESS_OUTPUT, PARTIAL, SIGHASH, REDEEM = (bytes([kind]) for kind in (0x00, 0x01, 0x02, 0x03, 0x04))
TXID, INDEX, SEQUENCE, TIME_LOCK, HEIGHT_LOCK, KEY_SIGNATURE, INTERNAL = (
    bytes([kind]) for kind in (0x0E, 0x0F, 0x10, 0x11, 0x12, 0x13, 0x17)
)
AMOUNT, SCRIPT = b"\x03", b"\x04"
DERIVATION, TAP_DERIVATION, OUT_DERIVATION, OUT_TAP_DERIVATION = b"\x06", b"\x16", b"\x02", b"\x07"

Map = dict[bytes, bytes]


class PsbtError(ValueError):
    """Not exactly one PSBT that can be understood. Carries no data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Psbt:
    """`inputs` and `outputs`: the maps, one each of the transaction's."""

    version: int
    fields: Map
    inputs: tuple[Map, ...]
    outputs: tuple[Map, ...]
    tx: Transaction

    def encode(self, inputs: list[Map]) -> bytes:
        """With other input maps in place of those that came."""
        maps = (self.fields, *inputs, *self.outputs)
        return _MAGIC + b"".join(map(_encode, maps))


def parse(data: bytes) -> Psbt:
    """Parse exactly one PSBT. Errors: PsbtError."""
    try:
        return _parse(data)
    except BitcoinTransactionError:
        raise PsbtError from None


def _parse(data: bytes) -> Psbt:
    if not data.startswith(_MAGIC):
        raise PsbtError
    read = Reader(data[len(_MAGIC) :])
    fields = _map(read, _GLOBAL)
    version = _number(fields, VERSION, 4, 0)
    if version == 0:
        if UNSIGNED not in fields:
            raise PsbtError
        tx = bitcoin_tx.parse(fields[UNSIGNED])
        if tx.segwit or any(one.script for one in tx.inputs):
            raise PsbtError
        counts = len(tx.inputs), len(tx.outputs)
    elif version == 2:
        if UNSIGNED in fields:
            raise PsbtError
        counts = _count(fields, INPUTS), _count(fields, OUTPUTS)
    else:
        raise PsbtError
    if not all(0 < count <= _MAX_COUNT for count in counts):
        raise PsbtError
    inputs = tuple(_map(read, _INPUT) for _ in range(counts[0]))
    outputs = tuple(_map(read, _OUTPUT) for _ in range(counts[1]))
    if not read.ended():
        raise PsbtError
    if version == 2:
        tx = _transaction(fields, inputs, outputs)
    else:
        for maps, foreign in zip(((fields,), inputs, outputs), _ONLY_V2, strict=True):
            if any(bytes([kind]) in one for one in maps for kind in foreign):
                raise PsbtError
    if len({one.outpoint() for one in tx.inputs}) != len(tx.inputs):
        raise PsbtError
    return Psbt(version=version, fields=fields, inputs=inputs, outputs=outputs, tx=tx)


def _transaction(fields: Map, inputs: tuple[Map, ...], outputs: tuple[Map, ...]) -> Transaction:
    """The transaction that a version 2 PSBT describes. One that may still change is not for signing."""
    if _number(fields, MODIFIABLE, 1, 0) != 0:
        raise PsbtError
    spent = []
    for one in inputs:
        if len(one.get(TXID, b"")) != 32 or INDEX not in one:
            raise PsbtError
        index, sequence = _number(one, INDEX, 4, 0), _number(one, SEQUENCE, 4, 0xFFFFFFFF)
        spent.append(Input(txid=one[TXID], index=index, sequence=sequence))
    paid = []
    for one in outputs:
        if AMOUNT not in one or SCRIPT not in one:
            raise PsbtError
        amount = _number(one, AMOUNT, 8, 0)
        if amount > bitcoin_tx.MAX_MONEY:
            raise PsbtError
        paid.append(Output(amount=amount, script=one[SCRIPT]))
    if len(fields.get(TX_VERSION, b"")) != 4:
        raise PsbtError
    return Transaction(
        version=fields[TX_VERSION], inputs=tuple(spent), outputs=tuple(paid), locktime=_locktime(fields, inputs)
    )


def _locktime(fields: Map, inputs: tuple[Map, ...]) -> int:
    """BIP-370, "Determining Lock Time"."""
    fallback = _number(fields, FALLBACK, 4, 0)
    times = [_number(one, TIME_LOCK, 4, 0) if TIME_LOCK in one else None for one in inputs]
    heights = [_number(one, HEIGHT_LOCK, 4, 0) if HEIGHT_LOCK in one else None for one in inputs]
    if any(time is not None and time < _LOCKTIME_THRESHOLD for time in times) or any(
        height is not None and not 0 < height < _LOCKTIME_THRESHOLD for height in heights
    ):
        raise PsbtError
    locked = [pair for pair in zip(heights, times, strict=True) if pair != (None, None)]
    if not locked:
        return fallback
    for kind in (0, 1):  # heights win where both would do
        values = [pair[kind] for pair in locked]
        if None not in values:
            return max(value for value in values if value is not None)
    raise PsbtError


def _map(read: Reader, known: dict[int, int]) -> Map:
    found: Map = {}
    while key := read.octets():
        if known.get(key[0]) != len(key) - 1 or key in found:
            raise PsbtError
        found[key] = read.octets()
    return found


def _encode(fields: Map) -> bytes:
    pairs = (compact(len(key)) + key + compact(len(value)) + value for key, value in fields.items())
    return b"".join(pairs) + b"\x00"


def _number(fields: Map, key: bytes, size: int, default: int) -> int:
    if key not in fields:
        return default
    if len(fields[key]) != size:
        raise PsbtError
    return int.from_bytes(fields[key], "little")


def _count(fields: Map, key: bytes) -> int:
    read = Reader(fields.get(key, b""))
    value = read.length()
    if not read.ended():
        raise PsbtError
    return value
