"""From signed bytes to a `Policy`: verify the administrators' signatures, then parse, then check what spans fields.

    signed = open_policy(envelope, tenant)  # enclave: raises unless the tenant's quorum signed exactly these bytes
    policy = parse_policy(payload)          # host and authors: validate a draft, signed by nobody yet
    principal = find_principal(policy, scheme, key)

What this leaves out: whether the policy is newer than the one in force and whether it has expired. Both need state or
time that the caller has.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from adytum_policy import shape
from adytum_policy.matchers import bad_fields
from adytum_policy.matchers.path import is_reachable
from adytum_policy.quorum import Quorum, QuorumError, count_signatures
from adytum_policy.rules import Rule, compile_rule
from adytum_policy.spending import is_asset
from adytum_policy.x25519 import is_x25519
from adytum_wire import limits, signatures, strict_json
from adytum_wire.errors import AdytumError, Code
from adytum_wire.manifest import Tenant
from adytum_wire.recovery import is_small_enough
from adytum_wire.types import Digest, Scheme, sha256


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    id: str
    roles: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A policy that is ready to decide with. `document` is what its author wrote."""

    tenant: str
    version: int
    valid_until: int  # ms since the epoch; the last moment at which it holds
    rules: tuple[Rule, ...]
    generation: int  # of new and resealed records
    min_generation: int  # below it a record is good for `reseal` and nothing else
    document: shape.PolicyDocument = field(repr=False)
    by_key: dict[tuple[Scheme, bytes], Principal] = field(repr=False)
    by_passkey: dict[bytes, tuple[Principal, shape.PasskeyEntry]] = field(repr=False)
    recipients: dict[str, bytes] = field(repr=False)  # X25519 keys by name


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedPolicy:
    """`payload`: the bytes that were signed, `digest`: their SHA-256. `signers`: the ids of the administrators whose
    signatures counted, in the manifest's order."""

    policy: Policy
    payload: bytes
    digest: Digest
    signers: tuple[str, ...]


def open_policy(envelope: bytes, tenant: Tenant) -> SignedPolicy:
    """Open a DSSE envelope with a policy for `tenant`.

    The payload is parsed only after `tenant.threshold` distinct administrators were found to have signed it.

    Errors: POLICY_INVALID (envelope or document, with the field's path; `$.tenant` when it is another tenant's);
    POLICY_QUORUM, raised as `QuorumError`, which carries who counted and who is missing.
    """
    payload, quorum = count_signatures(envelope, tenant)
    if not quorum.reached:
        raise QuorumError(quorum)
    policy = parse_policy(payload)
    if policy.tenant != tenant.id:
        raise _invalid("$.tenant")
    return SignedPolicy(policy=policy, payload=payload, digest=sha256(payload), signers=quorum.counted)


def parse_policy(payload: bytes) -> Policy:
    """Parse and check a policy document of at most `limits.MAX_POLICY` bytes. Errors: POLICY_INVALID with the path."""
    document = strict_json.decode(payload, shape.PolicyDocument, limit=limits.MAX_POLICY, code=Code.POLICY_INVALID)
    by_key = _index(document)
    by_passkey = _index_passkeys(document)
    _check_records(document)
    _check_rules(document)
    limit_entries = {entry.id: entry for entry in document.limits}
    return Policy(
        tenant=document.tenant,
        version=document.version,
        valid_until=document.valid_until,
        rules=tuple(compile_rule(rule, limit_entries) for rule in document.rules),
        generation=document.records.generation,
        min_generation=document.records.min_generation,
        document=document,
        by_key=by_key,
        by_passkey=by_passkey,
        recipients={entry.id: bytes.fromhex(entry.public_key) for entry in document.recipients},
    )


def find_principal(policy: Policy, scheme: Scheme, public_key: bytes) -> Principal | None:
    """The principal who owns the key, in constant time of the number of principals. None when nobody does."""
    return policy.by_key.get((scheme, public_key))


def _index(document: shape.PolicyDocument) -> dict[tuple[Scheme, bytes], Principal]:
    by_key: dict[tuple[Scheme, bytes], Principal] = {}
    ids: set[str] = set()
    taken: set[str] = set()
    for at, entry in enumerate(document.principals):
        if entry.id in ids:
            raise _invalid(f"$.principals[{at}].id")
        ids.add(entry.id)
        principal = Principal(id=entry.id, roles=frozenset(entry.roles))
        for key_at, key in enumerate(entry.keys):
            raw = bytes.fromhex(key.public_key)
            # Taken under any scheme: the same 33 bytes can be a point of two curves, and nobody means that.
            if key.public_key in taken or not signatures.is_public_key(key.scheme, raw):
                raise _invalid(f"$.principals[{at}].keys[{key_at}].public_key")
            taken.add(key.public_key)
            by_key[key.scheme, raw] = principal
    return by_key


