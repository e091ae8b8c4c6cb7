"""What waits to be sent on one connection: small frames leave together, and no send() is larger than `limits.SLICE`.

Both bounds come from kernels in the field: vsock writes over 32 KiB are corrupted silently by some, floods of tiny
packets are dropped by others (spec/wire.md, section 3). The socket stays with the caller.

>>> sizes = []
>>> outbox = Outbox()
>>> outbox.put(b"a" * 40000)
>>> outbox.put(b"b")
>>> outbox.flush(lambda piece: sizes.append(len(piece)) or len(piece)), sizes
(True, [31744, 8257])
"""

from __future__ import annotations

from collections.abc import Callable

from adytum_wire import limits


class Outbox:
    """A queue of bytes. `unsent`: bytes that wait. `sent`: bytes handed to the socket since the beginning."""

    __slots__ = ("_queue", "_rest", "sent", "unsent")

    def __init__(self) -> None:
        self._queue: list[bytes] = []
        self._rest = memoryview(b"")  # of what was joined and not fully sent
        self.unsent = 0
        self.sent = 0

    def put(self, data: bytes) -> None:
        self._queue.append(data)
        self.unsent += len(data)

    def flush(self, send: Callable[[memoryview], int]) -> bool:
        """Call `send` (a non-blocking socket's) with pieces of at most `limits.SLICE` bytes until all is gone or the
        socket takes no more. Return True when nothing waits.

        Errors: what `send` raises, except BlockingIOError; the connection is then lost and the outbox is of no use.
        """
        rest = self._rest
        while self.unsent:
            if not rest:
                rest = memoryview(b"".join(self._queue))
                self._queue.clear()
            try:
                count = send(rest[: limits.SLICE])
            except (BlockingIOError, InterruptedError):
                count = 0
            if count == 0:
                break
            rest = rest[count:]
            self.unsent -= count
            self.sent += count
        self._rest = rest
        return self.unsent == 0
