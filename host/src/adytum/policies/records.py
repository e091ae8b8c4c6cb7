"""Where recorded requests come from: a file of JSON lines, completed by exported receipts and a list of keys.

The service does not keep bodies of requests that are done (they are the caller's), so the caller keeps them:

    {"body": "{\\"operation\\":\\"sign\\",...}", "principal": "payments", "labels": ["hot"], "algorithm": "secp256k1"}

With `receipts` (lines that `adytum audit export` wrote) `principal`, `time`, `outcome` and `approved` come from the
receipt whose request digest is SHA-256 of the body; with `keys` (`adytum keys list --json`) the key's data do.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import msgspec

from adytum.policies.simulate import ALLOWED, Recorded
from adytum_wire.errors import AdytumError, Code
from adytum_wire.receipts import Receipt, parse_envelope, parse_receipt
from adytum_wire.types import sha256


def read_records(lines: Iterable[bytes], *, receipts: Iterable[bytes] = (), keys: bytes = b"") -> list[Recorded]:
    """Errors: REQUEST_INVALID with the line's number; RECEIPT_INVALID. Nothing of the receipts is verified here."""
    known = {receipt.request_digest: receipt for receipt in _receipts(receipts)}
    listed = _keys(keys)
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            data: dict[str, Any] = json.loads(line)
            body = data["body"]
            key = listed.get(json.loads(body).get("key_id", ""), {})
            receipt = known.get(sha256(body.encode()).hex())
            found.append(msgspec.convert({**_from_receipt(receipt), **key, **data}, Recorded))
        except (ValueError, KeyError, TypeError, AttributeError, msgspec.ValidationError) as error:
            reason = str(error) if isinstance(error, msgspec.ValidationError) else "not a recorded request"
            raise AdytumError(Code.REQUEST_INVALID, f"line {number} ({reason})") from None
    return found


def _from_receipt(receipt: Receipt | None) -> dict[str, Any]:
    if receipt is None:
        return {}
    return {
        "principal": receipt.principal,
        "time": receipt.time,
        "outcome": receipt.code or ALLOWED,
        "approved": [vote.principal for vote in receipt.approvals if vote.outcome == "approve"],
    }


def _receipts(lines: Iterable[bytes]) -> Iterable[Receipt]:
    """The receipts among the lines; an export may begin with a header and have checkpoints between them."""
    for line in lines:
        if b'"following"' in line:
            yield parse_receipt(parse_envelope(line.strip()).body.encode())


def _keys(data: bytes) -> dict[str, dict[str, Any]]:
    if not data:
        return {}
    try:
        return {
            key["key_id"]: {name: key[name] for name in ("algorithm", "labels", "public_key") if name in key}
            for key in json.loads(data)["keys"]
        }
    except (ValueError, KeyError, TypeError):
        raise AdytumError(Code.REQUEST_INVALID, "keys (want what `adytum keys list --json` prints)") from None
