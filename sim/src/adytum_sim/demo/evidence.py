"""What the demo leaves for others to check, and the checks that it runs itself on exactly those files."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from adytum_sim.demo.story import DemoError, Fact, Report, Result
from adytum_sim.enclave.witness import digests, scan
from adytum_sim.host import Host, write_release
from adytum_verify import cli as verifier
from adytum_wire.record import Record


@dataclass(frozen=True, slots=True)
class Files:
    """The files of one run, in `directory`."""

    directory: Path

    def __getitem__(self, name: str) -> Path:
        return self.directory / name


async def collect(host: Host, result: Result, files: Files, logs: str) -> None:
    """Write result.json, receipts.jsonl, attestation.bin and what goes with it, db.sql and logs.txt."""
    rows = await host.attested_enclaves()
    if len(rows) != 1:
        raise DemoError("the host holds no attestation document, or more than one")
    document, binding = rows[0]
    files["attestation.bin"].write_bytes(document)
    files["binding.json"].write_bytes(binding)
    files["root.pem"].write_bytes(host.stack.kms.pki.root_pem)
    files["manifest.json"].write_bytes(host.stack.manifest)
    write_release(host.stack, files["measurements.json"])
    files["receipts.jsonl"].write_bytes(b"".join(line + b"\n" for line in await host.receipts()))
    files["db.sql"].write_bytes(await host.dump())
    files["logs.txt"].write_text(logs)
    files["result.json"].write_text(json.dumps(asdict(result), indent=1) + "\n")


def verify(files: Files, report: Report) -> None:
    """What an auditor does, with the auditor's own command, on the files alone. Errors: DemoError."""
    arguments = [
        "audit",
        str(files["receipts.jsonl"]),
        "--attestation",
        str(files["attestation.bin"]),
        "--binding",
        str(files["binding.json"]),
        "--manifest",
        str(files["manifest.json"]),
        "--measurements",
        str(files["measurements.json"]),
        "--root",
        str(files["root.pem"]),
        "--json",
    ]
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        status = verifier.main(arguments)
    if status != 0:
        raise DemoError(f"adytum-verify refuses: {output.getvalue()}")
    receipts = len(files["receipts.jsonl"].read_bytes().splitlines())
    report(Fact("Checked offline", "adytum-verify audit", f"verified, {receipts} receipts from the first on"))


async def prove_absence(host: Host, files: Files, report: Report) -> None:
    """No secret of the enclave, and no data key of KMS, stands in the dump, the logs or the receipts, in any encoding.

    The stand-ins know the secrets: KMS its data keys, with which each stored record is opened here to learn the key in
    it; the enclave process, as digests, what its randomness made. The scan is shown to work on a planted copy.
    Errors: DemoError.
    """
    opened = [open_record(record, host.stack.kms_secrets) for record in await host.records()]
    if not opened:
        raise DemoError("there is no record whose key could be looked for")
    wanted = digests([*opened, *host.stack.kms_secrets]) | await host.stack.enclave.witnessed()
    planted = b"0123456789abcdef0123456789ABCDEF"
    if not scan(b"xx" + planted.hex().encode() + b"yy", digests([planted])):
        raise DemoError("the scan is blind")
    for name in ("db.sql", "logs.txt", "receipts.jsonl"):
        data = files[name].read_bytes()
        hits = scan(data, wanted)
        if hits:
            raise DemoError(f"{name} holds a secret ({hits[0][0]}) at byte {hits[0][1]}")
        report(Fact("No secret found in", name, f"{len(data):,} bytes, {len(wanted)} forms looked for"))


def open_record(record: Record, data_keys: list[bytes]) -> bytes:
    """The secret in a record, by whichever of `data_keys` is its own. Written from spec/envelope.md, with another
    library than the enclave's. Errors: DemoError."""
    blob, info = record.ciphertext_blob, hashlib.sha256(record.header).digest()
    for key in data_keys:
        derived = HKDF(hashes.SHA256(), 64, b"adytum/envelope/v1", info).derive(key)
        if derived[32:] == blob[:32]:
            return AESGCM(derived[:32]).decrypt(blob[32:44], blob[44:], record.header)
    raise DemoError("no data key of KMS opens a record that the host stored")
