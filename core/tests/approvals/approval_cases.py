"""A policy with people, keys and passkeys, for the tests of one approval."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from adytum_policy.approvals import Verified, verify_approval
from adytum_policy.document import Policy, parse_policy
from adytum_sim.passkeys import Passkey
from adytum_sim.people import Person, approval_statement
from adytum_wire.approvals import Approval
from adytum_wire.types import Scheme, sha256

NOW = 1_795_435_200_000
RP_ID = "vault.example"
ORIGIN = "https://vault.example"
APK = "android:apk-key-hash:" + "A" * 43
DIGEST = sha256(b"a request's body")


@dataclass(frozen=True, slots=True)
class Case:
    """`alice` has a key and a passkey of each scheme; `bob` has one of each, too."""

    alice: Person
    bob: Person
    es256: Passkey
    eddsa: Passkey
    bobs: Passkey
    policy: Policy

    def verify(self, approval: Approval, **changes: Any) -> Verified:
        asked = {"tenant": "acme", "request_digest": DIGEST, "policy": self.policy, "latest_ms": NOW + 60_000} | changes
        return verify_approval(approval, **asked)


def new_case(scheme: Scheme = Scheme.ED25519) -> Case:
    alice, bob = Person.new("alice", scheme), Person.new("bob", scheme)
    es256, eddsa, bobs = Passkey.new(RP_ID), Passkey.new(RP_ID, scheme=Scheme.ED25519), Passkey.new(RP_ID)
    document = {
        "v": 1,
        "tenant": "acme",
        "version": 7,
        "valid_until": 2_000_000_000_000,
        "records": {"generation": 1, "min_generation": 1},
        "recovery": "none",
        "passkeys": {"rp_id": RP_ID, "origins": [ORIGIN, APK]},
        "recipients": [],
        "limits": [],
        "principals": [
            alice.as_principal("approver", passkeys=[es256, eddsa]),
            bob.as_principal("approver", passkeys=[bobs]),
        ],
        "rules": [],
    }
    return Case(alice, bob, es256, eddsa, bobs, parse_policy(json.dumps(document).encode()))


def statement(subject: Any = DIGEST, **changes: Any) -> bytes:
    fields = {"policy_version": 7, "issued_at": NOW - 1000} | changes
    return approval_statement(fields.pop("tenant", "acme"), subject, **fields)
