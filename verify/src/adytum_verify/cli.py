"""`adytum-verify`: verify attestation documents, receipts and audit chains from files, with no service and no network.

Exit status: 0 verified (for `inspect`: decoded), 1 refused, with a stable code and a sentence, 2 wrong usage or a file
that cannot be read. Never a traceback. `--json` writes one JSON object instead of text.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from typing import Final

from adytum_verify import commands, render
from adytum_verify.codes import AttestationError
from adytum_verify.commands import UsageError
from adytum_wire.errors import AdytumError

VERIFIED: Final = 0
REFUSED: Final = 1
USAGE: Final = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; `argv` without the program's name. Returns the exit status."""
    try:
        arguments = _parser().parse_args(argv)
    except SystemExit as exit_:  # argparse has written its sentence
        return exit_.code if isinstance(exit_.code, int) else USAGE
    try:
        _write(arguments.run(arguments, time.time_ns() // 1_000_000), as_json=arguments.json)
        return VERIFIED
    except commands.Refused as refusal:
        _write(refusal.result, as_json=arguments.json)
        return REFUSED
    except (AttestationError, AdytumError) as error:
        _write(render.refusal(error), as_json=arguments.json)
        return REFUSED
    except UsageError as error:
        sys.stderr.write(f"adytum-verify: {error}\n")
        return USAGE
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains once more at exit
        return USAGE


def _write(result: render.Result, *, as_json: bool) -> None:
    sys.stdout.write(render.to_json(result) if as_json else render.to_text(result))
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="adytum-verify", description=(__doc__ or "").partition("\n\n")[0], allow_abbrev=False
    )
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: commands.Command, text: str) -> argparse.ArgumentParser:
        sub = subparsers.add_parser(name, help=text, description=text, allow_abbrev=False)
        sub.add_argument("file", metavar="FILE", help="the file to read")
        sub.add_argument("--json", action="store_true", help="write one JSON object")
        sub.set_defaults(run=run)
        return sub

    sub = command("attestation", commands.attestation, "Verify an attestation document (binary).")
    sub.add_argument("--nonce", metavar="HEX", help="the challenge that the document must carry (live checks need it)")
    when = sub.add_mutually_exclusive_group()
    when.add_argument("--at", metavar="TIME", help="verify as of this time (ISO 8601 with zone), not now")
    when.add_argument("--at-document-time", action="store_true", help="verify a stored document at its own timestamp")
    _expectation(sub)
    sub.add_argument("--user-data", metavar="HEX", help="the user data that the document must carry")
    sub.add_argument("--public-key", metavar="HEX", help="the public key that the document must carry")
    sub.add_argument("--binding", metavar="FILE", help="the binding (JSON) of an Adytum enclave")
    sub.add_argument("--manifest", metavar="FILE", help="the manifest that the enclave must be configured with")

    command("inspect", commands.inspect, "Decode an attestation document. Verifies NOTHING.")

    sub = command("receipt", commands.receipt, "Verify one receipt (JSON).")
    _receipt_key(sub)

    sub = command("audit", commands.audit, "Verify an audit chain: an exported audit file, or receipts, one a line.")
    _receipt_key(sub)
    sub.add_argument("--chain", metavar="ID", help="the chain that the records must belong to")
    sub.add_argument("--from", dest="from_sequence", type=int, default=1, metavar="N", help="first sequence number")
    sub.add_argument("--previous", metavar="N:LINK", help="where your last verification ended")
    sub.add_argument("--head", metavar="N:LINK", help="a head that you hold: the chain must reach and equal it")
    sub.add_argument(
        "--checkpoints",
        action="append",
        default=[],
        metavar="FILE",
        help="checkpoints that you hold from elsewhere (the second copy); may be given again",
    )
    return parser


def _expectation(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--pcr", action="append", default=[], metavar="N=HEX", help="an expected PCR; 0, 1, 2 are needed")
    sub.add_argument(
        "--measurements",
        action="append",
        default=[],
        metavar="FILE",
        help="an allowed image, as nitro-cli prints it (JSON); may be given again",
    )
    sub.add_argument("--root", action="append", default=[], metavar="PEM", help="trust this root instead of AWS's")


def _receipt_key(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--key", metavar="HEX", help="the receipt key, which you have verified before")
    sub.add_argument("--attestation", metavar="FILE", help="the document that vouches for the receipt key")
    sub.add_argument("--binding", metavar="FILE", help="its binding (JSON)")
    sub.add_argument("--manifest", metavar="FILE", help="the manifest that the enclave must be configured with")
    _expectation(sub)


if __name__ == "__main__":
    sys.exit(main())
