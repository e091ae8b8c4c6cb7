"""What `go-mpc-wallet` got wrong, once more against us: each known defect of the origin is an attack here."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any

import pytest
from office import Office, furnish, outcomes
from wallet import Wallet, refused

from adytum_sim.passkeys import UP, Passkey
from adytum_sim.people import Person, signed_policy
from adytum_wire import dsse
from adytum_wire.approvals import PasskeyProof
from adytum_wire.errors import AdytumError, Code
from adytum_wire.messages import ExecuteReply
from adytum_wire.pae import POLICY, USAGE_RESET, pae
from adytum_wire.requests import Stamp
from adytum_wire.types import Scheme, sha256


@pytest.fixture
async def office(wallet: Wallet) -> Office:
    return await furnish(wallet)


def jwt(claims: dict[str, Any], secret: bytes | None) -> bytes:
    """A token as the origin's service took it: signed with its default secret, or not at all."""

    def part(value: Any) -> bytes:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=")

    signed = part({"alg": "HS256" if secret else "none", "typ": "JWT"}) + b"." + part(claims)
    mac = hmac.digest(secret, signed, hashlib.sha256) if secret else b""
    return signed + b"." + base64.urlsafe_b64encode(mac).rstrip(b"=")


async def test_defect_1_an_absent_or_invalid_passkey_is_not_skipped(office: Office) -> None:
    """There: "skipping validation for testing" without an assertion, and nothing verified with one."""
    body = office.body()
    text = office.statement(body)
    empty = PasskeyProof(
        credential_id=office.bobs.credential_id, authenticator_data=b"", client_data=b"", signature=b""
    )
    approval = office.bobs.approval(text)
    await office.assert_refused(Code.APPROVALS_MISSING, body)
    for proof in (
        empty,
        *(_without(approval.proof, name) for name in ("authenticator_data", "client_data", "signature")),
    ):
        forged = type(approval)(statement=text, proof=proof)
        await office.assert_refused(Code.APPROVAL_SIGNATURE, body, office.carol.approval(text), forged)
    await office.assert_approvable(body)


def _without(proof: Any, name: str) -> PasskeyProof:
    from msgspec.structs import replace

    changed: PasskeyProof = replace(proof, **{name: b""})
    return changed


async def test_defect_1_a_token_by_a_default_secret_or_unsigned_is_nobody(office: Office) -> None:
    """There: a bad JWT was read without its signature, and the secret had a default that everybody knows. Here a
    request's stamp is the only way to be somebody; a token in its place is no signature."""
    body = office.body()
    claims = {"sub": "alice", "TenantID": "acme", "Permissions": ["*"]}
    for token in (jwt(claims, b"default-secret-key-change-in-production"), jwt(claims, None), b""):
        for public_key in (office.alice.public_key, token, b""):
            stamp = Stamp(office.alice.scheme, public_key, token)
            reply = await office.wallet.stack.client.execute(body, stamp, office.wallet.key.record)
            refused(reply, Code.STAMP_INVALID, with_receipt=False)
    await office.assert_approvable(body)


async def test_defect_2_sending_no_approvals_bypasses_nothing(office: Office) -> None:
    """There: the policy was looked at only when tokens came with the request."""
    body = office.body()
    receipt = await office.assert_refused(Code.APPROVALS_MISSING, body)
    assert {one.rule: one.outcome for one in receipt.rules}["pay"] == "approvals"
    refused(await office.send(body, by=office.wallet.mallory), Code.POLICY_DENIED)
    await office.assert_approvable(body)


async def test_defect_3_a_registered_passkey_approves_only_where_its_owner_is_asked(office: Office) -> None:
    """There: any registered passkey approved any wallet."""
    body = office.body()
    text = office.statement(body)
    receipt = await office.assert_refused(
        Code.APPROVALS_MISSING, body, office.erins.approval(text), office.bob.approval(text)
    )
    assert outcomes(receipt) == [("erin", "role"), ("bob", "approve")]
    await office.assert_refused(Code.APPROVAL_UNKNOWN, body, Passkey.new(office.bobs.rp_id).approval(text))


async def test_defect_3_a_passkey_is_not_added_without_the_admin_quorum(office: Office) -> None:
    """There: `AddPasskey` without an administrator logged a warning and saved."""
    added = Passkey.new(office.bobs.rp_id)
    document = json.loads(json.dumps(office.document)) | {"version": office.document["version"] + 1}
    document["principals"][1]["passkeys"].append(added.entry())
    one, *_ = office.wallet.stack.admins
    before = await office.wallet.state()
    for signers in ((), (one,), (one, one), (office.alice, office.bob), (one, Person.new("admin-b"))):
        with pytest.raises(AdytumError) as caught:
            await office.wallet.stack.client.put_policy("acme", signed_policy(document, *signers))
        assert caught.value.code is Code.POLICY_QUORUM
    assert await office.wallet.state() == before
    body = office.body()
    await office.assert_refused(Code.APPROVAL_UNKNOWN, body, added.approval(office.statement(body)))
    await office.assert_approvable(body)


