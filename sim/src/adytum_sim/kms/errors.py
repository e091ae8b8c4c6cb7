"""`KmsFault`: one refusal in the shape in which AWS sends it (JSON 1.1: an HTTP status, `__type`, a message)."""

from __future__ import annotations

from typing import Final

# These arrive as HTTP 500 and may be retried; every other refusal of KMS is HTTP 400.
_SERVER_FAULTS: Final = {"KMSInternalException", "DependencyTimeoutException", "KeyUnavailableException"}
# AccessDeniedException spells its member with a capital, the modelled exceptions do not.
_CAPITAL: Final = {"AccessDeniedException"}


class KmsFault(Exception):
    """`code` is the exception's name in the service model; `message` is None where AWS sends none."""

    def __init__(self, code: str, message: str | None = None, *, status: int | None = None) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.status = status or (500 if code in _SERVER_FAULTS else 400)

    def body(self) -> dict[str, str]:
        body = {"__type": self.code}
        if self.message is not None:
            body["Message" if self.code in _CAPITAL else "message"] = self.message
        return body


def unsupported(what: str) -> KmsFault:
    """A real feature that this stand-in does not have, refused by its name rather than ignored."""
    return KmsFault("UnsupportedOperationException", f"The stand-in KMS does not support {what}.")


def invalid(message: str) -> KmsFault:
    return KmsFault("ValidationException", message)
