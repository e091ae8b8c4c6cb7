"""Genuine AWS documents, 2021 to 2026, and byte-level mutations of one of them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from adytum_verify import (
    AWS_ANCHOR,
    AllowList,
    Anchor,
    AttestationCode,
    AttestationError,
    PcrPolicy,
    anchor_from_pem,
    authenticate_document,
    parse_unverified,
    verify_archived_attestation,
    verify_attestation,
)

LATER_MS = 1_795_435_200_000  # 2026-11-23
ORDINARY = ("01", "03", "09", "12", "13")
DEBUG = "05"
NONCE_DOCUMENT = "01"
TIMES = {
    "01": "2026-02-06T08:24:18",
    "03": "2021-03-24T16:10:41",
    "05": "2024-01-24T18:14:25",
    "09": "2025-04-29T10:32:39",
    "12": "2025-04-01T14:16:10",
    "13": "2022-07-06T14:18:22",
}
NEGATIVE = {
    "derived_alg_es256_in_protected": AttestationCode.COSE_ALGORITHM,
    "derived_alg_missing": AttestationCode.COSE_ALGORITHM,
    "derived_cabundle_instance_cert_bitflip_sig": AttestationCode.CHAIN_SIGNATURE,
    "derived_dup_key_pcrs_appended": AttestationCode.PAYLOAD_MALFORMED,
    "derived_huge_bstr_len": AttestationCode.COSE_MALFORMED,
    "derived_not_cbor": AttestationCode.COSE_MALFORMED,
    "derived_pcr0_bitflip": AttestationCode.SIGNATURE_INVALID,
    "derived_sig_DER_encoded": AttestationCode.COSE_SIGNATURE_SIZE,
    "derived_sig_all_zero": AttestationCode.SIGNATURE_INVALID,
    "derived_sig_qemu_64_zero": AttestationCode.COSE_UNSIGNED,
    "derived_trailing_bytes": AttestationCode.COSE_MALFORMED,
    "derived_unprotected_not_empty_alg_conflict": AttestationCode.COSE_UNPROTECTED,
}
TAGGED = "derived_ok_tag18_variant_SHOULD_VERIFY"


def load(vectors: Path, number: str) -> bytes:
    [path] = vectors.glob(f"{number}_*.bin")
    return path.read_bytes()


def policy_of(document: bytes) -> PcrPolicy:
    """The policy that this document meets (only a test takes its expectation from the document)."""
    return PcrPolicy(dict(parse_unverified(document).pcrs))


def refused(document: bytes, **changes: object) -> AttestationCode:
    arguments: dict[str, object] = {"expected": PcrPolicy(dict.fromkeys(range(3), b"\x01" * 48)), **changes}
    with pytest.raises(AttestationError) as caught:
        verify_archived_attestation(document, **arguments)  # type: ignore[arg-type]
    return caught.value.code


def test_every_vector_has_an_expectation(vectors: Path) -> None:
    assert {path.name[:2] for path in vectors.glob("*.bin")} == set(TIMES)
    assert {path.stem for path in (vectors / "negative").glob("*.bin")} == {*NEGATIVE, TAGGED}


@pytest.mark.parametrize("number", ORDINARY)
def test_genuine_document_verifies_at_its_own_time(vectors: Path, number: str) -> None:
    document = load(vectors, number)
    found = verify_archived_attestation(document, expected=policy_of(document))
    assert found.valid_from_ms <= found.timestamp_ms <= found.valid_until_ms
    assert found.valid_until_ms - found.valid_from_ms <= 3 * 3600_000 + 5_000  # the leaf's three hours
    # PCR4 = SHA384(0^48 || instance id): measured by AWS, recomputed here
    instance = found.module_id.partition("-enc")[0].encode()
    assert found.pcrs[4] == hashlib.sha384(bytes(48) + instance).digest()


@pytest.mark.parametrize(("number", "when"), TIMES.items())
def test_genuine_document_authenticates_and_has_the_known_time(vectors: Path, number: str, when: str) -> None:
    document = load(vectors, number)
    now_ms = parse_unverified(document).timestamp_ms
    found = authenticate_document(document, anchors=[AWS_ANCHOR], now_ms=now_ms)
    from datetime import UTC, datetime

    assert datetime.fromtimestamp(found.timestamp_ms // 1000, UTC).isoformat().startswith(when)


@pytest.mark.parametrize("number", [*ORDINARY, DEBUG])
def test_genuine_document_is_expired_today(vectors: Path, number: str) -> None:
    document = load(vectors, number)
    with pytest.raises(AttestationError) as caught:
        verify_attestation(
            document, expected=PcrPolicy(dict.fromkeys(range(3), b"\x01" * 48)), now_ms=LATER_MS, nonce=bytes(16)
        )
    assert caught.value.code is AttestationCode.EXPIRED


@pytest.mark.parametrize("number", [*ORDINARY, DEBUG])
def test_genuine_document_is_not_valid_before_its_leaf(vectors: Path, number: str) -> None:
    document = load(vectors, number)
    verified = authenticate_document(document, anchors=[AWS_ANCHOR], now_ms=parse_unverified(document).timestamp_ms)
    for now_ms, code in (
        (verified.valid_from_ms - 1, AttestationCode.NOT_YET_VALID),
        (verified.valid_until_ms + 1, AttestationCode.EXPIRED),
    ):
        with pytest.raises(AttestationError) as caught:
            authenticate_document(document, anchors=[AWS_ANCHOR], now_ms=now_ms)
        assert caught.value.code is code
    for now_ms in (verified.valid_from_ms, verified.valid_until_ms):
        authenticate_document(document, anchors=[AWS_ANCHOR], now_ms=now_ms)


def test_debug_enclave_is_refused_as_debug(vectors: Path) -> None:
    document = load(vectors, DEBUG)
    found = parse_unverified(document)
    assert found.pcrs[3] != bytes(48)  # not zero: a policy on these alone would have passed
    assert found.pcrs[4] != bytes(48)
    assert refused(document) is AttestationCode.DEBUG_MODE


def test_fresh_document_with_its_nonce_verifies_live(vectors: Path) -> None:
    document = load(vectors, NONCE_DOCUMENT)
    seen = parse_unverified(document)
    assert seen.nonce is not None
    assert len(seen.nonce) == 32
    verified = verify_attestation(
        document,
        expected=policy_of(document),
        now_ms=seen.timestamp_ms + 1000,
        nonce=seen.nonce,
        user_data=seen.user_data,
    )
    assert verified.user_data == seen.user_data
    assert verified.public_key is None


@pytest.mark.parametrize(("stem", "code"), NEGATIVE.items())
def test_mutation_is_refused_with_its_own_code(vectors: Path, stem: str, code: AttestationCode) -> None:
    assert refused((vectors / "negative" / f"{stem}.bin").read_bytes()) is code


def test_tag_18_is_allowed(vectors: Path) -> None:
    document = (vectors / "negative" / f"{TAGGED}.bin").read_bytes()
    assert document == b"\xd2" + load(vectors, "01")
    verify_archived_attestation(document, expected=policy_of(document))


@pytest.mark.parametrize("prefix", [b"\xd2\xd2", b"\xd8\x12", b"\xd9\xd9\xf7", b"\xd1", b"\xd9\x00\x12"])
def test_other_tags_are_refused(vectors: Path, prefix: bytes) -> None:
    assert refused(prefix + load(vectors, "01")) is AttestationCode.COSE_MALFORMED


def test_user_data_that_is_empty_is_not_absent(vectors: Path) -> None:
    found = parse_unverified(load(vectors, "09"))
    assert found.user_data == b""
    assert found.nonce is None
    assert sorted(found.pcrs) == [*range(17)]


@pytest.mark.parametrize("number", ORDINARY)
@pytest.mark.parametrize("index", [0, 1, 2, 4])
def test_wrong_pcr_is_refused(vectors: Path, number: str, index: int) -> None:
    document = load(vectors, number)
    pcrs = dict(parse_unverified(document).pcrs)
    pcrs[index] = pcrs[index][:-1] + bytes([pcrs[index][-1] ^ 1])
    with pytest.raises(AttestationError) as caught:
        verify_archived_attestation(document, expected=PcrPolicy(pcrs))
    assert caught.value.code is AttestationCode.PCR_MISMATCH
    assert caught.value.field == f"pcrs[{index}]"


@pytest.mark.parametrize("number", ORDINARY)
def test_wrong_nonce_is_refused(vectors: Path, number: str) -> None:
    document = load(vectors, number)
    for nonce in (bytes(32), b"", (parse_unverified(document).nonce or b"") + b"\0"):
        assert refused(document, expected=policy_of(document), nonce=nonce) is AttestationCode.NONCE_MISMATCH


@pytest.mark.parametrize("number", ORDINARY)
def test_wrong_anchor_is_refused(vectors: Path, number: str) -> None:
    document = load(vectors, number)
    expected = policy_of(document)
    assert refused(document, expected=expected, anchors=[]) is AttestationCode.CHAIN_ANCHOR
    assert refused(document, expected=expected, anchors=[Anchor(bytes(32))]) is AttestationCode.CHAIN_ANCHOR


def test_the_pinned_anchor_is_the_published_root(vectors: Path) -> None:
    assert anchor_from_pem((vectors / "aws_nitro_root_g1.pem").read_bytes()) == AWS_ANCHOR


def test_one_of_several_images_must_match_completely(vectors: Path) -> None:
    first, second = (policy_of(load(vectors, number)) for number in ("01", "12"))
    mixed = PcrPolicy({**first.pcrs, 0: second.pcrs[0]})
    verify_archived_attestation(load(vectors, "12"), expected=AllowList((first, second)))
    assert refused(load(vectors, "12"), expected=AllowList((first, mixed))) is AttestationCode.PCR_MISMATCH


def test_signature_is_malleable_so_document_bytes_are_no_replay_key(vectors: Path) -> None:
    """(r, n - s) verifies too; known, harmless, and the reason why nonces are remembered, never documents."""
    order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973
    document = load(vectors, "01")
    twin = document[:-48] + (order - int.from_bytes(document[-48:], "big")).to_bytes(48, "big")
    assert twin != document
    expected = policy_of(document)
    assert verify_archived_attestation(twin, expected=expected) == verify_archived_attestation(
        document, expected=expected
    )
