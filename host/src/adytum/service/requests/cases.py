"""A case: one request with all that belongs to it, read together, and how it looks from outside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from adytum.service.admit import Admitted
from adytum.service.ports import NowMs
from adytum.service.requests.policies import Policies
from adytum.service.requests.preview import Asked, Preview, preview
from adytum.service.requests.shapes import ApprovalView, PendingAnswer, RequestView, WantedView
from adytum.storage import requests as store
from adytum.storage.database import Database
from adytum.storage.lookup import Lookup, Question
from adytum.storage.requests import StoredRequest
from adytum.storage.rows import PENDING
from adytum_policy.document import Policy
from adytum_wire.approvals import PasskeyProof
from adytum_wire.errors import AdytumError, Code
from adytum_wire.record import Header, Record, parse_header
from adytum_wire.requests import OPERATIONS, AnyStamp, OnRecord, parse_body

_stamp: msgspec.msgpack.Decoder[AnyStamp] = msgspec.msgpack.Decoder(AnyStamp)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """`admitted`, `preview`: None for a request that never waited."""

    stored: StoredRequest
    admitted: Admitted | None
    record: Record | None
    header: Header | None
    policy: Policy | None
    preview: Preview | None

    @property
    def identity(self) -> tuple[str, str]:
        return self.stored.row.tenant, self.stored.row.request_id

    @property
    def state(self) -> str:
        """As the row says, with `approved` for a request that is being carried out."""
        row, waiting = self.stored.row, self.stored.waiting
        return "approved" if row.state == PENDING and waiting is not None and waiting.is_claimed else row.state


class Cases:
    """Reads cases."""

    def __init__(self, database: Database, lookup: Lookup, now_ms: NowMs) -> None:
        self._database = database
        self._lookup = lookup
        self._now_ms = now_ms
        self._policies = Policies(database)

    async def one(self, tenant: str, request_id: str) -> Case:
        """Errors: NOT_FOUND, STORAGE_UNAVAILABLE."""
        return await self._case(await store.load(self._database, tenant, request_id))

    async def page(self, tenant: str, *, state: str, after: str, limit: int) -> list[Case]:
        """Errors: STORAGE_UNAVAILABLE."""
        found = await store.page(self._database, tenant, state=state, after=after, limit=limit)
        return [await self._case(stored) for stored in found]

    async def _case(self, stored: StoredRequest) -> Case:
        admitted = _admitted(stored)
        if admitted is None:
            return Case(stored=stored, admitted=None, record=None, header=None, policy=None, preview=None)
        record = await self._record(admitted)
        header = None if record is None else _header(record)
        policy = await self._policies.of(stored.row.tenant)
        asked = Asked(
            body=admitted.body,
            digest=admitted.body_hash,
            stamp_key=admitted.stamp_key,
            header=header,
            approvals=stored.approvals,
        )
        found = preview(asked, policy, now_ms=self._now_ms())
        return Case(stored=stored, admitted=admitted, record=record, header=header, policy=policy, preview=found)

    async def _record(self, admitted: Admitted) -> Record | None:
        if not admitted.key_id:
            return None
        try:
            return (await self._lookup.find(Question(admitted.body.tenant, "", admitted.key_id))).record
        except AdytumError as error:
            if error.code is Code.RECORD_INVALID:
                return None
            raise


def _admitted(stored: StoredRequest) -> Admitted | None:
    """The request as it came, once more."""
    waiting, row = stored.waiting, stored.row
    if waiting is None:
        return None
    body = parse_body(waiting.body)
    return Admitted(
        waiting.body,
        body,
        row.body_hash,
        _stamp.decode(waiting.stamp),
        OPERATIONS[type(body)],
        body.key_id if isinstance(body, OnRecord) else "",
        row.stamp_key,
    )


def _header(record: Record) -> Header | None:
    try:
        return parse_header(record.header)
    except AdytumError:
        return None


# --- how it looks


def view_of(case: Case) -> RequestView:
    """Without the result: that is for who holds the stamp's key, and asks again with the same body."""
    row, waiting, found = case.stored.row, case.stored.waiting, case.preview
    view = RequestView(
        tenant=row.tenant,
        request_id=row.request_id,
        operation=row.operation,
        state=case.state,
        code="" if row.state == PENDING else row.code,
        body_hash=row.body_hash.hex(),
        created_at=case.stored.created_at.isoformat(),
        receipt=msgspec.Raw(row.receipt),
    )
    if waiting is None or found is None or case.admitted is None:
        return view
    return msgspec.structs.replace(
        view,
        body=waiting.body,
        initiator=found.initiator,
        key_id=case.admitted.key_id,
        labels=[] if case.header is None else list(case.header.labels),
        summary=found.summary,
        policy_version=found.policy_version,
        wanted=_wanted(found) if row.state == PENDING else [],
        approvals=_approvals(case, found.outcomes),
        issued_at=waiting.issued_at,
        expires_at=waiting.expires_at,
        last_code=waiting.last_code,
    )


def pending_answer(case: Case) -> PendingAnswer:
    """For who asks again while the request waits."""
    waiting = case.stored.waiting
    return PendingAnswer(
        request_id=case.stored.row.request_id,
        state=case.state,
        wanted=[] if case.preview is None else _wanted(case.preview),
        expires_at=0 if waiting is None else waiting.expires_at,
        receipt=msgspec.Raw(case.stored.row.receipt),
    )


def _wanted(found: Preview) -> list[WantedView]:
    return [
        WantedView(
            rule=wanted.rule,
            role=wanted.role,
            count=wanted.count,
            counted=list(wanted.counted),
            missing=list(wanted.missing),
            others=wanted.others,
        )
        for wanted in (found.decision.wanted if found.decision is not None else ())
    ]


def _approvals(case: Case, outcomes: Sequence[str]) -> list[ApprovalView]:
    """After the end an outcome would be about the policy of today, and the receipt says what counted then."""
    is_open = case.stored.row.state == PENDING
    return [
        ApprovalView(
            principal=given.principal,
            digest=given.digest.hex(),
            kind="passkey" if isinstance(given.approval.proof, PasskeyProof) else "key",
            decision=given.decision,
            policy_version=given.policy_version,
            issued_at=given.issued_at,
            expires_at=given.expires_at,
            outcome=outcome if is_open else "",
        )
        for given, outcome in zip(case.stored.approvals, outcomes, strict=True)
    ]
