"""The fields of Ethereum transactions that are more than bytes: numbers, access lists, blob hashes, authorizations.

Each function checks one decoded RLP item strictly and raises CONTENT_INVALID with the field's name.

Sources: EIP-2930 (access list), EIP-4844 (blob versioned hashes), EIP-7702 (authorization list), EIP-2294 (chain id).
"""

from __future__ import annotations

from dataclasses import dataclass

from adytum_policy.content.address import to_checksum
from adytum_policy.content.rlp import Item
from adytum_wire.errors import AdytumError, Code

MAX_UINT64 = 2**64 - 1
MAX_UINT256 = 2**256 - 1
MAX_BLOBS = 16  # above what any fork has allowed in one transaction
MAX_AUTHORIZATIONS = 32  # a receipt lists each, for people
GAS_PER_BLOB = 2**17
_MAX_CHAIN_ID = MAX_UINT64 // 2 - 36
_KZG_VERSION = b"\x01"
_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141  # of secp256k1


@dataclass(frozen=True, slots=True, kw_only=True)
class Authorization:
    """An account lets the code at `delegate` (20 bytes) act for it. `chain_id` 0: on every chain. The account is
    whoever made the signature; it is not recovered here."""

    chain_id: int
    delegate: bytes
    nonce: int

    def __str__(self) -> str:
        chain = f"chain {self.chain_id}" if self.chain_id else "every chain"
        return f"{to_checksum(self.delegate)} on {chain}, nonce {self.nonce}"


def invalid(part: str) -> AdytumError:
    return AdytumError(Code.CONTENT_INVALID, "$.content.unsigned" + part)


def integer(item: Item, maximum: int, part: str) -> int:
    """A number without leading zeros, at most `maximum`."""
    if not isinstance(item, bytes) or len(item) > 32 or (item and item[0] == 0):
        raise invalid(part)
    value = int.from_bytes(item, "big")
    if value > maximum:
        raise invalid(part)
    return value


def chain_id(item: Item) -> int:
    """1 to EIP-2294's bound."""
    value = integer(item, _MAX_CHAIN_ID, ".chain_id")
    if value == 0:
        raise invalid(".chain_id")
    return value


def access_list(item: Item) -> int:
    """Check [[address, [storage key, ...]], ...]; return the number of entries."""
    if not isinstance(item, list):
        raise invalid(".access_list")
    for entry in item:
        if not isinstance(entry, list) or len(entry) != 2:
            raise invalid(".access_list")
        address, keys = entry
        if not isinstance(address, bytes) or len(address) != 20 or not isinstance(keys, list):
            raise invalid(".access_list")
        if not all(isinstance(key, bytes) and len(key) == 32 for key in keys):
            raise invalid(".access_list")
    return len(item)


def blob_hashes(item: Item) -> list[bytes]:
    """1 to MAX_BLOBS versioned hashes, 32 bytes each, of KZG commitments."""
    if not isinstance(item, list) or not 0 < len(item) <= MAX_BLOBS:
        raise invalid(".blob_versioned_hashes")
    hashes = [entry for entry in item if isinstance(entry, bytes) and len(entry) == 32 and entry[:1] == _KZG_VERSION]
    if len(hashes) != len(item):
        raise invalid(".blob_versioned_hashes")
    return hashes


def authorizations(item: Item, chain: int) -> list[Authorization]:
    """1 to MAX_AUTHORIZATIONS of [chain id, address, nonce, y parity, r, s], for the chain `chain` or for every chain.

    One that the protocol would skip whatever the state (another chain, a signature out of range) is refused: what a
    transaction lists and what it does must not differ.
    """
    if not isinstance(item, list) or not 0 < len(item) <= MAX_AUTHORIZATIONS:
        raise invalid(".authorization_list")
    return [_authorization(entry, chain) for entry in item]


def _authorization(item: Item, chain: int) -> Authorization:
    part = ".authorization_list"
    if not isinstance(item, list) or len(item) != 6:
        raise invalid(part)
    where = integer(item[0], _MAX_CHAIN_ID, part)
    delegate = item[1]
    nonce = integer(item[2], MAX_UINT64 - 1, part)
    integer(item[3], 1, part)
    r, s = integer(item[4], _ORDER - 1, part), integer(item[5], _ORDER // 2, part)
    if where not in (0, chain) or not isinstance(delegate, bytes) or len(delegate) != 20 or r == 0 or s == 0:
        raise invalid(part)
    return Authorization(chain_id=where, delegate=delegate, nonce=nonce)
