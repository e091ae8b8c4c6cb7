"""Every operation, driven by boto3 against the running stand-in; refusals are asserted by code."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_private_key

from adytum_sim.kms import RunningKms
from adytum_sim.kms.operations import OPERATIONS, UNSUPPORTED

CONTEXT = {"adytum:tenant": "acme", "adytum:key": "k1"}


def code_of(call: Callable[[], Any]) -> str:
    with pytest.raises(ClientError) as caught:
        call()
    return str(caught.value.response["Error"]["Code"])


@pytest.fixture
def key(operator: Any) -> str:
    return str(operator.create_key(Description="a key")["KeyMetadata"]["Arn"])


def test_a_key_is_described_and_listed(operator: Any, kms: RunningKms, key: str) -> None:
    found = operator.describe_key(KeyId=key.rpartition("/")[2])["KeyMetadata"]
    assert found["Arn"] == key
    assert (found["KeyState"], found["Enabled"], found["KeySpec"]) == ("Enabled", True, "SYMMETRIC_DEFAULT")
    assert (found["Origin"], found["KeyManager"], found["Description"]) == ("AWS_KMS", "CUSTOMER", "a key")
    assert found["AWSAccountId"] == kms.account
    pages = operator.get_paginator("list_keys").paginate(PaginationConfig={"PageSize": 1})
    assert key in [item["KeyArn"] for page in pages for item in page["Keys"]]


def test_encrypt_and_decrypt(operator: Any, key: str) -> None:
    sealed = operator.encrypt(KeyId=key, Plaintext=b"secret", EncryptionContext=CONTEXT)
    assert sealed["KeyId"] == key
    assert b"secret" not in sealed["CiphertextBlob"]
    for name in ({}, {"KeyId": key}, {"KeyId": key.rpartition("/")[2]}):
        opened = operator.decrypt(CiphertextBlob=sealed["CiphertextBlob"], EncryptionContext=CONTEXT, **name)
        assert (opened["Plaintext"], opened["KeyId"]) == (b"secret", key)
        assert opened["EncryptionAlgorithm"] == "SYMMETRIC_DEFAULT"


@pytest.mark.parametrize(
    "other",
    [
        {},
        {"adytum:tenant": "acme"},
        CONTEXT | {"adytum:key": "k2"},
        CONTEXT | {"more": ""},
        {"adytum:tenant": "acmeadytum", ":key": "k1"},
        {"adytum:tenan": "tacme", "adytum:key": "k1"},
    ],
)
def test_another_encryption_context_is_an_invalid_ciphertext(operator: Any, key: str, other: dict[str, str]) -> None:
    sealed = operator.encrypt(KeyId=key, Plaintext=b"secret", EncryptionContext=CONTEXT)["CiphertextBlob"]
    wrong = code_of(lambda: operator.decrypt(CiphertextBlob=sealed, KeyId=key, EncryptionContext=other))
    assert wrong == "InvalidCiphertextException"


def test_a_changed_ciphertext_is_invalid_at_every_byte(operator: Any, kms: RunningKms, key: str) -> None:
    sealed = operator.encrypt(KeyId=key, Plaintext=b"secret")["CiphertextBlob"]
    for index in range(0, len(sealed), 7):
        changed = bytearray(sealed)
        changed[index] ^= 1
        wrong = code_of(lambda blob=bytes(changed): operator.decrypt(CiphertextBlob=blob))
        # a changed key id is another key, which AWS says in another way
        assert wrong in ("InvalidCiphertextException", "AccessDeniedException")
    for blob in (sealed[:-1], sealed[:10], b"\0"):
        assert code_of(lambda blob=blob: operator.decrypt(CiphertextBlob=blob)) == "InvalidCiphertextException"


def test_a_ciphertext_of_another_key_is_refused(operator: Any, key: str) -> None:
    other = operator.create_key()["KeyMetadata"]["Arn"]
    sealed = operator.encrypt(KeyId=key, Plaintext=b"secret")["CiphertextBlob"]
    wrong = code_of(lambda: operator.decrypt(CiphertextBlob=sealed, KeyId=other))
    assert wrong == "IncorrectKeyException"


def test_data_keys(operator: Any, key: str) -> None:
    for request, size in (({"KeySpec": "AES_256"}, 32), ({"KeySpec": "AES_128"}, 16), ({"NumberOfBytes": 1024}, 1024)):
        made = operator.generate_data_key(KeyId=key, EncryptionContext=CONTEXT, **request)
        assert len(made["Plaintext"]) == size
        opened = operator.decrypt(CiphertextBlob=made["CiphertextBlob"], EncryptionContext=CONTEXT)
        assert opened["Plaintext"] == made["Plaintext"]
        assert opened["KeyMaterialId"] == made["KeyMaterialId"]
    hidden = operator.generate_data_key_without_plaintext(KeyId=key, KeySpec="AES_256")
    assert "Plaintext" not in hidden
    assert len(operator.decrypt(CiphertextBlob=hidden["CiphertextBlob"])["Plaintext"]) == 32
    for request in ({}, {"KeySpec": "AES_256", "NumberOfBytes": 32}):
        assert code_of(lambda r=request: operator.generate_data_key(KeyId=key, **r)) == "ValidationException"


@pytest.mark.parametrize("spec", ["RSA_2048", "ECC_NIST_P256", "ECC_SECG_P256K1", "ECC_NIST_EDWARDS25519"])
def test_data_key_pairs(operator: Any, key: str, spec: str) -> None:
    made = operator.generate_data_key_pair(KeyId=key, KeyPairSpec=spec, EncryptionContext=CONTEXT)
    private = load_der_private_key(made["PrivateKeyPlaintext"], None)
    assert private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) == made["PublicKey"]
    opened = operator.decrypt(CiphertextBlob=made["PrivateKeyCiphertextBlob"], EncryptionContext=CONTEXT)
    assert opened["Plaintext"] == made["PrivateKeyPlaintext"]
    hidden = operator.generate_data_key_pair_without_plaintext(KeyId=key, KeyPairSpec=spec)
    assert "PrivateKeyPlaintext" not in hidden


def test_random_bytes(operator: Any) -> None:
    first, second = (operator.generate_random(NumberOfBytes=64)["Plaintext"] for _ in range(2))
    assert (len(first), first != second) == (64, True)
    assert code_of(operator.generate_random) == "ValidationException"


def test_re_encrypt_moves_a_ciphertext_to_another_key_and_context(operator: Any, key: str) -> None:
    other = operator.create_key()["KeyMetadata"]["Arn"]
    sealed = operator.encrypt(KeyId=key, Plaintext=b"secret", EncryptionContext=CONTEXT)["CiphertextBlob"]
    moved = operator.re_encrypt(
        CiphertextBlob=sealed,
        SourceEncryptionContext=CONTEXT,
        DestinationKeyId=other,
        DestinationEncryptionContext={"a": "b"},
    )
    assert (moved["SourceKeyId"], moved["KeyId"]) == (key, other)
    opened = operator.decrypt(CiphertextBlob=moved["CiphertextBlob"], EncryptionContext={"a": "b"})
    assert opened["Plaintext"] == b"secret"
    wrong = code_of(lambda: operator.re_encrypt(CiphertextBlob=sealed, DestinationKeyId=other))
    assert wrong == "InvalidCiphertextException"


def test_aliases(operator: Any, kms: RunningKms, key: str) -> None:
    other = operator.create_key()["KeyMetadata"]["Arn"]
    operator.create_alias(AliasName="alias/first", TargetKeyId=key)
    assert (
        code_of(lambda: operator.create_alias(AliasName="alias/first", TargetKeyId=other)) == "AlreadyExistsException"
    )
    arn = f"arn:aws:kms:{kms.region}:{kms.account}:alias/first"
    for name in ("alias/first", arn):
        assert operator.describe_key(KeyId=name)["KeyMetadata"]["Arn"] == key
    assert [a["AliasArn"] for a in operator.list_aliases(KeyId=key)["Aliases"]] == [arn]
    operator.update_alias(AliasName="alias/first", TargetKeyId=other)
    assert operator.encrypt(KeyId="alias/first", Plaintext=b"x")["KeyId"] == other
    assert code_of(lambda: operator.get_key_policy(KeyId="alias/first", PolicyName="default")) == "NotFoundException"
    operator.delete_alias(AliasName="alias/first")
    assert code_of(lambda: operator.describe_key(KeyId="alias/first")) == "NotFoundException"
    assert code_of(lambda: operator.create_alias(AliasName="first", TargetKeyId=key)) == "InvalidAliasNameException"
    assert code_of(lambda: operator.create_alias(AliasName="alias/aws/x", TargetKeyId=key)) == "NotAuthorizedException"


def test_a_disabled_key_refuses_and_an_enabled_one_works_again(operator: Any, key: str) -> None:
    sealed = operator.encrypt(KeyId=key, Plaintext=b"secret")["CiphertextBlob"]
    operator.disable_key(KeyId=key)
    assert code_of(lambda: operator.decrypt(CiphertextBlob=sealed)) == "DisabledException"
    assert code_of(lambda: operator.generate_data_key(KeyId=key, KeySpec="AES_256")) == "DisabledException"
    assert operator.describe_key(KeyId=key)["KeyMetadata"]["KeyState"] == "Disabled"
    operator.enable_key(KeyId=key)
    assert operator.decrypt(CiphertextBlob=sealed)["Plaintext"] == b"secret"


def test_a_key_that_is_to_be_deleted_refuses_and_can_be_rescued(operator: Any, key: str) -> None:
    sealed = operator.encrypt(KeyId=key, Plaintext=b"secret")["CiphertextBlob"]
    scheduled = operator.schedule_key_deletion(KeyId=key, PendingWindowInDays=7)
    assert scheduled["KeyState"] == "PendingDeletion"
    assert "DeletionDate" in operator.describe_key(KeyId=key)["KeyMetadata"]
    assert code_of(lambda: operator.decrypt(CiphertextBlob=sealed)) == "KMSInvalidStateException"
    assert code_of(lambda: operator.enable_key(KeyId=key)) == "KMSInvalidStateException"
    operator.cancel_key_deletion(KeyId=key)
    assert code_of(lambda: operator.decrypt(CiphertextBlob=sealed)) == "DisabledException"
    operator.enable_key(KeyId=key)
    assert operator.decrypt(CiphertextBlob=sealed)["Plaintext"] == b"secret"
    assert code_of(lambda: operator.cancel_key_deletion(KeyId=key)) == "KMSInvalidStateException"
    too_soon = code_of(lambda: operator.schedule_key_deletion(KeyId=key, PendingWindowInDays=6))
    assert too_soon == "ValidationException"


def test_rotation_keeps_old_ciphertexts_readable(operator: Any, key: str) -> None:
    old = operator.encrypt(KeyId=key, Plaintext=b"old")["CiphertextBlob"]
    assert operator.get_key_rotation_status(KeyId=key)["KeyRotationEnabled"] is False
    operator.enable_key_rotation(KeyId=key, RotationPeriodInDays=180)
    assert operator.get_key_rotation_status(KeyId=key)["RotationPeriodInDays"] == 180
    before = operator.describe_key(KeyId=key)["KeyMetadata"]["CurrentKeyMaterialId"]
    operator.rotate_key_on_demand(KeyId=key)
    after = operator.describe_key(KeyId=key)["KeyMetadata"]["CurrentKeyMaterialId"]
    new = operator.encrypt(KeyId=key, Plaintext=b"new")["CiphertextBlob"]
    opened = [operator.decrypt(CiphertextBlob=blob) for blob in (old, new)]
    assert [(o["Plaintext"], o["KeyMaterialId"]) for o in opened] == [(b"old", before), (b"new", after)]
    assert [r["RotationType"] for r in operator.list_key_rotations(KeyId=key)["Rotations"]] == ["ON_DEMAND"]
    operator.disable_key_rotation(KeyId=key)
    assert operator.get_key_rotation_status(KeyId=key)["KeyRotationEnabled"] is False


def test_a_policy_is_put_and_decides(operator: Any, role: Any, kms: RunningKms, key: str) -> None:
    assert operator.list_key_policies(KeyId=key)["PolicyNames"] == ["default"]
    default = json.loads(operator.get_key_policy(KeyId=key, PolicyName="default")["Policy"])
    role.generate_data_key(KeyId=key, KeySpec="AES_256")
    deny = {"Effect": "Deny", "Principal": {"AWS": kms.role_arn}, "Action": "kms:Generate*", "Resource": "*"}
    text = json.dumps(default | {"Statement": [*default["Statement"], deny]})
    operator.put_key_policy(KeyId=key, PolicyName="default", Policy=text)
    assert operator.get_key_policy(KeyId=key)["Policy"] == text
    assert code_of(lambda: role.generate_data_key(KeyId=key, KeySpec="AES_256")) == "AccessDeniedException"
    assert code_of(lambda: role.put_key_policy(KeyId=key, Policy=text)) == "AccessDeniedException"


def test_a_policy_that_cannot_be_read_is_not_put(operator: Any, key: str) -> None:
    before = operator.get_key_policy(KeyId=key)["Policy"]
    invented = json.loads(before)
    invented["Statement"][0]["Condition"] = {"StringEquals": {"kms:RecipientAttestation:Os": "linux"}}
    lockout = json.loads(before)
    lockout["Statement"][0]["Action"] = "kms:Decrypt"
    for text in ("{", json.dumps(invented), json.dumps(lockout)):
        wrong = code_of(lambda text=text: operator.put_key_policy(KeyId=key, Policy=text))
        assert wrong == "MalformedPolicyDocumentException"
    assert operator.get_key_policy(KeyId=key)["Policy"] == before
    operator.put_key_policy(KeyId=key, Policy=json.dumps(lockout), BypassPolicyLockoutSafetyCheck=True)
    assert code_of(lambda: operator.describe_key(KeyId=key)) == "AccessDeniedException"


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("11111111-2222-3333-4444-555555555555", "NotFoundException"),
        ("alias/none", "NotFoundException"),
        ("arn:aws:kms:eu-west-1:111122223333:key/11111111-2222-3333-4444-555555555555", "NotFoundException"),
        ("arn:aws:kms:us-east-1:999999999999:key/11111111-2222-3333-4444-555555555555", "AccessDeniedException"),
        ("arn:aws:s3:::bucket", "ValidationException"),
        ("../etc/passwd", "NotFoundException"),
    ],
)
def test_a_key_that_is_not_here(operator: Any, name: str, code: str) -> None:
    assert code_of(lambda: operator.describe_key(KeyId=name)) == code


def test_a_dry_run_does_nothing(operator: Any, role: Any, key: str) -> None:
    dry = code_of(lambda: operator.generate_data_key(KeyId=key, KeySpec="AES_256", DryRun=True))
    assert dry == "DryRunOperationException"
    assert code_of(lambda: role.encrypt(KeyId=key, Plaintext=b"x", DryRun=True)) == "AccessDeniedException"


def test_what_is_not_supported_is_refused_by_name(operator: Any, kms: RunningKms, key: str) -> None:
    for call, name in (
        (
            lambda: operator.create_grant(KeyId=key, GranteePrincipal=kms.role_arn, Operations=["Decrypt"]),
            "CreateGrant",
        ),
        (lambda: operator.list_grants(KeyId=key), "ListGrants"),
        (lambda: operator.encrypt(KeyId=key, Plaintext=b"x", GrantTokens=["t"]), "grants"),
        (lambda: operator.sign(KeyId=key, Message=b"x", SigningAlgorithm="ECDSA_SHA_256"), "Sign"),
        (lambda: operator.create_key(KeySpec="RSA_2048", KeyUsage="SIGN_VERIFY"), "KeySpec"),
        (lambda: operator.create_key(MultiRegion=True), "MultiRegion"),
        (lambda: operator.create_key(Origin="EXTERNAL"), "Origin"),
    ):
        with pytest.raises(ClientError) as caught:
            call()
        error = caught.value.response["Error"]
        assert (error["Code"], name in error["Message"]) == ("UnsupportedOperationException", True)


def test_every_operation_of_the_model_is_either_done_or_refused_by_name(operator: Any) -> None:
    model = set(operator.meta.service_model.operation_names)
    assert len(model) > 50
    assert set(OPERATIONS) <= model
    assert model - set(OPERATIONS) <= UNSUPPORTED


def test_every_member_of_a_supported_operation_is_read_or_refused_by_name(operator: Any) -> None:
    refused_by_name = {
        "GrantTokens",
        "DryRunModifiers",
        "ResourceOwners",
        "CustomKeyStoreId",
        "XksKeyId",
        "MultiRegion",
        "CustomerMasterKeySpec",
    }
    for name, operation in OPERATIONS.items():
        shape = operator.meta.service_model.operation_model(name).input_shape
        members = set(shape.members) if shape else set()
        assert members - operation.members <= refused_by_name, name
        assert operation.members - members <= {"Recipient"}, name


def test_the_refusal_has_the_shape_of_awss(role: Any, kms: RunningKms, key: str) -> None:
    with pytest.raises(ClientError) as caught:
        role.encrypt(KeyId=key, Plaintext=b"x")
    response = caught.value.response
    assert response["ResponseMetadata"]["HTTPStatusCode"] == 400
    assert response["Error"]["Message"] == (
        f"User: arn:aws:sts::{kms.account}:assumed-role/adytum-enclave/i-0123456789abcdef0 is not authorized to "
        f"perform: kms:Encrypt on resource: {key} because no identity-based policy allows the kms:Encrypt action"
    )


def test_wrong_credentials_are_refused(kms: RunningKms, client: Callable[..., Any], key: str) -> None:
    wrong = client(kms.role, aws_secret_access_key="guess")
    assert code_of(lambda: wrong.describe_key(KeyId=key)) == "InvalidSignatureException"
    stranger = client(kms.role, aws_access_key_id="ASIASTRANGER")
    assert code_of(lambda: stranger.describe_key(KeyId=key)) == "UnrecognizedClientException"
    other_token = client(kms.role, aws_session_token="x")
    assert code_of(lambda: other_token.describe_key(KeyId=key)) == "UnrecognizedClientException"
    other_region = client(kms.role, region_name="eu-west-1")
    assert code_of(lambda: other_region.describe_key(KeyId=key)) == "InvalidSignatureException"
