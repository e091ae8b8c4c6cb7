"""COSE, payload, time, nonce, debug mode, PCRs and bindings: each rule broken alone, in documents that are signed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import pytest

from adytum_verify import (
    AllowList,
    AttestationCode,
    AttestationDocument,
    AttestationError,
    PcrPolicy,
    authenticate_document,
    manifest_pcr,
    parse_unverified,
    verify_archived_attestation,
    verify_archived_enclave,
    verify_attestation,
    verify_enclave,
)
from adytum_wire.binding import Binding, encode_binding

NOW_MS = 1_790_000_000_000
NONCE = bytes(range(32))
CODE = AttestationCode
GOOD = PcrPolicy({i: bytes([i + 1]) * 48 for i in range(3)})


def code_of(call: Callable[[], object]) -> AttestationCode:
    with pytest.raises(AttestationError) as caught:
        call()
    assert str(caught.value).startswith(caught.value.code.value)
    return caught.value.code


def live(pki: Any, document: bytes | None = None, **changes: Any) -> AttestationDocument:
    arguments: dict[str, Any] = {"expected": GOOD, "now_ms": NOW_MS, "nonce": NONCE, "anchors": [pki.anchor], **changes}
    return verify_attestation(document if document is not None else pki.document(nonce=NONCE), **arguments)


def pcrs(**changes: bytes | None) -> dict[int, bytes]:
    found: dict[int, bytes | None] = {index: bytes(48) for index in range(16)}
    found |= {i: bytes([i + 1]) * 48 for i in range(5)}
    found |= {int(key[1:]): value for key, value in changes.items()}
    return {index: value for index, value in found.items() if value is not None}


@pytest.mark.parametrize("indefinite", [True, False])
@pytest.mark.parametrize("tag", [b"", b"\xd2"])
def test_both_encodings_verify(pki: Any, indefinite: bool, tag: bytes) -> None:
    document = pki.document(nonce=NONCE, user_data=b"u", public_key=b"p", indefinite=indefinite, tag=tag)
    found = live(pki, document, user_data=b"u", public_key=b"p")
    assert (found.user_data, found.public_key, found.nonce) == (b"u", b"p", NONCE)
    assert found.pcrs[1] == b"\2" * 48


@pytest.mark.parametrize(
    ("protected", "code"),
    [
        ("a1013822", None),
        ("a10126", CODE.COSE_ALGORITHM),  # ES256
        ("a1013823", CODE.COSE_ALGORITHM),  # ES512
        ("a10127", CODE.COSE_ALGORITHM),  # EdDSA
        ("a10120", CODE.COSE_UNSIGNED),
        ("a0", CODE.COSE_ALGORITHM),
        ("", CODE.COSE_ALGORITHM),
        ("a101390022", CODE.COSE_ALGORITHM),  # the same value, not in its shortest form
        ("a2013822044130", CODE.COSE_ALGORITHM),
        ("bf013822ff", CODE.COSE_ALGORITHM),
    ],
)
def test_only_the_literal_es384_header(pki: Any, protected: str, code: AttestationCode | None) -> None:
    document = pki.document(nonce=NONCE, protected=bytes.fromhex(protected))
    if code is None:
        live(pki, document)
    else:
        assert code_of(lambda: live(pki, document)) is code


@pytest.mark.parametrize("unprotected", [{1: -35}, {4: b"kid"}, [], None, b""])
def test_unprotected_header_must_be_empty(pki: Any, unprotected: Any) -> None:
    assert code_of(lambda: live(pki, pki.document(nonce=NONCE, unprotected=unprotected))) is CODE.COSE_UNPROTECTED


@pytest.mark.parametrize("size", [0, 64, 95, 97, 104, 132])
def test_signature_must_be_96_bytes(pki: Any, size: int) -> None:
    document = pki.document(nonce=NONCE)
    document = document[:-98] + b"\x58" + bytes([size]) + bytes(size) if size > 23 else document[:-98] + b"\x40"
    assert code_of(lambda: live(pki, document)) is CODE.COSE_SIGNATURE_SIZE


def test_signature_of_another_key_is_refused(pki: Any, make_pki: Any) -> None:
    stranger = make_pki()
    stranger.certificates = pki.certificates
    assert code_of(lambda: live(pki, stranger.document(nonce=NONCE))) is CODE.SIGNATURE_INVALID


def test_splicing_a_payload_into_another_envelope_is_refused(pki: Any) -> None:
    one, two = pki.document(nonce=NONCE), pki.document(nonce=NONCE, pcrs=pcrs(_5=b"x" * 48))
    assert len(one) == len(two)
    assert code_of(lambda: live(pki, two[:-96] + one[-96:])) is CODE.SIGNATURE_INVALID


@pytest.mark.parametrize("document", [b"", bytes(16 * 1024 + 1)])
def test_size(pki: Any, document: bytes) -> None:
    assert code_of(lambda: live(pki, document)) is CODE.DOCUMENT_SIZE


FIELDS: list[tuple[str, dict[str, Any], AttestationCode]] = [
    ("no module id", {"module_id": ...}, CODE.PAYLOAD_FIELD),
    ("empty module id", {"module_id": ""}, CODE.PAYLOAD_FIELD),
    ("module id with a newline", {"module_id": "i-0\n"}, CODE.PAYLOAD_FIELD),
    ("module id as bytes", {"module_id": b"i-0"}, CODE.PAYLOAD_FIELD),
    ("no digest", {"digest": ...}, CODE.PAYLOAD_FIELD),
    ("weak digest", {"digest": "SHA256"}, CODE.PAYLOAD_FIELD),
    ("digest null", {"digest": None}, CODE.PAYLOAD_FIELD),
    ("no timestamp", {"timestamp": ...}, CODE.PAYLOAD_FIELD),
    ("timestamp 0", {"timestamp": 0}, CODE.PAYLOAD_FIELD),
    ("timestamp 2^64 - 1", {"timestamp": 2**64 - 1}, CODE.PAYLOAD_FIELD),
    ("timestamp negative", {"timestamp": -1}, CODE.PAYLOAD_MALFORMED),
    ("timestamp true", {"timestamp": True}, CODE.PAYLOAD_MALFORMED),
    ("timestamp as text", {"timestamp": "1"}, CODE.PAYLOAD_FIELD),
    ("no PCRs", {"pcrs": ...}, CODE.PAYLOAD_FIELD),
    ("PCRs empty", {"pcrs": {}}, CODE.PAYLOAD_FIELD),
    ("PCRs as list", {"pcrs": [b"x" * 48]}, CODE.PAYLOAD_FIELD),
    ("PCR 32", {"pcrs": {**pcrs(), 32: b"x" * 48}}, CODE.PAYLOAD_FIELD),
    ("PCR of 32 bytes", {"pcrs": pcrs(_0=b"x" * 32)}, CODE.PAYLOAD_FIELD),
    ("PCR of 49 bytes", {"pcrs": pcrs(_0=b"x" * 49)}, CODE.PAYLOAD_FIELD),
    ("PCR index as text", {"pcrs": {**pcrs(), "0": b"x" * 48}}, CODE.PAYLOAD_FIELD),
    ("PCR null", {"pcrs": {0: None}}, CODE.PAYLOAD_FIELD),
    ("no certificate", {"certificate": ...}, CODE.PAYLOAD_FIELD),
    ("certificate null", {"certificate": None}, CODE.PAYLOAD_FIELD),
    ("certificate empty", {"certificate": b""}, CODE.PAYLOAD_FIELD),
    ("certificate too large", {"certificate": bytes(1025)}, CODE.PAYLOAD_FIELD),
    ("no bundle", {"cabundle": ...}, CODE.PAYLOAD_FIELD),
    ("bundle empty", {"cabundle": []}, CODE.PAYLOAD_FIELD),
    ("bundle of text", {"cabundle": ["a"]}, CODE.PAYLOAD_FIELD),
    ("bundle of 9", {"cabundle": [b"a"] * 9}, CODE.PAYLOAD_FIELD),
    ("bundle with a large certificate", {"cabundle": [bytes(1025)]}, CODE.PAYLOAD_FIELD),
    ("user data too large", {"user_data": bytes(1025)}, CODE.PAYLOAD_FIELD),
    ("public key too large", {"public_key": bytes(1025)}, CODE.PAYLOAD_FIELD),
    ("nonce too large", {"nonce": bytes(1025)}, CODE.PAYLOAD_FIELD),
    ("nonce as text", {"nonce": "n"}, CODE.PAYLOAD_FIELD),
    ("unknown field", {"extra": 1}, CODE.PAYLOAD_UNKNOWN_FIELD),
    ("integer field name", {0: 1}, CODE.PAYLOAD_UNKNOWN_FIELD),
    ("NitroTPM", {"pcrs": ..., "nitrotpm_pcrs": pcrs(), "module_id": "i-0-tpm0000000000000000"}, CODE.NITROTPM),
    ("NitroTPM beside PCRs", {"nitrotpm_pcrs": pcrs()}, CODE.NITROTPM),
]


@pytest.mark.parametrize(("changes", "code"), [row[1:] for row in FIELDS], ids=[row[0] for row in FIELDS])
def test_payload_field_is_refused(pki: Any, changes: dict[Any, Any], code: AttestationCode) -> None:
    fields = pki.payload(nonce=NONCE)
    fields.update(changes)
    fields = {key: value for key, value in fields.items() if value is not ...}
    document = pki.document(payload=cbor_of(pki)(fields))
    assert code_of(lambda: live(pki, document)) is code


def cbor_of(pki: Any) -> Callable[..., bytes]:
    """The encoder of the conftest module (test modules cannot import one another)."""
    return type(pki).document.__globals__["cbor"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("field", ["public_key", "user_data", "nonce"])
@pytest.mark.parametrize(("value", "seen"), [(..., None), (None, None), (b"", b""), (bytes(1024), bytes(1024))])
def test_optional_field_absent_null_empty_or_full(pki: Any, field: str, value: Any, seen: bytes | None) -> None:
    found = parse_unverified(pki.document(**{field: value}))
    assert getattr(found, field) == seen


def test_emptiness_is_not_absence_when_compared(pki: Any) -> None:
    document = pki.document(nonce=NONCE, user_data=None)
    assert code_of(lambda: live(pki, document, user_data=b"")) is CODE.USER_DATA_MISMATCH
    live(pki, pki.document(nonce=NONCE, user_data=b""), user_data=b"")


def test_unsigned_emulator_shape_is_refused_everywhere(pki: Any) -> None:
    fields = pki.payload(nonce=NONCE, certificate=bytes(64), cabundle=[bytes(64)], module_id="i-234-enc5678")
    encode = cbor_of(pki)
    document = encode([bytes.fromhex("a10120"), {}, encode(fields), bytes(64)])
    for call in (
        lambda: live(pki, document),
        lambda: verify_archived_attestation(document, expected=GOOD, anchors=[pki.anchor]),
        lambda: authenticate_document(document, anchors=[pki.anchor], now_ms=NOW_MS),
        lambda: parse_unverified(document),
    ):
        assert code_of(call) is CODE.COSE_UNSIGNED
    found = parse_unverified(document, allow_unsigned_shape=True)
    assert (found.module_id, found.nonce, found.valid_until_ms) == ("i-234-enc5678", NONCE, 0)


@pytest.mark.parametrize(
    ("offset_ms", "code"),
    [
        (0, None),
        (-300_000, None),
        (-300_001, CODE.TIMESTAMP_OLD),
        (60_000, None),
        (60_001, CODE.TIMESTAMP_FUTURE),
    ],
)
def test_timestamp_window(pki: Any, offset_ms: int, code: AttestationCode | None) -> None:
    document = pki.document(nonce=NONCE, timestamp=NOW_MS + offset_ms)
    if code is None:
        live(pki, document)
    else:
        assert code_of(lambda: live(pki, document)) is code
        assert code_of(lambda: live(pki, document, max_age_ms=0, skew_ms=0)) is code


def test_time_outside_the_leaf_is_refused(pki: Any) -> None:
    """The leaf is valid from ten minutes before NOW: a wide window must not reach beyond it."""
    document = pki.document(nonce=NONCE, timestamp=NOW_MS - 600_001)
    call = lambda: live(pki, document, max_age_ms=10**9)  # noqa: E731
    assert code_of(call) is CODE.TIMESTAMP_OUTSIDE_CERTIFICATE


def test_archived_document_is_held_to_its_own_time(pki: Any) -> None:
    arguments: dict[str, Any] = {"expected": GOOD, "anchors": [pki.anchor]}
    verify_archived_attestation(pki.document(timestamp=NOW_MS + 9_000_000), **arguments)
    document = pki.document(timestamp=NOW_MS + 99_000_000)
    assert code_of(lambda: verify_archived_attestation(document, **arguments)) is CODE.EXPIRED
    document = pki.document(timestamp=NOW_MS - 601_000)
    assert code_of(lambda: verify_archived_attestation(document, **arguments)) is CODE.NOT_YET_VALID


@pytest.mark.parametrize("nonce", [b"", bytes(15)])
def test_live_check_without_a_real_nonce_is_refused(pki: Any, nonce: bytes) -> None:
    assert code_of(lambda: live(pki, pki.document(nonce=nonce), nonce=nonce)) is CODE.NONCE_TOO_SHORT


@pytest.mark.parametrize("nonce", [None, b"", NONCE[:-1], NONCE + b"\0", bytes(32)])
def test_other_nonce_is_refused(pki: Any, nonce: bytes | None) -> None:
    assert code_of(lambda: live(pki, pki.document(nonce=nonce))) is CODE.NONCE_MISMATCH


@pytest.mark.parametrize("index", [0, 1, 2])
@pytest.mark.parametrize("value", [None, bytes(48)])
def test_debug_mode_is_refused(pki: Any, index: int, value: bytes | None) -> None:
    document = pki.document(nonce=NONCE, pcrs=pcrs(**{f"_{index}": value}))
    assert code_of(lambda: live(pki, document)) is CODE.DEBUG_MODE


def test_index_confusion_pcr16_carries_the_victims_pcr0(pki: Any) -> None:
    """Any enclave can extend PCR16 with the public hash of another image, so that PCR16 equals that image's PCR0."""
    victim = GOOD.pcrs[0]
    attacker = pki.document(nonce=NONCE, pcrs=pcrs(_0=b"\x66" * 48, _16=victim))
    assert code_of(lambda: live(pki, attacker)) is CODE.PCR_MISMATCH
    rotated = pki.document(nonce=NONCE, pcrs=pcrs(_0=GOOD.pcrs[1], _1=GOOD.pcrs[2], _2=GOOD.pcrs[0]))
    assert code_of(lambda: live(pki, rotated)) is CODE.PCR_MISMATCH


