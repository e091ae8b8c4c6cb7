"""What the policy of a site allows, and the same written again by hand, for judging what really happened.

The policy is narrow, so that what it forbids can be told from what it allows. `is_allowed` says by itself what each
rule means; it reads no policy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from adytum_policy.content import Decoded, to_checksum
from adytum_wire.receipts import Receipt
from adytum_wire.requests import (
    Body,
    DeriveKey,
    EthereumTransaction,
    Export,
    Making,
    OpenSession,
    RotationStatement,
    Sign,
)

LABEL: Final = "treasury"
TO: Final = "0x70997970c51812dc3a010c7d01b50e0d17dc79c8"
CONTRACT: Final = "0xa0b86991c6218b36c1d19d4a2e9eb0ce3606eb48"
MAX_VALUE: Final = 2 * 10**17
CHAIN: Final = 1
PATH: Final = "m/44'/60'/0'/0/0"
RECIPIENT: Final = "rescue"
OWNER, APPROVER = "alice", "olga"
GENERATION: Final = 2  # records are sealed under it, and those below it are retired
# "vault": for keys whose use others must approve (tests/attacks/hostile/test_hostile_approvals.py)
_LABELS: Final = ([LABEL], ["vault"])
_KEEP: Final = (
    "generate_key", "generate_seed", "import_key", "import_file", "seal", "seal_anchor", "unseal", "reseal",
    "enable_key", "disable_key", "schedule_deletion", "cancel_deletion", "delete_key",
)  # fmt: skip

Json = dict[str, Any]


def narrow_rules(charged: Sequence[str] = ()) -> list[Json]:
    """Alice may make and keep `treasury` keys, send small transfers to one address and tokens of one contract, derive
    at one path, and with Olga's approval export. `charged`: the limits that her signatures count against."""
    base = {
        "effect": "allow",
        "principals": ["role:signer"],
        "labels": [LABEL],
        "algorithms": "*",
        "paths": "*",
        "times": "*",
        "approvals": "none",
        "limits": "none",
        "content": "*",
    }
    ethereum = {
        "type": "ethereum-transaction",
        "chain_ids": [CHAIN],
        "contract_creation": False,
        "to": [TO],
        "min_value": "0",
        "max_value": str(MAX_VALUE),
        "max_fee": str(10**16),
        "selectors": ["none"],
        "erc20": "*",
    }
    token = {"methods": ["transfer"], "recipients": [TO], "min_amount": "0", "max_amount": "1000000"}
    tokens = ethereum | {"to": [CONTRACT], "max_value": "0", "selectors": ["0xa9059cbb"], "erc20": token}
    limits = {"limits": list(charged)} if charged else {}
    return [
        base | {"id": "keep", "operations": list(_KEEP)},
        base | {"id": "pay", "operations": ["sign"], "content": [ethereum, tokens]} | limits,
        base | {"id": "derive", "operations": ["derive_key"], "paths": [PATH]},
        base | {"id": "hand-over", "operations": ["export"], "approvals": {"role": "approver", "count": 1}},
        base | {"id": "ask", "operations": ["rotation_statement", "open_session"], "labels": "*"},
    ]


def is_allowed(body: Body, content: Decoded | None, receipt: Receipt) -> bool:
    """What `narrow_rules` says about a request that was carried out. `content`: of a `Sign`, decoded from its bytes."""
    if receipt.principal != OWNER:
        return False
    match body:
        case Sign():
            return content is not None and _is_small_transfer(body, content)
        case DeriveKey():
            return body.path == PATH
        case Export():
            approved = any((one.principal, one.outcome) == (APPROVER, "approve") for one in receipt.approvals)
            return body.recipient == RECIPIENT and approved
        case RotationStatement() | OpenSession():
            return True
        case _ if isinstance(body, Making):
            return list(body.labels) in _LABELS
        case _:
            return receipt.operation in _KEEP


def _is_small_transfer(body: Sign, content: Decoded) -> bool:
    wanted = {"to": to_checksum(bytes.fromhex(TO[2:])), "chain_id": str(CHAIN), "data_length": "0"}
    return (
        isinstance(body.content, EthereumTransaction)
        and body.path in ("", PATH)
        and wanted.items() <= content.summary.items()
        and int(content.summary["value_wei"]) <= MAX_VALUE
    )
