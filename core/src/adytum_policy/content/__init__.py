"""Decode what is to be signed: bytes in; out come the digest, facts for rules, and a summary for people.

One file a format. A new format is a new member of `adytum_wire.requests.Content`, a file here and a line below.
"""

from __future__ import annotations

from adytum_policy.content import bitcoin, ethereum, personal, raw, solana, typed_data
from adytum_policy.content.address import address_of, to_checksum
from adytum_policy.content.address_bitcoin import AddTweak, add_tweak
from adytum_policy.content.addresses import addresses_of
from adytum_policy.content.decoded import Claim, Decoded, ToSign
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

__all__ = ["Claim", "Decoded", "ToSign", "address_of", "addresses_of", "decode_content", "to_checksum"]


def decode_content(
    content: Content,
    scheme: SigningScheme,
    public_key: bytes = b"",
    path: str = "",
    *,
    add_tweak: AddTweak = add_tweak,
) -> Decoded:
    """Decode the content of a parsed `Sign` request for the scheme that will sign it.

    `public_key`: the signing key's, 33 bytes; `path`: the request's. Only Bitcoin's format looks at them, to tell which
    inputs and which change are ours. With a path the PSBT's own derivations say so, and `claims` what is to be proven;
    without path and key no PSBT decodes. `add_tweak`: a faster one than OpenSSL's.

    Errors: CONTENT_INVALID, and nothing else, whatever the bytes; also when the scheme does not fit the content. A path
    with an index over 31 bits: REQUEST_INVALID "$.path".
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
        data = bytes.fromhex(content.psbt)
        return bitcoin.decode(data, content.network, scheme, public_key=public_key, path=path, add_tweak=add_tweak)
    if isinstance(content, RawDigest):
        return raw.decode_digest(bytes.fromhex(content.digest), scheme)
    return raw.decode_message(bytes.fromhex(content.message), scheme)
