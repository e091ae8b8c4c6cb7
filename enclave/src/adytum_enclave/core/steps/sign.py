"""Step 5, sign: the key signs what was decoded, and each signature verifies before it leaves.

A seed signs with the key at the request's path. A PSBT may name several keys below it: all that it claims is derived
and compared first, and only then anything is signed.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from adytum_enclave.core.hd import Node, Seed
from adytum_enclave.core.keys import WalletKey
from adytum_enclave.core.steps.authenticate import Authenticated
from adytum_policy.content import Claim, Decoded
from adytum_policy.content.address_bitcoin import hash160
from adytum_policy.subject import ALGORITHMS
from adytum_wire.errors import AdytumError, Code
from adytum_wire.paths import parse_path
from adytum_wire.requests import Sign
from adytum_wire.results import SignResult
from adytum_wire.types import Algorithm, SigningScheme, sha256

_AUX = b"adytum/bip340-aux/v1"


def sign(who: Authenticated, body: Sign, content: Decoded, key: WalletKey | Seed) -> SignResult:
    """Deterministic: the same request yields the same bytes (BIP-340's auxiliary randomness comes from its digest).

    Errors: REQUEST_INVALID (the key cannot sign with this scheme, or has no such child), CONTENT_INVALID (a key that
    the content claims is not ours), INTERNAL (a signature does not verify). Nothing is signed then.
    """
    if isinstance(key, WalletKey):
        return _signed(who, body, content, key.public_key, [key] * len(content.to_sign))
    if not content.claims:
        child = key.key(body.path, ALGORITHMS[body.scheme])
        return _signed(who, body, content, child.public_key, [child] * len(content.to_sign))
    with ExitStack() as owned:
        master = owned.enter_context(key.master(Algorithm.SECP256K1))
        account = owned.enter_context(master.descend(parse_path(body.path)))
        nodes = _proven(owned, account, hash160(master.public_key())[:4], parse_path(body.path), content.claims)
        signing = [one.claim for one in content.to_sign if one.claim is not None]
        keys = {claim: owned.enter_context(nodes[claim].key()) for claim in set(signing)}
        return _signed(who, body, content, account.public_key(), [keys[claim] for claim in signing])


def _proven(
    owned: ExitStack, account: Node, fingerprint: bytes, path: tuple[int, ...], claims: Sequence[Claim]
) -> dict[Claim, Node]:
    """The node of each claim, owned by `owned`. Errors: CONTENT_INVALID when one is not what was claimed."""
    nodes: dict[Claim, Node] = {}
    parents: dict[tuple[int, ...], Node] = {}  # most claims share one of two: addresses to receive at, and change
    for claim in claims:
        if claim.path[: len(path)] != path or claim.fingerprint != fingerprint:
            raise AdytumError(Code.CONTENT_INVALID, "$.content.psbt.path")
        above, last = claim.path[len(path) : -1], claim.path[len(path) :][-1:]
        if above not in parents:
            parents[above] = owned.enter_context(account.descend(above))
        node = owned.enter_context(parents[above].child(last[0]) if last else account.descend(()))
        if not node.public_key().endswith(claim.public_key):
            raise AdytumError(Code.CONTENT_INVALID, "$.content.psbt.public_key")
        nodes[claim] = node
    return nodes


def _signed(
    who: Authenticated, body: Sign, content: Decoded, public_key: bytes, keys: Sequence[WalletKey]
) -> SignResult:
    signatures = tuple(
        key.sign(
            body.scheme,
            one.payload,
            aux=_aux(who.digest, at) if body.scheme is SigningScheme.BIP340 else b"",
            tweak=one.tweak,
        )
        for at, (key, one) in enumerate(zip(keys, content.to_sign, strict=True))
    )
    return SignResult(
        tenant=body.tenant,
        request_id=body.request_id,
        key_id=body.key_id,
        path=body.path,
        scheme=body.scheme,
        public_key=public_key.hex(),
        signature=b"".join(signatures).hex(),
        encoded=content.finish_all(signatures),
    )


def _aux(digest: bytes, at: int) -> bytes:
    """Of the signature number `at` of a request (S-15)."""
    return sha256(_AUX + digest + (at.to_bytes(4, "big") if at else b""))
