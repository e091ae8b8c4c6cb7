"""The addresses of a public key, by the name of their form: for people who look one up after `derive_key`."""

from __future__ import annotations

from adytum_policy.content import base58
from adytum_policy.content.address import address_of
from adytum_policy.content.address_bitcoin import MAINNET, BitcoinAddressError, Network, address_of_script, own_scripts
from adytum_wire.errors import AdytumError, Code
from adytum_wire.types import Algorithm


def addresses_of(algorithm: Algorithm, public_key: bytes, network: Network = MAINNET) -> dict[str, str]:
    """`ethereum` (EIP-55), `bitcoin-p2wpkh` (BIP-84), `bitcoin-p2tr` (BIP-86), `bitcoin-p2sh-p2wpkh` (BIP-49) for
    secp256k1 (33 bytes), `solana` for Ed25519 (32 bytes), none for P-256. Errors: RECORD_INVALID."""
    if algorithm is Algorithm.ED25519:
        if len(public_key) != 32:
            raise AdytumError(Code.RECORD_INVALID, "$.public_key")
        return {"solana": base58.encode(public_key)}
    if algorithm is not Algorithm.SECP256K1:
        return {}
    ethereum = address_of(public_key)
    try:
        own = own_scripts(public_key)
    except BitcoinAddressError:
        raise AdytumError(Code.RECORD_INVALID, "$.public_key") from None
    scripts = {
        "bitcoin-p2wpkh": own.segwit,
        "bitcoin-p2tr": own.taproot,
        "bitcoin-p2sh-p2wpkh": own.nested,
    }
    return {"ethereum": ethereum} | {
        name: address for name, script in scripts.items() if (address := address_of_script(script, network)) is not None
    }
