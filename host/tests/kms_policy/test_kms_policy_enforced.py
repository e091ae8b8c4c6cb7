"""What `render` writes, the stand-in KMS enforces: each allow and each deny, through boto3 with signed documents."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from kms_policy_parts import CONTEXT, INDEXES, A, B, C, pcrs

from adytum.kms_policy import Image, Roles, key_policy
from adytum_sim.kms import Caller, Credentials, KmsFault, RunningKms
from adytum_sim.kms.caller import root_caller, session_caller, user_caller
from adytum_sim.kms.running import system_clock_ms
from adytum_sim.nsm import SimNsm, cbor

MODULE_ID = "i-0123456789abcdef0-enc0123456789abcdef"
EVERYTHING = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "kms:*", "Resource": "*"}]}
DENIED = "AccessDeniedException"


class Deployed:
    """A key whose policy allows images A and B; C never was allowed."""

    def __init__(self, kms: RunningKms, ca_file: str) -> None:
        self.kms, self._ca_file = kms, ca_file
        rsa_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self._spki = rsa_key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.operator = self._user("admin")
        self.break_glass = self._user("break-glass")
        self.bystander = self._user("bystander")
        self.roles = Roles(
            parent=kms.role_arn,
            admin=self.operator.caller.arn,
            break_glass=self.break_glass.caller.arn,
        )
        self.images = [Image("new", B), Image("old", A)]
        policy = key_policy(self.roles, self.images, ["acme", "globex"])
        answer = self.handle(self.break_glass.caller, "CreateKey", Policy=json.dumps(policy))
        self.key = str(answer["KeyMetadata"]["Arn"])
        self.parent = self.client(kms.role)
        self.sealed = self.parent.generate_data_key(
            KeyId=self.key, KeySpec="AES_256", EncryptionContext=CONTEXT, Recipient=self.recipient(A)
        )["CiphertextBlob"]

    def _user(self, name: str) -> Credentials:
        """Somebody whose IAM policy allows everything: only the key policy stands in the way."""
        caller = user_caller(account=self.kms.account, user=name, user_id=f"AIDA{name}", policies=(EVERYTHING,))
        made = Credentials(access_key_id=f"AKIA{name.upper()}", secret_access_key="s" * 40, caller=caller)
        self.kms.service.state.add(made)
        return made

    def client(self, who: Credentials) -> Any:
        return boto3.client(
            "kms",
            endpoint_url=self.kms.endpoint,
            verify=self._ca_file,
            region_name=self.kms.region,
            aws_access_key_id=who.access_key_id,
            aws_secret_access_key=who.secret_access_key,
            aws_session_token=who.session_token,
            config=Config(retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=20),
        )

    def handle(self, caller: Caller, operation: str, **payload: Any) -> dict[str, Any]:
        return dict(self.kms.service.handle(f"TrentService.{operation}", payload, caller))

    def document(self, shown: dict[int, bytes], *, lock: bool = True, debug: bool = False) -> bytes:
        nsm = SimNsm(self.kms.pki, module_id=MODULE_ID, pcrs=shown, clock_ms=system_clock_ms, debug=debug)
        if lock:
            nsm.request(cbor.encode({"LockPCR": {"index": 16}}))
        request = {"Attestation": {"user_data": None, "nonce": None, "public_key": self._spki}}
        answer = cbor.decode(nsm.request(cbor.encode(request)))
        assert isinstance(answer, dict)
        return bytes(answer["Attestation"]["document"])

    def recipient(self, shown: dict[int, bytes], **options: bool) -> dict[str, Any]:
        document = self.document(shown, **options)
        return {"KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256", "AttestationDocument": document}

    def decrypt(self, recipient: dict[str, Any] | None, client: Any = None, **changed: Any) -> Any:
        given = {"CiphertextBlob": self.sealed, "KeyId": self.key, "EncryptionContext": CONTEXT} | changed
        return (client or self.parent).decrypt(**given, **({"Recipient": recipient} if recipient else {}))

    def generate(self, recipient: dict[str, Any] | None, client: Any = None, **changed: Any) -> Any:
        given = {"KeyId": self.key, "KeySpec": "AES_256", "EncryptionContext": CONTEXT} | changed
        return (client or self.parent).generate_data_key(**given, **({"Recipient": recipient} if recipient else {}))


@pytest.fixture(scope="module")
def deployed(kms: RunningKms, tmp_path_factory: pytest.TempPathFactory) -> Deployed:
    ca = tmp_path_factory.mktemp("ca") / "ca.pem"
    ca.write_bytes(kms.ca_pem)
    return Deployed(kms, str(ca))


def refused(call: Callable[[], Any], code: str = DENIED) -> str:
    """The message of the refusal."""
    with pytest.raises((ClientError, KmsFault)) as caught:
        call()
    if isinstance(caught.value, KmsFault):
        assert caught.value.code == code
        return caught.value.message or ""
    error = caught.value.response["Error"]
    assert error["Code"] == code, error
    return str(error["Message"])


@pytest.mark.parametrize("image", [A, B], ids=["old", "new"])
def test_each_image_of_the_overlap_decrypts_and_generates(deployed: Deployed, image: dict[int, bytes]) -> None:
    recipient = deployed.recipient(image)
    for answer in (deployed.decrypt(recipient), deployed.generate(recipient)):
        assert answer["KeyId"] == deployed.key
        assert answer["CiphertextForRecipient"]
        assert not answer.get("Plaintext")


def test_without_a_recipient_nobody_uses_the_key(deployed: Deployed) -> None:
    everybody = (deployed.kms.role, deployed.operator, deployed.break_glass, deployed.bystander, deployed.kms.operator)
    for who in everybody:
        client = deployed.client(who)
        for call in (deployed.decrypt, deployed.generate):
            message = refused(lambda call=call, client=client: call(None, client))
            assert "explicit deny in a resource-based policy" in message


def test_another_image_is_refused(deployed: Deployed) -> None:
    for call in (deployed.decrypt, deployed.generate):
        assert "explicit deny" in refused(lambda call=call: call(deployed.recipient(C)))


@pytest.mark.parametrize("index", INDEXES)
@pytest.mark.parametrize(("image", "other"), [(A, B), (B, A), (A, C), (B, C)])
def test_a_mixture_of_images_is_refused(
    deployed: Deployed, image: dict[int, bytes], other: dict[int, bytes], index: int
) -> None:
    mixed = deployed.recipient(image | {index: other[index]})
    assert "explicit deny" in refused(lambda: deployed.decrypt(mixed))


def test_a_debug_enclave_is_refused(deployed: Deployed) -> None:
    assert "explicit deny" in refused(lambda: deployed.decrypt(deployed.recipient(A, debug=True)))


def test_a_document_without_pcr16_is_refused(deployed: Deployed) -> None:
    """Unlocked, a user PCR is not in the document, and its condition key is absent."""
    assert "explicit deny" in refused(lambda: deployed.decrypt(deployed.recipient(A, lock=False)))


def test_an_image_that_shows_anothers_pcr0_in_pcr16_is_refused(deployed: Deployed) -> None:
    assert "explicit deny" in refused(lambda: deployed.decrypt(deployed.recipient(C | {16: A[0]})))


@pytest.mark.parametrize(
    "context",
    [
        {},
        CONTEXT | {"adytum:tenant": "initech"},
        CONTEXT | {"adytum:tenant": "ACME"},
        {k: v for k, v in CONTEXT.items() if k != "adytum:tenant"},
        {k: v for k, v in CONTEXT.items() if k != "adytum:key"},
        {k: v for k, v in CONTEXT.items() if k != "adytum:version"},
        CONTEXT | {"else": "x"},
        {("Adytum:Tenant" if k == "adytum:tenant" else k): v for k, v in CONTEXT.items()},
        CONTEXT | {"adytum:tenant": "initech", "Adytum:Tenant": "acme"},
    ],
)
def test_another_encryption_context_is_refused(deployed: Deployed, context: dict[str, str]) -> None:
    recipient = deployed.recipient(A)
    refused(lambda: deployed.generate(recipient, EncryptionContext=context))
    refused(lambda: deployed.decrypt(recipient, EncryptionContext=context))


def test_each_tenant_of_the_list_is_allowed_and_cannot_open_the_others_data_key(deployed: Deployed) -> None:
    globex = CONTEXT | {"adytum:tenant": "globex"}
    assert deployed.generate(deployed.recipient(A), EncryptionContext=globex)["CiphertextForRecipient"]
    refused(lambda: deployed.decrypt(deployed.recipient(A), EncryptionContext=globex), "InvalidCiphertextException")


def test_a_genuine_document_does_not_help_another_principal(deployed: Deployed) -> None:
    for who in (deployed.operator, deployed.break_glass, deployed.bystander):
        client = deployed.client(who)
        assert "explicit deny" in refused(lambda client=client: deployed.decrypt(deployed.recipient(A), client))


def test_operations_without_a_recipient_are_refused_to_everybody(deployed: Deployed) -> None:
    elsewhere = deployed.kms.create_key()  # AWS's default policy: IAM decides
    calls: dict[str, Callable[[Any], Any]] = {
        "ReEncryptFrom": lambda c: c.re_encrypt(
            CiphertextBlob=deployed.sealed, SourceEncryptionContext=CONTEXT, DestinationKeyId=elsewhere
        ),
        "Encrypt": lambda c: c.encrypt(KeyId=deployed.key, Plaintext=b"x", EncryptionContext=CONTEXT),
        "GenerateDataKeyWithoutPlaintext": lambda c: c.generate_data_key_without_plaintext(
            KeyId=deployed.key, KeySpec="AES_256", EncryptionContext=CONTEXT
        ),
        "GenerateDataKeyPairWithoutPlaintext": lambda c: c.generate_data_key_pair_without_plaintext(
            KeyId=deployed.key, KeyPairSpec="ECC_SECG_P256K1", EncryptionContext=CONTEXT
        ),
    }
    for who in (deployed.kms.role, deployed.operator, deployed.break_glass, deployed.bystander):
        client = deployed.client(who)
        for name, call in calls.items():
            message = refused(lambda call=call, client=client: call(client))
            assert f"kms:{name}" in message
            assert "explicit deny" in message
    pair = deployed.recipient(A)
    refused(
        lambda: deployed.parent.generate_data_key_pair(
            KeyId=deployed.key, KeyPairSpec="RSA_2048", EncryptionContext=CONTEXT, Recipient=pair
        )
    )


def test_re_encrypting_into_the_key_is_refused(deployed: Deployed) -> None:
    """Else anybody could make ciphertexts that the enclave takes for its own."""
    elsewhere = deployed.kms.create_key()
    client = deployed.client(deployed.bystander)
    blob = client.encrypt(KeyId=elsewhere, Plaintext=b"k" * 32)["CiphertextBlob"]
    message = refused(
        lambda: client.re_encrypt(
            CiphertextBlob=blob, DestinationKeyId=deployed.key, DestinationEncryptionContext=CONTEXT
        )
    )
    assert "kms:ReEncryptTo" in message


def test_the_admin_manages_and_cannot_change_the_policy_or_delete_the_key(deployed: Deployed) -> None:
    client = deployed.client(deployed.operator)
    before = client.get_key_policy(KeyId=deployed.key)["Policy"]
    client.disable_key(KeyId=deployed.key)
    refused(lambda: deployed.decrypt(deployed.recipient(A)), "DisabledException")
    client.enable_key(KeyId=deployed.key)
    client.enable_key_rotation(KeyId=deployed.key)
    for who in (deployed.operator, deployed.kms.role, deployed.bystander, deployed.kms.operator):
        other = deployed.client(who)
        put = refused(lambda other=other: other.put_key_policy(KeyId=deployed.key, Policy=before))
        assert "explicit deny" in put
        refused(
            lambda other=other: other.put_key_policy(
                KeyId=deployed.key, Policy=before, BypassPolicyLockoutSafetyCheck=True
            )
        )
        gone = refused(lambda other=other: other.schedule_key_deletion(KeyId=deployed.key))
        assert "explicit deny" in gone
    assert client.get_key_policy(KeyId=deployed.key)["Policy"] == before
    assert deployed.decrypt(deployed.recipient(A))["CiphertextForRecipient"]


def test_the_break_glass_role_retires_an_image_and_keeps_its_way_back(deployed: Deployed) -> None:
    """The end of an overlap: afterwards the old image is refused, and the policy can be put again."""
    client = deployed.client(deployed.break_glass)
    before = client.get_key_policy(KeyId=deployed.key)["Policy"]
    after = key_policy(deployed.roles, [Image("new", B)], ["acme", "globex"])
    try:
        client.put_key_policy(KeyId=deployed.key, Policy=json.dumps(after))
        assert "explicit deny" in refused(lambda: deployed.decrypt(deployed.recipient(A)))
        assert deployed.decrypt(deployed.recipient(B))["CiphertextForRecipient"]
    finally:
        client.put_key_policy(KeyId=deployed.key, Policy=before)
    assert deployed.decrypt(deployed.recipient(A))["CiphertextForRecipient"]


def test_the_root_of_the_account_cannot_go_around(deployed: Deployed) -> None:
    root = root_caller(account=deployed.kms.account)
    blob = base64.b64encode(deployed.sealed).decode()
    for operation, payload in (
        ("Decrypt", {"CiphertextBlob": blob, "KeyId": deployed.key, "EncryptionContext": CONTEXT}),
        ("PutKeyPolicy", {"KeyId": deployed.key, "Policy": "{}"}),
        ("ScheduleKeyDeletion", {"KeyId": deployed.key}),
    ):
        assert "explicit deny" in refused(lambda o=operation, p=payload: deployed.handle(root, o, **p))


def test_only_the_break_glass_role_can_put_the_policy_on_a_new_key(deployed: Deployed) -> None:
    """KMS refuses a policy that locks its caller out."""
    text = json.dumps(key_policy(deployed.roles, deployed.images, ["acme"]))
    caller = deployed.operator.caller
    message = refused(lambda: deployed.handle(caller, "CreateKey", Policy=text), "MalformedPolicyDocumentException")
    assert "will not allow you to update the key policy" in message


def test_a_role_session_of_the_break_glass_role_counts_as_it(kms: RunningKms) -> None:
    session = session_caller(
        account=kms.account, role="glass", session="somebody", role_id="AROAGLASS", policies=(EVERYTHING,)
    )
    iam = f"arn:aws:iam::{kms.account}:role"
    roles = Roles(parent=kms.role_arn, admin=f"{iam}/admin", break_glass=f"{iam}/glass")
    text = json.dumps(key_policy(roles, [Image("one", pcrs(0x30))], ["acme"]))
    made = kms.service.handle("TrentService.CreateKey", {"Policy": text}, session)
    kms.service.handle("TrentService.PutKeyPolicy", {"KeyId": made["KeyMetadata"]["Arn"], "Policy": text}, session)
