"""What each command of `adytum-verify` does: read the files, call the library, hand back a result to show."""

from __future__ import annotations

import hashlib
import itertools
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from adytum_verify import audit as audit_chain
from adytum_verify import render
from adytum_verify.attestation import verify_archived_attestation, verify_attestation
from adytum_verify.chain import AWS_ANCHOR, Anchor, anchor_from_pem
from adytum_verify.codes import AttestationCode, AttestationError
from adytum_verify.container import MAX_LINE, AuditHeader, checkpoint_of, read_header
from adytum_verify.document import parse_unverified
from adytum_verify.enclave import bind, verify_archived_enclave
from adytum_verify.policy import AllowList, PcrPolicy, parse_release
from adytum_verify.receipts import verify_receipt
from adytum_wire.errors import AdytumError, Code

Command = Callable[[Namespace, int], render.Result]
_MAX_SMALL_FILE: Final = 1024 * 1024  # bytes; each parser has its own, smaller limit
_LARGE_FILE: Final = 16 * 1024 * 1024  # bytes: a second's work


@dataclass(frozen=True, slots=True, kw_only=True)
class _Signer:
    """`chain`: the boot id that the document vouches for, None where the key was given without a document."""

    key: bytes
    chain: str | None


class UsageError(Exception):
    """The command line is wrong, or a file cannot be read. The message is for the user."""


class Refused(Exception):
    """A verdict that has more to show than a code."""

    def __init__(self, result: render.Result) -> None:
        super().__init__(result)
        self.result = result


def attestation(arguments: Namespace, now_ms: int) -> render.Result:
    if arguments.manifest and not arguments.binding:
        raise UsageError("--manifest needs --binding")
    document, expected, anchors = _read(arguments.file), _expected(arguments), _anchors(arguments)
    nonce = _optional_hex(arguments.nonce, "--nonce")
    user_data = _optional_hex(arguments.user_data, "--user-data")
    public_key = _optional_hex(arguments.public_key, "--public-key")
    if arguments.at_document_time:
        found = verify_archived_attestation(
            document, expected=expected, nonce=nonce, anchors=anchors, user_data=user_data, public_key=public_key
        )
    else:
        found = verify_attestation(
            document,
            expected=expected,
            now_ms=_time(arguments.at, now_ms),
            nonce=nonce or b"",  # refused: a live check without a challenge would accept an old document
            anchors=anchors,
            user_data=user_data,
            public_key=public_key,
        )
    binding = None
    if arguments.binding:
        binding = bind(found, _read(arguments.binding), manifest_hash=_manifest_hash(arguments)).binding
    return render.attestation(found, binding, archived=arguments.at_document_time)


def inspect(arguments: Namespace, _now_ms: int) -> render.Result:
    document = _read(arguments.file)
    try:
        return render.inspected(parse_unverified(document), signed=True)
    except AttestationError as error:
        if error.code is not AttestationCode.COSE_UNSIGNED:
            raise
    return render.inspected(parse_unverified(document, allow_unsigned_shape=True), signed=False)


def receipt(arguments: Namespace, _now_ms: int) -> render.Result:
    signer = _signer(arguments)
    verified = verify_receipt(_read(arguments.file), receipt_key=signer.key)
    if signer.chain is not None and verified.receipt.chain != signer.chain:
        raise AdytumError(Code.RECEIPT_INVALID, "$.body.chain")
    return render.receipt(verified, attested=signer.chain is not None)


def audit(arguments: Namespace, _now_ms: int) -> render.Result:
    head = _head(arguments.head, "--head")
    previous = _head(arguments.previous, "--previous")
    lines = _lines(arguments.file)
    first = next(lines, b"")
    header = read_header(first)
    signer = _signer(arguments, header)
    chain = arguments.chain or signer.chain
    if header is not None and chain is not None and header.chain != chain:
        raise AdytumError(Code.RECEIPT_INVALID, "$.chain")
    if arguments.checkpoints and chain is None:
        raise UsageError("--checkpoints with --key needs --chain: a second copy holds checkpoints of many chains")
    held, ignored = held_checkpoints(arguments.checkpoints)
    try:
        report = audit_chain.verify_chain(
            lines if header is not None else itertools.chain([first] if first else [], lines),
            receipt_key=signer.key,
            chain=chain,
            from_sequence=arguments.from_sequence,
            head=head,
            previous=previous,
            checkpoints=held,
            first_position=1 if header is None else 2,
        )
    except ValueError as error:
        raise UsageError(str(error)) from None
    result = render.audit(
        report, head_given=head is not None or bool(held), attested=signer.chain is not None, ignored=ignored
    )
    if not report.is_intact:
        raise Refused(result)
    return result


