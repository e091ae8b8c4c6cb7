"""`Principal`: who asks, made from an ARN, for `explain` and for tests of policies."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any, Literal

from adytum.kms_policy.errors import KmsPolicyError

_ARN = re.compile(
    r"arn:(?P<partition>aws[a-z-]*):(?:"
    r"iam::(?P<account>[0-9]{12}):(?:(?P<root>root)|user/[\w+=,.@/-]+|role/(?:[\w+=,.@-]+/)*(?P<role>[\w+=,.@-]+))"
    r"|sts::(?P<session_account>[0-9]{12}):assumed-role/(?P<session_role>[\w+=,.@-]+)/[\w+=,.@-]+)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """An account's root, an IAM user, or a session of a role. `principal_arn` is what `aws:PrincipalArn` is."""

    kind: Literal["root", "user", "session"]
    partition: str
    account: str
    arn: str
    principal_arn: str
    identity_policies: tuple[dict[str, Any], ...] = ()

    @classmethod
    def from_arn(cls, arn: str) -> Principal:
        """A role's ARN means a session of it. A session's ARN loses the role's path, as it does in AWS.

        Errors: KmsPolicyError.
        """
        match = _ARN.fullmatch(arn)
        if match is None:
            raise KmsPolicyError("The principal is not the ARN of an account's root, a user, a role or a role session.")
        partition = match["partition"]
        if match["session_account"]:
            account = match["session_account"]
            role = f"arn:{partition}:iam::{account}:role/{match['session_role']}"
            return cls(kind="session", partition=partition, account=account, arn=arn, principal_arn=role)
        account = match["account"]
        if match["role"]:
            session = f"arn:{partition}:sts::{account}:assumed-role/{match['role']}/session"
            return cls(kind="session", partition=partition, account=account, arn=session, principal_arn=arn)
        return cls(
            kind="root" if match["root"] else "user",
            partition=partition,
            account=account,
            arn=arn,
            principal_arn=arn,
        )

    @property
    def root_arn(self) -> str:
        return f"arn:{self.partition}:iam::{self.account}:root"

    def names(self) -> set[str]:
        return {self.arn, self.principal_arn}

    def with_policies(self, *policies: dict[str, Any]) -> Principal:
        """The same principal with these identity policies (as `document.parse` returns them)."""
        return replace(self, identity_policies=policies)

    def context(self) -> dict[str, list[str]]:
        """The condition keys that every request of this principal carries."""
        return {
            "aws:principalarn": [self.principal_arn],
            "aws:principalaccount": [self.account],
            "aws:principaltype": [{"root": "Account", "user": "User", "session": "AssumedRole"}[self.kind]],
            "aws:securetransport": ["true"],
            "aws:viaawsservice": ["false"],
            "aws:principalisawsservice": ["false"],
            "kms:calleraccount": [self.account],
        }
