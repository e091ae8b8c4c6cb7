"""The way of one stamped request through the enclave:

    authenticate -> (replay memory) -> approve -> name the record -> denied anyway? -> decode -> authorise
    -> unseal or seal -> sign -> charge -> receipt

A generator: it yields effects for the shell and returns an `Outcome`. Its reply can be encoded once the receipt chain
has been sealed. Refusals before authentication leave no trace but a counter; all later ones leave a receipt, but for
repeats, which are no new request.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, Final, TypeVar

from adytum_enclave.core.chain import Draft
from adytum_enclave.core.effects import NewDataKey, OpenDataKey, Stretch
from adytum_enclave.core.enclave import Configured, Enclave
from adytum_enclave.core.operations import Context, carry_out
from adytum_enclave.core.outcome import Outcome
from adytum_enclave.core.steps.approve import approve
from adytum_enclave.core.steps.authenticate import Authenticated, authenticate
from adytum_enclave.core.steps.authorise import authorise, denied_anyway
from adytum_enclave.core.steps.decode import Asked, decode, name_record
from adytum_enclave.core.steps.standing import require_standing
from adytum_enclave.core.usage.ledger import Hold
from adytum_wire import limits
from adytum_wire.errors import AdytumError, Code
from adytum_wire.messages import Execute
from adytum_wire.record import Header
from adytum_wire.requests import DeriveKey, OnRecord, Sign, operation_of
from adytum_wire.types import sha256

# Refusals that say "not yet": the same request may be sent again with more approvals, or later.
_MAY_CHANGE: Final = frozenset({Code.APPROVALS_MISSING, Code.LIMIT_EXCEEDED, Code.USAGE_UNKNOWN})

_T = TypeVar("_T")
Steps = Generator[NewDataKey | OpenDataKey | Stretch, Any, Outcome]


def execute(enclave: Enclave, message: Execute, *, is_expired: Callable[[], bool]) -> Steps:
    """Carry out one request. Never raises for a refusal: the outcome says it. `is_expired`: nobody waits any more."""
    try:
        enclave.phases.require(Execute)
        configured = enclave.configured
        if configured is None:
            raise AdytumError(Code.PHASE_INVALID)
        now_ms = enclave.now_ms()  # one moment up to the decision; what KMS delays looks at the clock again
        who = authenticate(
            message,
            tenants=configured.tenants,
            policies=enclave.policies,
            sessions=enclave.sessions,
            bounds=configured.manifest.bounds,
            now_ms=now_ms,
        )
    except AdytumError as error:
        enclave.counters.error(error.code)
        return Outcome(ticket=None, error=error)
    repeatable = isinstance(who.body, Sign | DeriveKey)
    try:
        entry = configured.replay.admit(
            who.body.tenant,
            who.body.request_id,
            _asked(who),
            repeatable=repeatable,
            now_ms=now_ms,
            lives_until_ms=who.lives_until_ms,
        )
    except AdytumError as error:
        enclave.counters.error(error.code)
        if error.code is Code.REQUEST_CONFLICT:  # something else was asked, and refused
            return _refused(enclave, _draft(who), error, "error")
        return Outcome(ticket=None, error=error)  # a repeat, or no room: nothing is decided
    if entry.answer is not None:
        enclave.counters.add("repeated")
        return entry.answer
    try:
        outcome, is_final = yield from _decide(enclave, configured, who, message, now_ms, is_expired)
    except BaseException:
        configured.replay.forget(entry)
        raise
    if is_final:
        configured.replay.finish(entry, outcome, repeatable=repeatable, denied=outcome.error is not None)
    else:
        configured.replay.forget(entry)
    return outcome


def _decide(
    enclave: Enclave,
    configured: Configured,
    who: Authenticated,
    message: Execute,
    now_ms: int,
    is_expired: Callable[[], bool],
) -> Generator[Any, Any, tuple[Outcome, bool]]:
    """Return the outcome, and whether it is final: carried out, or denied by the policy on proven facts."""
    record, tenant, ledger = message.record, who.body.tenant, enclave.ledger
    hold: Hold | None = None

    def check_deadline() -> None:
        if is_expired():
            raise AdytumError(Code.DEADLINE_EXCEEDED)

    def check_ground() -> None:
        _require_ground(enclave, who, header)

    draft = _draft(who)
    try:
        enclave.anchor_keys.require(who.body)
        votes = approve(
            message,
            who,
            passkeys=enclave.passkeys,
            rejections=enclave.rejections,
            future_ms=configured.manifest.bounds.request_future_ms,
            now_ms=now_ms,
        )
        header = name_record(who.body, record, manifest=configured.manifest)
        if header is not None:
            _note(draft, header)
            if isinstance(who.body, OnRecord):
                require_standing(who.body, header, who.policy.policy)
        asked, decision = Asked(header=header, content=None), denied_anyway(who, header, now_ms=now_ms)
        if decision is None:
            asked = decode(who.body, header)
            if asked.content is not None:
                draft.summary = asked.content.summary
            past_ms = configured.manifest.bounds.request_past_ms
            usage = ledger.view(tenant, who.digest, now_ms)
            decision = authorise(who, asked, votes=votes, usage=usage, now_ms=now_ms, past_ms=past_ms)
            # The first request with a limit after a start.
            if usage.missed and (yield from _while_it_holds(ledger.learn(tenant), check_ground)):
                usage = ledger.view(tenant, who.digest, now_ms)
                decision = authorise(who, asked, votes=votes, usage=usage, now_ms=now_ms, past_ms=past_ms)
        draft.rules, draft.approvals = list(decision.rules), list(decision.approvals)
        draft.wanted = list(decision.wanted)
        if decision.code is Code.REQUEST_EXPIRED:  # it came with approvals, and no rule asks for any
            raise AdytumError(Code.REQUEST_EXPIRED, "$.issued_at")
        if not decision.allowed:
            code = decision.code or Code.POLICY_DENIED
            enclave.counters.add("denied")
            # A denial over a header that only the host vouches for must not answer this request id for good: the host
            # could deny whatever it likes by editing a label.
            is_proven = header is None or (record is not None and configured.warm.holds(header.key_id, record.header))
            is_proven = is_proven and code not in _MAY_CHANGE
            return _refused(enclave, draft, AdytumError(code), "deny"), is_proven
        hold = ledger.reserve(tenant, decision.charges, who.digest, now_ms)
        context = Context(enclave, configured, who, asked, record, check_deadline)
        effected = yield from _while_it_holds(carry_out(context), check_ground)
        snapshot = yield from _while_it_holds(ledger.commit(hold), check_ground)
        effected.keep()  # nothing may wait from here to the receipt
    except AdytumError as error:
        ledger.give_back(hold)
        enclave.counters.error(error.code)
        return _refused(enclave, draft, error, "error"), False
    except BaseException:
        ledger.give_back(hold)
        raise
    if effected.about is not None:
        _note(draft, effected.about)
    draft.public_key = effected.public_key or draft.public_key
    if hold is not None:
        draft.limits = hold.outcomes
    enclave.counters.add("executed")
    ticket = enclave.receipts.append(
        draft,
        time_ms=enclave.now_ms(),
        decision="allow",
        code="",
        result_digest=sha256(effected.result).hex(),
    )
    return Outcome(
        ticket=ticket, result=effected.result, record=effected.record, usage=snapshot, recovery=effected.recovery
    ), True


def _require_ground(enclave: Enclave, who: Authenticated, header: Header | None) -> None:
    """What a decision stands on. It is the host that says how long a request waits for KMS and for the anchor, and what
    the enclave is told meanwhile.

    Errors: RESOURCE_EXHAUSTED when another policy is in force, or none: sent again, the request is decided under that.
    RECORD_ROLLBACK when its record was superseded."""
    held = enclave.policies.get(who.body.tenant)
    if held is None or held.digest != who.policy.digest:
        raise AdytumError(Code.RESOURCE_EXHAUSTED, "$.policy", retry_after_ms=limits.RETRY_AFTER_MS)
    if header is not None:
        enclave.versions.require(header)


def _while_it_holds(steps: Generator[Any, Any, _T], check_ground: Callable[[], None]) -> Generator[Any, Any, _T]:
    """`steps`, which are told an effect's answer only if `check_ground` still passes, and its error otherwise."""
    try:
        effect = next(steps)
        while True:
            try:
                answer = yield effect
                check_ground()
            except AdytumError as error:
                effect = steps.throw(error)
            else:
                effect = steps.send(answer)
    except StopIteration as stop:
        found: _T = stop.value
        return found
    finally:
        steps.close()


def _asked(who: Authenticated) -> bytes:
    """What was asked, and by whom: the same body under another principal's stamp is another request. Otherwise somebody
    without rights could fetch the remembered answer of somebody who has them."""
    return sha256(who.digest + who.principal.id.encode())


def _draft(who: Authenticated) -> Draft:
    draft = Draft(
        tenant=who.body.tenant,
        principal=who.principal.id,
        request_id=who.body.request_id,
        operation=operation_of(who.body),
        request_digest=who.digest,
    )
    draft.policy_version = who.policy.policy.version
    draft.policy_digest = who.policy.digest
    return draft


def _note(draft: Draft, header: Header) -> None:
    draft.key_id = header.key_id
    draft.record_version = header.version
    draft.public_key = header.public_key


def _refused(enclave: Enclave, draft: Draft, error: AdytumError, decision: str) -> Outcome:
    ticket = enclave.receipts.append(
        draft, time_ms=enclave.now_ms(), decision=decision, code=error.code.value, result_digest=""
    )
    return Outcome(ticket=ticket, error=error)
