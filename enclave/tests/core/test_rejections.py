"""Rejections that were seen stay until they expire; nobody pushes out another's."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from adytum_enclave.core.rejections import Rejections
from adytum_policy.votes import Vote
from adytum_wire import limits
from adytum_wire.types import sha256

BODY = sha256(b"body")


def policy(**roles: list[str]) -> Any:
    people = [SimpleNamespace(id=name, roles=held) for name, held in roles.items()]
    return SimpleNamespace(document=SimpleNamespace(principals=people))


def vote(name: str = "bob", *, expires_at: int = 100) -> Vote:
    return Vote(
        principal_id=name,
        roles=frozenset({"approver"}),
        decision="reject",
        policy_version=1,
        issued_at=1,
        expires_at=expires_at,
        digest=sha256(f"{name}{expires_at}".encode()),
    )


BOTH = policy(bob=["approver"], carol=["approver", "chief"])


def test_a_rejection_stays_until_its_statement_expires() -> None:
    memory = Rejections()
    memory.note("acme", BODY, vote())
    assert memory.of("acme", BODY, BOTH, 100) == (vote(),)
    assert memory.of("acme", sha256(b"other"), BOTH, 100) == ()
    assert memory.of("umbrella", BODY, BOTH, 100) == ()
    assert memory.of("acme", BODY, BOTH, 101) == ()


def test_of_one_persons_the_one_that_holds_longest_stays() -> None:
    memory = Rejections()
    for expires_at in (50, 100, 70):
        memory.note("acme", BODY, vote(expires_at=expires_at))
    assert [one.expires_at for one in memory.of("acme", BODY, BOTH, 0)] == [100]


def test_roles_are_those_of_the_policy_in_force() -> None:
    memory = Rejections()
    memory.note("acme", BODY, vote("bob"))
    memory.note("acme", BODY, vote("carol"))
    assert [set(one.roles) for one in memory.of("acme", BODY, BOTH, 0)] == [{"approver"}, {"approver", "chief"}]
    assert memory.of("acme", BODY, policy(bob=[]), 0)[0].roles == frozenset()
    assert memory.of("acme", BODY, policy(dave=["approver"]), 0) == ()


def test_nobody_pushes_out_anothers_rejection() -> None:
    memory = Rejections()
    memory.note("acme", BODY, vote("bob"))
    for number in range(limits.MAX_REMEMBERED_REJECTIONS + 5):
        memory.note("acme", sha256(b"%d" % number), vote("carol"))
    assert len(memory.of("acme", BODY, BOTH, 0)) == 1
    assert len(memory._by_tenant["acme"]["carol"]) == limits.MAX_REMEMBERED_REJECTIONS
