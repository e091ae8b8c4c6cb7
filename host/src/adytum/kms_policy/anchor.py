"""The policies of the anchor's DynamoDB table, where its credentials are sealed (docs/how-to/limits.md).

Two documents. The user's allows the two calls that the enclave makes, on the tenant's item alone. The table's denies
every write to everybody but that user, the parent's role and administrators included, and what would change the table
or its policy to everybody but one role. A negated condition holds also when its key is absent, so that AWS services
that write on somebody's behalf are denied, too.

>>> user, table = anchor_policies(
...     table="arn:aws:dynamodb:eu-west-1:111122223333:table/adytum-anchor",
...     user="arn:aws:iam::111122223333:user/adytum-anchor",
...     admin="arn:aws:iam::111122223333:role/break-glass",
...     deployment="prod",
...     tenant="acme",
... )
>>> user["Statement"][0]["Action"]
['dynamodb:GetItem', 'dynamodb:PutItem']

Source: DynamoDB Developer Guide, "Using resource-based policies" and "Using IAM policy conditions".
"""

from __future__ import annotations

from typing import Any, Final

Json = dict[str, Any]

WRITES: Final = [
    "dynamodb:BatchWriteItem",
    "dynamodb:DeleteItem",
    "dynamodb:PartiQLDelete",
    "dynamodb:PartiQLInsert",
    "dynamodb:PartiQLUpdate",
    "dynamodb:PutItem",
    "dynamodb:UpdateItem",
]
CHANGES: Final = [
    "dynamodb:DeleteResourcePolicy",
    "dynamodb:DeleteTable",
    "dynamodb:PutResourcePolicy",
    "dynamodb:UpdateTable",
    "dynamodb:UpdateTimeToLive",
]


def anchor_policies(*, table: str, user: str, admin: str, deployment: str, tenant: str) -> tuple[Json, Json]:
    """(the user's inline policy, the table's resource policy). `table`, `user`, `admin`: ARNs. Several tenants have a
    user each, and then a table each."""
    of_user = {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "OwnItem",
                "Effect": "Allow",
                "Action": ["dynamodb:GetItem", "dynamodb:PutItem"],
                "Resource": table,
                "Condition": {"ForAllValues:StringEquals": {"dynamodb:LeadingKeys": [f"{deployment}/{tenant}"]}},
            }
        ],
    }
    of_table = {
        "Version": "2012-10-17",
        "Statement": [
            _deny("NobodyElseWrites", WRITES, table, user),
            _deny("OnlyOneChangesTheTable", CHANGES, table, admin),
        ],
    }
    return of_user, of_table


def _deny(sid: str, actions: list[str], table: str, but: str) -> Json:
    return {
        "Sid": sid,
        "Effect": "Deny",
        "Principal": "*",
        "Action": actions,
        "Resource": table,
        "Condition": {"ArnNotEquals": {"aws:PrincipalArn": but}},
    }
