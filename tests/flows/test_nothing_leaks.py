"""One long history through everything that touches a secret; then the database, the logs and every file that is left
are searched for every secret that was used, in every encoding. A planted one is found."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from coins import Coins
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from eth_account import Account
from eth_account.hdaccount import HDPath
from outsider import open_record, opened
from secrets_scan import forms, search
from vault_files import GOOD_MNEMONIC, headed_share, keystore, legacy_share
from wallet import TRANSFER, allow_everything, unsigned

from adytum.client import KeyApprover
from adytum.client.asynchronous import AsyncAdytum
from adytum.client.errors import PendingError, RefusedError
from adytum.client.imports import open_export
from adytum.client.signers import KeySigner
from adytum_sim.enclave.witness import digests, scan
from adytum_sim.host import Host, running_host
from adytum_sim.people import Person, request_body, signed_policy
from adytum_sim.stack import TENANT, Stack, running_stack
from adytum_wire import dsse, usage
from adytum_wire.errors import Code
from adytum_wire.pae import USAGE_RESET, pae
from adytum_wire.requests import EthereumTransaction, PersonalMessage, TypedData
from adytum_wire.types import Algorithm, SigningScheme

PEM = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
PATH = "m/44'/60'/0'/0/0"
LIMIT = {"id": "few", "measure": "count", "asset": "*", "per": "tenant", "window_seconds": 3600, "max": "2"}
USES = [
    "sign", "sign-raw", "generate_key", "generate_seed", "import_key", "import_file", "derive_key", "seal", "unseal",
    "reseal", "disable_key", "enable_key", "schedule_deletion", "cancel_deletion",
]  # fmt: skip


def person(name: str) -> tuple[Person, Ed25519PrivateKey]:
    key = Ed25519PrivateKey.generate()
    return Person(name, KeySigner(key)), key


@dataclass(slots=True)
class History:
    """What happened. `secrets`: everything that nobody may read, by a name for the report. `codes`: the refusals."""

    stack: Stack
    host: Host
    place: Path
    secrets: dict[str, bytes] = field(default_factory=dict)
    codes: set[str] = field(default_factory=set)
    said: list[bytes] = field(default_factory=list)
    version: int = 0
    people: dict[str, Person] = field(default_factory=dict)
    holders: list[X25519PrivateKey] = field(default_factory=list)
    rescue: X25519PrivateKey = field(default_factory=X25519PrivateKey.generate)

    def gather_people(self) -> None:
        for name in ("alice", "bob", "rotator", "mallory"):
            self.people[name], key = person(name)
            self.secrets[f"{name}'s key"] = key.private_bytes_raw()
            (self.place / f"{name}.pem").write_bytes(key.private_bytes(*PEM))
        self.holders = [X25519PrivateKey.generate() for _ in range(2)]
        for number, holder in enumerate(self.holders):
            self.secrets[f"holder {number}"] = holder.private_bytes_raw()
        self.secrets["rescue"] = self.rescue.private_bytes_raw()
        for admin in self.stack.admins:
            private: Any = admin.signer._key
            self.secrets[admin.name] = private.private_bytes_raw()
        self.secrets["AWS secret key"] = self.stack.credentials.secret_access_key.encode()
        self.secrets["AWS session token"] = self.stack.credentials.session_token.encode()

    async def put_policy(self, generation: int) -> None:
        self.version += 1
        asked = {"approvals": {"role": "approver", "count": 1}}
        rules = [
            allow_everything("use", operations=USES),
            allow_everything("limited", operations=["sign", "generate_key"], labels=["limited"], limits=["few"]),
            allow_everything("leave", operations=["export"], **asked),
            allow_everything("sessions", operations=["open_session"], labels="*"),
            allow_everything("rotate", operations=["reseal"], principals=["role:rotator"], labels="*"),
            allow_everything("state", operations=["rotation_statement"], principals=["role:rotator"], labels="*"),
        ]
        roles = {"alice": "signer", "bob": "approver", "rotator": "rotator", "mallory": "nobody"}
        document = self.stack.policy([p.as_principal(roles[p.name]) for p in self.people.values()], rules)
        document |= {"version": self.version, "limits": [LIMIT]}
        document["records"] = {"generation": generation, "min_generation": generation}
        document["recipients"] = [{"id": "rescue", "public_key": self.rescue.public_key().public_bytes_raw().hex()}]
        keys = [holder.public_key().public_bytes_raw().hex() for holder in self.holders]
        document["recovery"] = {"threshold": 2, "keys": keys}
        async with self.host.client(self.people["alice"]) as client:
            await client.put_policy(signed_policy(document, *self.stack.admins))

    async def open_limits(self) -> None:
        async with self.host.client(self.people["alice"]) as client:
            boot = (await client.attestation()).binding.boot_id
            data = json.dumps({"v": 1, "tenant": TENANT, "boot_id": boot, "limits": "*"}).encode()
            signed = [(a.public_key, a.sign(pae(USAGE_RESET, data))) for a in self.stack.admins]
            await client.reset_usage(dsse.build(USAGE_RESET, data, signed))

    @contextmanager
    def refused(self, code: Code) -> Iterator[None]:
        with pytest.raises(RefusedError) as caught:
            yield
        assert caught.value.code is code, caught.value
        self.codes.add(code.value)
        self.said.append(repr(caught.value).encode() + str(caught.value).encode())

    async def command(self, *arguments: object, code: int = 0) -> None:
        """A command as a process of its own; what it printed is kept."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", "from adytum.cli import main; main()", *(str(one) for one in arguments),
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, error = await process.communicate()
        assert process.returncode == code, (arguments, out, error)
        self.said += [out, error]

    async def fetch(self, query: str) -> list[asyncpg.Record]:
        return await self.host._fetch(query)


