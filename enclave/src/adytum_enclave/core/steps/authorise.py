"""Step 3, authorise: THE decision. The host may preview it with the same pure function; only this one counts."""

from __future__ import annotations

from collections.abc import Sequence

from adytum_enclave.core.steps.authenticate import Authenticated
from adytum_enclave.core.steps.decode import Asked
from adytum_enclave.core.steps.sign import ALGORITHMS
from adytum_policy.decide import Decision, Subject, decide
from adytum_policy.usage import Usage
from adytum_policy.votes import Vote
from adytum_wire.requests import DeriveKey, GenerateKey, ImportKey, Making, Sign, operation_of
from adytum_wire.types import Algorithm, RecordKind


def authorise(who: Authenticated, asked: Asked, *, votes: Sequence[Vote], usage: Usage, now_ms: int) -> Decision:
    """Never raises; a refusal is a `Decision` with its code and every rule's outcome."""
    body = who.body
    if asked.header is not None:
        algorithm, labels = asked.header.algorithm, asked.header.labels
        if asked.header.kind is RecordKind.HD_SEED:  # what is derived from it has an algorithm
            if isinstance(body, Sign):
                algorithm = ALGORITHMS[body.scheme]
            elif isinstance(body, DeriveKey):
                algorithm = body.algorithm
    elif isinstance(body, GenerateKey | ImportKey):
        algorithm, labels = body.algorithm, body.labels
    else:
        algorithm, labels = Algorithm.NONE, body.labels if isinstance(body, Making) else []
    subject = Subject(
        operation=operation_of(body),
        principal_id=who.principal.id,
        roles=frozenset(who.principal.roles),
        algorithm=algorithm,
        labels=frozenset(labels),
        facts=asked.content.facts if asked.content is not None else None,
        path=body.path if isinstance(body, Sign | DeriveKey) else "",
        key_id=asked.header.key_id if asked.header is not None else "",
    )
    return decide(subject, who.policy.policy, now_ms, votes=votes, usage=usage)
