"""Solana messages of transfers: the System program's, and the SPL Token program's `Transfer` and `TransferChecked`.

A message is understood as a whole or not at all: one instruction that is none of these, nor ComputeBudget's limit and
price, and nothing decodes. So no rule ever judges a part of what is signed. Accounts that a v0 message loads from
lookup tables are unknown here, and an instruction that uses one does not decode either.

A token transfer names token accounts, not their owners; `Transfer` does not even name the mint. Nothing in a message
says for which cluster it is; its recent blockhash does.

Sources: https://solana.com/docs/core/transactions; spl-token's `instruction.rs`; ComputeBudget's `sdk` definitions.
"""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass

from adytum_policy.content import base58, solana_message
from adytum_policy.content.decoded import Decoded
from adytum_policy.content.solana_message import Instruction, Message
from adytum_policy.facts import SolanaFacts
from adytum_wire.errors import AdytumError, Code

TYPE = "solana-message"
SYSTEM = bytes(32)
TOKEN = base58.decode("TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA")
COMPUTE_BUDGET = base58.decode("ComputeBudget111111111111111111111111111111")
_LAMPORTS_PER_SIGNATURE = 5_000
_MAX_COMPUTE_UNITS = 1_400_000  # of one transaction; what it may use when it sets no limit is less
_SOL_DIGITS = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class SolanaDecoded(Decoded):
    signers: int

    def finish(self, signature: bytes) -> dict[str, str]:
        """`signature` in base58, and when nobody else has to sign, the `transaction` in base64, as RPC takes it."""
        result = {"signature": base58.encode(signature)}
        if self.signers == 1:
            result["transaction"] = b64encode(b"\x01" + signature + self.payload).decode()
        return result


@dataclass(frozen=True, slots=True, kw_only=True)
class _Transfer:
    """`mint` and `decimals` are None for lamports and for tokens whose mint the message does not name."""

    program: bytes
    source: bytes
    recipient: bytes
    authority: bytes
    amount: int
    mint: bytes | None = None
    decimals: int | None = None

    def __str__(self) -> str:
        source, recipient = base58.encode(self.source), base58.encode(self.recipient)
        if self.program == SYSTEM:
            return f"{self.amount} lamports from {source} to {recipient}"
        mint = f"mint {base58.encode(self.mint)}, {self.decimals} decimals" if self.mint else "mint not named"
        authority = base58.encode(self.authority)
        return f"{self.amount} tokens ({mint}) from {source} to {recipient}, by {authority}"


def decode(message: bytes) -> SolanaDecoded:
    """Decode the bytes that Ed25519 signs. Errors: CONTENT_INVALID."""
    try:
        parsed = solana_message.parse(message)
    except solana_message.SolanaMessageError:
        raise _invalid("") from None
    budget: dict[int, int] = {}
    transfers = []
    for instruction in parsed.instructions:
        if instruction.program == COMPUTE_BUDGET:
            _set_budget(budget, instruction)
        else:
            transfers.append(_transfer(parsed, instruction))
    if not transfers:
        raise _invalid(".instructions")
    # Micro-lamports a unit, rounded up to whole lamports.
    units, price = budget.get(2, _MAX_COMPUTE_UNITS), budget.get(3, 0)
    fee = _LAMPORTS_PER_SIGNATURE * parsed.signers + -(-units * price // 10**6)
    tokens = [transfer for transfer in transfers if transfer.program == TOKEN]
    facts = SolanaFacts(
        type=TYPE,
        programs=tuple(transfer.program for transfer in transfers),
        recipients=tuple(transfer.recipient for transfer in transfers),
        mints=tuple(transfer.mint for transfer in tokens),
        lamports=sum(transfer.amount for transfer in transfers if transfer.program == SYSTEM),
        tokens=sum(transfer.amount for transfer in tokens),
        max_fee=fee,
        token_amounts=tuple(transfer.amount for transfer in tokens),
    )
    summary = {
        "type": TYPE,
        "form": "legacy" if parsed.version is None else f"v{parsed.version}",
        "fee_payer": base58.encode(parsed.accounts[0]),
        "signers": str(parsed.signers),
        "recent_blockhash": base58.encode(parsed.recent_blockhash),
        **{f"transfer_{at}": str(transfer) for at, transfer in enumerate(transfers, 1)},
        "lamports": str(facts.lamports),
        "sol": _sol(facts.lamports),
        "max_fee_lamports": str(fee),
        **({"unused_tables": str(len(parsed.tables))} if parsed.tables else {}),
    }
    return SolanaDecoded(payload=message, facts=facts, summary=summary, signers=parsed.signers)


def _transfer(message: Message, instruction: Instruction) -> _Transfer:
    """One of the three transfers, with exactly its accounts and its data."""
    data = instruction.data
    if any(index >= len(message.accounts) for index in instruction.accounts):
        raise _invalid(".accounts")  # loaded from a table: whose it is, nobody here knows
    accounts = [message.accounts[index] for index in instruction.accounts]
    by = instruction.accounts[0] if instruction.program == SYSTEM and accounts else None
    if instruction.program == SYSTEM and len(accounts) == 2 and len(data) == 12 and data[:4] == b"\2\0\0\0":
        source, recipient = accounts
        found = _Transfer(
            program=SYSTEM, source=source, recipient=recipient, authority=source, amount=_amount(data[4:])
        )
    elif instruction.program == TOKEN and len(accounts) == 3 and len(data) == 9 and data[0] == 3:
        source, recipient, authority = accounts
        by = instruction.accounts[2]
        found = _Transfer(
            program=TOKEN, source=source, recipient=recipient, authority=authority, amount=_amount(data[1:])
        )
    elif instruction.program == TOKEN and len(accounts) == 4 and len(data) == 10 and data[0] == 12:
        source, mint, recipient, authority = accounts
        by = instruction.accounts[3]
        found = _Transfer(
            program=TOKEN,
            source=source,
            recipient=recipient,
            authority=authority,
            amount=_amount(data[1:9]),
            mint=mint,
            decimals=data[9],
        )
    else:
        raise _invalid(".instructions")
    if by is None or by >= message.signers:
        raise _invalid(".accounts")  # who gives must sign
    return found


def _set_budget(budget: dict[int, int], instruction: Instruction) -> None:
    """SetComputeUnitLimit (2, u32) and SetComputeUnitPrice (3, u64), each at most once, without accounts."""
    data = instruction.data
    kind = data[0] if data else None
    if kind in budget or instruction.accounts or (kind, len(data)) not in ((2, 5), (3, 9)):
        raise _invalid(".instructions")
    budget[data[0]] = _amount(data[1:])


def _amount(data: bytes) -> int:
    return int.from_bytes(data, "little")


def _sol(lamports: int) -> str:
    whole, fraction = divmod(lamports, 10**_SOL_DIGITS)
    digits = f"{fraction:0{_SOL_DIGITS}d}".rstrip("0")
    return f"{whole}.{digits}" if digits else str(whole)


def _invalid(part: str) -> AdytumError:
    return AdytumError(Code.CONTENT_INVALID, "$.content.message" + part)
