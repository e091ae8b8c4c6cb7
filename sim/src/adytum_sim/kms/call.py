"""One request on its way through the service: its members, its caller, the key it names, the decision, the answer.

An operation is a function of a `Call`; what it needs of the service comes through `Deps`.
"""

from __future__ import annotations

import base64
import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import rsa

from adytum_sim import cms
from adytum_sim.kms import policy
from adytum_sim.kms.caller import Caller
from adytum_sim.kms.errors import KmsFault, invalid
from adytum_sim.kms.faults import Faults
from adytum_sim.kms.keys import Key
from adytum_sim.kms.params import Params
from adytum_sim.kms.recipient import DocumentReader, Recipient
from adytum_sim.kms.state import State

SYMMETRIC: Final = "SYMMETRIC_DEFAULT"
_ARN = re.compile(r"arn:aws[a-z-]*:kms:([a-z0-9-]+):([0-9]{12}):(key/[A-Za-z0-9-]+|alias/[A-Za-z0-9:/_-]+)")
_ALIAS = re.compile(r"alias/[A-Za-z0-9:/_-]{1,250}")
_PLAINTEXTS: Final = ("Plaintext", "PrivateKeyPlaintext")
Answer = dict[str, Any]
NO_CONTEXT: Final[Mapping[str, list[str]]] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Deps:
    """What operations use. `answers` counts the enveloped answers, whose form changes from one to the next."""

    state: State
    documents: DocumentReader
    random_bytes: Callable[[int], bytes]
    faults: Faults
    answers: count[int] = field(default_factory=count)

    def uuid(self) -> str:
        return str(uuid.UUID(bytes=self.random_bytes(16), version=4))


