"""Attestation documents: the COSE_Sign1 that the NSM signs, and the unsigned one that QEMU makes.

Sources: the AWS document "Verifying the root of trust", section 3; genuine documents of 2021 to 2026 (the payload was
a definite map of nine entries until 2025 and is an indefinite one since); QEMU 10.0 `hw/virtio/virtio-nsm.c`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from adytum_sim.nsm import cbor
from adytum_sim.pki import Chain

PayloadEncoding = Literal["indefinite", "definite"]

_ES384 = bytes.fromhex("a1013822")  # {1: -35}
_UNSIGNED = bytes.fromhex("a10120")  # {1: -1}, what QEMU writes
_SIGNATURE_HALF = 48


def _payload(
    *,
    module_id: str,
    timestamp_ms: int,
    pcrs: Mapping[int, bytes],
    certificate: bytes,
    cabundle: list[bytes],
    public_key: bytes | None,
    user_data: bytes | None,
    nonce: bytes | None,
    encoding: PayloadEncoding,
) -> bytes:
    fields: dict[str, object] = {
        "module_id": module_id,
        "digest": "SHA384",
        "timestamp": cbor.Wide(timestamp_ms),
        "pcrs": dict(sorted(pcrs.items())),
        "certificate": certificate,
        "cabundle": cabundle,
        "public_key": public_key,
        "user_data": user_data,
        "nonce": nonce,
    }
    return cbor.encode(cbor.Indefinite(fields) if encoding == "indefinite" else fields)


def build_document(
    chain: Chain,
    *,
    module_id: str,
    timestamp_ms: int,
    pcrs: Mapping[int, bytes],
    public_key: bytes | None = None,
    user_data: bytes | None = None,
    nonce: bytes | None = None,
    encoding: PayloadEncoding = "indefinite",
) -> bytes:
    """Sign a document with the leaf of `chain`. No limits are applied here: attack tests want odd documents too."""
    payload = _payload(
        module_id=module_id,
        timestamp_ms=timestamp_ms,
        pcrs=pcrs,
        certificate=chain.certificate,
        cabundle=list(chain.cabundle),
        public_key=public_key,
        user_data=user_data,
        nonce=nonce,
        encoding=encoding,
    )
    signed = cbor.encode(["Signature1", _ES384, b"", payload])
    r, s = decode_dss_signature(chain.leaf_key.sign(signed, ec.ECDSA(hashes.SHA384())))
    signature = r.to_bytes(_SIGNATURE_HALF, "big") + s.to_bytes(_SIGNATURE_HALF, "big")
    return cbor.encode([_ES384, {}, payload, signature])


def build_unsigned_document(
    *,
    module_id: str,
    timestamp_ms: int,
    pcrs: Mapping[int, bytes],
    public_key: bytes | None = None,
    user_data: bytes | None = None,
    nonce: bytes | None = None,
) -> bytes:
    """What QEMU's nitro-enclave machine answers: algorithm -1, and 64 zero bytes for certificates and signature."""
    payload = _payload(
        module_id=module_id,
        timestamp_ms=timestamp_ms // 1000 * 1000,
        pcrs=pcrs,
        certificate=bytes(64),
        cabundle=[bytes(64)],
        public_key=public_key,
        user_data=user_data,
        nonce=nonce,
        encoding="definite",
    )
    return cbor.encode([_UNSIGNED, {}, payload, bytes(64)])
