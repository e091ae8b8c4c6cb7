"""Attested calls: the right document opens, each wrong one is refused with the code that AWS uses."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_private_key

from adytum_sim.kms import KmsFault, KmsService, RunningKms, State, attested_key_policy, default_key_policy
from adytum_sim.kms.identities import bootstrap
from adytum_sim.kms.recipient import DocumentReader
from adytum_sim.kms.running import system_clock_ms
from adytum_sim.nsm import SimNsm, build_unsigned_document, extend
from adytum_sim.pki import DevPki

MODULE_ID = "i-0123456789abcdef0-enc0123456789abcdef"
Opener = Callable[[bytes, bytes], bytes]
IMAGE = {0: b"\x10" * 48, 1: b"\x11" * 48, 2: b"\x12" * 48}
CONTEXT = {"adytum:tenant": "acme"}
HOUR = 3_600_000


@pytest.fixture(scope="module")
def key(kms: RunningKms) -> str:
    return kms.create_key(attested_key_policy(account=kms.account, role_arn=kms.role_arn, pcrs=IMAGE))


@pytest.fixture(scope="module")
def good(kms: RunningKms, recipient: Callable[..., Any]) -> Any:
    return recipient(kms.pki)


@pytest.fixture(scope="module")
def sealed(role: Any, key: str, good: Any) -> bytes:
    answer = role.generate_data_key(KeyId=key, KeySpec="AES_256", EncryptionContext=CONTEXT, Recipient=good.parameter)
    return bytes(answer["CiphertextBlob"])


def code_of(call: Callable[[], Any]) -> str:
    with pytest.raises(ClientError) as caught:
        call()
    return str(caught.value.response["Error"]["Code"])


def decrypt(role: Any, key: str, sealed: bytes, document: bytes, context: dict[str, str] = CONTEXT) -> Any:
    parameter = {"KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256", "AttestationDocument": document}
    return role.decrypt(CiphertextBlob=sealed, KeyId=key, EncryptionContext=context, Recipient=parameter)


def test_the_data_key_comes_enveloped_and_the_same_one_is_decrypted(
    role: Any, key: str, good: Any, open_cms: Opener
) -> None:
    made = role.generate_data_key(KeyId=key, KeySpec="AES_256", EncryptionContext=CONTEXT, Recipient=good.parameter)
    assert not made.get("Plaintext")
    data_key = open_cms(made["CiphertextForRecipient"], good.pem)
    assert len(data_key) == 32
    for _ in range(3):  # both content forms, and Plaintext absent, null and empty
        answer = decrypt(role, key, made["CiphertextBlob"], good.document)
        assert not answer.get("Plaintext")
        assert answer["KeyId"] == key
        assert open_cms(answer["CiphertextForRecipient"], good.pem) == data_key


def test_both_content_forms_occur(role: Any, key: str, sealed: bytes, good: Any) -> None:
    sizes = {len(decrypt(role, key, sealed, good.document)["CiphertextForRecipient"]) for _ in range(4)}
    assert sizes == {493, 489}


def test_key_pairs_and_random_bytes_take_a_recipient_too(
    role: Any, operator: Any, key: str, good: Any, open_cms: Opener
) -> None:
    pair = role.generate_data_key_pair(KeyId=key, KeyPairSpec="ECC_SECG_P256K1", Recipient=good.parameter)
    assert not pair.get("PrivateKeyPlaintext")
    private = load_der_private_key(open_cms(pair["CiphertextForRecipient"], good.pem), None)
    assert private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) == pair["PublicKey"]
    random = role.generate_random(NumberOfBytes=48, Recipient=good.parameter)
    assert not random.get("Plaintext")
    assert len(open_cms(random["CiphertextForRecipient"], good.pem)) == 48


def test_operations_that_cannot_be_attested_do_not_take_a_recipient(kms: RunningKms, key: str) -> None:
    for name, payload in (
        ("Encrypt", {"KeyId": key, "Plaintext": "eA=="}),
        ("ReEncrypt", {"DestinationKeyId": key, "CiphertextBlob": "eA=="}),
        ("GenerateDataKeyWithoutPlaintext", {"KeyId": key, "KeySpec": "AES_256"}),
        ("GenerateDataKeyPairWithoutPlaintext", {"KeyId": key, "KeyPairSpec": "RSA_2048"}),
    ):
        with pytest.raises(KmsFault) as caught:
            kms.service.handle(f"TrentService.{name}", payload | {"Recipient": {}}, kms.operator.caller)
        assert caught.value.code == "ValidationException"
        assert name in (caught.value.message or "")


@pytest.mark.parametrize("index", [0, 1, 2])
def test_one_bit_of_a_pcr_off_is_denied(
    role: Any, kms: RunningKms, key: str, sealed: bytes, recipient: Callable[..., Any], index: int
) -> None:
    off = bytes([IMAGE[index][0] ^ 1]) + IMAGE[index][1:]
    other = recipient(kms.pki, pcrs=IMAGE | {index: off})
    assert code_of(lambda: decrypt(role, key, sealed, other.document)) == "AccessDeniedException"


def test_no_recipient_is_denied(role: Any, operator: Any, key: str, sealed: bytes) -> None:
    for who in (role, operator):
        wrong = code_of(lambda who=who: who.decrypt(CiphertextBlob=sealed, KeyId=key, EncryptionContext=CONTEXT))
        assert wrong == "AccessDeniedException"
        assert code_of(lambda who=who: who.generate_data_key(KeyId=key, KeySpec="AES_256")) == "AccessDeniedException"


def test_a_debug_enclave_is_denied(
    role: Any, kms: RunningKms, key: str, sealed: bytes, recipient: Callable[..., Any]
) -> None:
    debug = recipient(kms.pki, debug=True)
    assert code_of(lambda: decrypt(role, key, sealed, debug.document)) == "AccessDeniedException"


def test_a_document_that_shows_the_image_in_pcr16_is_denied(
    role: Any, kms: RunningKms, key: str, sealed: bytes, rsa_key: rsa.RSAPrivateKey, attest_with: Callable[..., bytes]
) -> None:
    """Index confusion: PCR16 can be made to equal another program's PCR0."""
    nsm = SimNsm(kms.pki, module_id=MODULE_ID, pcrs={16: IMAGE[0], 0: b"\x66" * 48}, clock_ms=system_clock_ms)
    nsm.request(bytes.fromhex("a1674c6f636b504352a165696e64657810"))
    spki = rsa_key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    document = attest_with(nsm, public_key=spki)
    assert code_of(lambda: decrypt(role, key, sealed, document)) == "AccessDeniedException"


