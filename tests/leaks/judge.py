"""What a spool holds, judged: every record opened, every file searched for every secret.

The secrets: what the hooks named, KMS's keys and data keys, what the records hold (opened with KMS's data keys by
other people's libraries, see `outsider`), the keys below every seed whose path was used, and every 32 random bytes that
an enclave drew for itself.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

from bip_utils import Bip32KeyError, Bip32PathError, Bip32Slip10Ed25519, Bip32Slip10Secp256k1
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_der_private_key
from outsider import open_with
from secrets_scan import Index

from adytum_wire.record import Record
from adytum_wire.types import RecordKind
from leaks.spool import Spool
from leaks.verdict import Verdict


def judge(spool: Spool) -> Verdict:
    verdict = Verdict()
    facts = list(spool.facts())
    index = Index(_secrets(spool, facts, verdict.counts))
    verdict.counts["secrets"] = len(index)
    seen: set[bytes] = set()
    for fact in facts:
        if "count" in fact:
            verdict.counts[fact["count"]] += 1
        if "file" in fact and (spool.directory / fact["file"]).exists():  # its process may have been killed before
            data = (spool.directory / fact["file"]).read_bytes()
            verdict.counts[fact["kind"]] += 1
            verdict.counts["bytes"] += len(data)
            lines = [line for line in data.split(b"\n") if line not in seen]  # every dump has the same tables
            seen.update(lines)
            for secret, form in index.search_one(b"\n".join(lines)):
                verdict.findings.append((f"{fact['kind']} of {fact['label']}", secret, form))
    return verdict


def _secrets(spool: Spool, facts: list[dict[str, Any]], counts: Counter[str]) -> dict[str, bytes]:
    """By a name that says what it is and which test used it. Each secret is there once."""
    named: dict[bytes, str] = {}
    keys: dict[bytes, bytes] = {}

    def note(secret: bytes, what: str, label: str = "") -> None:
        named.setdefault(secret, f"{what} ({label})" if label else what)

    for fact in facts:
        if "sealed" in fact:
            keys[bytes.fromhex(fact["sealed"])] = bytes.fromhex(fact["hex"])
            for secret in _scalars(bytes.fromhex(fact["hex"])):
                note(secret, "data key of KMS", fact["label"])
        elif "secret" in fact:
            for secret in _parts(bytes.fromhex(fact["hex"])):
                note(secret, fact["secret"], fact["label"])
    seeds: dict[str, bytes] = {}
    for fact in facts:
        if "record" in fact:
            record = Record(*(bytes.fromhex(part) for part in fact["record"]))
            key = keys.get(record.data_key_ciphertext)
            try:
                content = open_with(key or b"", record)
            except (InvalidTag, ValueError):  # made without a KMS of ours, or spoilt by a test
                counts["records that do not open"] += 1
                continue
            counts["records opened"] += 1
            note(content, "content of a record", fact["label"])
            header = json.loads(record.header)
            if header["kind"] == RecordKind.HD_SEED.value:
                seeds[header["key_id"]] = content
    for key_id, path in {(fact["key"], fact["path"]) for fact in facts if "path" in fact}:
        for child in _children(seeds.get(key_id), path):
            note(child, f"key below a seed, {path[:80]}")
    for number, secret in enumerate(spool.random()):
        note(secret, f"random bytes {number} of an enclave")
    return {f"{number}: {what}": secret for number, (secret, what) in enumerate(named.items())}


def _parts(secret: bytes) -> list[bytes]:
    """What is secret of it: of a keystore file that was sealed with its password (spec/import.md), the password. The
    file is ciphertext, and its address is in every record."""
    end = 4 + int.from_bytes(secret[:4], "big")
    if len(secret) > end and secret[end : end + 1] == b"{":
        return [secret[4:end]]
    return [secret]


def _scalars(key: bytes) -> list[bytes]:
    """What is secret of a data key, or of the private half of a key pair (PKCS #8), whose form and modulus are not."""
    try:
        private = load_der_private_key(key, None)
    except ValueError:
        return [key]  # a data key, or a MAC
    if isinstance(private, RSAPrivateKey):
        numbers = private.private_numbers()
        found = [numbers.d, numbers.p, numbers.q]
    elif isinstance(private, EllipticCurvePrivateKey):
        found = [private.private_numbers().private_value]
    else:
        return [key]
    return [number.to_bytes(-(-number.bit_length() // 8), "big") for number in found]


def _children(seed: bytes | None, path: str) -> Iterator[bytes]:
    """The keys of `path` on secp256k1 and on Ed25519; none for a path that a test made up."""
    for curve in (Bip32Slip10Secp256k1, Bip32Slip10Ed25519):
        with contextlib.suppress(Bip32KeyError, Bip32PathError, ValueError):
            if seed is not None:
                yield curve.FromSeedAndPath(seed, path).PrivateKey().Raw().ToBytes()
