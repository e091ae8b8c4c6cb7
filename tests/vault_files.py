"""Files that other software would have written, and a client that seals them with a library that is not ours."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import aes_key_wrap_with_padding
from eth_account import Account
from eth_utils import keccak
from office import Office, furnish
from wallet import Wallet, allow_everything

from adytum_wire.messages import ExecuteReply, Refusal
from adytum_wire.record import Record

MNEMONIC = "void come effort suffer camp survey warrior heavy shoot primary clutch crush"  # its checksum is wrong
GOOD_MNEMONIC = "legal winner thank year wave sausage worth useful legal winner thank yellow"


def keystore(secret: bytes, password: str, *, kdf: str = "scrypt", cost: int = 16) -> bytes:
    """By eth-account, with a KDF that is cheap enough for tests."""
    return json.dumps(Account.encrypt(secret, password, kdf=kdf, iterations=cost)).encode()


def geth_keystore(secret: bytes, password: bytes) -> bytes:
    """As geth writes one, with its standard cost."""
    salt, iv = os.urandom(32), os.urandom(16)
    key = hashlib.scrypt(password, salt=salt, n=262144, r=8, p=1, dklen=32, maxmem=2**29)
    ciphertext = Cipher(algorithms.AES(key[:16]), modes.CTR(iv)).encryptor().update(secret)
    crypto = {
        "cipher": "aes-128-ctr",
        "ciphertext": ciphertext.hex(),
        "cipherparams": {"iv": iv.hex()},
        "kdf": "scrypt",
        "kdfparams": {"dklen": 32, "n": 262144, "p": 1, "r": 8, "salt": salt.hex()},
        "mac": keccak(key[16:] + ciphertext).hex(),
    }
    return json.dumps({"address": "", "crypto": crypto, "id": "1", "version": 3}).encode()


def legacy_share(share: bytes, password: bytes) -> bytes:
    """As `FileSystemKeyShareStorage` of go-mpc-wallet encrypts: fixed salt, no AAD."""
    key = hashlib.scrypt(password, salt=b"mpc-key-share-salt", n=32768, r=8, p=1, dklen=32, maxmem=2**26)
    nonce = os.urandom(12)
    return nonce + AESGCM(key).encrypt(nonce, share, None)


def headed_share(share: bytes, password: bytes, *, mode: int = 2) -> bytes:
    """As the team's header describes, password mode, AES-KWP."""
    salt, nonce, key, kek_id = os.urandom(16), os.urandom(12), os.urandom(32), b"tenant-1"
    kek = hashlib.scrypt(password, salt=salt, n=1024, r=8, p=1, dklen=32)
    wrapped = aes_key_wrap_with_padding(kek, key)
    start = b"MPCENC\0\0" + struct.pack(">HHB", 1, 0, 1)
    aad = start + kek_id
    out = start + struct.pack(">BIII", 1, 1024, 8, 1) + struct.pack(">H", len(salt)) + salt
    out += struct.pack(">BH", mode, len(kek_id)) + kek_id + struct.pack(">H", len(wrapped)) + wrapped
    out += struct.pack(">B", len(nonce)) + nonce + struct.pack(">H", len(aad)) + aad
    for value, form in ((b"key-1", ">H"), (b"node-1", ">H"), (b"gg20", ">B"), (b"secp256k1", ">B")):
        out += struct.pack(form, len(value)) + value
    return out + struct.pack(">q", 0) + AESGCM(key).encrypt(nonce, share, aad)


@dataclass(slots=True)
class Vault:
    """`alice` may import and derive by herself; what she exports, bob and carol approve. `rescue` names a key."""

    office: Office

    @property
    def wallet(self) -> Wallet:
        return self.office.wallet

    async def seal(self, request_id: str, password: bytes, file: bytes) -> dict[str, str]:
        packed = len(password).to_bytes(4, "big") + password + file
        return await self.wallet.seal("import_file", request_id, packed)

    async def bring(
        self, kind: str, file: bytes, password: bytes = b"", *, expected: str = "", request_id: str = "", **fields: Any
    ) -> ExecuteReply | Refusal:
        name = request_id or "import-" + os.urandom(8).hex()
        asked = {
            "format": kind,
            "labels": ["treasury"],
            "expected": expected,
            "sealed": await self.seal(name, password, file),
        } | fields
        return await self.wallet.stack.ask(self.wallet.alice, "import_file", request_id=name, **asked)

    async def derived(self, key_id: str, record: Record, path: str) -> ExecuteReply | Refusal:
        request = {"key_id": key_id, "path": path, "algorithm": "secp256k1", "record": record}
        return await self.wallet.stack.ask(self.wallet.alice, "derive_key", **request)


async def open_vault(wallet: Wallet, **policy: Any) -> Vault:
    """`policy`: members of the document to put otherwise, such as `recipients` or `recovery`."""
    office = await furnish(wallet)
    every = [
        "import_file", "derive_key", "sign", "reseal", "seal", "generate_key", "generate_seed", "disable_key",
        "import_key",
    ]  # fmt: skip
    rules = [
        allow_everything("work", operations=every),
        allow_everything("hand-over", operations=["export"], approvals={"role": "approver", "count": 2}),
    ]
    await office.put(**({"rules": rules} | policy))
    return Vault(office)
