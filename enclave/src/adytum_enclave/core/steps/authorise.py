"""Step 3, authorise: THE decision. The host may preview it with the same pure function; only this one counts."""

from __future__ import annotations

from collections.abc import Sequence

from adytum_enclave.core.steps.authenticate import Authenticated
from adytum_enclave.core.steps.decode import Asked
from adytum_policy.decide import Decision, Subject, decide, deny_whatever_content
from adytum_policy.subject import subject_of
from adytum_policy.usage import Usage
from adytum_policy.votes import Vote
from adytum_wire.record import Header
from adytum_wire.requests import Sign


def denied_anyway(who: Authenticated, header: Header | None, *, now_ms: int) -> Decision | None:
    """The refusal that is certain before the content is decoded, or None. Never raises, and never allows.

    Only `sign` has content; all else is decided at once, at no greater cost.
    """
    if not isinstance(who.body, Sign):
        return None
    return deny_whatever_content(_subject(who, Asked(header=header, content=None)), who.policy.policy, now_ms)


def authorise(
    who: Authenticated, asked: Asked, *, votes: Sequence[Vote], usage: Usage, now_ms: int, past_ms: int
) -> Decision:
    """`past_ms`: how old a request may be that needs no approvals. Never raises; a refusal is a `Decision` with its
    code and every rule's outcome."""
    waited = who.body.issued_at < now_ms - past_ms
    return decide(_subject(who, asked), who.policy.policy, now_ms, votes=votes, usage=usage, waited=waited)


def _subject(who: Authenticated, asked: Asked) -> Subject:
    principal = who.principal
    return subject_of(who.body, asked.header, asked.content, principal_id=principal.id, roles=principal.roles)