def test_another_encryption_context_is_an_invalid_ciphertext(role: Any, key: str, sealed: bytes, good: Any) -> None:
    for context in ({}, {"adytum:tenant": "other"}, {"adytum:tenan": "tacme"}):
        wrong = code_of(lambda c=context: decrypt(role, key, sealed, good.document, c))
        assert wrong == "InvalidCiphertextException"


def test_a_document_under_another_root_is_invalid(
    role: Any, key: str, sealed: bytes, recipient: Callable[..., Any]
) -> None:
    foreign = recipient(DevPki.create(system_clock_ms()))
    assert code_of(lambda: decrypt(role, key, sealed, foreign.document)) == "ValidationException"


@pytest.mark.parametrize("shift", [-4 * HOUR, 4 * HOUR])
def test_an_expired_or_future_document_is_invalid(
    role: Any, kms: RunningKms, key: str, sealed: bytes, recipient: Callable[..., Any], shift: int
) -> None:
    shifted = recipient(kms.pki, module_id=MODULE_ID[:-1] + "0", clock_ms=lambda: system_clock_ms() + shift)
    assert code_of(lambda: decrypt(role, key, sealed, shifted.document)) == "ValidationException"


def test_a_genuine_amazon_document_is_invalid_here(role: Any, key: str, sealed: bytes, vectors: Path) -> None:
    found = sorted((vectors / "attestation").glob("*.bin"))
    assert len(found) >= 6
    for path in found:
        assert code_of(lambda path=path: decrypt(role, key, sealed, path.read_bytes())) == "ValidationException"


def test_a_flipped_bit_anywhere_makes_a_document_invalid(role: Any, key: str, sealed: bytes, good: Any) -> None:
    for position in range(20, len(good.document), 300):
        changed = bytearray(good.document)
        changed[position] ^= 0x01
        wrong = code_of(lambda blob=bytes(changed): decrypt(role, key, sealed, blob))
        assert wrong == "ValidationException", position


@pytest.mark.parametrize("document", [b"\0", b"{}", b"\x84\x44", bytes(20_000), b"\xd2" * 9])
def test_what_is_no_document_is_invalid(role: Any, key: str, sealed: bytes, document: bytes) -> None:
    assert code_of(lambda: decrypt(role, key, sealed, document)) == "ValidationException"


def _other_keys() -> Iterator[bytes | None]:
    yield None
    yield b""
    yield b"not a key"
    for key in (
        rsa.generate_private_key(public_exponent=65537, key_size=1024),
        rsa.generate_private_key(public_exponent=65537, key_size=3072),
        ec.generate_private_key(ec.SECP256R1()),
    ):
        yield key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    good = rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key()
    yield good.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    yield good.public_bytes(Encoding.DER, PublicFormat.PKCS1)
    yield good.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) + b"\0"


def test_only_an_rsa_2048_key_is_a_recipient(
    role: Any, kms: RunningKms, key: str, sealed: bytes, attest_with: Callable[..., bytes]
) -> None:
    nsm = SimNsm(kms.pki, module_id=MODULE_ID, pcrs=IMAGE, clock_ms=system_clock_ms)
    for public_key in _other_keys():
        document = attest_with(nsm, public_key=public_key)
        wrong = code_of(lambda document=document: decrypt(role, key, sealed, document))
        assert wrong == "ValidationException"


