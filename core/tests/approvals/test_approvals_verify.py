"""One approval, right and wrong in each way; each refusal has its own code."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from approval_cases import DIGEST, NOW, ORIGIN, Case, new_case, statement
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from msgspec.structs import replace

from adytum_policy.approvals import paths_of, root_of
from adytum_sim.passkeys import AT, BE, BS, ED, UP, UV, Passkey
from adytum_sim.people import Person, batch_subject
from adytum_wire import limits
from adytum_wire.approvals import Approval, KeyProof, PasskeyProof
from adytum_wire.errors import AdytumError, Code
from adytum_wire.pae import APPROVAL, POLICY, REQUEST, pae
from adytum_wire.types import Scheme, sha256

P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
VARIANTS: list[tuple[str, Callable[[Case, bytes], Approval]]] = [
    ("key", lambda case, text: case.alice.approval(text)),
    ("es256", lambda case, text: case.es256.approval(text)),
    ("eddsa", lambda case, text: case.eddsa.approval(text)),
]


@pytest.fixture(scope="module")
def case() -> Case:
    return new_case()


def refused(case: Case, approval: Approval, code: Code, **asked: Any) -> None:
    with pytest.raises(AdytumError) as caught:
        case.verify(approval, **asked)
    assert caught.value.code is code, caught.value


@pytest.mark.parametrize("scheme", list(Scheme))
@pytest.mark.parametrize("decision", ["approve", "reject"])
def test_a_key_of_each_scheme_approves_and_rejects(scheme: Scheme, decision: str) -> None:
    case, text = new_case(scheme), statement(decision=decision)
    verified = case.verify(case.alice.approval(text))
    vote = verified.vote
    assert verified.sighting is None
    assert (vote.principal_id, set(vote.roles), vote.decision) == ("alice", {"approver"}, decision)
    assert (vote.policy_version, vote.issued_at, vote.expires_at) == (7, NOW - 1000, NOW - 1000 + 3_600_000)
    assert vote.digest == sha256(text)


@pytest.mark.parametrize("scheme", [Scheme.P256, Scheme.ED25519])
def test_a_passkey_of_each_scheme_approves_and_is_sighted(case: Case, scheme: Scheme) -> None:
    passkey = case.es256 if scheme is Scheme.P256 else case.eddsa
    approval = passkey.approval(statement(), counter=41)
    verified = case.verify(approval)
    assert verified.vote.principal_id == "alice"
    sighting = verified.sighting
    assert sighting is not None
    assert (sighting.counter, sighting.issued_at) == (41, NOW - 1000)
    assert sighting.credential_id == passkey.credential_id
    assert isinstance(approval.proof, PasskeyProof)
    assert sighting.assertion == sha256(approval.proof.authenticator_data + sha256(approval.proof.client_data))


def test_an_android_app_is_an_origin_like_a_page(case: Case) -> None:
    case.verify(case.es256.approval(statement(), origin="android:apk-key-hash:" + "A" * 43))


def test_the_other_spelling_of_an_ecdsa_signature_is_the_same_assertion(case: Case) -> None:
    """(r, n - s) verifies, too; the counter memory must not take it for a second assertion."""
    approval = case.es256.approval(statement(), counter=9)
    assert isinstance(approval.proof, PasskeyProof)
    r, s = decode_dss_signature(approval.proof.signature)
    other = replace(approval, proof=replace(approval.proof, signature=encode_dss_signature(r, P256_ORDER - s)))
    assert case.verify(other).sighting == case.verify(approval).sighting


# --- who


@pytest.mark.parametrize(("name", "make"), VARIANTS)
def test_nobodys_key_or_credential_is_unknown(case: Case, name: str, make: Callable[[Case, bytes], Approval]) -> None:
    refused(case, make(new_case(), statement()), Code.APPROVAL_UNKNOWN)


def test_a_key_under_another_scheme_is_unknown(case: Case) -> None:
    approval = case.alice.approval(statement())
    refused(case, replace(approval, proof=replace(approval.proof, scheme=Scheme.P256)), Code.APPROVAL_UNKNOWN)


def test_bobs_passkey_under_alices_credential_does_not_verify(case: Case) -> None:
    approval = case.bobs.approval(statement(), credential_id=case.es256.credential_id)
    refused(case, approval, Code.APPROVAL_SIGNATURE)


def test_without_passkeys_in_the_policy_no_credential_is_known(case: Case) -> None:
    from adytum_policy.document import parse_policy
    from adytum_wire import strict_json

    document = json.loads(strict_json.encode(case.policy.document))
    document["passkeys"] = "none"
    for principal in document["principals"]:
        principal["passkeys"] = []
    policy = parse_policy(json.dumps(document).encode())
    refused(case, case.es256.approval(statement()), Code.APPROVAL_UNKNOWN, policy=policy)


# --- the signature, before anything is read


@pytest.mark.parametrize(("name", "make"), VARIANTS)
def test_a_changed_statement_or_signature_is_refused_unread(
    case: Case, name: str, make: Callable[[Case, bytes], Approval]
) -> None:
    good = make(case, statement())
    assert case.verify(good).vote.decision == "approve"
    changed = Code.APPROVAL_SIGNATURE if name == "key" else Code.APPROVAL_CHALLENGE
    for text in (statement(decision="reject"), b"", b"{", b"\xff" * 100, good.statement + b" "):
        refused(case, replace(good, statement=text), changed)
    signature = good.proof.signature
    for bad in (b"", signature[:-1], signature + b"\0", bytes(64), bytes([signature[0] ^ 1]) + signature[1:]):
        refused(case, replace(good, proof=replace(good.proof, signature=bad)), Code.APPROVAL_SIGNATURE)


@pytest.mark.parametrize("payload_type", [REQUEST, POLICY])
def test_a_signature_for_another_purpose_is_no_approval(case: Case, payload_type: str) -> None:
    text = statement()
    for message in (text, pae(payload_type, text)):
        proof = KeyProof(scheme=case.alice.scheme, public_key=case.alice.public_key, signature=case.alice.sign(message))
        refused(case, Approval(statement=text, proof=proof), Code.APPROVAL_SIGNATURE)
        refused(case, case.es256.approval(text, challenge=sha256(message)), Code.APPROVAL_CHALLENGE)


@pytest.mark.parametrize("bad", [b"", b"0", b"\x30\x06\x02\x01\x00\x02\x01\x00", bytes(64), b"\x30\x80" + bytes(70)])
def test_what_is_no_der_is_no_es256_signature(case: Case, bad: bytes) -> None:
    good = case.es256.approval(statement())
    refused(case, replace(good, proof=replace(good.proof, signature=bad)), Code.APPROVAL_SIGNATURE)


def test_numbers_beyond_32_bytes_are_no_es256_signature(case: Case) -> None:
    good = case.es256.approval(statement())
    for r, s in ((2**256, 1), (1, 2**300), (0, 0)):
        bad = encode_dss_signature(r, s)
        refused(case, replace(good, proof=replace(good.proof, signature=bad)), Code.APPROVAL_SIGNATURE)


# --- the assertion: everything here is properly signed by alice's passkey


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"ceremony": "webauthn.create"}, Code.APPROVAL_TYPE),
        ({"ceremony": "payment.get"}, Code.APPROVAL_TYPE),
        ({"ceremony": ""}, Code.APPROVAL_TYPE),
        ({"challenge": bytes(32)}, Code.APPROVAL_CHALLENGE),
        ({"challenge": b""}, Code.APPROVAL_CHALLENGE),
        ({"origin": "https://vault.example.evil.example"}, Code.APPROVAL_ORIGIN),
        ({"origin": "http://vault.example"}, Code.APPROVAL_ORIGIN),
        ({"origin": "https://vault.example/"}, Code.APPROVAL_ORIGIN),
        ({"origin": "https://VAULT.example"}, Code.APPROVAL_ORIGIN),
        ({"origin": "https://sub.vault.example"}, Code.APPROVAL_ORIGIN),
        ({"origin": "null"}, Code.APPROVAL_ORIGIN),
        ({"origin": ""}, Code.APPROVAL_ORIGIN),
        ({"cross_origin": True}, Code.APPROVAL_ORIGIN),
        ({"members": {"topOrigin": "https://evil.example"}}, Code.APPROVAL_ORIGIN),
        ({"members": {"topOrigin": ORIGIN}}, Code.APPROVAL_ORIGIN),
        ({"rp_id": "example"}, Code.APPROVAL_RP_ID),
        ({"rp_id": "sub.vault.example"}, Code.APPROVAL_RP_ID),
        ({"flags": 0}, Code.APPROVAL_FLAGS),
        ({"flags": UP}, Code.APPROVAL_FLAGS),
        ({"flags": UV}, Code.APPROVAL_FLAGS),
        ({"flags": UP | UV | BS}, Code.APPROVAL_FLAGS),
        ({"flags": UP | UV | AT}, Code.APPROVAL_INVALID),
        ({"flags": UP | UV | ED}, Code.APPROVAL_INVALID),
        ({"flags": UP | UV | ED, "extensions": b"\xa1"}, Code.APPROVAL_INVALID),
        ({"flags": UP | UV | ED, "extensions": b"\xa0\x00"}, Code.APPROVAL_INVALID),
        ({"flags": UP | UV | ED, "extensions": b"\x80"}, Code.APPROVAL_INVALID),
        ({"flags": UP | UV | ED, "extensions": b"\xbf\xff"}, Code.APPROVAL_INVALID),
        ({"flags": UP | UV | ED, "extensions": b"\xa1\x61a\xc0\x60"}, Code.APPROVAL_INVALID),
        ({"flags": UP | UV | ED, "extensions": b"\xa1\x61a\xc0"}, Code.APPROVAL_INVALID),
        ({"flags": UP | UV | ED, "extensions": b"\xa1\x61a" * 5 + b"\xa0"}, Code.APPROVAL_INVALID),
        ({"flags": UP | UV | ED, "extensions": b"\xbb" + b"\xff" * 8}, Code.APPROVAL_INVALID),
        ({"flags": UP | UV | ED, "extensions": b"\xa1\x61a\x5b" + b"\xff" * 8}, Code.APPROVAL_INVALID),
        ({"extensions": b"\xa0"}, Code.APPROVAL_INVALID),
        ({"extensions": bytes(1)}, Code.APPROVAL_INVALID),
        ({"extensions": bytes(limits.MAX_AUTHENTICATOR_DATA)}, Code.APPROVAL_INVALID),
        ({"members": {"type": 1}}, Code.APPROVAL_INVALID),
        ({"members": {"challenge": None}}, Code.APPROVAL_INVALID),
        ({"members": {"origin": ["https://vault.example"]}}, Code.APPROVAL_INVALID),
        ({"members": {"crossOrigin": "false"}}, Code.APPROVAL_INVALID),
        ({"members": {"crossOrigin": 0}}, Code.APPROVAL_INVALID),
        ({"members": {"padding": "x" * limits.MAX_CLIENT_DATA}}, Code.APPROVAL_INVALID),
        ({"client_data": b""}, Code.APPROVAL_INVALID),
        ({"client_data": b"[]"}, Code.APPROVAL_INVALID),
        ({"client_data": b"{}"}, Code.APPROVAL_INVALID),
        ({"client_data": b"\xff\xfe"}, Code.APPROVAL_INVALID),
        ({"client_data": b"[" * 2000}, Code.APPROVAL_INVALID),
    ],
)
def test_a_signed_assertion_that_is_wrong_is_refused_by_its_code(
    case: Case, changes: dict[str, Any], code: Code
) -> None:
    for passkey in (case.es256, case.eddsa):
        refused(case, passkey.approval(statement(), **changes), code)


@pytest.mark.parametrize(
    "changes",
    [
        {"members": {"other_keys_can_be_added_here": "do not compare clientDataJSON against a template"}},
        {
            "members": {
                "tokenBinding": {"status": "supported"},
                "androidPackageName": "example.vault",
                "x": [1.5e3, None],
            }
        },
        {"flags": UP | UV | BE},
        {"flags": UP | UV | BE | BS},
        {"flags": UP | UV | ED, "extensions": b"\xa0"},
        {"flags": UP | UV | ED, "extensions": b"\xa1\x6bhmac-secret\x58\x20" + bytes(32)},
        {"flags": UP | UV | ED, "extensions": b"\xa2\x63uvm\x81\x83\x01\x19\x00\x02\x03\x63abc\xf5"},
        {"counter": 0},
        {"counter": 2**32 - 1},
    ],
)
def test_what_browsers_and_authenticators_may_add_is_accepted(case: Case, changes: dict[str, Any]) -> None:
    assert case.verify(case.es256.approval(statement(), **changes)).vote.decision == "approve"


def raw_client_data(text: bytes, **members: str) -> bytes:
    challenge = base64.urlsafe_b64encode(sha256(pae(APPROVAL, text))).rstrip(b"=").decode()
    fields = {"type": "webauthn.get", "challenge": challenge, "origin": ORIGIN} | members
    return json.dumps(fields).encode()


def test_members_that_stand_there_twice_are_refused(case: Case) -> None:
    """One reader takes the first, another the last: neither is right."""
    text = statement()
    good = raw_client_data(text)
    assert case.verify(case.es256.approval(text, client_data=good))  # no crossOrigin: browsers before Level 2
    for twice in (
        good[:-1] + b',"origin":"https://vault.example"}',
        good[:-1] + b',"\\u006frigin":"https://evil.example"}',
        good[:-1] + b',"other":{"a":1,"a":2}}',
    ):
        refused(case, case.es256.approval(text, client_data=twice), Code.APPROVAL_INVALID)


@pytest.mark.parametrize("spoil", [b"\xef\xbb\xbf%b", b"%b ,", b"%b{}", b" %b\0", b'%b"'])
def test_bytes_around_the_client_data_are_refused(case: Case, spoil: bytes) -> None:
    text = statement()
    refused(case, case.es256.approval(text, client_data=spoil % raw_client_data(text)), Code.APPROVAL_INVALID)


def test_another_spelling_of_the_challenge_is_refused(case: Case) -> None:
    text = statement()
    digest = sha256(pae(APPROVAL, text))
    padded = base64.urlsafe_b64encode(digest).decode()
    for challenge in (padded, padded.rstrip("=") + " ", digest.hex(), padded.rstrip("=")[:-1]):
        refused(
            case,
            case.es256.approval(text, client_data=raw_client_data(text, challenge=challenge)),
            Code.APPROVAL_CHALLENGE,
        )


# --- the statement: properly signed, too


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (b"", Code.APPROVAL_INVALID),
        (b"null", Code.APPROVAL_INVALID),
        (statement(surprise=1), Code.APPROVAL_INVALID),
        (statement(v=2), Code.APPROVAL_INVALID),
        (statement(decision="maybe"), Code.APPROVAL_INVALID),
        (statement({"type": "request"}), Code.APPROVAL_INVALID),
        (statement({"type": "everything"}), Code.APPROVAL_INVALID),
        (statement({"type": "request", "digest": DIGEST.hex().upper()}), Code.APPROVAL_INVALID),
        (statement().replace(b'"v": 1', b'"v": 1, "v": 1'), Code.APPROVAL_INVALID),
        (statement() + b"x", Code.APPROVAL_INVALID),
        (statement(expires_at=NOW - 1000), Code.APPROVAL_INVALID),
        (statement(expires_at=NOW - 1001), Code.APPROVAL_INVALID),
        (statement(expires_at=NOW - 999 + limits.MAX_APPROVAL_MS), Code.APPROVAL_INVALID),
        (statement(issued_at=NOW + 60_001), Code.APPROVAL_INVALID),
        (statement(tenant="umbrella"), Code.APPROVAL_SUBJECT),
        (statement(sha256(b"another request")), Code.APPROVAL_SUBJECT),
        (statement(batch_subject(DIGEST, 1)), Code.APPROVAL_SUBJECT),
    ],
)
def test_a_signed_statement_that_is_wrong_is_refused(case: Case, text: bytes, code: Code) -> None:
    for _, make in VARIANTS:
        refused(case, make(case, text), code)


def test_too_large_a_statement_is_refused_before_its_signature_is_looked_at(case: Case) -> None:
    text = b" " * (limits.MAX_STATEMENT + 1)
    stranger = Person.new("stranger")
    refused(case, stranger.approval(text), Code.APPROVAL_INVALID)


@pytest.mark.parametrize(
    "changes",
    [
        {"expires_at": NOW - 1, "issued_at": NOW - 5000},
        {"policy_version": 6},
        {"policy_version": 8},
        {"issued_at": NOW + 60_000},
        {"expires_at": NOW - 1000 + limits.MAX_APPROVAL_MS},
    ],
)
def test_a_stale_statement_is_a_vote_for_the_tally_to_judge(case: Case, changes: dict[str, int]) -> None:
    text = statement(**changes)
    for _, make in VARIANTS:
        vote = case.verify(make(case, text)).vote
        assert {name: getattr(vote, name) for name in changes} == changes


# --- batches


def test_one_statement_approves_each_request_of_a_batch_and_no_other(case: Case) -> None:
    digests = [sha256(bytes([number])) for number in range(5)]
    text, paths = statement(batch_subject(root_of(digests), 5)), paths_of(digests)
    for _, make in VARIANTS:
        given = make(case, text)
        for index, digest in enumerate(digests):
            mine = replace(given, index=index, path=paths[index])
            assert case.verify(mine, request_digest=digest).vote.principal_id == "alice"
            refused(case, mine, Code.APPROVAL_SUBJECT)
            for wrong in ({"index": index + 1}, {"path": ()}, {"path": paths[index - 1]}, {"index": 5}):
                refused(case, replace(mine, **wrong), Code.APPROVAL_SUBJECT, request_digest=digest)


def test_another_size_is_another_batch(case: Case) -> None:
    digests = [sha256(bytes([number])) for number in range(4)]
    for size in (1, 3, 5, 8, 2**32):
        text = statement(batch_subject(root_of(digests), size))
        approval = case.alice.approval(text, index=3, path=paths_of(digests)[3])
        refused(case, approval, Code.APPROVAL_SUBJECT, request_digest=digests[3])


def test_a_place_without_a_batch_is_refused(case: Case) -> None:
    for changes in ({"index": 1}, {"path": (bytes(32),)}):
        refused(case, replace(case.alice.approval(statement()), **changes), Code.APPROVAL_INVALID)


# --- which is reported first (spec/approvals.md, A-4)


def test_the_order_of_the_codes(case: Case) -> None:
    """Everything is wrong at once; each time the first error is mended, the next one of the order shows."""
    steps: list[tuple[Code, dict[str, Any]]] = [
        (Code.APPROVAL_TYPE, {"ceremony": "webauthn.get"}),
        (Code.APPROVAL_CHALLENGE, {"challenge": None}),
        (Code.APPROVAL_ORIGIN, {"origin": None}),
        (Code.APPROVAL_RP_ID, {"rp_id": None}),
        (Code.APPROVAL_FLAGS, {"flags": UP | UV}),
        (Code.APPROVAL_SUBJECT, {}),
    ]
    text = statement(sha256(b"another request"))
    wrong: dict[str, Any] = {"ceremony": "x", "challenge": bytes(32), "origin": "x", "rp_id": "x", "flags": 0}
    stranger = Passkey.new("x")
    refused(case, stranger.approval(text, **wrong), Code.APPROVAL_UNKNOWN)
    refused(case, stranger.approval(text, credential_id=case.es256.credential_id, **wrong), Code.APPROVAL_SIGNATURE)
    for code, mended in steps:
        refused(case, case.es256.approval(text, **wrong), code)
        wrong |= mended
