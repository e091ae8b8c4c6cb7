"""EIP-712 typed data (`eth_signTypedData_v4`): the JSON itself is decoded here, and the digest computed from it.

    keccak256(0x19 0x01 || hashStruct(domain) || hashStruct(message))

A digest alone would be a cheque with the amount left blank. Facts: the domain and the primary type; for EIP-2612's
Permit, who may spend how much. Everything that is hashed is in the summary, and nothing else is: members that the types
do not have are refused, and so are types that nothing uses.

Sources: https://eips.ethereum.org/EIPS/eip-712, https://eips.ethereum.org/EIPS/eip-2612
"""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

from adytum_policy.content.address import keccak256, to_checksum
from adytum_policy.content.personal import AccountSigned
from adytum_policy.content.readable import shown
from adytum_policy.content.typed_values import TypedDataError, Types, address, number, parse_types
from adytum_policy.facts import PermitFacts, TypedDataFacts
from adytum_wire import limits, strict_json
from adytum_wire.errors import AdytumError, Code

TYPE = "eip712-typed-data"
_FIELD = "$.content.typed_data"
_DOMAIN = "EIP712Domain"
# In this order; each may be left out (EIP-712, "Definition of domainSeparator").
_DOMAIN_MEMBERS = (
    ("name", "string"),
    ("version", "string"),
    ("chainId", "uint256"),
    ("verifyingContract", "address"),
    ("salt", "bytes32"),
)
_PERMIT = [
    ("owner", "address"),
    ("spender", "address"),
    ("value", "uint256"),
    ("nonce", "uint256"),
    ("deadline", "uint256"),
]
_MAX_SUMMARY = 16 * 1024  # characters; a receipt has to carry it, and somebody has to read it


class _Member(Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    type: str


class _Document(Struct, frozen=True, forbid_unknown_fields=True):
    types: Annotated[dict[str, Annotated[list[_Member], Meta(max_length=64)]], Meta(max_length=32)]
    primaryType: str
    domain: dict[str, Any]
    message: dict[str, Any]


def decode(typed_data: str) -> AccountSigned:
    """Decode the JSON text. Errors: CONTENT_INVALID; the field says which part of `$.content.typed_data` is wrong."""
    document = _parse(typed_data)
    types = _types(document)
    domain_hash = _hash(types, _DOMAIN, document.domain, ".domain")
    types.leaves.clear()  # the domain has lines of its own
    message_hash = _hash(types, document.primaryType, document.message, ".message")
    facts = _facts(document)
    permit = facts.permit
    summary = {
        "type": TYPE,
        **({"domain_name": shown(facts.domain_name)} if facts.domain_name is not None else {}),
        **({"domain_version": shown(facts.domain_version)} if facts.domain_version is not None else {}),
        **({"chain_id": str(facts.chain_id)} if facts.chain_id is not None else {}),
        **({"verifying_contract": to_checksum(facts.verifying_contract)} if facts.verifying_contract else {}),
        **({"salt": document.domain["salt"].lower()} if "salt" in document.domain else {}),
        "primary_type": document.primaryType,
        **({"permit_spender": to_checksum(permit.spender), "permit_value": str(permit.value)} if permit else {}),
        **{f"message.{path}": text for path, text in types.leaves},
    }
    if sum(len(name) + len(text) for name, text in summary.items()) > _MAX_SUMMARY:
        raise _invalid(".message")
    return AccountSigned(payload=keccak256(b"\x19\x01" + domain_hash + message_hash), facts=facts, summary=summary)


def _parse(typed_data: str) -> _Document:
    data = typed_data.encode("utf-8", "surrogatepass")  # lone surrogates are refused by the parser
    try:
        return strict_json.decode(data, _Document, limit=limits.MAX_CONTENT, code=Code.CONTENT_INVALID)
    except AdytumError as error:
        raise _invalid(error.field.removeprefix("$")) from None


def _types(document: _Document) -> Types:
    """The types, all of them used, with a well-formed domain."""
    listed = {name: [(member.name, member.type) for member in members] for name, members in document.types.items()}
    domain = listed.get(_DOMAIN, [])
    if not domain or domain != [member for member in _DOMAIN_MEMBERS if member in domain]:
        raise _invalid(".types")
    try:
        types = parse_types(listed)
        if document.primaryType not in listed:
            raise _invalid(".primaryType")
        used = types.reachable(document.primaryType)
    except TypedDataError:
        raise _invalid(".types") from None
    if _DOMAIN in used:
        raise _invalid(".types")
    if used | {_DOMAIN} != set(listed):
        raise _invalid(".types")  # what is not signed must not be there
    return types


def _hash(types: Types, name: str, value: dict[str, Any], part: str) -> bytes:
    try:
        return types.hash_struct(name, value, "")
    except TypedDataError:
        raise _invalid(part) from None


def _facts(document: _Document) -> TypedDataFacts:
    """From values that have been hashed, so that they are of their types."""
    domain, message = document.domain, document.message
    members = [(member.name, member.type) for member in document.types[document.primaryType]]
    permit = None
    if document.primaryType == "Permit" and members == _PERMIT:
        permit = PermitFacts(
            owner=address(message["owner"]),
            spender=address(message["spender"]),
            value=number(message["value"], 256, signed=False),
            deadline=number(message["deadline"], 256, signed=False),
        )
    return TypedDataFacts(
        type=TYPE,
        domain_name=domain.get("name"),
        domain_version=domain.get("version"),
        chain_id=number(domain["chainId"], 256, signed=False) if "chainId" in domain else None,
        verifying_contract=address(domain["verifyingContract"]) if "verifyingContract" in domain else None,
        primary_type=document.primaryType,
        permit=permit,
    )


def _invalid(part: str) -> AdytumError:
    return AdytumError(Code.CONTENT_INVALID, _FIELD + part)
