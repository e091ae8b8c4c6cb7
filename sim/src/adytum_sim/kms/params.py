"""Reading one request's members: each is checked for type and size as the service model says, unknown ones refuse."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any, Final

from adytum_sim.kms.errors import invalid, unsupported

MAX_CONTEXT: Final = 8192  # characters of all names and values together
# Members that the model has and that this stand-in does not do. Empty values of them are let through, as AWS's own
# clients send them.
_UNSUPPORTED: Final = {
    "GrantTokens": "grants (GrantTokens)",
    "DryRunModifiers": "DryRunModifiers",
    "ResourceOwners": "ResourceOwners",
    "CustomKeyStoreId": "custom key stores (CustomKeyStoreId)",
    "XksKeyId": "external key stores (XksKeyId)",
    "MultiRegion": "multi-Region keys (MultiRegion)",
    "CustomerMasterKeySpec": "CustomerMasterKeySpec; use KeySpec",
    "SigningAlgorithms": "signing",
}


class Params:
    """The members of one request. `take` methods check; `finish` is called with all names the operation knows."""

    def __init__(self, payload: object, known: frozenset[str]) -> None:
        if not isinstance(payload, Mapping) or not all(isinstance(key, str) for key in payload):
            raise invalid("The request is not a JSON object.")
        for name, value in payload.items():
            if name in _UNSUPPORTED and name not in known:
                if value:
                    raise unsupported(_UNSUPPORTED[name])
            elif name not in known:
                raise invalid("The request has a member that the operation does not know.")
        self.values: dict[str, Any] = {k: v for k, v in payload.items() if v is not None}

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def _fail(self, name: str, rule: str) -> Exception:
        member = name[0].lower() + name[1:]
        return invalid(f"1 validation error detected: Value at '{member}' failed to satisfy constraint: {rule}")

    def optional_text(self, name: str, *, limit: int = 2048, pattern: str = r"(?s).*") -> str | None:
        value = self.values.get(name)
        if value is None:
            return None
        if not isinstance(value, str):
            raise self._fail(name, "Member must be a string")
        if len(value) > limit:
            raise self._fail(name, f"Member must have length less than or equal to {limit}")
        if not re.fullmatch(pattern, value):
            raise self._fail(name, f"Member must satisfy regular expression pattern: {pattern}")
        return value

    def text(self, name: str, *, limit: int = 2048, pattern: str = r"(?s).+") -> str:
        value = self.optional_text(name, limit=limit, pattern=pattern)
        if value is None:
            raise self._fail(name, "Member must not be null")
        return value

    def choice(self, name: str, allowed: tuple[str, ...], *, default: str | None = None) -> str:
        value = self.optional_text(name)
        if value is None:
            if default is None:
                raise self._fail(name, "Member must not be null")
            return default
        if value not in allowed:
            raise self._fail(name, f"Member must satisfy enum value set: [{', '.join(allowed)}]")
        return value

    def blob(self, name: str, *, minimum: int = 1, maximum: int) -> bytes:
        value = self.text(name, limit=maximum * 2 + 8, pattern=r"(?s).*")
        try:
            data = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            raise self._fail(name, "Member must be base64") from None
        if not minimum <= len(data) <= maximum:
            raise self._fail(name, f"Member must have length from {minimum} to {maximum}")
        return data

    def optional_integer(self, name: str, minimum: int, maximum: int) -> int | None:
        value = self.values.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int):
            raise self._fail(name, "Member must be an integer")
        if not minimum <= value <= maximum:
            raise self._fail(name, f"Member must have value from {minimum} to {maximum}")
        return value

    def boolean(self, name: str) -> bool:
        value = self.values.get(name, False)
        if not isinstance(value, bool):
            raise self._fail(name, "Member must be a boolean")
        return value

    def structure(self, name: str) -> dict[str, Any] | None:
        value = self.values.get(name)
        if value is not None and not isinstance(value, dict):
            raise self._fail(name, "Member must be a structure")
        return value

    def context(self, name: str = "EncryptionContext") -> dict[str, str]:
        """An EncryptionContext; absent is empty."""
        value = self.structure(name) or {}
        if not all(isinstance(k, str) and isinstance(v, str) for k, v in value.items()):
            raise self._fail(name, "Map values must be strings")
        if sum(len(k) + len(v) for k, v in value.items()) > MAX_CONTEXT:
            raise self._fail(name, f"Map must have at most {MAX_CONTEXT} characters")
        return value