def test_further_pcrs_are_compared_when_expected(pki: Any) -> None:
    pinned = PcrPolicy({**GOOD.pcrs, 16: b"m" * 48})
    live(pki, pki.document(nonce=NONCE, pcrs=pcrs(_16=b"m" * 48)), expected=pinned)
    for changed in (pcrs(), pcrs(_16=b"n" * 48), pcrs(_17=b"m" * 48)):
        document = pki.document(nonce=NONCE, pcrs=changed)
        assert code_of(lambda document=document: live(pki, document, expected=pinned)) is CODE.PCR_MISMATCH


def test_allow_list_takes_one_complete_image(pki: Any) -> None:
    a, b = PcrPolicy(dict.fromkeys(range(3), b"a" * 48)), PcrPolicy(dict.fromkeys(range(3), b"b" * 48))
    live(pki, expected=AllowList((a, GOOD, b)))
    assert code_of(lambda: live(pki, expected=AllowList((a, b)))) is CODE.PCR_MISMATCH
    mixed = pki.document(nonce=NONCE, pcrs=pcrs(_0=b"a" * 48, _1=b"a" * 48, _2=b"b" * 48))
    assert code_of(lambda: live(pki, mixed, expected=AllowList((a, b)))) is CODE.PCR_MISMATCH