async def make_and_bring(history: History, client: AsyncAdytum) -> dict[str, str]:
    """Keys by name: made inside, and brought in each form that there is."""
    secrets = history.secrets
    keys: dict[str, str] = {}

    async def keep(name: str, answer: Any) -> None:
        keys[name] = answer.result.key_id

    for algorithm in Algorithm:
        if algorithm in (Algorithm.SECP256K1, Algorithm.ED25519, Algorithm.P256):
            await keep(algorithm.value, await client.generate_key(algorithm, labels=["treasury"]))
    await keep("limited", await client.generate_key(Algorithm.SECP256K1, labels=["limited"]))
    await keep("seed", await client.generate_seed(labels=["treasury"]))
    raw, stored, share, other = Account.create(), Account.create(), os.urandom(500), os.urandom(100)
    words, password = b"password for the files " + os.urandom(8).hex().encode(), "pass phrase of " + os.urandom(8).hex()
    text = b"what the treasury wants to keep: " + os.urandom(16).hex().encode()
    secrets |= {"raw": raw.key, "keystore": stored.key, "share": share, "legacy share": other, "text": text}
    secrets |= {"password": words, "passphrase": password.encode(), "mnemonic": GOOD_MNEMONIC.encode()}
    public = raw._key_obj.public_key.to_compressed_bytes()
    await keep("raw", await client.import_key(Algorithm.SECP256K1, raw.key, public, labels=["treasury"]))

    async def bring(kind: Any, file: bytes, secret: bytes = b"") -> Any:
        return await client.import_file(kind, file, password=secret, labels=["treasury"])

    await keep("keystore", await bring("keystore-v3", keystore(stored.key, words.decode()), words))
    await keep("mnemonic", await bring("bip39", GOOD_MNEMONIC.encode(), password.encode()))
    await keep("share", await bring("mpcenc-v1", headed_share(share, words), words))
    await keep("legacy", await bring("mpc-legacy", legacy_share(other, words), words))
    with history.refused(Code.IMPORT_INVALID):
        await bring("keystore-v3", keystore(stored.key, words.decode()), b"not the password")
    await keep("text", await client.seal(text, labels=["treasury"]))
    return keys