def held_checkpoints(paths: Sequence[str]) -> tuple[list[bytes], int]:
    """The checkpoints of second copies, and how many lines are neither a checkpoint nor a receipt (a torn write).
    Errors: UsageError."""
    found: list[bytes] = []
    ignored = 0
    for path in paths:
        before = len(found)
        for line in _lines(path):
            envelope = checkpoint_of(line)
            if envelope is not None:
                found.append(envelope)
            elif not (line.isspace() or line.startswith(b'{"body":')):
                ignored += 1
        if len(found) == before:
            raise UsageError(f"{path} holds no checkpoint")
    return found, ignored


def _expected(arguments: Namespace) -> AllowList:
    """Each --measurements file is an image; --pcr values are added to each, or form an image alone."""
    entries = [entry if entry.startswith("PCR") or "=" not in entry else f"PCR{entry}" for entry in arguments.pcr]
    if not arguments.measurements:
        return AllowList((PcrPolicy.parse(entries),))
    images = [dict(parse_release(_read(path)).pcrs) for path in arguments.measurements]
    if not entries:
        return AllowList(tuple(PcrPolicy(image) for image in images))
    return AllowList(
        tuple(
            PcrPolicy.parse([*(f"PCR{index}={pcr.hex()}" for index, pcr in image.items()), *entries])
            for image in images
        )
    )


def _anchors(arguments: Namespace) -> tuple[Anchor, ...]:
    if not arguments.root:
        return (AWS_ANCHOR,)
    return tuple(anchor_from_pem(_read(path)) for path in arguments.root)


def _signer(arguments: Namespace, header: AuditHeader | None = None) -> _Signer:
    """The receipt key: given as such, or attested at the document's own time together with its chain (the boot id). The
    document is the audit file's own, unless the command line names one."""
    if arguments.key is not None:
        if arguments.attestation or arguments.binding or arguments.manifest or arguments.measurements or arguments.pcr:
            raise UsageError("give --key, or --attestation and what goes with it, not both")
        key = _hex(arguments.key, "--key")
        if len(key) != 32:
            raise UsageError("--key must be 32 bytes in hex")
        return _Signer(key=key, chain=None)
    if arguments.attestation and arguments.binding:
        document, binding = _read(arguments.attestation), _read(arguments.binding)
    elif header is not None and not arguments.attestation and not arguments.binding:
        document, binding = header.document, header.binding
    else:
        raise UsageError("give --attestation with --binding, or --key: a receipt says nothing without a known key")
    enclave = verify_archived_enclave(
        document,
        binding,
        expected=_expected(arguments),
        anchors=_anchors(arguments),
        manifest_hash=_manifest_hash(arguments),
    )
    return _Signer(key=bytes.fromhex(enclave.binding.receipt_key), chain=enclave.binding.boot_id)


def _manifest_hash(arguments: Namespace) -> bytes | None:
    return hashlib.sha256(_read(arguments.manifest)).digest() if arguments.manifest else None


def _head(text: str | None, option: str) -> audit_chain.Head | None:
    if text is None:
        return None
    sequence, _, link = text.partition(":")
    value = _hex(link, option)
    if not sequence.isascii() or not sequence.isdigit() or len(sequence) > 16 or len(value) != 32:
        raise UsageError(f"{option} must look like 5021:<64 hex>")
    return audit_chain.Head(sequence=int(sequence), link=value)


def _optional_hex(text: str | None, option: str) -> bytes | None:
    return None if text is None else _hex(text, option)


def _hex(text: str, option: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise UsageError(f"{option} is not hex") from None


def _time(text: str | None, now_ms: int) -> int:
    if text is None:
        return now_ms
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError("--at must look like 2026-02-06T08:24:18Z") from None
    if when.tzinfo is None:
        raise UsageError("--at needs a time zone, for example a Z at its end")
    return int(when.timestamp() * 1000)


def _read(path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            return file.read(_MAX_SMALL_FILE)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None


def _lines(path: str) -> Iterator[bytes]:
    """The lines of a file, none longer than one may be (a longer one reads as malformed). Shows how far it is on a
    terminal, when the file takes more than a moment."""
    try:
        with Path(path).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            shows = size > _LARGE_FILE and sys.stderr.isatty()
            done = step = 0
            while line := file.readline(MAX_LINE + 2):
                yield line
                done += len(line)
                if shows and done * 100 // size > step:
                    step = done * 100 // size
                    sys.stderr.write(f"\r{step:3d} %" if step < 100 else "\r     \r")
                    sys.stderr.flush()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
