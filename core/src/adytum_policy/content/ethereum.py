"""Ethereum transactions: the unsigned bytes of EIP-1559 (type 2) and of EIP-155 (legacy), decoded strictly.

The enclave computes the digest from the bytes that it decoded, so what the policy looked at is what is signed. Refused:
other types, a legacy transaction without chain id (it would be valid on every chain), numbers out of range, a priority
fee over the maximum fee, and every second spelling of the same transaction (see `rlp`).

Sources: EIP-155, EIP-1559, EIP-2681 (nonce), EIP-2294 (chain id), EIP-2930 (access list).
"""

from __future__ import annotations

from dataclasses import dataclass

from adytum_policy.content import erc20, rlp
from adytum_policy.content.address import keccak256, to_checksum
from adytum_policy.content.decoded import Decoded
from adytum_policy.facts import ContentFacts, TokenFacts
from adytum_wire import limits
from adytum_wire.errors import AdytumError, Code

TYPE = "ethereum-transaction"
_MAX_UINT64 = 2**64 - 1
_MAX_UINT256 = 2**256 - 1
_MAX_CHAIN_ID = _MAX_UINT64 // 2 - 36
_FIELDS = 9  # of both forms
_ETHER_DIGITS = 18


@dataclass(frozen=True, slots=True, kw_only=True)
class EthereumDecoded(Decoded):
    """`items`: the decoded fields as they will stand in the signed transaction. `dynamic_fee`: EIP-1559."""

    chain_id: int
    dynamic_fee: bool
    items: tuple[rlp.Item, ...]

    def finish(self, signature: bytes) -> dict[str, str]:
        """Assemble the signed transaction. `signature`: r||s||recovery id, 65 bytes. All values are "0x" hex, `v`,
        `y_parity` in minimal form.

        Errors: INTERNAL for a signature that Ethereum cannot express (the recovery ids 2 and 3, which do not occur in
        practice); the signature must then not leave.
        """
        if len(signature) != 65 or signature[64] > 1:
            raise AdytumError(Code.INTERNAL, "signature")
        parity = signature[64]
        v = parity if self.dynamic_fee else self.chain_id * 2 + 35 + parity
        r, s = (int.from_bytes(half, "big") for half in (signature[:32], signature[32:64]))
        raw = rlp.encode([*self.items, *map(rlp.encode_int, (v, r, s))])
        if self.dynamic_fee:
            raw = b"\x02" + raw
        result = {
            "raw_transaction": "0x" + raw.hex(),
            "transaction_hash": "0x" + keccak256(raw).hex(),
            "r": f"0x{r:064x}",
            "s": f"0x{s:064x}",
            "v": hex(v),
        }
        if self.dynamic_fee:
            result["y_parity"] = hex(parity)
        return result


def decode(unsigned: bytes) -> EthereumDecoded:
    """Decode the bytes whose Keccak-256 is to be signed: 0x02 || rlp(9 fields), or rlp(9 fields) with chain id, 0, 0.

    Errors: CONTENT_INVALID; the field says which part of `$.content.unsigned` is wrong.
    """
    if len(unsigned) > limits.MAX_CONTENT:
        raise _invalid("")
    dynamic_fee = unsigned[:1] == b"\x02"
    try:
        items = rlp.decode(unsigned[1:] if dynamic_fee else unsigned)
    except rlp.RlpError:
        raise _invalid("") from None
    if not isinstance(items, list) or len(items) != _FIELDS:
        raise _invalid("")
    return _dynamic_fee(unsigned, items) if dynamic_fee else _legacy(unsigned, items)


def _dynamic_fee(unsigned: bytes, items: list[rlp.Item]) -> EthereumDecoded:
    chain_id = _chain_id(items[0])
    priority = _integer(items[2], _MAX_UINT256, ".max_priority_fee_per_gas")
    price = _integer(items[3], _MAX_UINT256, ".max_fee_per_gas")
    if priority > price:
        raise _invalid(".max_priority_fee_per_gas")
    entries = _access_list(items[8])
    return _assemble(
        unsigned,
        chain_id=chain_id,
        dynamic_fee=True,
        price=price,
        nonce=items[1],
        gas=items[4],
        to=items[5],
        value=items[6],
        data=items[7],
        items=tuple(items),
        kind="eip-1559",
        fees={"max_priority_fee_per_gas_wei": str(priority), "max_fee_per_gas_wei": str(price)},
        more={"access_list_entries": str(entries)} if entries else {},
    )


