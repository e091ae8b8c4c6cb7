"""What a spool holds, judged: every record opened, every file searched for every secret.

The secrets: what the hooks named, KMS's keys and data keys, what the records hold (opened with KMS's data keys by
other people's libraries, see `outsider`), the keys below every seed whose path was used, and every 32 random bytes that
an enclave drew for itself.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from bip_utils import Bip32KeyError, Bip32PathError, Bip32Slip10Ed25519, Bip32Slip10Secp256k1
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_der_private_key
from outsider import open_with
from secrets_scan import Index, is_text

from adytum_wire.record import Record
from adytum_wire.types import RecordKind
from leaks.spool import Spool
from leaks.verdict import Verdict

_KEY_PAIR = re.compile(rb'"secret_access_key":\s*"([^"]{16,})"')


def judge(spool: Spool) -> Verdict:
    verdict = Verdict()
    facts = list(spool.facts())
    secrets, homes = _secrets(spool, facts, verdict.counts)
    index = Index(secrets)
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
                if secret not in homes or _file(fact["label"]) in homes[secret]:
                    verdict.findings.append((f"{fact['kind']} of {fact['label']}", secret, form))
    return verdict


def _secrets(
    spool: Spool, facts: list[dict[str, Any]], counts: Counter[str]
) -> tuple[dict[str, bytes], dict[str, set[str]]]:
    """By a name that says what it is and which test used it; each secret is there once. And for each that is plain text
    the test files that used it: what people write, other tests write for no secret at all."""
    named: dict[bytes, str] = {}
    used: dict[bytes, set[str]] = {}
    keys: dict[bytes, bytes] = {}

    def note(secret: bytes, what: str, label: str = "") -> None:
        named.setdefault(secret, f"{what} ({label})" if label else what)
        if label and is_text(secret):
            used.setdefault(secret, set()).add(_file(label))

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
    by_name = {f"{number}: {what}": secret for number, (secret, what) in enumerate(named.items())}
    return by_name, {name: used[secret] for name, secret in by_name.items() if secret in used}


def _file(label: str) -> str:
    return label.partition("::")[0]


def _parts(secret: bytes) -> list[bytes]:
    """What is secret of it. Of a keystore file that was sealed with its password (spec/imports.md), the password: the
    file is ciphertext, and its address is in every record. Of an AWS key pair, well-formed or not, the secret half."""
    pair = _KEY_PAIR.findall(secret)
    if pair or b"access_key" in secret:
        return pair
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
