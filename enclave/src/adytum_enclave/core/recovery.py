"""A record's second envelope, which the policy's recovery holders open together without KMS and without an enclave.

Made whenever a record is sealed, under the policy in force; never opened here. Whoever holds enough of the keys can
take every secret of the tenant: that is what it is for.
"""

from __future__ import annotations

from collections.abc import Sequence

from adytum_enclave.core import envelope, hpke
from adytum_enclave.core.entropy import Fill, public_bytes
from adytum_enclave.core.secrets import Arena, Slot
from adytum_policy.shape import RecoveryRules
from adytum_wire.recovery import (
    KEY_SIZE,
    RecoveryEnvelope,
    bound_header,
    encode_recovery,
    layer_info,
    subsets,
)


def seal_recovery(rules: RecoveryRules, header: bytes, secret: Slot, *, arena: Arena, fill: Fill) -> bytes:
    """The envelope's bytes. `header`: the record's. `secret` stays the caller's. Errors: RESOURCE_EXHAUSTED."""
    keys = tuple(bytes.fromhex(key) for key in rules.keys)
    with arena.take(KEY_SIZE) as key:
        fill(key.view)
        nonce = public_bytes(fill, envelope.NONCE_SIZE)
        sealed = envelope.seal(bound_header(header), secret, key, nonce=nonce, arena=arena)
        shares = tuple(
            _share(key, keys, holders, header, arena, fill) for holders in subsets(len(keys), rules.threshold)
        )
    return encode_recovery(
        RecoveryEnvelope(header=header, threshold=rules.threshold, keys=keys, sealed=sealed, shares=shares)
    )


def _share(key: Slot, keys: Sequence[bytes], holders: Sequence[int], header: bytes, arena: Arena, fill: Fill) -> bytes:
    """The key inside one HPKE a holder, the last holder's innermost."""
    share = b""
    for layer in reversed(range(len(holders))):
        info = layer_info(header, holders, layer)
        public = keys[holders[layer]]
        if not share:
            share = b"".join(hpke.seal_to(public, key, info=info, aad=b"", arena=arena, fill=fill))
            continue
        with arena.take(len(share)) as inner:
            inner.view[:] = share
            share = b"".join(hpke.seal_to(public, inner, info=info, aad=b"", arena=arena, fill=fill))
    return share
