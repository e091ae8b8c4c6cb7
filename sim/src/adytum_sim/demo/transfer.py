"""An Ethereum transfer as a wallet would build it: the bytes whose digest is to be signed."""

from __future__ import annotations

from dataclasses import dataclass

from adytum_policy.content import rlp

ETHER = 10**18
GWEI = 10**9
RECIPIENT = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
STRANGER = "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC"


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """EIP-1559 (https://eips.ethereum.org/EIPS/eip-1559), no calldata, no access list. Amounts in wei."""

    to: str = RECIPIENT
    value: int = ETHER // 10
    nonce: int = 0
    chain_id: int = 1
    gas: int = 21_000
    max_fee: int = 30 * GWEI
    max_priority_fee: int = GWEI

    def unsigned(self) -> bytes:
        numbers = (self.chain_id, self.nonce, self.max_priority_fee, self.max_fee, self.gas)
        return b"\x02" + rlp.encode(
            [*map(rlp.encode_int, numbers), bytes.fromhex(self.to[2:]), rlp.encode_int(self.value), b"", []]
        )
