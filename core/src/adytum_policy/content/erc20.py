"""ERC-20 calls that move tokens or the right to (https://eips.ethereum.org/EIPS/eip-20).

Calldata that begins with one of the three selectors but is not exactly the call is refused as a whole. Contracts
tolerate trailing bytes and some tolerate dirty padding; if such a call merely had no token facts, one more byte would
carry it past a deny rule that names a recipient.
"""

from __future__ import annotations

from adytum_policy.facts import TokenFacts

# first four bytes of keccak-256 of the signature -> (name, number of 32-byte words)
_CALLS = {
    bytes.fromhex("a9059cbb"): ("transfer", 2),  # transfer(address,uint256)
    bytes.fromhex("095ea7b3"): ("approve", 2),  # approve(address,uint256)
    bytes.fromhex("23b872dd"): ("transferFrom", 3),  # transferFrom(address,address,uint256)
}
_PADDING = bytes(12)


class Erc20Error(ValueError):
    """A selector of ERC-20 with arguments that are not exactly those of the call."""


def decode_call(data: bytes) -> TokenFacts | None:
    """The token facts of calldata, None when it is no ERC-20 call. Errors: Erc20Error."""
    call = _CALLS.get(data[:4])
    if call is None:
        return None
    method, words = call
    if len(data) != 4 + 32 * words:
        raise Erc20Error
    addresses = [_address(data[4 + 32 * word : 36 + 32 * word]) for word in range(words - 1)]
    return TokenFacts(
        method=method,
        recipient=addresses[-1],
        source=addresses[0] if words == 3 else None,
        amount=int.from_bytes(data[-32:], "big"),
    )


def _address(word: bytes) -> bytes:
    if word[:12] != _PADDING:
        raise Erc20Error
    return word[12:]
