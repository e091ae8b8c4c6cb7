"""Who calls: the identity that SigV4 proved, and what policies may say about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["root", "user", "session"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Args: `arn` is what messages and logs show; `principal_arn` what `aws:PrincipalArn` is (a session's role)."""

    kind: Kind
    account: str
    arn: str
    user_id: str
    access_key_id: str = ""
    role_arn: str | None = None
    identity_policies: tuple[dict[str, Any], ...] = ()
    source_ip: str = "127.0.0.1"
    user_agent: str = ""
    is_secure: bool = True

    @property
    def principal_arn(self) -> str:
        return self.role_arn or self.arn

    @property
    def root_arn(self) -> str:
        return f"arn:aws:iam::{self.account}:root"

    def names(self) -> set[str]:
        """The Principal entries of a policy that mean this caller directly (beside `*`)."""
        names = {self.arn}
        if self.role_arn:
            names.add(self.role_arn)
        return names


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """One set of credentials and what it proves. `expires_ms` and `session_token` belong to sessions."""

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)
    expires_ms: int | None = None
    caller: Caller


def session_caller(
    *, account: str, role: str, session: str, role_id: str, policies: tuple[dict[str, Any], ...]
) -> Caller:
    """A session of the role named `role`."""
    return Caller(
        kind="session",
        account=account,
        arn=f"arn:aws:sts::{account}:assumed-role/{role}/{session}",
        user_id=f"{role_id}:{session}",
        role_arn=f"arn:aws:iam::{account}:role/{role}",
        identity_policies=policies,
    )


def user_caller(*, account: str, user: str, user_id: str, policies: tuple[dict[str, Any], ...]) -> Caller:
    """An IAM user."""
    arn = f"arn:aws:iam::{account}:user/{user}"
    return Caller(kind="user", account=account, arn=arn, user_id=user_id, identity_policies=policies)


def root_caller(*, account: str) -> Caller:
    """The account itself."""
    return Caller(kind="root", account=account, arn=f"arn:aws:iam::{account}:root", user_id=account)