def test_empty_expectation_cannot_be_smuggled_in(pki: Any) -> None:
    hollow = object.__new__(AllowList)
    object.__setattr__(hollow, "images", ())
    for expected in (hollow, None, {}, []):
        assert code_of(lambda expected=expected: live(pki, expected=expected)) is CODE.POLICY_EMPTY


@pytest.mark.parametrize(
    ("field", "code"), [("user_data", "USER_DATA_MISMATCH"), ("public_key", "PUBLIC_KEY_MISMATCH")]
)
@pytest.mark.parametrize("value", [None, b"", b"wante", b"wanted!"])
def test_other_binding_is_refused(pki: Any, field: str, code: str, value: bytes | None) -> None:
    document = pki.document(nonce=NONCE, **{field: value})
    assert code_of(lambda: live(pki, document, **{field: b"wanted"})).value == code


# --- Adytum's own binding

MANIFEST_HASH = hashlib.sha256(b"manifest").digest()


def binding_json(**changes: Any) -> bytes:
    fields: dict[str, Any] = {
        "protocol": 1,
        "build": "test",
        "boot_id": "ab" * 16,
        "manifest_hash": MANIFEST_HASH.hex(),
        "receipt_key": "11" * 32,
        "hpke_key": "22" * 32,
    }
    return encode_binding(Binding(**{**fields, **changes}))


