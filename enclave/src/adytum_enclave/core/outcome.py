"""How a request ended: the reply's bytes, complete once the receipt's group is signed."""

from __future__ import annotations

from adytum_enclave.core.chain import Ticket
from adytum_wire import messages
from adytum_wire.errors import AdytumError
from adytum_wire.messages import ExecuteReply
from adytum_wire.record import Record


class Outcome:
    """`ticket` is None only for requests that were refused before anybody was authenticated."""

    __slots__ = ("_reply", "_ticket", "error", "record", "recovery", "result", "usage")

    def __init__(
        self,
        *,
        ticket: Ticket | None,
        result: bytes = b"",
        record: Record | None = None,
        usage: bytes = b"",
        recovery: bytes = b"",
        error: AdytumError | None = None,
    ) -> None:
        self._ticket = ticket
        self.result = result
        self.record = record
        self.usage = usage
        self.recovery = recovery
        self.error = error
        self._reply = b""

    def encode(self) -> bytes:
        """The reply. Call after `ReceiptChain.seal`; the same bytes every time."""
        if not self._reply:
            receipt = self._ticket.envelope if self._ticket is not None else b""
            if self.error is not None:
                self._reply = messages.encode(messages.refusal(self.error, receipt))
            else:
                self._reply = messages.encode(
                    ExecuteReply(self.result, receipt, self.record, self.usage, self.recovery)
                )
        return self._reply
