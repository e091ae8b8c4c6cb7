"""The wire format of Solana messages, legacy and v0, parsed strictly and without knowing any program.

Refuses what the cluster refuses (https://docs.rs/solana-message, `sanitize`): bad headers, indexes out of range,
accounts twice, lengths that are not minimal; also trailing bytes, versions other than 0, and what fits no packet.
"""

from __future__ import annotations

from dataclasses import dataclass

_MAX_TRANSACTION = 1232  # bytes; IPv6's least MTU less headers
_SIGNATURE = 64
_KEY = 32
_MAX_ACCOUNTS = 256
_VERSIONED = 0x80


class SolanaMessageError(ValueError):
    """Not exactly one message. Carries no data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """`accounts`: indexes; those beyond the message's own accounts are loaded from tables that nobody here sees."""

    program: bytes
    accounts: tuple[int, ...]
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """`accounts`: 32 bytes each, the first `signers` of which must sign, the very first of which pays. `version`: None
    for legacy."""

    version: int | None
    signers: int
    accounts: tuple[bytes, ...]
    recent_blockhash: bytes
    instructions: tuple[Instruction, ...]
    tables: tuple[bytes, ...]


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, count: int) -> bytes:
        found = self._data[self._at : self._at + count]
        if len(found) != count:
            raise SolanaMessageError
        self._at += count
        return found

    def byte(self) -> int:
        return self.take(1)[0]

    def length(self) -> int:
        """compact-u16: seven bits a byte, lowest first, in the fewest bytes."""
        value = 0
        for at in range(3):
            byte = self.byte()
            value |= (byte & 0x7F) << (7 * at)
            if byte < 0x80:
                if (at and byte == 0) or value > 0xFFFF:
                    break
                return value
        raise SolanaMessageError

    def octets(self) -> bytes:
        return self.take(self.length())

    def ended(self) -> bool:
        return self._at == len(self._data)


def parse(data: bytes) -> Message:
    """Parse exactly one message. Errors: SolanaMessageError."""
    read = _Reader(data)
    version = None
    first = read.byte()
    if first >= _VERSIONED:
        version = first - _VERSIONED
        if version != 0:
            raise SolanaMessageError
        first = read.byte()
    signers, readonly_signers, readonly_others = first, read.byte(), read.byte()
    accounts = tuple(read.take(_KEY) for _ in range(read.length()))
    if not readonly_signers < signers <= len(accounts) or readonly_others > len(accounts) - signers:
        raise SolanaMessageError
    if len(set(accounts)) != len(accounts) or len(data) + 1 + _SIGNATURE * signers > _MAX_TRANSACTION:
        raise SolanaMessageError
    blockhash = read.take(_KEY)
    raw = [(read.byte(), read.octets(), read.octets()) for _ in range(read.length())]
    tables, loaded = _tables(read) if version is not None else ((), 0)
    total = len(accounts) + loaded
    if not read.ended() or total > _MAX_ACCOUNTS or any(table in accounts for table in tables):
        raise SolanaMessageError
    for program, used, _ in raw:
        # The payer is no program, and a program is never loaded from a table.
        if not 0 < program < len(accounts) or any(index >= total for index in used):
            raise SolanaMessageError
    return Message(
        version=version,
        signers=signers,
        accounts=accounts,
        recent_blockhash=blockhash,
        instructions=tuple(
            Instruction(program=accounts[program], accounts=tuple(used), data=payload) for program, used, payload in raw
        ),
        tables=tables,
    )


def _tables(read: _Reader) -> tuple[tuple[bytes, ...], int]:
    """The tables' addresses, and how many accounts they load."""
    tables, loaded = [], 0
    for _ in range(read.length()):
        tables.append(read.take(_KEY))
        count = len(read.octets()) + len(read.octets())
        if count == 0:
            raise SolanaMessageError
        loaded += count
    if len(set(tables)) != len(tables):
        raise SolanaMessageError
    return tuple(tables), loaded