def enclave_document(pki: Any, binding: bytes, **changes: Any) -> bytes:
    fields: dict[str, Any] = {
        "nonce": NONCE,
        "user_data": hashlib.sha256(binding).digest(),
        "public_key": bytes.fromhex("22" * 32),
        "pcrs": pcrs(_16=hashlib.sha384(bytes(48) + MANIFEST_HASH).digest()),
    }
    return pki.document(**{**fields, **changes})  # type: ignore[no-any-return]


def test_enclave_is_verified_with_its_keys(pki: Any) -> None:
    binding = binding_json()
    document = enclave_document(pki, binding)
    arguments: dict[str, Any] = {"expected": GOOD, "anchors": [pki.anchor], "manifest_hash": MANIFEST_HASH}
    live_ = verify_enclave(document, binding, now_ms=NOW_MS, nonce=NONCE, **arguments)
    archived = verify_archived_enclave(document, binding, **arguments)
    assert live_ == archived
    assert live_.binding.receipt_key == "11" * 32
    assert live_.document.pcrs[16] == manifest_pcr(MANIFEST_HASH)


def test_swapped_binding_is_refused(pki: Any) -> None:
    """The host hands out the genuine document with a binding that names its own receipt key."""
    document = enclave_document(pki, binding_json())
    mine = binding_json(receipt_key="66" * 32)
    arguments: dict[str, Any] = {"expected": GOOD, "anchors": [pki.anchor]}
    for call in (
        lambda: verify_enclave(document, mine, now_ms=NOW_MS, nonce=NONCE, **arguments),
        lambda: verify_archived_enclave(document, mine, **arguments),
    ):
        assert code_of(call) is CODE.USER_DATA_MISMATCH


