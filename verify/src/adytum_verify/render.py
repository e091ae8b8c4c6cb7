"""How results are shown: one ordered mapping, as text or as JSON. Neither carries raw bytes or control characters."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Final

from adytum_verify.audit import ChainReport, Defect, Problem
from adytum_verify.codes import AttestationError
from adytum_verify.document import AttestationDocument
from adytum_verify.policy import MANDATORY, ZERO_PCR
from adytum_verify.receipts import VerifiedReceipt
from adytum_wire.binding import Binding
from adytum_wire.errors import AdytumError

Result = dict[str, object]
_NOT_CHECKED: Final = "certificates, signature, time, nonce, measurements: NOTHING of this is verified"


def refusal(error: AttestationError | AdytumError) -> Result:
    return {"verified": False, "code": error.code.value, "field": error.field, "message": error.code.text}


def attestation(document: AttestationDocument, binding: Binding | None, *, archived: bool) -> Result:
    result: Result = {"verified": True, **_document(document)}
    result["certificates_valid_until"] = time_text(document.valid_until_ms)
    if binding is not None:
        result["binding"] = {
            "build": binding.build,
            "boot_id": binding.boot_id,
            "manifest_hash": binding.manifest_hash,
            "receipt_key": binding.receipt_key,
            "hpke_key": binding.hpke_key,
        }
    if archived:
        result["note"] = "verified at the document's own time: true then, no statement about now"
    return result


def inspected(document: AttestationDocument, *, signed: bool) -> Result:
    result: Result = {"verified": False, "not_checked": _NOT_CHECKED}
    if not signed:
        result["unsigned"] = "the document itself says that nobody signed it (an emulator's does)"
    if any(document.pcrs.get(index, ZERO_PCR) == ZERO_PCR for index in MANDATORY):
        result["debug_mode"] = True
    return {**result, **_document(document)}


def receipt(verified: VerifiedReceipt, *, attested: bool) -> Result:
    body = verified.receipt
    return {
        "verified": True,
        "key": verified.key.hex(),
        "key_source": _key_source(attested=attested),
        "chain": body.chain,
        "sequence": body.sequence,
        "time": time_text(body.time),
        "tenant": body.tenant,
        "principal": body.principal,
        "operation": body.operation,
        "request_id": body.request_id,
        "request_digest": body.request_digest,
        "decision": body.decision,
        "code": body.code,
        "rules": {outcome.rule: outcome.outcome for outcome in body.rules},
        "policy_version": body.policy_version,
        "policy_digest": body.policy_digest,
        "key_id": body.key_id,
        "record_version": body.record_version,
        "public_key": body.public_key,
        "summary": body.summary,
        "result_digest": body.result_digest,
        "head": f"{verified.head_sequence}:{verified.head_link.hex()}",
    }


_MEANS: Final = {
    Defect.MISSING: "its number is nowhere",
    Defect.TRUNCATED: "the records end before it, and a signed head or checkpoint says that it was made",
    Defect.EDITED: "its bytes are not those that were signed",
    Defect.FORGED: "nobody signed it",
    Defect.UNSIGNED: "its signature was taken away",
    Defect.REORDERED: "it stands in another place",
    Defect.DUPLICATED: "it is there twice",
    Defect.FORKED: "the enclave's key signed two different histories",
    Defect.CONTRADICTED: "the chain and a signed checkpoint tell different histories",
    Defect.FOREIGN: "it belongs to another chain",
    Defect.UNATTESTED: "a key signed it that is not the attested one",
    Defect.MALFORMED: "it cannot be read as one",
}


def audit(report: ChainReport, *, head_given: bool, attested: bool, ignored: int = 0) -> Result:
    result: Result = {"verified": report.is_intact}
    if report.problem is not None:
        result["code"] = "RECEIPT_INVALID"
        result["defect"] = report.problem.defect.value
        result["sequence"] = report.problem.sequence
        result["position"] = report.problem.position
        result["subject"] = report.problem.subject
        result["message"] = said(report.problem)
    result["key_source"] = _key_source(attested=attested)
    result["chain"] = report.chain
    result["records"] = report.records
    if report.head is not None:
        result["first"] = report.first_sequence
        result["first_time"] = time_text(report.first_time_ms)
        result["last"] = report.head.sequence
        result["last_time"] = time_text(report.last_time_ms)
        result["head"] = f"{report.head.sequence}:{report.head.link.hex()}"
    newest = report.newest_checkpoint
    result["checkpoints"] = report.checkpoints
    if newest is not None:
        result["newest_checkpoint"] = newest.sequence
        result["newest_checkpoint_time"] = time_text(newest.time_ms)
    if ignored:
        result["ignored_lines"] = ignored
    if report.problem is None and not head_given:
        result["note"] = (
            "records cut off behind the last one would not show: compare with a head (--head) or a second copy of"
            " checkpoints (--checkpoints) that you hold"
        )
    return result


def said(problem: Problem) -> str:
    """The problem as a sentence."""
    where = f"line {problem.position}" if problem.position else "of the checkpoints that you hold"
    name = "Record" if problem.subject == "record" else "The checkpoint at"
    sentence = f"{name} {problem.sequence} ({where}) is {problem.defect.value}: {_MEANS[problem.defect]}."
    return f"{sentence} Nothing after it was checked."


def to_json(result: Result) -> str:
    return json.dumps(result) + "\n"


def to_text(result: Result) -> str:
    """First the verdict, then one line a field. Strings are quoted where they hold anything but plain ASCII."""
    fields = dict(result)
    if fields.pop("verified"):
        lines = ["VERIFIED"]
    elif "not_checked" in fields:
        lines = ["NOT VERIFIED: decoded only"]
    else:
        lines = [f"REFUSED {fields.pop('code')}: {fields.pop('message')}"]
    lines += _lines(fields, "  ")
    return "\n".join(lines) + "\n"


def _lines(fields: Result, indent: str) -> list[str]:
    lines: list[str] = []
    for name, value in fields.items():
        label = _plain(name)
        if isinstance(value, dict):
            lines += [f"{indent}{label}:", *_lines(value, indent + "  ")]
        elif value not in ("", None):
            lines.append(f"{indent}{label}: {_plain(str(value))}")
    return lines


def _plain(text: str) -> str:
    return text if text.isascii() and text.isprintable() else json.dumps(text)


def _document(document: AttestationDocument) -> Result:
    def shown(value: bytes | None) -> str | None:
        return None if value is None else value.hex()

    return {
        "module_id": document.module_id,
        "time": time_text(document.timestamp_ms),
        "timestamp_ms": document.timestamp_ms,
        "pcrs": {f"PCR{index}": document.pcrs[index].hex() for index in sorted(document.pcrs)},
        "public_key": shown(document.public_key),
        "user_data": shown(document.user_data),
        "nonce": shown(document.nonce),
    }


def _key_source(*, attested: bool) -> str:
    return "attestation document" if attested else "given on the command line"


def time_text(milliseconds: int) -> str:
    """ISO 8601, UTC. Whatever the number is."""
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds")
    except (ValueError, OverflowError, OSError):  # an unverified document may say the year 285,000
        return f"{milliseconds} ms"