async def test_defect_4_each_step_of_webauthn_is_taken(office: Office) -> None:
    """There: neither origin nor rpIdHash nor type nor UV nor the counter was looked at, and nothing ever expired."""
    body, now = office.body(), office.now_ms()
    text = office.statement(body)
    cases: list[tuple[dict[str, Any], Code]] = [
        ({"origin": "https://evil.example"}, Code.APPROVAL_ORIGIN),
        ({"rp_id": "evil.example"}, Code.APPROVAL_RP_ID),
        ({"ceremony": "webauthn.create"}, Code.APPROVAL_TYPE),
        ({"flags": UP}, Code.APPROVAL_FLAGS),
        ({"challenge": sha256(body)}, Code.APPROVAL_CHALLENGE),  # there the bare message was the challenge
    ]
    for changes, code in cases:
        await office.assert_refused(code, body, office.bobs.approval(text, **changes))
    seen = office.bobs.approval(office.statement(body, issued_at=now - 5000), counter=50)
    await office.assert_refused(Code.APPROVALS_MISSING, body, seen)
    clone = office.bobs.approval(office.statement(body, issued_at=now - 1000), counter=49)
    await office.assert_refused(Code.APPROVAL_COUNTER, body, clone)
    stale = office.carols.approval(office.statement(body, issued_at=now - 90_000, expires_at=now - 30_000))
    receipt = await office.assert_refused(Code.APPROVALS_MISSING, body, office.dave.approval(text), stale)
    assert outcomes(receipt) == [("dave", "approve"), ("carol", "expired")]


async def test_defect_4_an_assertion_is_good_for_one_request_even_with_the_same_content(office: Office) -> None:
    """There: the same message, the same challenge, for ever. Here two transfers of the same bytes are two requests."""
    first, second = office.body(), office.body()
    text = office.statement(first)
    given = (office.bobs.approval(text), office.carols.approval(text))
    assert isinstance(await office.send(first, *given), ExecuteReply)
    await office.assert_refused(Code.APPROVAL_SUBJECT, second, *given)
    await office.assert_approvable(second)


async def test_defect_5_an_old_admin_action_is_not_replayed(office: Office) -> None:
    """There: the assertion that once added a member added him again after his removal."""
    with_erin = signed_policy(office.document, *office.wallet.stack.admins)
    await office.put(principals=[p for p in office.document["principals"] if p["id"] != "erin"])
    before = await office.wallet.state()
    with pytest.raises(AdytumError) as caught:
        await office.wallet.stack.client.put_policy("acme", with_erin)
    assert caught.value.code is Code.POLICY_ROLLBACK
    # Nor do the old signatures vouch for the same members under a new version.
    envelope = json.loads(with_erin)
    payload = base64.b64decode(envelope["payload"])
    version = office.document["version"]
    envelope["payload"] = base64.b64encode(payload.replace(b'"version": %d' % (version - 1), b'"version": 99')).decode()
    with pytest.raises(AdytumError) as caught:
        await office.wallet.stack.client.put_policy("acme", json.dumps(envelope).encode())
    assert caught.value.code is Code.POLICY_QUORUM
    assert await office.wallet.state() == before


async def test_defect_5_an_old_usage_reset_is_not_replayed(office: Office) -> None:
    """What administrators sign to open limits is bound to one boot, and to its purpose."""
    admins = office.wallet.stack.admins
    boot = (await office.wallet.state())["boot"]
    for boot_id, kind in (("00" * 16, USAGE_RESET), (boot, POLICY)):
        reset = json.dumps({"v": 1, "tenant": "acme", "boot_id": boot_id, "limits": "*"}).encode()
        signatures = [(admin.public_key, admin.sign(pae(kind, reset))) for admin in admins]
        assert all(admin.scheme is Scheme.ED25519 for admin in admins)
        with pytest.raises(AdytumError) as caught:
            await _reset(office, dsse.build(kind, reset, signatures))
        assert caught.value.code in (Code.USAGE_INVALID, Code.POLICY_QUORUM)
    body = office.body()
    await office.assert_approvable(body)


async def _reset(office: Office, envelope: bytes) -> None:
    from adytum_wire.messages import Done, ResetUsage

    await office.wallet.stack.client._ask(ResetUsage("acme", envelope), Done, None)
