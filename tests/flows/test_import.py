"""What others wrote comes in and is what they say it is: addresses by their libraries, shares byte for byte."""

from __future__ import annotations

import os

import pytest
from bip_utils import Bip39MnemonicGenerator
from eth_account import Account
from outsider import open_record
from vault_files import GOOD_MNEMONIC, Vault, geth_keystore, headed_share, keystore, legacy_share, open_vault
from wallet import Wallet, made

from adytum_wire import limits, results
from adytum_wire.messages import ExecuteReply
from adytum_wire.record import parse_header
from adytum_wire.types import RecordKind

ETHEREUM = "m/44'/60'/0'/0/0"


@pytest.fixture
async def vault(wallet: Wallet) -> Vault:
    return await open_vault(wallet)


@pytest.mark.parametrize("kdf", ["scrypt", "pbkdf2"])
async def test_a_keystore_is_the_key_that_eth_account_has(vault: Vault, kdf: str) -> None:
    account = Account.create()
    file = keystore(account.key, "correct horse", kdf=kdf)
    assert Account.decrypt(file.decode(), "correct horse") == account.key
    for expected in ("", account.address, account.address.lower()):
        key = made(await vault.bring("keystore-v3", file, b"correct horse", expected=expected))
        assert key.address == account.address
        assert open_record(vault.wallet.stack, key.record)[1] == account.key
    public = key.public_key
    assert made(await vault.bring("keystore-v3", file, b"correct horse", expected=public)).public_key == public
    assert isinstance(await vault.wallet.sign(key), ExecuteReply)


async def test_a_keystore_with_geths_own_cost_comes_in(vault: Vault) -> None:
    """N = 262144, r = 8: 256 MiB and about a second. (eth-account writes r = 1.)"""
    account = Account.create()
    key = made(await vault.bring("keystore-v3", geth_keystore(account.key, b"p"), b"p"))
    assert key.address == account.address


@pytest.mark.parametrize("size", [12, 24])
async def test_a_mnemonic_derives_what_eth_account_derives(vault: Vault, size: int) -> None:
    Account.enable_unaudited_hdwallet_features()
    mnemonic = str(Bip39MnemonicGenerator().FromWordsNumber(size))
    first = Account.from_mnemonic(mnemonic, passphrase="TREZOR").address
    seed = made(await vault.bring("bip39", mnemonic.encode(), b"TREZOR", expected=first))
    header = parse_header(seed.record.header)
    assert (header.kind, header.public_key) == (RecordKind.HD_SEED, "")
    for path in (ETHEREUM, "m/44'/60'/0'/0/7"):
        reply = await vault.derived(seed.key_id, seed.record, path)
        assert isinstance(reply, ExecuteReply), reply
        result = results.parse_result(reply.result)
        assert isinstance(result, results.DeriveKeyResult)
        theirs = Account.from_mnemonic(mnemonic, passphrase="TREZOR", account_path=path)
        assert result.addresses["ethereum"] == theirs.address


async def test_an_empty_passphrase_is_none(vault: Vault) -> None:
    Account.enable_unaudited_hdwallet_features()
    first = Account.from_mnemonic(GOOD_MNEMONIC).address
    made(await vault.bring("bip39", GOOD_MNEMONIC.encode(), expected=first))


async def test_shares_come_in_byte_for_byte_up_to_the_limit(vault: Vault) -> None:
    for write, kind in ((legacy_share, "mpc-legacy"), (headed_share, "mpcenc-v1")):
        for size in (40, 14_000, limits.MAX_SECRET):
            share = os.urandom(size)
            stored = made(await vault.bring(kind, write(share, b"shared secret"), b"shared secret"))
            header = parse_header(stored.record.header)
            assert (header.kind, header.public_key, stored.address) == (RecordKind.SHARE, "", "")
            assert open_record(vault.wallet.stack, stored.record)[1] == share
