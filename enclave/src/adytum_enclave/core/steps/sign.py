"""Step 5, sign: the key signs what was decoded, and the signature verifies before it leaves."""

from __future__ import annotations

from adytum_enclave.core.keys import WalletKey
from adytum_enclave.core.steps.authenticate import Authenticated
from adytum_policy.content import Decoded
from adytum_wire.requests import Sign
from adytum_wire.results import SignResult
from adytum_wire.types import SigningScheme, sha256

_AUX = b"adytum/bip340-aux/v1"


def sign(who: Authenticated, body: Sign, content: Decoded, key: WalletKey) -> SignResult:
    """Deterministic: the same request yields the same bytes (BIP-340's auxiliary randomness comes from its digest).

    Errors: REQUEST_INVALID (the key cannot sign with this scheme), INTERNAL (the signature does not verify).
    """
    aux = sha256(_AUX + who.digest) if body.scheme is SigningScheme.BIP340 else b""
    signature = key.sign(body.scheme, content.payload, aux=aux)
    return SignResult(
        tenant=body.tenant,
        request_id=body.request_id,
        key_id=body.key_id,
        path=body.path,
        scheme=body.scheme,
        public_key=key.public_key.hex(),
        signature=signature.hex(),
        encoded=content.finish(signature),
    )
