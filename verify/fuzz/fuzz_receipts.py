"""Fuzz the receipt and chain verifiers with atheris; run by hand, from the root of the repository:

    .venv/bin/python verify/fuzz/fuzz_receipts.py CORPUS -max_len=8000

Each input is read as one envelope, as lines of envelopes, and as edits of a sound chain. Contract: `verify_receipt`
raises nothing but RECEIPT_INVALID, `verify_chain` raises nothing, and only what the key signed comes through.
"""

import sys

import atheris
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

with atheris.instrument_imports(include=["adytum_verify", "adytum_wire"]):
    from adytum_verify import verify_chain, verify_receipt
    from adytum_wire.errors import AdytumError, Code
    from adytum_wire.receipts import (
        GENESIS,
        Receipt,
        ReceiptEnvelope,
        RuleOutcome,
        encode,
        head_bytes,
        next_link,
        parse_envelope,
    )
    from adytum_wire.types import sha256

SIGNER = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
KEY = SIGNER.public_key().public_bytes_raw()
CHAIN = "ab" * 16


def sound_chain(groups: list[int]) -> list[bytes]:
    envelopes: list[bytes] = []
    link, sequence = GENESIS, 0
    for size in groups:
        bodies = []
        for _ in range(size):
            sequence += 1
            receipt = Receipt(
                chain=CHAIN,
                sequence=sequence,
                previous=link.hex(),
                time=1_790_000_000_000 + sequence,
                tenant="acme",
                principal="ops",
                request_id=f"req-{sequence:08d}",
                operation="sign",
                request_digest="00" * 32,
                decision="allow",
                code="",
                rules=[RuleOutcome("hot", "allow")],
                approvals=[],
                wanted=[],
                limits=[],
                policy_version=1,
                policy_digest="",
                key_id="",
                record_version=0,
                public_key="",
                summary={"to": "0x0"},
                result_digest="",
            )
            bodies.append(encode(receipt))
            link = next_link(link, sha256(bodies[-1]))
        signature = SIGNER.sign(head_bytes(CHAIN, sequence, link)).hex()
        hashes = [sha256(body).hex() for body in bodies]
        for index, body in enumerate(bodies):
            envelope = ReceiptEnvelope(
                body=body.decode(), following=hashes[index + 1 :], key=KEY.hex(), signature=signature
            )
            envelopes.append(encode(envelope))
    return envelopes


SOUND = sound_chain([1, 3, 2])
BODIES = [parse_envelope(envelope).body for envelope in SOUND]


def check_one(data: bytes) -> None:
    try:
        verify_receipt(data, receipt_key=KEY)
    except AdytumError as error:
        if error.code is not Code.RECEIPT_INVALID:
            raise RuntimeError("another code") from error
        return
    if parse_envelope(data).body not in BODIES:
        raise RuntimeError("a receipt that was never signed was accepted")


def check_chain(lines: list[bytes]) -> None:
    report = verify_chain(lines, receipt_key=KEY)
    taken = [parse_envelope(line).body for line in lines[: report.records]]
    if taken != BODIES[: report.records] or (report.is_intact and report.records != len(lines)):
        raise RuntimeError("a chain that was never signed was accepted")


def one_input(data: bytes) -> None:
    check_one(data)
    check_chain(data.split(b"\n"))
    provider = atheris.FuzzedDataProvider(data)
    lines = list(SOUND)
    for _ in range(provider.ConsumeIntInRange(1, 3)):
        kind = provider.ConsumeIntInRange(0, 3)
        at = provider.ConsumeIntInRange(0, len(lines) - 1)
        if kind == 0:
            lines[at], lines[-1] = lines[-1], lines[at]
        elif kind == 1:
            lines.insert(at, lines[provider.ConsumeIntInRange(0, len(lines) - 1)])
        elif kind == 2 and len(lines) > 1:
            del lines[at]
        else:
            edited = bytearray(lines[at])
            where = provider.ConsumeIntInRange(0, len(edited) - 1)
            new = provider.ConsumeBytes(provider.ConsumeIntInRange(1, 6))
            edited[where : where + len(new)] = new
            lines[at] = bytes(edited)
    check_one(lines[0])
    check_chain(lines)


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