def _index_passkeys(document: shape.PolicyDocument) -> dict[bytes, tuple[Principal, shape.PasskeyEntry]]:
    found: dict[bytes, tuple[Principal, shape.PasskeyEntry]] = {}
    keys: set[str] = {key.public_key for entry in document.principals for key in entry.keys}
    for at, entry in enumerate(document.principals):
        principal = Principal(id=entry.id, roles=frozenset(entry.roles))
        for passkey_at, passkey in enumerate(entry.passkeys):
            path = f"$.principals[{at}].passkeys[{passkey_at}]"
            credential = bytes.fromhex(passkey.credential_id)
            if document.passkeys == "none" or credential in found:
                raise _invalid(f"{path}.credential_id")
            if passkey.scheme is Scheme.SECP256K1:  # no authenticator has it
                raise _invalid(f"{path}.scheme")
            if passkey.public_key in keys or not signatures.is_public_key(
                passkey.scheme, bytes.fromhex(passkey.public_key)
            ):
                raise _invalid(f"{path}.public_key")
            keys.add(passkey.public_key)
            found[credential] = principal, passkey
    return found


def _check_records(document: shape.PolicyDocument) -> None:
    if document.records.min_generation > document.records.generation:
        raise _invalid("$.records.min_generation")
    recovery = document.recovery
    if recovery != "none":
        if recovery.threshold > len(recovery.keys):
            raise _invalid("$.recovery.threshold")
        if not is_small_enough(len(recovery.keys), recovery.threshold):
            raise _invalid("$.recovery")
        if len(set(recovery.keys)) != len(recovery.keys) or not all(is_x25519(bytes.fromhex(k)) for k in recovery.keys):
            raise _invalid("$.recovery.keys")
    for name, ids in (("limits", document.limits), ("recipients", document.recipients)):
        if len({entry.id for entry in ids}) != len(ids):
            raise _invalid(f"$.{name}[...].id")
    for at, recipient in enumerate(document.recipients):
        if not is_x25519(bytes.fromhex(recipient.public_key)):
            raise _invalid(f"$.recipients[{at}].public_key")
    for at, limit in enumerate(document.limits):
        if (limit.measure == "amount" and limit.asset == "*") or not is_asset(limit.asset):
            raise _invalid(f"$.limits[{at}].asset")


def _check_demands(document: shape.PolicyDocument, rule: shape.RuleEntry, path: str) -> None:
    """What an allow rule asks for besides its conditions."""
    if rule.effect == "deny" and rule.approvals != "none":
        raise _invalid(f"{path}.approvals")
    if rule.effect == "deny" and rule.limits != "none":
        raise _invalid(f"{path}.limits")
    if rule.effect == "allow" and "export" in rule.operations and rule.approvals == "none":
        raise _invalid(f"{path}.approvals")  # key material leaves with a quorum or not at all
    if rule.approvals != "none":
        role = rule.approvals.role
        people = [entry for entry in document.principals if role in entry.roles and (entry.keys or entry.passkeys)]
        if len(people) < rule.approvals.count:
            raise _invalid(f"{path}.approvals.count")
    if rule.limits != "none":
        # Twice in one rule would be checked once and charged twice.
        if len(set(rule.limits)) != len(rule.limits):
            raise _invalid(f"{path}.limits")
        if not {entry.id for entry in document.limits}.issuperset(rule.limits):
            raise _invalid(f"{path}.limits")
    if rule.paths != "*":
        for at, pattern in enumerate(rule.paths):
            if not is_reachable(pattern):
                raise _invalid(f"{path}.paths[{at}]")
    if rule.times != "*":
        for at, window in enumerate(rule.times):
            if window.start >= window.end:
                raise _invalid(f"{path}.times[{at}].end")


def _check_rules(document: shape.PolicyDocument) -> None:
    known = {f"principal:{entry.id}" for entry in document.principals}
    known |= {f"role:{role}" for entry in document.principals for role in entry.roles}
    ids: set[str] = set()
    for at, rule in enumerate(document.rules):
        path = f"$.rules[{at}]"
        if rule.id in ids:
            raise _invalid(f"{path}.id")
        ids.add(rule.id)
        # A misspelt name in a deny rule would be a rule that never bites, so names must exist.
        if rule.principals != "*" and not known.issuperset(rule.principals):
            raise _invalid(f"{path}.principals")
        _check_demands(document, rule, path)
        if rule.content == "*":
            continue
        # Only decoded content has facts; beside another operation the conditions could never be met.
        if not {"sign"}.issuperset(rule.operations):
            raise _invalid(f"{path}.content")
        for matcher_at, matcher in enumerate(rule.content):
            for name in bad_fields(matcher, allow=rule.effect == "allow"):
                raise _invalid(f"{path}.content[{matcher_at}].{name}")


def _invalid(field_path: str) -> AdytumError:
    return AdytumError(Code.POLICY_INVALID, field_path)


__all__ = [
    "Policy",
    "Principal",
    "Quorum",
    "QuorumError",
    "SignedPolicy",
    "count_signatures",
    "find_principal",
    "open_policy",
    "parse_policy",
]