@pytest.mark.parametrize(
    ("binding", "changes", "code"),
    [
        (b"{}", {}, CODE.BINDING_INVALID),
        (b"", {}, CODE.BINDING_INVALID),
        (binding_json() + b" x", {}, CODE.BINDING_INVALID),
        (binding_json()[:-1] + b',"more":1}', {}, CODE.BINDING_INVALID),
        (binding_json(hpke_key="33" * 32), {}, CODE.PUBLIC_KEY_MISMATCH),
        (binding_json(), {"public_key": None}, CODE.PUBLIC_KEY_MISMATCH),
        (binding_json(), {"user_data": None}, CODE.USER_DATA_MISMATCH),
        (binding_json(manifest_hash="44" * 32), {}, CODE.MANIFEST_MISMATCH),
        (binding_json(), {"pcrs": pcrs()}, CODE.MANIFEST_MISMATCH),
        (binding_json(), {"pcrs": pcrs(_16=b"x" * 48)}, CODE.MANIFEST_MISMATCH),
        (binding_json(), {"pcrs": pcrs(_0=b"x" * 48)}, CODE.PCR_MISMATCH),
    ],
)
def test_enclave_is_refused(pki: Any, binding: bytes, changes: dict[str, Any], code: AttestationCode) -> None:
    document = enclave_document(pki, binding, **changes)
    arguments: dict[str, Any] = {"expected": GOOD, "anchors": [pki.anchor], "manifest_hash": MANIFEST_HASH}
    assert code_of(lambda: verify_archived_enclave(document, binding, **arguments)) is code


def test_without_a_manifest_hash_any_manifest_passes(pki: Any) -> None:
    """Said in the docstring: the caller must look at binding.manifest_hash, or pin it."""
    binding = binding_json(manifest_hash="44" * 32)
    found = verify_archived_enclave(enclave_document(pki, binding), binding, expected=GOOD, anchors=[pki.anchor])
    assert found.binding.manifest_hash == "44" * 32
