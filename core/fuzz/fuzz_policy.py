"""Coverage-guided fuzzing of what the host can hand to adytum_policy: policy documents, envelopes, content, RLP.

    python core/fuzz/fuzz_policy.py -max_total_time=60 [corpus directory]

The contract: a value, or `AdytumError` with the one code of that edge. Everything else that leaves is a finding. The
first byte of the input chooses the edge. Beyond "does not raise": a transaction that decodes is its own only spelling,
and a policy that parses decides about any subject.
"""

from __future__ import annotations

import sys
from typing import Literal

import atheris

with atheris.instrument_imports():
    from adytum_policy.content import bitcoin, ethereum, rlp, solana, typed_data
    from adytum_policy.decide import decide, deny_whatever_content
    from adytum_policy.document import open_policy, parse_policy
    from adytum_policy.facts import EthereumFacts
    from adytum_policy.rules import Subject
    from adytum_policy.usage import UnknownUsage
    from adytum_policy.votes import Vote
    from adytum_wire.errors import AdytumError, Code
    from adytum_wire.manifest import Admin, Tenant
    from adytum_wire.types import Scheme, SigningScheme, sha256

ADMIN = "8a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c"
KEY = bytes.fromhex("0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798")
TENANT = Tenant(
    id="acme",
    kms_key="arn:aws:kms:eu-central-1:111122223333:key/k",
    admins=[Admin(id="ada", scheme=Scheme.ED25519, public_key=ADMIN)],
    threshold=1,
)
ETHER = EthereumFacts(
    type="ethereum-transaction", chain_id=1, to=b"\1" * 20, value=5, max_fee=1, selector=b"", token=None
)


def vote(name: str, decision: Literal["approve", "reject"]) -> Vote:
    """By somebody with the role "a", under version 1."""
    return Vote(
        principal_id=name,
        roles=("a",),
        decision=decision,
        policy_version=1,
        issued_at=0,
        expires_at=0,
        digest=sha256(name.encode()),
    )


class Finding(Exception):
    """A broken promise."""


def policy(data: bytes) -> None:
    parsed = parse_policy(data)
    asked = {"principal_id": "alice", "roles": ("a",), "algorithm": "secp256k1", "labels": ("a",), "path": "m/0"}
    for operation, facts in (("sign", None), ("sign", ETHER), ("seal", None)):
        subject = Subject(operation=operation, facts=facts, key_id="key-1", **asked)
        plain = decide(subject, parsed, 0)
        if plain.allowed and operation == "sign" and facts is None:
            raise Finding("signed without facts")
        blind = decide(subject, parsed, 0, usage=UnknownUsage())
        if blind.allowed and (not plain.allowed or blind.charges):
            raise Finding("a limit was passed that nobody knows")
        refused = decide(subject, parsed, 0, votes=(vote("bob", "approve"), vote("eve", "reject")))
        if refused.allowed and next(r for r in parsed.rules if r.id == refused.rule).approvals is not None:
            raise Finding("a rejection was not heard")
        early = deny_whatever_content(Subject(operation=operation, facts=None, key_id="key-1", **asked), parsed, 0)
        if early is not None and plain.allowed:
            raise Finding("denied beforehand what is allowed")


def envelope(data: bytes) -> None:
    open_policy(data, TENANT)
    raise Finding("a policy that nobody signed was opened")


def transaction(data: bytes) -> None:
    decoded = ethereum.decode(data)
    if decoded.prefix:
        again = decoded.prefix + rlp.encode(list(decoded.items))
    else:
        again = rlp.encode([*decoded.items, rlp.encode_int(decoded.chain_id), b"", b""])
    if again != data:
        raise Finding("a second spelling of a transaction")
    decoded.finish(bytes(64) + b"\1")


def message(data: bytes) -> None:
    decoded = solana.decode(data)
    if decoded.payload != data:
        raise Finding("another message is signed than was decoded")
    decoded.finish(bytes(64))


def typed(data: bytes) -> None:
    decoded = typed_data.decode(data.decode("utf-8", "replace"))
    decoded.finish(bytes(64) + b"\1")


def partially_signed(data: bytes) -> None:
    for path in ("", "m/86'/0'/0'"):
        decoded = bitcoin.decode(data, "mainnet", SigningScheme.BIP340, public_key=KEY, path=path)
        if decoded.parsed.encode([dict(one) for one in decoded.parsed.inputs]) != data:
            raise Finding("a second spelling of a PSBT")
        if path and len(decoded.claims) < len({one.claim for one in decoded.to_sign}):
            raise Finding("a key is to sign that is not to be proven")
        decoded.finish_all((bytes(64),) * len(decoded.payloads))


def item(data: bytes) -> None:
    if rlp.encode(rlp.decode(data)) != data:
        raise Finding("a second spelling of an item")


EDGES = (
    (policy, {Code.POLICY_INVALID}),
    (envelope, {Code.POLICY_INVALID, Code.POLICY_QUORUM}),
    (transaction, {Code.CONTENT_INVALID}),
    (item, set[Code]()),
    (message, {Code.CONTENT_INVALID}),
    (typed, {Code.CONTENT_INVALID}),
    (partially_signed, {Code.CONTENT_INVALID}),
)


def one(data: bytes) -> None:
    if not data:
        return
    run, codes = EDGES[data[0] % len(EDGES)]
    try:
        run(data[1:])
    except AdytumError as error:
        if error.code not in codes:
            raise
    except rlp.RlpError:
        if run is not item:
            raise


def main() -> None:
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