async def use(history: History, client: AsyncAdytum, keys: dict[str, str]) -> None:
    """Sign everything that can be signed, take out what can be taken out, change states, be refused."""
    transfer = bytes.fromhex(unsigned(TRANSFER))
    scheme = SigningScheme.ECDSA_SECP256K1
    for name in ("secp256k1", "raw", "keystore"):
        await client.sign_ethereum(keys[name], transfer)
    await client.sign(keys["raw"], scheme, PersonalMessage(b"I agree.".hex()))
    typed = {
        "types": {"EIP712Domain": [{"name": "chainId", "type": "uint256"}], "Mail": [{"name": "a", "type": "string"}]},
        "primaryType": "Mail", "domain": {"chainId": 1}, "message": {"a": "hello"},
    }  # fmt: skip
    await client.sign(keys["raw"], scheme, TypedData(json.dumps(typed)))
    await client.sign_raw(keys["secp256k1"], scheme, digest=b"\x07" * 32)
    await client.sign_raw(keys["ed25519"], SigningScheme.ED25519, message=b"a message")
    await client.sign_raw(keys["p256"], SigningScheme.ECDSA_P256, digest=b"\x08" * 32)
    for name in ("seed", "mnemonic"):
        await client.derive(keys[name], PATH, Algorithm.SECP256K1)
        await client.sign(keys[name], scheme, EthereumTransaction(transfer.hex()), path=PATH)
    coins = Coins(await seed_of(history, keys["seed"]), "p2wpkh")
    await client.sign_psbt(keys["seed"], coins.spend([90_000], 50_000, 1_000).psbt, path=coins.path)

    reader = X25519PrivateKey.generate()
    history.secrets["reader"] = reader.private_bytes_raw()
    unsealed = await client.unseal(keys["text"], reader)
    assert unsealed.secret == history.secrets["text"]
    await client.open_session(ttl_seconds=600)
    session = client._talk._session
    assert session is not None
    history.secrets["session"] = session.key
    await client.sign_ethereum(keys["raw"], transfer)
    client.close_session()

    with pytest.raises(PendingError) as waits:
        await client.export(keys["raw"], "rescue")
    async with history.host.client(history.people["bob"]) as bob:
        review = await bob.approvals.review(waits.value.request_id)
        await bob.approvals.approve(review, KeyApprover(history.people["bob"].signer))
    answer: Any = await client.requests.wait(waits.value.body, timeout_s=60)
    assert open_export(answer.result, history.rescue) == history.secrets["raw"]

    await client.reseal(keys["share"])
    await client.disable_key(keys["p256"])
    with history.refused(Code.KEY_STATE):
        await client.sign_raw(keys["p256"], SigningScheme.ECDSA_P256, digest=b"\x08" * 32)
    await client.enable_key(keys["p256"])
    await client.schedule_deletion(keys["legacy"], 7)


async def be_refused(history: History, client: AsyncAdytum, keys: dict[str, str]) -> None:
    transfer = bytes.fromhex(unsigned(TRANSFER))
    await client.sign_ethereum(keys["limited"], transfer)
    with history.refused(Code.LIMIT_EXCEEDED):
        await client.sign_ethereum(keys["limited"], bytes.fromhex(unsigned(TRANSFER | {"nonce": 9})))
    with history.refused(Code.CONTENT_INVALID):
        await client.sign_ethereum(keys["raw"], b"\x02\xff")
    body = request_body(TENANT, "generate_key", history.stack.now_ms() - 3_600_000, algorithm="p256", labels=["x"])
    with history.refused(Code.REQUEST_EXPIRED):
        await client.repeat(body)
    name = "the-same-name-twice"
    await client.generate_key(Algorithm.P256, labels=["treasury"], request_id=name)
    with history.refused(Code.REQUEST_CONFLICT):
        await client.generate_key(Algorithm.ED25519, labels=["treasury"], request_id=name)
    async with history.host.client(history.people["mallory"]) as mallory:
        with history.refused(Code.POLICY_DENIED):
            await mallory.import_key(Algorithm.ED25519, os.urandom(32), os.urandom(32), labels=["treasury"])
    async with history.host.client(Person.new("stranger")) as stranger:
        with history.refused(Code.PRINCIPAL_UNKNOWN):
            await stranger.sign_ethereum(keys["raw"], transfer)
    connection = await asyncpg.connect(history.host.dsn)
    try:
        await connection.execute(
            "UPDATE key_envelopes SET ciphertext_blob = 'AAAA' || substr(ciphertext_blob, 5) WHERE key_id = $1",
            keys["limited"],
        )
    finally:
        await connection.close()