@dataclass(slots=True, kw_only=True)
class Call:
    """`resources` (key ARNs) and `recipient` are filled in as they become known, for the log."""

    deps: Deps
    operation: str
    params: Params
    caller: Caller
    now_ms: int
    resources: list[str] = field(default_factory=list)
    recipient: Recipient | None = None

    @property
    def state(self) -> State:
        return self.deps.state

    def find(self, name: str = "KeyId", *, alias_allowed: bool = True) -> Key:
        """The key that the member names: id, ARN, alias or alias ARN. Errors: NotFound, Validation."""
        return self.lookup(self.params.text(name), alias_allowed=alias_allowed)

    def lookup(self, given: str, *, alias_allowed: bool = True) -> Key:
        wanted = given
        if given.startswith("arn:"):
            match = _ARN.fullmatch(given)
            if match is None:
                raise invalid("Invalid keyId: not the ARN of a key or an alias.")
            if match[1] != self.state.region:
                raise KmsFault("NotFoundException", f"Invalid arn {match[1]}")
            if match[2] != self.state.account:
                raise self._denied(f"kms:{self.operation}", given, "none")
            wanted = match[3].removeprefix("key/")
        if _ALIAS.fullmatch(wanted):
            if not alias_allowed:
                raise KmsFault("NotFoundException", "Invalid keyId: an alias cannot be used for this operation.")
            if wanted not in self.state.aliases:
                raise KmsFault("NotFoundException", f"Alias {self.state.alias_arn(wanted)} is not found.")
            wanted = self.state.aliases[wanted][0]
        key = self.state.keys.get(wanted)
        if key is None:
            known = re.fullmatch(r"[A-Za-z0-9-]{1,64}", wanted) is not None
            shown = self.state.key_arn(wanted) if known else "of an invalid form"
            raise KmsFault("NotFoundException", f"Key '{shown}' does not exist" if known else "Invalid keyId " + shown)
        if key.arn not in self.resources:
            self.resources.append(key.arn)
        return key

    def authorize(
        self, key: Key | None, more: Mapping[str, list[str]] = NO_CONTEXT, *, action: str | None = None
    ) -> None:
        """Let policies decide. `more` are further condition keys, in lower case. Errors: AccessDeniedException."""
        wanted = action or f"kms:{self.operation}"
        resource = key.arn if key else "*"
        question = policy.Question(
            caller=self.caller,
            action=wanted,
            resource=resource,
            context=self.conditions(key) | dict(more),
        )
        verdict = policy.decide(question, key.policy if key else None)
        if verdict != "allow":
            raise self._denied(wanted, resource, verdict)

    def authorize_use(
        self,
        key: Key,
        context: Mapping[str, str],
        more: Mapping[str, list[str]] = NO_CONTEXT,
        *,
        action: str | None = None,
    ) -> None:
        """`authorize` for a cryptographic operation: its algorithm and EncryptionContext are conditions too.

        Then the key's state. Errors: AccessDeniedException, DisabledException, KMSInvalidStateException.
        """
        conditions: dict[str, list[str]] = {"kms:encryptionalgorithm": [SYMMETRIC], **more}
        if context:
            conditions["kms:encryptioncontextkeys"] = sorted(context)
        for name, value in context.items():
            conditions.setdefault(f"kms:encryptioncontext:{name.lower()}", []).append(value)
        if self.recipient is not None:
            conditions |= self.recipient.context()
        self.authorize(key, conditions, action=action)
        key.require_usable()

    def finish_dry_run(self) -> None:
        """Errors: DryRunOperationException when the request asked for nothing more than the decision."""
        if self.params.boolean("DryRun"):
            raise KmsFault(
                "DryRunOperationException", "The request would have succeeded, but the DryRun option is set."
            )

    def read_recipient(self) -> None:
        self.recipient = self.deps.documents.recipient(self.params)

    def answer(self, name: str, plaintext: bytes, **members: Any) -> Answer:
        """The members and the plaintext: in the clear under `name`, or enveloped when the request has a Recipient."""
        result: Answer = dict(members)
        if self.recipient is None:
            return result | {name: base64.b64encode(plaintext).decode()}
        turn = next(self.deps.answers)
        form: cms.ContentForm = "constructed" if turn % 2 == 0 else "primitive"
        to, faults = self.recipient.public_key, self.deps.faults
        if faults.take("forge"):
            plaintext = self.deps.random_bytes(len(plaintext))
            faults.forged.append(plaintext)
        if faults.take("wrong_recipient"):
            to = rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key()
        envelope = cms.envelop(to, plaintext, random_bytes=self.deps.random_bytes, form=form)
        if not faults.take("no_envelope"):
            result["CiphertextForRecipient"] = base64.b64encode(envelope).decode()
        if faults.take("plaintext_beside"):
            result[name] = base64.b64encode(plaintext).decode()
        elif turn % 3:  # AWS documents "null or empty", and clients must live with an absent member as well
            result[name] = None if turn % 3 == 1 else ""
        return result

    def conditions(self, key: Key | None) -> dict[str, list[str]]:
        """The condition keys that every request of this caller carries, and those of the key."""
        caller = self.caller
        context = {
            "aws:principalarn": [caller.principal_arn],
            "aws:principalaccount": [caller.account],
            "aws:principaltype": [{"root": "Account", "user": "User", "session": "AssumedRole"}[caller.kind]],
            "aws:userid": [caller.user_id],
            "aws:securetransport": [str(caller.is_secure).lower()],
            "aws:requestedregion": [self.state.region],
            "aws:viaawsservice": ["false"],
            "aws:principalisawsservice": ["false"],
            "kms:calleraccount": [caller.account],
        }
        if caller.user_agent:
            context["aws:useragent"] = [caller.user_agent]
        if key is not None:
            context |= {
                "kms:keyspec": [SYMMETRIC],
                "kms:customermasterkeyspec": [SYMMETRIC],
                "kms:keyusage": ["ENCRYPT_DECRYPT"],
                "kms:customermasterkeyusage": ["ENCRYPT_DECRYPT"],
                "kms:keyorigin": ["AWS_KMS"],
                "kms:multiregion": ["false"],
            }
            if aliases := self.state.aliases_of(key.key_id):
                context["kms:resourcealiases"] = aliases
            given = str(self.params.values.get("KeyId", "")).rpartition(":")[2]
            if given.startswith("alias/"):
                context["kms:requestalias"] = [given]
        return context

    def _denied(self, action: str, resource: str, verdict: policy.Verdict) -> KmsFault:
        where = f" on resource: {resource}" if resource != "*" else ""
        return KmsFault(
            "AccessDeniedException",
            f"User: {self.caller.arn} is not authorized to perform: {action}{where} {policy.why(verdict, action)}",
        )


def without_plaintexts(answer: Answer) -> Answer:
    """For logs and tests: the answer without what it keeps secret."""
    return {k: v for k, v in answer.items() if k not in _PLAINTEXTS}
