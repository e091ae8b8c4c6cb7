"""A document to begin with: who there is, and the right to make keys. Nothing can be signed until a rule says what.

>>> start("acme", [Person("ops", "operator", "ed25519", "00" * 32)], valid_until=1)["version"]
1
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

ROLES = ("signer", "operator", "approver")
LABEL = "hot"


class Person(NamedTuple):
    """`public_key`: hex, of `scheme`."""

    name: str
    role: str
    scheme: str
    public_key: str


def start(tenant: str, people: Sequence[Person], *, valid_until: int) -> dict[str, Any]:
    """The document as JSON will have it. Operators may make keys labelled "hot"; with approvers, each by the approval
    of one. A person may come with several keys and roles. `valid_until`: ms since 1970."""
    principals: dict[str, dict[str, Any]] = {}
    for person in people:
        entry = principals.setdefault(person.name, {"id": person.name, "keys": [], "passkeys": [], "roles": []})
        key = {"scheme": person.scheme, "public_key": person.public_key}
        if key not in entry["keys"]:
            entry["keys"].append(key)
        if person.role not in entry["roles"]:
            entry["roles"].append(person.role)
    roles = {person.role for person in people}
    rules = []
    if "operator" in roles:
        rules.append(
            {
                "id": "make-keys",
                "effect": "allow",
                "operations": ["generate_key"],
                "principals": ["role:operator"],
                "labels": [LABEL],
                "algorithms": "*",
                "paths": "*",
                "times": "*",
                "content": "*",
                "approvals": {"role": "approver", "count": 1} if "approver" in roles else "none",
                "limits": "none",
            }
        )
    return {
        "v": 1,
        "tenant": tenant,
        "version": 1,
        "valid_until": valid_until,
        "records": {"generation": 1, "min_generation": 1},
        "recovery": "none",
        "passkeys": "none",
        "recipients": [],
        "principals": list(principals.values()),
        "limits": [],
        "rules": rules,
    }


GUIDANCE = f"""\
What to do next:
  rules        nothing can be signed yet. Add a rule for "sign" that says where, how much, what fee, and with which
               limits and approvals: docs/how-to/write-a-policy.md has one to copy. Keys get the label {LABEL!r}.
  labels       a rule reaches the keys that have one of its labels. Give each purpose a label of its own.
  "*"          means "no condition"; an empty list means "never". There are no defaults and no comments.
  valid_until  after it everything is refused. A new version, signed again, extends it.
  then         adytum policy validate FILE;  adytum policy sign FILE --key ADMIN.pem -o FILE.dsse (each admin);
               adytum policy push FILE.dsse"""
