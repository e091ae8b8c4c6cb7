"""Warm keys: unsealed keys and seeds that may be used again without KMS, for a bounded time and number of uses.

A seed keeps the keys last derived from it; they are used, and wiped, with it. The least recently used key or seed
leaves first, and everything that leaves is wiped. A time to live of 0 keeps none.
"""

from __future__ import annotations

from collections import OrderedDict

from adytum_enclave.core.hd import Seed
from adytum_enclave.core.keys import WalletKey
from adytum_wire.manifest import Bounds


class _Warm:
    __slots__ = ("expires_at", "header", "key", "uses_left")

    def __init__(self, key: WalletKey | Seed, header: bytes, expires_at: int, uses_left: int) -> None:
        self.key = key
        self.header = header
        self.expires_at = expires_at
        self.uses_left = uses_left


class WarmKeys:
    """Keys by key id. A key is only returned for the very header under which it was opened."""

    def __init__(self, bounds: Bounds) -> None:
        self._ttl_ms = bounds.key_ttl_seconds * 1000
        self._max_uses = bounds.key_max_uses
        self._max_keys = bounds.max_warm_keys
        self._keys: OrderedDict[str, _Warm] = OrderedDict()

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def enabled(self) -> bool:
        return self._ttl_ms > 0

    def use(self, key_id: str, header: bytes, now_ms: int) -> WalletKey | Seed | None:
        """The warm key, counted as used, or None. It stays owned by this memory: use it before anything else runs."""
        warm = self._keys.get(key_id)
        if warm is None:
            return None
        if warm.expires_at <= now_ms or warm.uses_left <= 0:
            self.drop(key_id)
            return None
        if warm.header != header:
            return None
        warm.uses_left -= 1
        self._keys.move_to_end(key_id)
        return warm.key

    def holds(self, key_id: str, header: bytes) -> bool:
        """True when the key is warm under this very header, which is therefore proven. Counts as no use."""
        warm = self._keys.get(key_id)
        return warm is not None and warm.header == header

    def keep(self, key_id: str, header: bytes, key: WalletKey | Seed, now_ms: int) -> None:
        """Take ownership of `key`, which has been used once. In strict mode it is wiped at once."""
        self.drop(key_id)
        if not self.enabled or self._max_uses <= 1:
            key.wipe()
            return
        while len(self._keys) >= self._max_keys:
            self.drop(next(iter(self._keys)))
        self._keys[key_id] = _Warm(key, header, now_ms + self._ttl_ms, self._max_uses - 1)

    def drop(self, key_id: str) -> None:
        """Wipe the key if it is warm (revocation, rotation)."""
        warm = self._keys.pop(key_id, None)
        if warm is not None:
            warm.key.wipe()

    def expire(self, now_ms: int) -> None:
        """Wipe what has outlived its time. The shell calls this every second."""
        for key_id in [k for k, warm in self._keys.items() if warm.expires_at <= now_ms]:
            self.drop(key_id)

    def drop_all(self) -> None:
        for key_id in list(self._keys):
            self.drop(key_id)
