"""Who signed a policy. Each attack is one that the host, who carries the envelope, can try."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adytum_policy.document import QuorumError, count_signatures, open_policy
from adytum_wire import dsse
from adytum_wire.errors import AdytumError, Code
from adytum_wire.manifest import Tenant
from adytum_wire.pae import POLICY, REQUEST, pae
from adytum_wire.types import sha256

Seal = Callable[..., bytes]


def refused(envelope: bytes, tenant: Tenant) -> AdytumError:
    with pytest.raises(AdytumError) as caught:
        open_policy(envelope, tenant)
    return caught.value


def test_a_quorum_of_any_schemes_opens(
    document: dict[str, Any], seal: Seal, signers: list[Any], tenant: Tenant
) -> None:
    payload = json.dumps(document).encode()
    for left_out in range(3):
        by = [signer for at, signer in enumerate(signers) if at != left_out]
        signed = open_policy(seal(payload, by), tenant)
        assert signed.payload == payload
        assert signed.digest == sha256(payload)
        assert signed.signers == tuple(signer.admin.id for signer in by)
        assert signed.policy.version == 7


def test_too_few_administrators(document: dict[str, Any], seal: Seal, signers: list[Any], tenant: Tenant) -> None:
    error = refused(seal(document, signers[1:2]), tenant)
    assert error.code is Code.POLICY_QUORUM
    assert isinstance(error, QuorumError)
    assert (error.quorum.counted, error.quorum.missing, error.quorum.threshold) == (("ben",), ("ada", "cyd"), 2)


def test_no_signature_at_all(document: dict[str, Any], seal: Seal, tenant: Tenant) -> None:
    assert refused(seal(document, []), tenant).code is Code.POLICY_QUORUM


def test_one_administrator_twice(document: dict[str, Any], seal: Seal, signers: list[Any], tenant: Tenant) -> None:
    """Two different, both valid ECDSA signatures by one person are still one person."""
    ben = signers[1]
    error = refused(seal(document, [ben, ben, ben]), tenant)
    assert error.code is Code.POLICY_QUORUM
    assert isinstance(error, QuorumError)
    assert error.quorum.counted == ("ben",)


def test_a_strangers_signature_does_not_count_and_does_not_spoil(
    document: dict[str, Any], seal: Seal, signers: list[Any], stranger: Any, tenant: Tenant
) -> None:
    assert refused(seal(document, [signers[0], stranger]), tenant).code is Code.POLICY_QUORUM
    assert open_policy(seal(document, [stranger, signers[0], signers[2]]), tenant).signers == ("ada", "cyd")


def test_an_invalid_signature_does_not_count_and_does_not_spoil(
    document: dict[str, Any], signers: list[Any], tenant: Tenant
) -> None:
    payload = json.dumps(document).encode()
    ada, ben, cyd = (signer.signature(payload) for signer in signers)
    for bad in (bytes(64), b"", ada[1][:-1], ada[1][:-1] + bytes([ada[1][-1] ^ 1])):
        spoiled = (ada[0], bad)
        assert refused(dsse.build(POLICY, payload, [spoiled, ben]), tenant).code is Code.POLICY_QUORUM
        assert open_policy(dsse.build(POLICY, payload, [spoiled, ben, cyd]), tenant).signers == ("ben", "cyd")
        # the same person's good signature after a bad one counts
        assert open_policy(dsse.build(POLICY, payload, [spoiled, ada, ben]), tenant).signers == ("ada", "ben")


def test_a_signature_claimed_for_another_administrator(
    document: dict[str, Any], signers: list[Any], tenant: Tenant
) -> None:
    payload = json.dumps(document).encode()
    ada, ben, _ = (signer.signature(payload) for signer in signers)
    assert refused(dsse.build(POLICY, payload, [ada, (ben[0], ada[1])]), tenant).code is Code.POLICY_QUORUM


def test_an_edited_payload(document: dict[str, Any], signers: list[Any], tenant: Tenant) -> None:
    payload = json.dumps(document).encode()
    signatures = [signer.signature(payload) for signer in signers]
    document["rules"][0]["content"][0]["max_value"] = "*"
    edited = json.dumps(document).encode()
    assert refused(dsse.build(POLICY, edited, signatures), tenant).code is Code.POLICY_QUORUM
    # even where the JSON means the same
    assert refused(dsse.build(POLICY, payload + b" ", signatures), tenant).code is Code.POLICY_QUORUM


def test_signatures_over_another_type(document: dict[str, Any], signers: list[Any], tenant: Tenant) -> None:
    """What an administrator signed as a request is not a policy."""
    payload = json.dumps(document).encode()
    signatures = [(bytes.fromhex(s.admin.public_key), s.sign(pae(REQUEST, payload))) for s in signers]
    assert refused(dsse.build(POLICY, payload, signatures), tenant).code is Code.POLICY_QUORUM
    error = refused(dsse.build(REQUEST, payload, signatures), tenant)
    assert (error.code, error.field) == (Code.POLICY_INVALID, "$.payloadType")


def test_another_tenants_policy(document: dict[str, Any], seal: Seal, signers: list[Any], tenant: Tenant) -> None:
    """Both tenants have the same administrators; the signatures hold, the tenant does not."""
    document["tenant"] = "other"
    error = refused(seal(document, signers), tenant)
    assert (error.code, error.field) == (Code.POLICY_INVALID, "$.tenant")


def test_the_payload_is_not_parsed_before_the_quorum_holds(seal: Seal, signers: list[Any], tenant: Tenant) -> None:
    assert refused(seal(b"not json", signers[:1]), tenant).code is Code.POLICY_QUORUM
    error = refused(seal(b"not json", signers[:2]), tenant)
    assert (error.code, error.field) == (Code.POLICY_INVALID, "$ (not strict JSON)")


def test_quorum_is_data(document: dict[str, Any], seal: Seal, signers: list[Any], tenant: Tenant) -> None:
    payload, quorum = count_signatures(seal(document, signers[::-1]), tenant)
    assert json.loads(payload) == document
    assert quorum.reached
    assert (quorum.counted, quorum.missing) == (("ada", "ben", "cyd"), ())


def test_envelope_too_large(tenant: Tenant) -> None:
    error = refused(dsse.build(POLICY, b" " * 300_000, []), tenant)
    assert (error.code, error.field) == (Code.POLICY_INVALID, "$ (too large)")


@given(st.binary(max_size=200) | st.text(max_size=100).map(lambda text: json.dumps({"payload": text}).encode()))
def test_arbitrary_envelopes_are_refused_and_nothing_else(tenant: Tenant, data: bytes) -> None:
    assert refused(data, tenant).code is Code.POLICY_INVALID
