"""Decode what is to be signed: bytes in; out come the digest, facts for rules, and a summary for people.

One file a format. A new format is a new member of `adytum_wire.requests.Content`, a file here and a line below.
"""

from __future__ import annotations

from adytum_policy.content import bitcoin, ethereum, personal, raw, solana, typed_data
from adytum_policy.content.address import address_of, to_checksum
from adytum_policy.content.decoded import Decoded
from adytum_wire.errors import AdytumError, Code
from adytum_wire.requests import (
    BitcoinPsbt,
    Content,
    EthereumTransaction,
    PersonalMessage,
    RawDigest,
    SolanaMessage,
    TypedData,
)
from adytum_wire.types import SigningScheme

__all__ = ["Decoded", "address_of", "decode_content", "to_checksum"]


def decode_content(content: Content, scheme: SigningScheme, public_key: bytes = b"") -> Decoded:
    """Decode the content of a parsed `Sign` request for the scheme that will sign it.

    `public_key`: the signing key's, 33 bytes. Only Bitcoin's format looks at it, to tell which inputs and which change
    are ours; without it no PSBT decodes.

    Errors: CONTENT_INVALID, and nothing else, whatever the bytes; also when the scheme does not fit the content.
    """
    if isinstance(content, EthereumTransaction):
        if scheme is not SigningScheme.ECDSA_SECP256K1:
            raise AdytumError(Code.CONTENT_INVALID, "$.scheme")
        return ethereum.decode(bytes.fromhex(content.unsigned))
    if isinstance(content, PersonalMessage | TypedData):
        if scheme is not SigningScheme.ECDSA_SECP256K1:
            raise AdytumError(Code.CONTENT_INVALID, "$.scheme")
        if isinstance(content, TypedData):
            return typed_data.decode(content.typed_data)
        return personal.decode(bytes.fromhex(content.message))
    if isinstance(content, SolanaMessage):
        if scheme is not SigningScheme.ED25519:
            raise AdytumError(Code.CONTENT_INVALID, "$.scheme")
        return solana.decode(bytes.fromhex(content.message))
    if isinstance(content, BitcoinPsbt):
        if scheme not in (SigningScheme.ECDSA_SECP256K1, SigningScheme.BIP340):
            raise AdytumError(Code.CONTENT_INVALID, "$.scheme")
        return bitcoin.decode(bytes.fromhex(content.psbt), content.network, public_key, scheme)
    if isinstance(content, RawDigest):
        return raw.decode_digest(bytes.fromhex(content.digest), scheme)
    return raw.decode_message(bytes.fromhex(content.message), scheme)
