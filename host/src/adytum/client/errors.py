"""One tree: everything that the client raises is an `AdytumError` with a stable code.

AdytumError
  RefusedError        the service or the enclave said no; `receipt` is the enclave's word, if it came and verifies
  UntrustedError      an answer came that proves nothing: it is not given to you. `field` says what failed
  UnreachableError    nobody answered, or only to say "later", until the attempts were used up
  PendingError        nothing was decided yet: the request waits for approvals
"""

from __future__ import annotations

from collections.abc import Sequence

from adytum.service.requests.shapes import WantedView
from adytum_verify import VerifiedReceipt
from adytum_wire.errors import AdytumError, Code


class RefusedError(AdytumError):
    """`receipt` is None when the refusal came without one: then only the host said it."""

    def __init__(self, code: Code, field: str = "", *, status: int, receipt: VerifiedReceipt | None = None) -> None:
        super().__init__(code, field)
        self.status = status
        self.receipt = receipt


class UntrustedError(AdytumError):
    """RECEIPT_INVALID or ATTESTATION_FAILED: what came does not prove what it says. Do not use it."""


class UnreachableError(AdytumError):
    """The last retryable code, after the last attempt. The request may have been carried out: `repeat(body)` asks for
    its answer again, with no second effect. `body`: exactly what was signed, empty for reads."""

    def __init__(self, code: Code, field: str = "", *, request_id: str = "", body: bytes = b"") -> None:
        super().__init__(code, field)
        self.request_id = request_id
        self.body = body


class PendingError(AdytumError):
    """The enclave wants approvals first, and the host keeps the request for them. Keep `body`, the signed bytes:
    `requests.wait(body)` gets the answer once there is one. `wanted`: by the host's preview, who is missing.
    `expires_at`: ms. `receipt`: the enclave's refusal, None when the host sent none that verifies."""

    def __init__(
        self,
        request_id: str,
        *,
        body: bytes,
        wanted: Sequence[WantedView] = (),
        expires_at: int = 0,
        receipt: VerifiedReceipt | None = None,
    ) -> None:
        super().__init__(Code.REQUEST_PENDING)
        self.request_id = request_id
        self.body = body
        self.wanted = tuple(wanted)
        self.expires_at = expires_at
        self.receipt = receipt
