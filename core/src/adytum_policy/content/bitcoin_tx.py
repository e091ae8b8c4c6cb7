"""Bitcoin transactions: the strict wire format, ids, and the digests that SIGHASH_ALL and SIGHASH_DEFAULT sign.

Sources: BIP-141 and BIP-144 (format), BIP-143 (digest of version 0 witness programs), BIP-341 (of taproot's key path).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from adytum_policy.content.address_bitcoin import sha256d, tagged_hash

SIGHASH_DEFAULT, SIGHASH_ALL = 0, 1
MAX_MONEY = 21_000_000 * 10**8


class BitcoinTransactionError(ValueError):
    """Not exactly one transaction. Carries no data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """`txid`: 32 bytes in the order of the wire, which is the reverse of what people are shown."""

    txid: bytes
    index: int
    sequence: int
    script: bytes = b""

    def outpoint(self) -> bytes:
        return self.txid + self.index.to_bytes(4, "little")


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    amount: int
    script: bytes

    def encode(self) -> bytes:
        return self.amount.to_bytes(8, "little") + compact(len(self.script)) + self.script


@dataclass(frozen=True, slots=True, kw_only=True)
class Transaction:
    version: bytes  # 4 bytes as on the wire
    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]
    locktime: int
    segwit: bool = False  # it was written with witnesses, which are not kept

    def encode(self, witnesses: list[list[bytes]] | None = None) -> bytes:
        """With witnesses as the network takes it, without as its id is computed."""
        body = compact(len(self.inputs))
        for spent in self.inputs:
            body += spent.outpoint() + compact(len(spent.script)) + spent.script + spent.sequence.to_bytes(4, "little")
        body += compact(len(self.outputs)) + b"".join(output.encode() for output in self.outputs)
        tail = b""
        for witness in witnesses or []:
            tail += compact(len(witness)) + b"".join(compact(len(part)) + part for part in witness)
        flag = b"" if witnesses is None else b"\x00\x01"
        return self.version + flag + body + tail + self.locktime.to_bytes(4, "little")

    def txid(self) -> bytes:
        return sha256d(self.encode())


class Reader:
    """Takes bytes from the front. Errors: BitcoinTransactionError."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, count: int) -> bytes:
        found = self._data[self._at : self._at + count]
        if len(found) != count:
            raise BitcoinTransactionError
        self._at += count
        return found

    def integer(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def length(self) -> int:
        """A compact size, in the fewest bytes that hold it."""
        first = self.integer(1)
        if first < 0xFD:
            return first
        size = 1 << (first - 0xFC)
        value = self.integer(size)
        if value < (0xFD if size == 2 else 1 << 4 * size):
            raise BitcoinTransactionError
        return value

    def octets(self) -> bytes:
        return self.take(self.length())

    def rest(self) -> bytes:
        return self.take(len(self._data) - self._at)

    def ended(self) -> bool:
        return self._at == len(self._data)


def compact(value: int) -> bytes:
    """A compact size."""
    if value < 0xFD:
        return bytes([value])
    size = 2 if value < 1 << 16 else 4 if value < 1 << 32 else 8
    return bytes([0xFC + size.bit_length() - 1]) + value.to_bytes(size, "little")


def parse(data: bytes) -> Transaction:
    """Exactly one transaction, with or without witnesses. Errors: BitcoinTransactionError."""
    read = Reader(data)
    version = read.take(4)
    count = read.length()
    segwit = count == 0
    if segwit:
        if read.take(1) != b"\x01":
            raise BitcoinTransactionError
        count = read.length()
    inputs = tuple(_input(read) for _ in range(count))
    outputs = tuple(_output(read) for _ in range(read.length()))
    if segwit:
        for _ in inputs:
            for _ in range(read.length()):
                read.octets()
    locktime = read.integer(4)
    if not read.ended() or not inputs or not outputs:
        raise BitcoinTransactionError
    return Transaction(version=version, inputs=inputs, outputs=outputs, locktime=locktime, segwit=segwit)


def parse_output(data: bytes) -> Output:
    """Exactly one output. Errors: BitcoinTransactionError."""
    read = Reader(data)
    found = _output(read)
    if not read.ended():
        raise BitcoinTransactionError
    return found


def segwit_digest(tx: Transaction, at: int, key_hash: bytes, amount: int) -> bytes:
    """BIP-143 for P2WPKH, SIGHASH_ALL. `amount`: satoshi of the output that input `at` spends."""
    spent = tx.inputs[at]
    return sha256d(
        tx.version
        + sha256d(b"".join(one.outpoint() for one in tx.inputs))
        + sha256d(b"".join(one.sequence.to_bytes(4, "little") for one in tx.inputs))
        + spent.outpoint()
        + b"\x19\x76\xa9\x14"
        + key_hash
        + b"\x88\xac"
        + amount.to_bytes(8, "little")
        + spent.sequence.to_bytes(4, "little")
        + sha256d(b"".join(output.encode() for output in tx.outputs))
        + tx.locktime.to_bytes(4, "little")
        + SIGHASH_ALL.to_bytes(4, "little")
    )


def taproot_digest(tx: Transaction, at: int, spent: list[Output], sighash: int) -> bytes:
    """BIP-341 for the key path, without annex. `spent`: what each input spends. `sighash`: DEFAULT or ALL."""

    def hashed(*parts: bytes) -> bytes:
        return hashlib.sha256(b"".join(parts)).digest()

    return tagged_hash(
        "TapSighash",
        bytes([0, sighash])
        + tx.version
        + tx.locktime.to_bytes(4, "little")
        + hashed(*(one.outpoint() for one in tx.inputs))
        + hashed(*(output.amount.to_bytes(8, "little") for output in spent))
        + hashed(*(compact(len(output.script)) + output.script for output in spent))
        + hashed(*(one.sequence.to_bytes(4, "little") for one in tx.inputs))
        + hashed(*(output.encode() for output in tx.outputs))
        + b"\x00"
        + at.to_bytes(4, "little"),
    )


def _input(read: Reader) -> Input:
    txid, index = read.take(32), read.integer(4)
    script = read.octets()
    return Input(txid=txid, index=index, script=script, sequence=read.integer(4))


def _output(read: Reader) -> Output:
    amount = read.integer(8)
    if amount > MAX_MONEY:
        raise BitcoinTransactionError
    return Output(amount=amount, script=read.octets())
