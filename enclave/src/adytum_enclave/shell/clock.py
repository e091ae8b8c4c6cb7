"""Trusted time: the timestamp of a locally requested attestation document, carried on by a monotonic clock.

The hypervisor writes the timestamp; the host has no say in it, and the kernel's wall clock is not read. The source is
coarse (whole seconds on some platforms), so an estimate that lies less than `RESOLUTION_MS` ahead of it is kept. What
is read never goes backwards: when the source says that we are further ahead, time stands still until it has caught up.

What this cannot do: notice that the host paused the whole machine between two readings of the source. Time then lags by
the length of the pause until the next refresh, at most one interval.

>>> clock = TrustedClock(lambda: 1_790_000_000_000, monotonic=lambda: 5.0)
>>> clock.now_ms()
1790000000000
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from adytum_enclave.shell import cbor
from adytum_enclave.shell.nsm import Nsm, NsmCode, NsmError
from adytum_wire.errors import AdytumError

RESOLUTION_MS: Final = 1000
_PLAUSIBLE_MS: Final = range(1_500_000_000_000, 1 << 53)  # since 2017; a timestamp in seconds falls outside
_ENVELOPE_TAG: Final = 0xD2  # COSE_Sign1's, allowed once and never seen


def document_timestamp(document: bytes) -> int:
    """The `timestamp` (ms since the epoch) of an attestation document that our own NSM just gave us.

    Nothing is verified: never use this on a document that came from anywhere else. Errors: NsmError(InvalidResponse).
    """
    try:
        envelope = cbor.decode(document[1:] if document[:1] == bytes([_ENVELOPE_TAG]) else document)
        if not isinstance(envelope, list) or len(envelope) != 4 or not isinstance(envelope[2], bytes):
            raise NsmError(NsmCode.INVALID_RESPONSE)
        payload = cbor.decode(envelope[2])
    except cbor.CborError:
        raise NsmError(NsmCode.INVALID_RESPONSE) from None
    timestamp = payload.get("timestamp") if isinstance(payload, dict) else None
    if isinstance(timestamp, bool) or not isinstance(timestamp, int) or timestamp not in _PLAUSIBLE_MS:
        raise NsmError(NsmCode.INVALID_RESPONSE)
    return timestamp


def nsm_time(nsm: Nsm) -> Callable[[], int]:
    """A source for `TrustedClock`. Each reading asks for a document (a few milliseconds, blocking)."""
    return lambda: document_timestamp(nsm.attest())


class TrustedClock:
    """`source`: trusted ms since the epoch, may block. `monotonic`: seconds, never backwards.

    Reads the source once when made. Errors: what the source raises. `drift_ms`: what the last refresh found, source
    minus our estimate (0 before the first). `failures`: refreshes in a row that failed; time goes on meanwhile.
    """

    __slots__ = ("_base_ms", "_base_s", "_last_ms", "_monotonic", "_source", "drift_ms", "failures")

    def __init__(self, source: Callable[[], int], *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._source, self._monotonic = source, monotonic
        self._base_ms, self._base_s = self._read()
        self._last_ms = self._base_ms
        self.drift_ms = 0
        self.failures = 0

    def now_ms(self) -> int:
        """Milliseconds since the epoch, never less than before."""
        estimate = self._base_ms + round((self._monotonic() - self._base_s) * 1000)  # asked several times a request
        if estimate > self._last_ms:
            self._last_ms = estimate
        return self._last_ms

    async def refresh(self) -> None:
        """Read the source (in a worker thread) and follow it. Errors: the source's own; the clock is unchanged then."""
        try:
            source_ms, at_s = await asyncio.to_thread(self._read)
        except AdytumError:
            self.failures += 1
            raise
        self.failures = 0
        self.drift_ms = source_ms - self._estimate_ms(at_s)
        if self.drift_ms > 0 or self.drift_ms <= -RESOLUTION_MS:
            self._base_ms, self._base_s = source_ms, at_s

    async def keep(self, interval_s: float) -> None:
        """Refresh for ever, every `interval_s` seconds. A failed refresh is counted; the next turn tries again."""
        while True:
            await asyncio.sleep(interval_s)
            try:
                await self.refresh()
            except AdytumError:
                continue  # counted in `failures`, which is a metric

    def _read(self) -> tuple[int, float]:
        """(source time, our monotonic time in the middle of asking for it)."""
        before = self._monotonic()
        source_ms = self._source()
        return source_ms, (before + self._monotonic()) / 2

    def _estimate_ms(self, at_s: float) -> int:
        return self._base_ms + round((at_s - self._base_s) * 1000)