def test_only_one_key_encryption_algorithm_exists(kms: RunningKms, key: str, good: Any) -> None:
    document = base64.b64encode(good.document).decode()
    for recipient in (
        {"AttestationDocument": document},
        {"AttestationDocument": document, "KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_1"},
        {"KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256"},
        {"AttestationDocument": document, "KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256", "More": 1},
        "document",
    ):
        payload = {"KeyId": key, "KeySpec": "AES_256", "Recipient": recipient}
        with pytest.raises(KmsFault) as caught:
            kms.service.handle("TrentService.GenerateDataKey", payload, kms.role.caller)
        assert caught.value.code == "ValidationException"


def test_pcr16_pins_the_configuration(
    role: Any, kms: RunningKms, rsa_key: rsa.RSAPrivateKey, attest_with: Callable[..., bytes]
) -> None:
    wanted = extend(bytes(48), b"manifest")
    policy = attested_key_policy(account=kms.account, role_arn=kms.role_arn, pcrs=IMAGE | {16: wanted})
    key = kms.create_key(policy)
    spki = rsa_key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    for manifest, lock, allowed in ((b"manifest", True, True), (b"manifest", False, False), (b"other", True, False)):
        nsm = SimNsm(kms.pki, module_id=MODULE_ID, pcrs={**IMAGE, 16: extend(bytes(48), manifest)},
                     clock_ms=system_clock_ms)  # fmt: skip
        if lock:
            nsm.request(bytes.fromhex("a1674c6f636b504352a165696e64657810"))
        parameter = {
            "KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256",
            "AttestationDocument": attest_with(nsm, public_key=spki),
        }

        def call(parameter: dict[str, Any] = parameter) -> Any:
            return role.generate_data_key(KeyId=key, KeySpec="AES_256", Recipient=parameter)

        if allowed:
            assert "CiphertextForRecipient" in call()
        else:
            assert code_of(call) == "AccessDeniedException"


def test_under_the_default_policy_iam_may_demand_attestation_or_not(kms: RunningKms, role: Any, good: Any) -> None:
    """The trap: the default policy attests nothing, so an unattested call of the role passes."""
    key = kms.create_key(default_key_policy(kms.account))
    assert "Plaintext" in role.generate_data_key(KeyId=key, KeySpec="AES_256")


def test_a_document_may_be_replayed_while_its_leaf_lives(role: Any, key: str, sealed: bytes, good: Any) -> None:
    """As the real KMS: freshness comes from TLS and from the enclave's key, not from the document."""
    for _ in range(2):
        assert "CiphertextForRecipient" in decrypt(role, key, sealed, good.document)


def test_the_log_names_the_recipient_and_holds_no_secret(kms: RunningKms, role: Any, key: str, good: Any) -> None:
    made = role.generate_data_key(KeyId=key, KeySpec="AES_256", EncryptionContext=CONTEXT, Recipient=good.parameter)
    event = list(kms.trail)[-1]
    recipient = event["additionalEventData"]["recipient"]
    assert recipient["attestationDocumentModuleId"] == MODULE_ID
    assert recipient["attestationDocumentEnclaveImageDigest"] == IMAGE[0].hex()
    assert recipient["attestationDocumentEnclavePCR2"] == IMAGE[2].hex()
    assert event["requestParameters"]["encryptionContext"] == CONTEXT
    assert event["resources"][0]["ARN"] == key
    assert len(json.dumps(event)) < 4096
    assert "ciphertext" not in json.dumps(event).lower()
    assert made["CiphertextBlob"].hex() not in json.dumps(event)


def test_the_rig_takes_unsigned_documents_and_nobody_else_does(
    rsa_key: rsa.RSAPrivateKey, recipient: Callable[..., Any]
) -> None:
    spki = rsa_key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    pcrs = {index: bytes(48) for index in range(16)} | IMAGE
    document = build_unsigned_document(
        module_id="i-234-enc5678", timestamp_ms=system_clock_ms(), pcrs=pcrs, public_key=spki
    )
    strict = DocumentReader(anchors=[DevPki.create(system_clock_ms()).anchor], now_ms=system_clock_ms)
    with pytest.raises(KmsFault) as caught:
        strict.read(document)
    assert caught.value.code == "ValidationException"
    rig = DocumentReader(anchors=[], now_ms=system_clock_ms, accept_unsigned=True)
    assert dict(rig.read(document).pcrs) == pcrs
    signed_by_a_stranger = recipient(DevPki.create(system_clock_ms())).document
    with pytest.raises(KmsFault) as caught:
        rig.read(signed_by_a_stranger)
    assert caught.value.code == "ValidationException"


def test_without_anchors_no_document_is_ever_accepted(good: Any) -> None:
    state = State()
    service = KmsService(state, anchors=[], now_ms=system_clock_ms, random_bytes=os.urandom)
    role, _ = bootstrap(state, os.urandom)
    document = base64.b64encode(good.document).decode()
    recipient = {"KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256", "AttestationDocument": document}
    with pytest.raises(KmsFault) as caught:
        service.handle("TrentService.GenerateRandom", {"NumberOfBytes": 8, "Recipient": recipient}, role.caller)
    assert caught.value.code == "ValidationException"
