"""Memory during and after imports: the host's never holds a password, a mnemonic or a key; the enclave's not any more.

The host (service, database client, KMS stand-in) is a process of its own here, so that what the client holds is not
mistaken for it. Its database, log and files are looked through as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from bip_utils import Bip39MnemonicGenerator, Bip39SeedGenerator
from coincurve import PublicKey
from memory_tools import memory_scan, require_readable_process
from outsider import open_record
from vault_files import Vault, headed_share, keystore, legacy_share, open_vault
from wallet import Wallet, allow_everything, made, refused

from adytum.client import AsyncAdytum
from adytum_sim.people import Person
from adytum_verify import AllowList, anchor_from_pem
from adytum_wire.errors import Code
from adytum_wire.types import Algorithm

_CHILD = Path(__file__).with_name("host_child.py")


def material() -> dict[str, bytes]:
    """What nobody but client and enclave may hold, each of at least 16 bytes."""
    mnemonic = str(Bip39MnemonicGenerator().FromWordsNumber(24))
    passphrase = os.urandom(12).hex()
    return {
        "password": os.urandom(16).hex().encode(),
        "key": b"\x01" + os.urandom(31),
        "raw key": b"\x02" + os.urandom(31),
        "share": os.urandom(600),
        "mnemonic": mnemonic.encode(),
        "passphrase": passphrase.encode(),
        "seed": bytes(Bip39SeedGenerator(mnemonic).Generate(passphrase)),
        "exported": b"\x03" + os.urandom(31),
    }


def files(secrets: dict[str, bytes]) -> list[tuple[str, bytes, bytes]]:
    """(format, file, password)."""
    password = secrets["password"]
    return [
        ("keystore-v3", keystore(secrets["key"], password.decode()), password),
        ("keystore-v3", keystore(secrets["key"], password.decode(), kdf="pbkdf2"), password),
        ("bip39", secrets["mnemonic"], secrets["passphrase"]),
        ("mpc-legacy", legacy_share(secrets["share"], password), password),
        ("mpcenc-v1", headed_share(secrets["share"], password), password),
    ]


def found(pid: int, secrets: dict[str, bytes]) -> list[Any]:
    forms = {name: form for label, value in secrets.items() for name, form in memory_scan.forms(label, value).items()}
    return list(memory_scan.scan(pid, forms, writable_only=True))


async def test_the_enclave_keeps_nothing_of_an_import(open_short_wallet: Any) -> None:
    wallet: Wallet = await open_short_wallet(bounds={"key_ttl_seconds": 0})
    pid = wallet.stack.process.pid
    require_readable_process(pid)
    vault: Vault = await open_vault(wallet)
    secrets = material()
    for kind, file, password in files(secrets):
        stored = made(await vault.bring(kind, file, password))
        data_key, plaintext = open_record(wallet.stack, stored.record)
        assert plaintext in secrets.values(), kind
        if kind != "bip39":
            refused(await vault.bring(kind, file, b"wrong" + password), Code.IMPORT_INVALID)
        assert found(pid, {"it": plaintext, "password": password, "data key": data_key}) == [], kind
    broken = secrets["mnemonic"].rsplit(b" ", 1)[0] + b" abandon zoo"
    refused(await vault.bring("bip39", broken, secrets["passphrase"]), Code.IMPORT_INVALID)
    assert found(pid, secrets) == []


def found_in_host(pid: int, secrets: dict[str, bytes]) -> set[str]:
    """Names of the secrets that lie there as bytes or in hex: what a program that carries them would hold."""
    forms = {}
    for name, value in secrets.items():
        forms |= {f"{name}/start": value[:16], f"{name}/end": value[-16:], f"{name}/hex": value[:16].hex().encode()}
    return {hit.name.split("/")[0] for hit in memory_scan.scan(pid, forms, writable_only=True)}


class Child:
    """The host's process. The test is its parent, so the kernel lets it look."""

    def __init__(self, process: subprocess.Popen[str], facts: dict[str, Any], directory: Path) -> None:
        self.process = process
        self.facts = facts
        self.directory = directory

    def client(self, person: Person) -> AsyncAdytum:
        roots = (self.directory / "roots.pem").read_bytes()
        return AsyncAdytum(
            self.facts["url"],
            "acme",
            person.signer,
            expected=AllowList.parse(self.facts["pcrs"]),
            anchors=(anchor_from_pem(roots),),
        )

    def plant(self, value: bytes) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"plant {value.hex()}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline().strip() == "planted"


@contextlib.asynccontextmanager
async def running_child(directory: Path, alice: Person) -> AsyncIterator[Child]:
    rules = [allow_everything("work", operations=["import_file", "import_key", "derive_key"])]
    told = {"directory": str(directory), "principals": [alice.as_principal("signer")], "rules": rules}
    process = subprocess.Popen(
        [sys.executable, str(_CHILD)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=(directory / "host.log").open("w"),
        text=True,
    )
    try:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps(told) + "\n")
        process.stdin.flush()
        line = await asyncio.to_thread(process.stdout.readline)
        assert line, (directory / "host.log").read_text()
        yield Child(process, json.loads(line), directory)
    finally:
        with contextlib.suppress(BrokenPipeError):
            process.communicate("stop\n", timeout=60)
        if process.poll() is None:
            process.kill()
            process.wait()


async def test_the_host_never_holds_what_is_imported(short_directory: Path) -> None:
    alice = Person.new("alice")
    secrets = material()
    short_directory.chmod(0o711)  # the database runs as somebody else
    async with running_child(short_directory, alice) as child:
        pid = child.process.pid
        require_readable_process(pid)
        async with child.client(alice) as adytum:
            imports = [
                adytum.import_file(kind, file, password=password, labels=["treasury"])
                for kind, file, password in files(secrets)
            ]
            running = [asyncio.create_task(one) for one in imports]
            # while they are under way, at whatever moment this look falls on, and when they are done
            assert await asyncio.to_thread(found_in_host, pid, secrets) == set()
            answers = await asyncio.gather(*running)
            assert len({answer.result.key_id for answer in answers}) == len(answers) == 5
            public = PublicKey.from_secret(secrets["raw key"]).format()
            await adytum.import_key(Algorithm.SECP256K1, secrets["raw key"], public, labels=["treasury"])
            assert found_in_host(pid, secrets) == set()
        # The check can fail: what lies in that memory is found.
        child.plant(secrets["key"])
        assert found_in_host(pid, secrets) == {"key"}
    for path in short_directory.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert [name for name, value in secrets.items() if value in data or value.hex().encode() in data] == []


def test_the_patterns_are_long_enough_to_mean_something() -> None:
    assert min(map(len, material().values())) >= 16
    with pytest.raises(ValueError, match="16 bytes"):
        memory_scan.scan(os.getpid(), {"short": b"x"})
