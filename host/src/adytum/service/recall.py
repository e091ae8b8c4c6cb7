"""Step 2, recall: the same request id yields the same bytes again, or a conflict.

Only requests that the enclave authenticated are stored, so nobody can burn another's ids. A stored answer is handed out
only to who holds the key that the enclave authenticated for it, and signs the same bytes with it: the host checks
that by itself here, since the enclave is not asked.
"""

from __future__ import annotations

from adytum.service.admit import Admitted
from adytum.storage.rows import RequestRow
from adytum_wire import signatures
from adytum_wire.errors import AdytumError, Code
from adytum_wire.pae import REQUEST, pae
from adytum_wire.requests import SessionStamp


def recall(admitted: Admitted, stored: RequestRow | None) -> RequestRow | None:
    """The row to answer with, or None when the enclave must be asked.

    Errors: REQUEST_CONFLICT (the id belongs to another body), STAMP_INVALID.
    """
    if stored is None:
        return None
    if stored.body_hash != admitted.body_hash:
        raise AdytumError(Code.REQUEST_CONFLICT, "$.request_id")
    stamp = admitted.stamp
    if admitted.stamp_key != stored.stamp_key:
        return None  # somebody else stamped the same bytes: the enclave says whether they may
    if isinstance(stamp, SessionStamp):
        return None  # only the enclave can check it
    if not signatures.is_valid(stamp.scheme, stamp.public_key, pae(REQUEST, admitted.raw), stamp.signature):
        raise AdytumError(Code.STAMP_INVALID)
    return stored
