"""Usage snapshots at the host: stored with the receipt or not at all, the newest only, the CLI."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from adytum.cli import main
from adytum.client.signers import KeySigner
from adytum.client.usage import draft_reset, read_reset, sign_reset
from adytum.storage.rows import usage_row
from adytum_policy.quorum import count_signatures
from adytum_wire.errors import AdytumError, Code
from adytum_wire.manifest import Admin, Tenant
from adytum_wire.pae import USAGE_RESET
from adytum_wire.types import Scheme
from adytum_wire.usage import Snapshot, SnapshotHeader, encode_header, encode_snapshot

BOOT = "ab" * 16
ARN = "arn:aws:kms:eu-west-1:111122223333:key/a"


def snapshot(version: int, tenant: str = "acme") -> bytes:
    header = SnapshotHeader(
        deployment="test", tenant=tenant, version=version, boot_id=BOOT, kms_key_arn=ARN, created_at=1
    )
    return encode_snapshot(Snapshot(encode_header(header), b"sealed", b"key"))


def test_the_columns_are_read_from_the_header() -> None:
    row = usage_row(snapshot(7))
    assert (row.tenant, row.version, row.chain) == ("acme", 7, BOOT)
    for bad in (b"", b"x", snapshot(7)[:-1], snapshot(7) + b"x", b"\x93\xc4\x02{}\xc4\x01x\xc4\x01x"):
        with pytest.raises(AdytumError) as caught:
            usage_row(bad)
        assert caught.value.code is Code.USAGE_INVALID


def test_a_reset_is_signed_by_several_one_after_the_other() -> None:
    alice, bob = KeySigner(Ed25519PrivateKey.generate()), KeySigner(Ed25519PrivateKey.generate())
    admins = [
        Admin(id=name, scheme=Scheme.ED25519, public_key=signer.public_key.hex())
        for name, signer in (("alice", alice), ("bob", bob))
    ]
    tenant = Tenant(id="acme", kms_key=ARN, admins=admins, threshold=2)
    envelope = sign_reset(draft_reset("acme", BOOT, ["daily"]), [alice])
    _, quorum = count_signatures(envelope, tenant, payload_type=USAGE_RESET, code=Code.USAGE_INVALID)
    assert (quorum.counted, quorum.missing) == (("alice",), ("bob",))
    envelope = sign_reset(sign_reset(envelope, [bob]), [bob])
    _, quorum = count_signatures(envelope, tenant, payload_type=USAGE_RESET, code=Code.USAGE_INVALID)
    assert quorum.reached
    assert read_reset(envelope).limits == ["daily"]
    with pytest.raises(AdytumError):
        draft_reset("acme", "no boot", "*")


def test_the_command_writes_and_signs_a_reset(tmp_path: Path) -> None:
    keys = []
    for name in ("a", "b"):
        path = tmp_path / f"{name}.pem"
        key = Ed25519PrivateKey.generate()
        path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        keys.append(str(path))
    out = str(tmp_path / "reset.json")
    run = CliRunner()
    made = run.invoke(
        main,
        [
            "usage",
            "sign",
            "--tenant",
            "acme",
            "--boot-id",
            BOOT,
            "--limit",
            "daily",
            "--key",
            keys[0],
            "-o",
            out,
            "--json",
        ],
    )
    assert made.exit_code == 0, made.output
    assert json.loads(made.output) == {"tenant": "acme", "boot_id": BOOT, "limits": ["daily"]}
    assert run.invoke(main, ["usage", "sign", out, "--key", keys[1], "-o", out]).exit_code == 0
    assert len(json.loads(Path(out).read_bytes())["signatures"]) == 2
    assert run.invoke(main, ["usage", "sign", "--tenant", "acme", "--key", keys[0], "-o", out]).exit_code == 2