async def seed_of(history: History, key_id: str) -> bytes:
    for record in await history.host.records():
        if json.loads(record.header)["key_id"] == key_id:
            return open_record(history.stack, record)[1]
    raise AssertionError(key_id)


async def learn(history: History, keys: dict[str, str]) -> None:
    """What a thief would want: every record's data key and content, the keys derived from seeds, and the snapshots'."""
    for number, record in enumerate(await history.host.records()):
        if record.ciphertext_blob[:3] == bytes(3):
            continue  # the one that was tampered with
        data_key, secret = open_record(history.stack, record)
        history.secrets[f"data key {number}"] = data_key
        history.secrets[f"record {number}"] = secret
    for name in ("seed", "mnemonic"):
        master = await seed_of(history, keys[name])
        history.secrets[f"child of {name}"] = HDPath(PATH).derive(master)
    for row in await history.fetch("SELECT snapshot FROM usage_snapshots"):
        snapshot, header = usage.parse_snapshot(bytes(row["snapshot"]))
        context = usage.context(header.tenant)
        key = opened(history.stack, header.kms_key_arn, context, snapshot.data_key_ciphertext)
        history.secrets["data key of the snapshot"] = key
    for number, secret in enumerate(history.stack.kms_secrets):
        history.secrets[f"KMS {number}"] = secret


@contextmanager
def debug_log() -> Iterator[io.StringIO]:
    """Everything that any logger of this process says, the service's at DEBUG among it."""
    text, root = io.StringIO(), logging.getLogger()
    handler, level = logging.StreamHandler(text), root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        yield text
    finally:
        root.removeHandler(handler)
        root.setLevel(level)


def settings_file(history: History) -> Path:
    tee = {
        "kmsKeyARN": history.stack.key_arn,
        "allowedPCRs": history.stack.allowed_pcrs,
        "manifestFile": str(history.place / "manifest.json"),
        "attestationRootsFile": str(history.place / "roots.pem"),
        "developmentDirectory": str(history.stack.directory),
    }
    rotation = {"url": history.host.service.base_url, "signerFile": str(history.place / "rotator.pem")}
    made = {"tee": tee, "database": {"dsn": history.host.dsn}, "rotation": rotation}
    path = history.place / "adytum.yaml"
    path.write_text(json.dumps(made))
    return path


async def operate(history: History, client: AsyncAdytum, keys: dict[str, str]) -> None:
    """Rotation, audit, recovery and backup, by their commands."""
    await history.put_policy(generation=2)
    with history.refused(Code.RECORD_RETIRED):
        await client.sign_ethereum(keys["raw"], bytes.fromhex(unsigned(TRANSFER)))
    config = settings_file(history)
    rotate = ("rotate", "start", "-c", config, "--tenant", TENANT, "--workers", "1", "--json")
    await history.command(*rotate, code=1)  # incomplete: the record that was tampered with
    history.codes.add("RECORD_TAMPERED")
    [left] = await history.fetch("SELECT code FROM job_failures")
    assert left["code"] == "RECORD_TAMPERED"
    await client.sign_ethereum(keys["raw"], bytes.fromhex(unsigned(TRANSFER)))
    url = ("--url", history.host.service.base_url)
    await history.command("keys", "list", *url, "--tenant", TENANT, "--json")
    await history.command("audit", "export", *url, "--out", history.place / "audit.jsonl")
    await history.command("recover", "export-envelopes", "-c", config, "--out", history.place / "envelopes")
    await history.command("backup", "create", "-c", config, "--out", history.place / "backup")


