"""Write and sign a reset of limits: a DSSE envelope that the tenant's admin quorum signs, good for one boot.

envelope = sign_reset(draft_reset("acme", boot_id, "*"), [alice])
envelope = sign_reset(envelope, [bob])      # an envelope gets further signatures
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from adytum.client.signers import Signer
from adytum_wire import dsse, limits, strict_json
from adytum_wire.approvals import UsageReset, parse_usage_reset
from adytum_wire.errors import AdytumError, Code
from adytum_wire.pae import USAGE_RESET, pae

MAX_ENVELOPE = 2 * limits.MAX_POLICY


def draft_reset(tenant: str, boot_id: str, limit_ids: list[str] | Literal["*"]) -> bytes:
    """The payload, unsigned. `boot_id`: of the enclave whose limits are closed, 32 hex digits.

    Errors: USAGE_INVALID."""
    payload = strict_json.encode(UsageReset(v=1, tenant=tenant, boot_id=boot_id, limits=limit_ids))
    parse_usage_reset(payload)
    return payload


def sign_reset(data: bytes, signers: Sequence[Signer]) -> bytes:
    """`data`: a payload, or an envelope that others signed before. A second signature by the same key replaces the
    first. Errors: USAGE_INVALID."""
    try:
        payload, signed = dsse.parse(data, USAGE_RESET, limit=MAX_ENVELOPE, code=Code.USAGE_INVALID)
    except AdytumError:
        payload, signed = data, []
    parse_usage_reset(payload)
    by_key = dict(signed) | {s.public_key: s.sign(pae(USAGE_RESET, payload)) for s in signers}
    return dsse.build(USAGE_RESET, payload, list(by_key.items()))


def read_reset(envelope: bytes) -> UsageReset:
    """What an envelope says; its signatures are not looked at. Errors: USAGE_INVALID."""
    payload, _ = dsse.parse(envelope, USAGE_RESET, limit=MAX_ENVELOPE, code=Code.USAGE_INVALID)
    return parse_usage_reset(payload)
