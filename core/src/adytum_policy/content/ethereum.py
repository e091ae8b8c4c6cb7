"""Ethereum transactions: the unsigned bytes of legacy (EIP-155), EIP-2930, EIP-1559, EIP-4844 and EIP-7702 ones.

The enclave computes the digest from the bytes that it decoded, so what the policy looked at is what is signed. Refused:
other types, a legacy transaction without chain id (it would be valid on every chain), numbers out of range, a priority
fee over the maximum fee, and every second spelling of the same transaction (see `rlp`).

Three types of facts, because the transactions do three different things: "ethereum-transaction" (legacy, 2930, 1559)
calls or creates; "ethereum-blob-transaction" (4844) also pays for blobs; "ethereum-set-code-transaction" (7702) also
lets code act for accounts.

Sources: EIP-155, EIP-1559, EIP-2681 (nonce), EIP-2930, EIP-4844, EIP-7702.
"""

from __future__ import annotations

from dataclasses import dataclass

from adytum_policy.content import erc20, rlp
from adytum_policy.content.address import keccak256, to_checksum
from adytum_policy.content.decoded import Decoded
from adytum_policy.content.ethereum_parts import (
    GAS_PER_BLOB,
    MAX_UINT64,
    MAX_UINT256,
    access_list,
    authorizations,
    blob_hashes,
    integer,
    invalid,
)
from adytum_policy.content.ethereum_parts import chain_id as chain_id_of
from adytum_policy.facts import EthereumFacts, TokenFacts
from adytum_wire import limits
from adytum_wire.errors import AdytumError, Code

TYPE = "ethereum-transaction"
BLOB_TYPE = "ethereum-blob-transaction"
SET_CODE_TYPE = "ethereum-set-code-transaction"
_LEGACY_FIELDS = 9
_TYPED_FIELDS = {1: 8, 2: 9, 3: 11, 4: 10}  # EIP-2718 type -> number of unsigned fields
_WEI = 10**18  # of one ether


@dataclass(frozen=True, slots=True, kw_only=True)
class EthereumDecoded(Decoded):
    """`items`: the decoded fields as they will stand in the signed transaction. `prefix`: its type, b"" of legacy."""

    chain_id: int
    prefix: bytes
    items: tuple[rlp.Item, ...]

    def finish(self, signature: bytes) -> dict[str, str]:
        """Assemble the signed transaction. `signature`: r||s||recovery id, 65 bytes. All values are "0x" hex, `v`,
        `y_parity` in minimal form. A blob transaction comes without its blobs; who sends it wraps it with them.

        Errors: INTERNAL for a signature that Ethereum cannot express (the recovery ids 2 and 3, which do not occur in
        practice); the signature must then not leave.
        """
        if len(signature) != 65 or signature[64] > 1:
            raise AdytumError(Code.INTERNAL, "signature")
        parity = signature[64]
        v = parity if self.prefix else self.chain_id * 2 + 35 + parity
        r, s = (int.from_bytes(half, "big") for half in (signature[:32], signature[32:64]))
        raw = self.prefix + rlp.encode([*self.items, *map(rlp.encode_int, (v, r, s))])
        result = {
            "raw_transaction": "0x" + raw.hex(),
            "transaction_hash": "0x" + keccak256(raw).hex(),
            "r": f"0x{r:064x}",
            "s": f"0x{s:064x}",
            "v": hex(v),
        }
        if self.prefix:
            result["y_parity"] = hex(parity)
        return result


def decode(unsigned: bytes) -> EthereumDecoded:
    """Decode the bytes whose Keccak-256 is to be signed: type || rlp(fields), or rlp(9 fields) with chain id, 0, 0.

    Errors: CONTENT_INVALID; the field says which part of `$.content.unsigned` is wrong.
    """
    if len(unsigned) > limits.MAX_CONTENT:
        raise invalid("")
    kind = unsigned[0] if unsigned[:1] < b"\x80" and unsigned else None
    count = _LEGACY_FIELDS if kind is None else _TYPED_FIELDS.get(kind)
    if count is None:
        raise invalid("")
    try:
        items = rlp.decode(unsigned if kind is None else unsigned[1:])
    except rlp.RlpError:
        raise invalid("") from None
    if not isinstance(items, list) or len(items) != count:
        raise invalid("")
    if kind is None:
        return _legacy(unsigned, items)
    if kind == 1:
        return _with_access_list(unsigned, items)
    return _dynamic_fee(unsigned, items, kind)