def files_of(history: History, dump: bytes, log: str) -> dict[str, bytes]:
    """Everything that is left and is nobody's key file."""
    place = history.place
    found = {"dump": dump, "service log": log.encode(), "printed": b"\n".join(history.said)}
    found["enclave log"] = "\n".join(history.stack.enclave.log).encode()
    found["PostgreSQL log"] = (place / "pg" / "log").read_bytes()
    for path in [place / "audit.jsonl", *(place / "copies").iterdir(), *(place / "envelopes").iterdir()]:
        found[path.name] = path.read_bytes()
    found["backup manifest"] = (place / "backup" / "manifest.json").read_bytes()
    return found


async def test_a_dump_and_all_logs_hold_none_of_the_secrets_that_were_used(capfd: Any) -> None:
    with tempfile.TemporaryDirectory(prefix="ad-", dir="/tmp", ignore_cleanup_errors=True) as name, debug_log() as log:
        directory = Path(name)
        directory.chmod(0o711)  # PostgreSQL runs as another user when we are root
        place = directory / "h"
        (place / "copies").mkdir(parents=True)
        place.chmod(0o711)
        audit = {"fileDirectory": str(place / "copies"), "fileReceipts": True, "checkpointSeconds": 0.2}
        async with (
            running_stack(directory / "s", configure=False, witness=True, anchor={"kind": "host"}) as stack,
            running_host(stack, place, durable=False, settings={"audit": audit}) as host,
        ):
            history = History(stack, host, place)
            history.gather_people()
            await history.put_policy(generation=1)
            await history.open_limits()
            async with host.client(history.people["alice"]) as client:
                keys = await make_and_bring(history, client)
                await use(history, client, keys)
                await be_refused(history, client, keys)
                await learn(history, keys)
                await operate(history, client, keys)
            await learn(history, keys)
            dump = await host.dump()
            printed = capfd.readouterr()
            history.said += [printed.out.encode(), printed.err.encode()]
            files = files_of(history, dump, log.getvalue())
            random = digests(history.stack.kms_secrets) | await stack.enclave.witnessed()

    # What was looked at is what it says, and holds what may be known.
    assert keys["raw"].encode() in files["dump"]
    assert len(files["service log"]) > 1000
    assert all(len(data) > 0 for name, data in files.items() if name not in ("PostgreSQL log",)), list(files)
    assert len(history.codes) >= 10, history.codes
    assert len(history.secrets) > 60
    secrets = {name: secret for name, secret in history.secrets.items() if len(secret) >= 16}
    assert len(secrets) == len(history.secrets)

    assert search(files, secrets) == []
    for name, data in files.items():
        assert scan(data, random) == [], name

    for number, (name, planted) in enumerate(forms(secrets["raw"])):  # and it would have been found
        target = list(files)[number % len(files)]
        at = len(files[target]) // 2
        spoilt = {target: files[target][:at] + b"\n" + planted + b"\n" + files[target][at:]}
        assert search(spoilt, {"raw": secrets["raw"]}), (target, name)


@pytest.mark.parametrize("wrap", ["", "json", "hex", "hex of json", "base64", "hex of base64", "urlsafe", "upper"])
def test_a_secret_is_found_through_the_layers_of_a_dump(wrap: str) -> None:
    secret = os.urandom(32)
    text = {
        "": secret,
        "json": b'{"key":"' + secret.hex().encode() + b'"}',
        "hex": secret.hex().encode(),
        "hex of json": (b'{"key":"' + secret.hex().encode() + b'"}').hex().encode(),
        "base64": base64.b64encode(b"?" + secret + b"!"),
        "hex of base64": base64.b64encode(b"?" + secret).hex().encode(),
        "urlsafe": base64.urlsafe_b64encode(b"??" + secret),
        "upper": secret[:16].hex().upper().encode(),
    }[wrap]
    assert search({"file": b"before '\\x" + text + b"' after"}, {"secret": secret})
    assert not search({"file": b"before '\\x" + text + b"' after"}, {"another": os.urandom(32)})