def _legacy(unsigned: bytes, items: list[rlp.Item]) -> EthereumDecoded:
    if items[7] != b"" or items[8] != b"":
        raise _invalid(".signature")  # a signed transaction, or something else with nine fields
    price = _integer(items[1], _MAX_UINT256, ".gas_price")
    return _assemble(
        unsigned,
        chain_id=_chain_id(items[6]),
        dynamic_fee=False,
        price=price,
        nonce=items[0],
        gas=items[2],
        to=items[3],
        value=items[4],
        data=items[5],
        items=tuple(items[:6]),
        kind="legacy",
        fees={"gas_price_wei": str(price)},
        more={},
    )


def _assemble(
    unsigned: bytes,
    *,
    chain_id: int,
    dynamic_fee: bool,
    price: int,
    nonce: rlp.Item,
    gas: rlp.Item,
    to: rlp.Item,
    value: rlp.Item,
    data: rlp.Item,
    items: tuple[rlp.Item, ...],
    kind: str,
    fees: dict[str, str],
    more: dict[str, str],
) -> EthereumDecoded:
    """Check the fields that both forms share and put everything together."""
    nonce_value = _integer(nonce, _MAX_UINT64 - 1, ".nonce")
    gas_limit = _integer(gas, _MAX_UINT64, ".gas_limit")
    wei = _integer(value, _MAX_UINT256, ".value")
    if not isinstance(to, bytes) or len(to) not in (0, 20):
        raise _invalid(".to")
    if not isinstance(data, bytes):
        raise _invalid(".data")
    token = None
    if to:
        try:
            token = erc20.decode_call(data)
        except erc20.Erc20Error:
            raise _invalid(".data") from None
    facts = ContentFacts(
        type=TYPE,
        chain_id=chain_id,
        to=to or None,
        value=wei,
        max_fee=gas_limit * price,
        selector=_selector(to, data),
        token=token,
    )
    summary = {
        "type": TYPE,
        "form": kind,
        "chain_id": str(chain_id),
        "nonce": str(nonce_value),
        "to": to_checksum(to) if to else "(contract creation)",
        "value_wei": str(wei),
        "value_eth": ether(wei),
        "gas_limit": str(gas_limit),
        **fees,
        "max_fee_wei": str(facts.max_fee),
        "max_fee_eth": ether(facts.max_fee),
        "data_length": str(len(data)),
        **({"selector": "0x" + facts.selector.hex()} if facts.selector else {}),
        **(_token_summary(token) if token else {}),
        **more,
    }
    return EthereumDecoded(
        payload=keccak256(unsigned),
        facts=facts,
        summary=summary,
        chain_id=chain_id,
        dynamic_fee=dynamic_fee,
        items=items,
    )


def ether(wei: int) -> str:
    """Wei as a plain decimal number of ether, exact, without an exponent and without trailing zeros."""
    whole, fraction = divmod(wei, 10**_ETHER_DIGITS)
    digits = f"{fraction:0{_ETHER_DIGITS}d}".rstrip("0")
    return f"{whole}.{digits}" if digits else str(whole)


def _selector(to: bytes, data: bytes) -> bytes | None:
    """A contract creation runs its data as a program, so no selector; nor can 1 to 3 bytes be one."""
    if not to or 0 < len(data) < 4:
        return None
    return data[:4]


def _token_summary(token: TokenFacts) -> dict[str, str]:
    who = "token_spender" if token.method == "approve" else "token_recipient"
    return {
        "token_method": token.method,
        who: to_checksum(token.recipient),
        **({"token_source": to_checksum(token.source)} if token.source else {}),
        "token_amount": str(token.amount),
    }


def _chain_id(item: rlp.Item) -> int:
    chain_id = _integer(item, _MAX_CHAIN_ID, ".chain_id")
    if chain_id == 0:
        raise _invalid(".chain_id")
    return chain_id


def _integer(item: rlp.Item, maximum: int, part: str) -> int:
    if not isinstance(item, bytes) or len(item) > 32 or item[:1] == b"\0":
        raise _invalid(part)
    value = int.from_bytes(item, "big")
    if value > maximum:
        raise _invalid(part)
    return value


def _access_list(item: rlp.Item) -> int:
    """Check [[address, [storage key, ...]], ...]; return the number of entries."""
    if not isinstance(item, list):
        raise _invalid(".access_list")
    for entry in item:
        if not isinstance(entry, list) or len(entry) != 2:
            raise _invalid(".access_list")
        address, keys = entry
        if not isinstance(address, bytes) or len(address) != 20 or not isinstance(keys, list):
            raise _invalid(".access_list")
        if not all(isinstance(key, bytes) and len(key) == 32 for key in keys):
            raise _invalid(".access_list")
    return len(item)


def _invalid(part: str) -> AdytumError:
    return AdytumError(Code.CONTENT_INVALID, "$.content.unsigned" + part)
