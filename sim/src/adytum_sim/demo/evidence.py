"""What the demo leaves for others to check, and the checks that it runs itself on exactly those files."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from adytum_sim.demo.story import DemoError, Fact, Report, Result
from adytum_sim.enclave.witness import digests, scan
from adytum_sim.host import Host, write_release
from adytum_verify import cli as verifier


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
    """No secret of the enclave, and no data key of KMS, stands in the dump or in the logs, in any encoding.

    The enclave stand-in and the KMS stand-in say which secrets there were, as digests. The scan is shown to work on a
    planted copy. Errors: DemoError.
    """
    wanted = await host.stack.enclave.witnessed()
    if not wanted or not host.stack.kms_secrets:
        raise DemoError("the stand-ins witnessed no secret")
    wanted |= digests(host.stack.kms_secrets)
    planted = b"0123456789abcdef0123456789ABCDEF"
    if not scan(b"xx" + planted.hex().encode() + b"yy", digests([planted])):
        raise DemoError("the scan is blind")
    for name in ("db.sql", "logs.txt", "receipts.jsonl"):
        data = files[name].read_bytes()
        hits = scan(data, wanted)
        if hits:
            raise DemoError(f"{name} holds a secret ({hits[0][0]}) at byte {hits[0][1]}")
        report(Fact("No secret found in", name, f"{len(data):,} bytes, {len(wanted)} forms looked for"))