def _dynamic_fee(unsigned: bytes, items: list[rlp.Item], kind: int) -> EthereumDecoded:
    """EIP-1559, and the two that add fields to it."""
    chain_id = chain_id_of(items[0])
    priority = integer(items[2], MAX_UINT256, ".max_priority_fee_per_gas")
    price = integer(items[3], MAX_UINT256, ".max_fee_per_gas")
    if priority > price:
        raise invalid(".max_priority_fee_per_gas")
    entries = access_list(items[8])
    more = {"access_list_entries": str(entries)} if entries else {}
    form, kind_of_facts, blob_fee, delegates = "eip-1559", TYPE, 0, None
    if kind == 3:
        form, kind_of_facts = "eip-4844", BLOB_TYPE
        blob_price = integer(items[9], MAX_UINT256, ".max_fee_per_blob_gas")
        hashes = blob_hashes(items[10])
        blob_fee = GAS_PER_BLOB * len(hashes) * blob_price
        more |= {"max_fee_per_blob_gas_wei": str(blob_price), "blobs": str(len(hashes))}
        more |= {f"blob_{at}": "0x" + entry.hex() for at, entry in enumerate(hashes, 1)}
    elif kind == 4:
        form, kind_of_facts = "eip-7702", SET_CODE_TYPE
        listed = authorizations(items[9], chain_id)
        delegates = tuple(entry.delegate for entry in listed)
        more |= {f"authorization_{at}": str(entry) for at, entry in enumerate(listed, 1)}
    return _assemble(
        unsigned,
        chain_id=chain_id,
        prefix=unsigned[:1],
        price=price,
        nonce=items[1],
        gas=items[4],
        to=items[5],
        value=items[6],
        data=items[7],
        items=tuple(items),
        kind_of_facts=kind_of_facts,
        form=form,
        fees={"max_priority_fee_per_gas_wei": str(priority), "max_fee_per_gas_wei": str(price)},
        more=more,
        blob_fee=blob_fee,
        delegates=delegates,
    )


def _with_access_list(unsigned: bytes, items: list[rlp.Item]) -> EthereumDecoded:
    price = integer(items[2], MAX_UINT256, ".gas_price")
    entries = access_list(items[7])
    return _assemble(
        unsigned,
        chain_id=chain_id_of(items[0]),
        prefix=unsigned[:1],
        price=price,
        nonce=items[1],
        gas=items[3],
        to=items[4],
        value=items[5],
        data=items[6],
        items=tuple(items),
        form="eip-2930",
        fees={"gas_price_wei": str(price)},
        more={"access_list_entries": str(entries)} if entries else {},
    )


def _legacy(unsigned: bytes, items: list[rlp.Item]) -> EthereumDecoded:
    if items[7] != b"" or items[8] != b"":
        raise invalid(".signature")  # a signed transaction, or something else with nine fields
    price = integer(items[1], MAX_UINT256, ".gas_price")
    return _assemble(
        unsigned,
        chain_id=chain_id_of(items[6]),
        prefix=b"",
        price=price,
        nonce=items[0],
        gas=items[2],
        to=items[3],
        value=items[4],
        data=items[5],
        items=tuple(items[:6]),
        form="legacy",
        fees={"gas_price_wei": str(price)},
        more={},
    )


def _assemble(
    unsigned: bytes,
    *,
    chain_id: int,
    prefix: bytes,
    price: int,
    nonce: rlp.Item,
    gas: rlp.Item,
    to: rlp.Item,
    value: rlp.Item,
    data: rlp.Item,
    items: tuple[rlp.Item, ...],
    form: str,
    fees: dict[str, str],
    more: dict[str, str],
    kind_of_facts: str = TYPE,
    blob_fee: int = 0,
    delegates: tuple[bytes, ...] | None = None,
) -> EthereumDecoded:
    """Check the fields that all forms share and put everything together."""
    nonce_value = integer(nonce, MAX_UINT64 - 1, ".nonce")
    gas_limit = integer(gas, MAX_UINT64, ".gas_limit")
    wei = integer(value, MAX_UINT256, ".value")
    if not isinstance(to, bytes) or len(to) not in (0, 20) or (not to and kind_of_facts != TYPE):
        raise invalid(".to")  # only the first three forms can create a contract
    if not isinstance(data, bytes):
        raise invalid(".data")
    token = None
    if to:
        try:
            token = erc20.decode_call(data)
        except erc20.Erc20Error:
            raise invalid(".data") from None
    facts = EthereumFacts(
        type=kind_of_facts,
        chain_id=chain_id,
        to=to or None,
        value=wei,
        max_fee=gas_limit * price + blob_fee,
        selector=_selector(to, data),
        token=token,
        delegates=delegates,
    )
    summary = {
        "type": kind_of_facts,
        "form": form,
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
        prefix=prefix,
        items=items,
    )


def ether(wei: int) -> str:
    """Wei as a plain decimal number of ether, exact, without an exponent and without trailing zeros."""
    whole, fraction = divmod(wei, _WEI)
    if fraction == 0:
        return str(whole)
    digits = f"{fraction:018d}".rstrip("0")
    return f"{whole}.{digits}"


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
