"""The desk for requests that wait: look at one, approve it, take it back, wait for its end.

Approvals that suffice by the host's preview take the request to the enclave at once, in the background; nobody polls
for that. Every step is in the database before anybody hears of it, so a host that stops loses nothing: whoever runs
next finds approvals that were not weighed, and goes on.

    pending -> approved (being carried) -> done | refused | rejected | pending (the enclave wants more)
    pending -> cancelled | expired
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Final

import msgspec

from adytum.service import answer
from adytum.service.admit import Admitted, parse_stamp
from adytum.service.answer import Answer
from adytum.service.carry import Carried
from adytum.service.ports import NowMs, RandomBytes
from adytum.service.requests.carrying import Carrier
from adytum.service.requests.cases import Case, Cases, pending_answer, view_of
from adytum.service.requests.preview import checked
from adytum.service.requests.shapes import CANCEL, MAX_WAIT_S, BatchApproval, CancelBody, RequestView
from adytum.storage import requests as store
from adytum.storage.database import Database
from adytum.storage.requests import StoredApproval
from adytum.storage.rows import PENDING, RequestRow
from adytum_policy.approvals import paths_of
from adytum_wire import signatures, strict_json
from adytum_wire.approvals import Approval
from adytum_wire.errors import AdytumError, Code
from adytum_wire.pae import pae
from adytum_wire.requests import SessionStamp, Stamp

log = logging.getLogger("adytum.requests")

CHORES_S: Final = 2.0
_OTHERS_S: Final = 1.0  # how often a waiter looks for what another host did
_MAX_WAITERS: Final = 1024
_MAX_CANCEL: Final = 1024  # bytes

_Identity = tuple[str, str]


class Desk:
    """`watch` is to run as a task; `drain` ends what is under way."""

    def __init__(
        self,
        *,
        database: Database,
        cases: Cases,
        carrier: Carrier,
        now_ms: NowMs,
        random_bytes: RandomBytes,
        chores_s: float = CHORES_S,
    ) -> None:
        self._database = database
        self._cases = cases
        self._carrier = carrier
        self._now_ms = now_ms
        self._random_bytes = random_bytes
        self._chores_s = chores_s
        self._tasks: set[asyncio.Task[None]] = set()
        self._changes: dict[_Identity, asyncio.Event] = {}
        self._waiters = 0

    # --- the initiator

    async def waits(self, row: RequestRow) -> Answer:
        """202: the request is stored and waits; or what has become of it since."""
        return _answer(await self._cases.one(row.tenant, row.request_id))

    async def repeat(self, admitted: Admitted) -> Answer:
        """The initiator asks again about a pending request. The enclave is asked only if it may say something new.

        Errors: those of carrying; the request waits on.
        """
        case = await self._fresh(admitted.body.tenant, admitted.body.request_id)
        waiting, found = case.stored.waiting, case.preview
        if case.stored.row.state != PENDING or waiting is None or found is None:
            return _answer(case)
        if isinstance(_stamp_of(case), SessionStamp) and isinstance(admitted.stamp, Stamp):
            await store.restamp(self._database, *case.identity, msgspec.msgpack.encode(admitted.stamp))
            case = await self._cases.one(*case.identity)
        if found.is_stuck_on_approvals or case.state != PENDING:
            return _answer(case)
        carried = await self._carry(case)
        case = await self._cases.one(*case.identity)
        error = None if carried is None else carried.error
        if carried is None or error is None or error.code is Code.APPROVALS_MISSING or case.stored.row.state != PENDING:
            return _answer(case)
        return answer.failure(error, carried.receipt)

    async def cancel(self, tenant: str, request_id: str, raw: bytes, stamp_header: str) -> RequestView:
        """Take a request back, as its initiator. The view says what has become of it: `cancelled`, or how it had ended.

        Errors: REQUEST_INVALID, STAMP_INVALID (not the key that stamped the request), NOT_FOUND.
        """
        body = strict_json.decode(raw, CancelBody, limit=_MAX_CANCEL, code=Code.REQUEST_INVALID)
        if (body.tenant, body.request_id) != (tenant, request_id):
            raise AdytumError(Code.REQUEST_INVALID, "$.request_id")
        stamp = parse_stamp(stamp_header)
        case = await self._fresh(tenant, request_id)
        if not isinstance(stamp, Stamp) or stamp.public_key != case.stored.row.stamp_key:
            raise AdytumError(Code.STAMP_INVALID)
        if not signatures.is_valid(stamp.scheme, stamp.public_key, pae(CANCEL, raw), stamp.signature):
            raise AdytumError(Code.STAMP_INVALID)
        if case.stored.row.state == PENDING and not await store.cancel(self._database, tenant, request_id):
            await self._until(tenant, request_id, 10.0, lambda found: found.state != "approved")
            await store.cancel(self._database, tenant, request_id)  # it came back, and waits again
        self._changed((tenant, request_id))
        return view_of(await self._cases.one(tenant, request_id))

    # --- everybody

    async def look(self, tenant: str, request_id: str, *, wait_s: float = 0) -> RequestView:
        """The request, once it has ended or `wait_s` have passed. Errors: NOT_FOUND."""
        case = await self._fresh(tenant, request_id)
        if wait_s > 0 and case.stored.row.state == PENDING:
            case = await self._until(
                tenant, request_id, min(wait_s, MAX_WAIT_S), lambda found: found.stored.row.state != PENDING
            )
        return view_of(case)

    async def page(self, tenant: str, *, state: str, after: str, limit: int) -> list[RequestView]:
        return [view_of(case) for case in await self._cases.page(tenant, state=state, after=after, limit=limit)]

    # --- approvers

    async def approve(self, tenant: str, request_id: str, approval: Approval) -> RequestView:
        """Store what an approver signed, an approval or a rejection, and carry the request out if that suffices.

        Errors: the APPROVAL_* codes (the enclave would say the same), NOT_FOUND, POLICY_MISSING, RESOURCE_EXHAUSTED
        (one person's many statements); for a request that has ended its code, or REQUEST_REPLAYED when it is done.
        """
        case = await self._fresh(tenant, request_id)
        if case.policy is None:
            raise AdytumError(Code.POLICY_MISSING)
        vote = checked(
            approval,
            tenant=tenant,
            digest=case.stored.row.body_hash,
            policy=case.policy,
            now_ms=self._now_ms(),
        )
        given = StoredApproval(
            principal=vote.principal_id,
            digest=vote.digest,
            decision=vote.decision,
            policy_version=vote.policy_version,
            issued_at=vote.issued_at,
            expires_at=vote.expires_at,
            approval=approval,
        )
        try:
            await store.put_approval(self._database, tenant, request_id, given)
        except AdytumError as error:
            if error.code is not Code.REQUEST_CONFLICT:
                raise
            row = (await self._cases.one(tenant, request_id)).stored.row
            raise AdytumError(Code(row.code) if row.code else Code.REQUEST_REPLAYED, "$.state") from None
        log.info("request_id=%s principal=%s decision=%s", request_id, vote.principal_id, vote.decision)
        self._spawn(self._weigh(tenant, request_id))
        return view_of(await self._cases.one(tenant, request_id))

    async def approve_batch(self, batch: BatchApproval) -> list[RequestView | AdytumError]:
        """One statement about several requests; the host builds each one's path. What came of each, in order.

        Errors: NOT_FOUND when one of the requests is unknown. Then nothing was stored.
        """
        cases = [await self._cases.one(batch.tenant, request_id) for request_id in batch.request_ids]
        paths = paths_of([case.stored.row.body_hash for case in cases])
        found: list[RequestView | AdytumError] = []
        for index, (case, path) in enumerate(zip(cases, paths, strict=True)):
            approval = Approval(statement=batch.statement, proof=batch.proof, index=index, path=path)
            try:
                found.append(await self.approve(*case.identity, approval))
            except AdytumError as error:
                found.append(error)
        return found

    # --- chores

    async def watch(self) -> None:
        """For ever: end what has waited too long, and weigh what nobody has weighed. Cancel to stop."""
        while True:
            try:
                await self.tidy()
            except AdytumError as error:
                log.warning("requests cannot be tidied: %s", error.code.value)
            except Exception as error:  # the chores go on, whatever it was
                log.error("requests cannot be tidied: %s", type(error).__name__)
            await asyncio.sleep(self._chores_s)

    async def tidy(self) -> None:
        """One round. Errors: STORAGE_UNAVAILABLE."""
        for identity in await store.expire(self._database, self._now_ms()):
            self._changed(identity)
        for tenant, request_id in await store.unconsidered(self._database):
            self._spawn(self._weigh(tenant, request_id))  # what is under way is not cut off with the chores

    async def drain(self) -> None:
        """Wait for what is under way."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    # --- inside

    async def _fresh(self, tenant: str, request_id: str) -> Case:
        """The case, after its time was looked at."""
        case = await self._cases.one(tenant, request_id)
        waiting = case.stored.waiting
        if case.stored.row.state != PENDING or waiting is None or waiting.expires_at >= self._now_ms():
            return case
        for identity in await store.expire(self._database, self._now_ms()):
            self._changed(identity)
        return await self._cases.one(tenant, request_id)

    async def _weigh(self, tenant: str, request_id: str) -> None:
        """Carry the request out if its approvals suffice. What fails is tried again by `tidy`."""
        try:
            case = await self._cases.one(tenant, request_id)
            if case.state != PENDING or case.preview is None:
                return
            if case.preview.is_ripe:
                await self._carry(case)
            else:
                await store.note_considered(self._database, tenant, request_id, len(case.stored.approvals))
        except AdytumError as error:
            log.warning("request_id=%s not carried out yet: %s", request_id, error.code.value)

    async def _carry(self, case: Case) -> Carried | None:
        """Take it to the enclave. None when somebody else does, or it has ended. Errors: those of carrying."""
        tenant, request_id = case.identity
        token = self._random_bytes(16).hex()
        if not await store.claim(self._database, tenant, request_id, token):
            return None
        code, again = Code.INTERNAL.value, True
        renewing = asyncio.create_task(self._renew(tenant, request_id, token))
        try:
            carried = await self._carrier.carry(case)
            code = "" if carried.error is None else carried.error.code.value
            again = carried.error is not None and carried.error.code.retryable
            return carried
        except AdytumError as error:
            code = error.code.value
            raise
        finally:
            renewing.cancel()
            with suppress(AdytumError):  # the claim ends by itself
                await store.release(
                    self._database,
                    tenant,
                    request_id,
                    token,
                    considered=len(case.stored.approvals),
                    code=code,
                    again=again,
                )
            self._changed(case.identity)

    async def _renew(self, tenant: str, request_id: str, token: str) -> None:
        """Keep the claim until cancelled. What cannot be renewed may be claimed by others: the enclave knows the
        request, and whoever asks gets the same answer."""
        while True:
            await asyncio.sleep(store.CLAIM_S / 3)
            with suppress(AdytumError):
                await store.renew(self._database, tenant, request_id, token)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _changed(self, identity: _Identity) -> None:
        event = self._changes.pop(identity, None)
        if event is not None:
            event.set()

    async def _until(self, tenant: str, request_id: str, wait_s: float, is_over: Callable[[Case], bool]) -> Case:
        """Look again at each change, until it is over or the time is."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_s
        if self._waiters >= _MAX_WAITERS:
            deadline = loop.time()
        self._waiters += 1
        try:
            while True:
                event = self._changes.setdefault((tenant, request_id), asyncio.Event())
                case = await self._fresh(tenant, request_id)
                left = deadline - loop.time()
                if is_over(case) or left <= 0:
                    return case
                with suppress(TimeoutError):
                    await asyncio.wait_for(event.wait(), min(left, _OTHERS_S))
        finally:
            self._waiters -= 1
            if not self._waiters:
                self._changes.clear()


def _stamp_of(case: Case) -> object:
    return None if case.admitted is None else case.admitted.stamp


def _answer(case: Case) -> Answer:
    row = case.stored.row
    if row.state == PENDING:
        given = answer.json_answer(pending_answer(case), 202)
        return Answer(given.status, given.body, Code.REQUEST_PENDING.value)
    return answer.of_stored(row.request_id, row.result, row.receipt, row.code, row.field)
