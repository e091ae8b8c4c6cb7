"""How long an audit takes. Not a test: machines differ.

    python verify/tests/measure_audit.py [RECEIPTS] [GROUP]

Makes a chain with the enclave's own code, writes it as an audit file, verifies it with the command, then breaks the
record in the middle and the last one, and verifies again.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from adytum_enclave.core.chain import Draft, ReceiptChain
from adytum_verify import checkpoint_line
from adytum_verify.cli import main
from adytum_wire.receipts import RuleOutcome
from adytum_wire.types import sha256


def write(path: Path, count: int, group: int) -> str:
    """Write a chain with a checkpoint after every 1,000 receipts. Returns the receipt key, hex."""
    signer = Ed25519PrivateKey.generate()
    key = signer.public_key().public_bytes_raw()
    chain = ReceiptChain("ab" * 16, key, signer.sign)
    with path.open("wb") as file:
        while len(chain) < count:
            tickets = []
            for number in range(len(chain) + 1, min(len(chain) + group, count) + 1):
                draft = Draft(
                    tenant="acme",
                    principal="treasury",
                    request_id=f"request-{number:08}",
                    operation="sign",
                    request_digest=sha256(b"%d" % number),
                )
                draft.rules.append(RuleOutcome("treasury", "allow"))
                draft.policy_version, draft.policy_digest = 5, sha256(b"policy")
                draft.key_id, draft.record_version, draft.public_key = "key-" + "0" * 32, 1, "02" + "33" * 32
                draft.summary = {"type": "ethereum-transaction", "to": "0x" + "44" * 20, "value": str(10**17)}
                tickets.append(chain.append(draft, time_ms=number, decision="allow", code="", result_digest="22" * 32))
            chain.seal()
            file.writelines(ticket.envelope + b"\n" for ticket in tickets)
            if len(chain) % 1000 < group:
                file.write(checkpoint_line(chain.checkpoint(len(chain))) + b"\n")
    return key.hex()


def run(count: int, group: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "audit.jsonl"
        key = write(path, count, group)
        whole = path.read_bytes()
        middle = whole.index(b"request-%08d" % (count // 2))
        for name, data in (
            ("whole", whole),
            ("edited in the middle", whole[:middle] + b"R" + whole[middle + 1 :]),
            ("cut at the end", whole[: whole.rindex(b'\n{"body"') + 1] + whole[whole.rindex(b'{"checkpoint"') :]),
        ):
            path.write_bytes(data)
            begun, cpu = time.monotonic(), time.process_time()
            status = main(["audit", str(path), "--key", key])
            spent = time.monotonic() - begun
            print(f"== {name}: exit {status}, {spent:.1f} s, {time.process_time() - cpu:.1f} s of processor time")
    print(f"== {count} receipts in groups of {group}, {len(whole) // 2**20} MiB; at most", end=" ")
    print(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MiB, this program's own copies included")


if __name__ == "__main__":
    run(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000, int(sys.argv[2]) if len(sys.argv) > 2 else 16)
