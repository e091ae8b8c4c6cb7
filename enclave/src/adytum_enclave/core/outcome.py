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

    @property
    def needs_receipt(self) -> bool:
        """False for refusals before anybody was authenticated, which say nothing that has to be proven."""
        return self._ticket is not None or self.error is None

    @property
    def size(self) -> int:
        """Bytes that it keeps in memory, about; to be asked before it is encoded."""
        record = self.record
        sealed = len(record.header) + len(record.data_key_ciphertext) + len(record.ciphertext_blob) if record else 0
        receipt = self._ticket.size if self._ticket is not None else 0
        return receipt + 2 * (len(self.result) + sealed + len(self.usage) + len(self.recovery))

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
            if self._ticket is not None:
                self._ticket.body = self._ticket.envelope = b""  # they are in the reply
        return self._reply
