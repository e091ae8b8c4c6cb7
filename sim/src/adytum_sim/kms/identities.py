"""The two identities to begin with: the role of the parent instance, and an operator who manages keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from adytum_sim.kms.caller import Credentials, session_caller, user_caller
from adytum_sim.kms.state import Role, State

ROLE: Final = "adytum-enclave"
OPERATOR: Final = "operator"
SESSION: Final = "i-0123456789abcdef0"
_ALPHABET: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"

# What a deployment would give the parent instance's role. The key policy is where attestation is demanded.
ROLE_POLICY: Final = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Allow",
            "Action": ["kms:Decrypt", "kms:GenerateDataKey", "kms:GenerateRandom", "kms:DescribeKey"],
            "Resource": "*",
        }
    ],
}
OPERATOR_POLICY: Final = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Action": ["kms:*", "sts:AssumeRole"], "Resource": "*"}],
}


def make_id(prefix: str, random_bytes: Callable[[int], bytes]) -> str:
    """An identifier as IAM makes them: four letters and 16 of its alphabet."""
    return prefix + "".join(_ALPHABET[b % 32] for b in random_bytes(16))


def bootstrap(state: State, random_bytes: Callable[[int], bytes]) -> tuple[Credentials, Credentials]:
    """(role session, operator), made if `state` has none. This session does not expire; AssumeRole's do."""
    for kind in ("session", "user"):
        if any(c.caller.kind == kind and c.expires_ms is None for c in state.credentials.values()):
            continue
        secret, token = random_bytes(30).hex(), None
        if kind == "session":
            role_id, token = make_id("AROA", random_bytes), random_bytes(48).hex()
            state.roles[ROLE] = Role(name=ROLE, role_id=role_id, policies=(ROLE_POLICY,))
            caller = session_caller(
                account=state.account, role=ROLE, session=SESSION, role_id=role_id, policies=(ROLE_POLICY,)
            )
        else:
            user_id = make_id("AIDA", random_bytes)
            caller = user_caller(account=state.account, user=OPERATOR, user_id=user_id, policies=(OPERATOR_POLICY,))
        access_key_id = make_id("ASIA" if token else "AKIA", random_bytes)
        state.add(
            Credentials(access_key_id=access_key_id, secret_access_key=secret, session_token=token, caller=caller)
        )
    lasting = [c for c in state.credentials.values() if c.expires_ms is None]
    role = next(c for c in lasting if c.caller.kind == "session")
    operator = next(c for c in lasting if c.caller.kind == "user")
    return role, operator
