"""What a request is about, in the terms that rules are written in. The enclave and the host's preview both ask here, so
that they cannot come to differ.

    decide(subject_of(body, header, content, principal_id="alice", roles=roles), policy, now_ms)
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from adytum_policy.content import Decoded
from adytum_policy.rules import Subject
from adytum_wire.record import Header
from adytum_wire.requests import Body, DeriveKey, GenerateKey, ImportKey, Making, Sign, operation_of
from adytum_wire.types import Algorithm, RecordKind, SigningScheme

ALGORITHMS: Final = {
    SigningScheme.ECDSA_SECP256K1: Algorithm.SECP256K1,
    SigningScheme.BIP340: Algorithm.SECP256K1,
    SigningScheme.ED25519: Algorithm.ED25519,
    SigningScheme.ECDSA_P256: Algorithm.P256,
}


def subject_of(
    body: Body, header: Header | None, content: Decoded | None, *, principal_id: str, roles: Collection[str]
) -> Subject:
    """`header`: of the record that the request names, None when it makes one. `content`: None for all but `sign`, and
    before it is decoded."""
    labels: Sequence[str]
    if header is not None:
        algorithm, labels = header.algorithm, header.labels
        if header.kind is RecordKind.HD_SEED:  # what is derived from it has an algorithm
            if isinstance(body, Sign):
                algorithm = ALGORITHMS[body.scheme]
            elif isinstance(body, DeriveKey):
                algorithm = body.algorithm
    elif isinstance(body, GenerateKey | ImportKey):
        algorithm, labels = body.algorithm, body.labels
    else:
        algorithm, labels = Algorithm.NONE, body.labels if isinstance(body, Making) else []
    return Subject(
        operation=operation_of(body),
        principal_id=principal_id,
        roles=frozenset(roles),
        algorithm=algorithm,
        labels=frozenset(labels),
        facts=None if content is None else content.facts,
        path=body.path if isinstance(body, Sign | DeriveKey) else "",
        signing_paths=frozenset() if content is None else content.signing_paths,
        key_id="" if header is None else header.key_id,
    )
