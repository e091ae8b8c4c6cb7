"""The client data of a WebAuthn assertion: JSON that a browser wrote, so not our strict documents.

Browsers add members as they please, so unknown ones pass, whatever they hold. Those that count must be of their type
and stand there once; what parsers could read in two ways refuses. W3C WebAuthn Level 2, 5.8.1; `topOrigin`: Level 3.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, NoReturn

from adytum_wire import limits, strict_json
from adytum_wire.errors import AdytumError, Code


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientData:
    """`challenge`: base64url text, as it stands there. `is_framed`: the page ran inside another site's page."""

    type: str
    challenge: str
    origin: str
    is_framed: bool


class _Refusal(ValueError):
    pass


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _Refusal
    return found


def _no_constant(_text: str) -> NoReturn:
    raise _Refusal


_scanner = json.JSONDecoder(object_pairs_hook=_pairs, parse_constant=_no_constant)


def parse_client_data(data: bytes) -> ClientData:
    """Parse at most `limits.MAX_CLIENT_DATA` bytes. Errors: APPROVAL_INVALID."""
    if len(data) > limits.MAX_CLIENT_DATA:
        raise _invalid()
    try:
        text = data.decode("utf-8")  # a byte order mark stays and refuses: no browser writes one
        if strict_json.is_too_deep(text):
            raise _Refusal
        value = _scanner.decode(text)
    except (ValueError, RecursionError):
        raise _invalid() from None
    if not isinstance(value, dict):
        raise _invalid()
    kind, challenge, origin = value.get("type"), value.get("challenge"), value.get("origin")
    crossed = value.get("crossOrigin", False)
    if not (isinstance(kind, str) and isinstance(challenge, str) and isinstance(origin, str)):
        raise _invalid()
    if not isinstance(crossed, bool):
        raise _invalid()
    return ClientData(type=kind, challenge=challenge, origin=origin, is_framed=crossed or "topOrigin" in value)


def _invalid() -> AdytumError:
    return AdytumError(Code.APPROVAL_INVALID, "$.proof.client_data")
