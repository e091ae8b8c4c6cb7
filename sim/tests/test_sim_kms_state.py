"""What is remembered, what is counted, what time does, what is logged."""

from __future__ import annotations

import base64
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adytum_sim.kms import Credentials, KmsFault, KmsService, Quotas, State, Trail
from adytum_sim.kms.identities import bootstrap
from adytum_sim.kms.operations import OPERATIONS

DAY = 24 * 3_600_000


class Clock:
    def __init__(self) -> None:
        self.ms = 1_790_000_000_000

    def __call__(self) -> int:
        return self.ms


class Kms:
    """A service without a socket, called as the operator."""

    def __init__(self, state: State | None = None, **options: Any) -> None:
        self.clock = Clock()
        self.state = state or State()
        self.service = KmsService(self.state, anchors=[], now_ms=self.clock, random_bytes=os.urandom, **options)
        self.role, self.operator = bootstrap(self.state, os.urandom)

    def __call__(self, operation: str, who: Credentials | None = None, **payload: Any) -> dict[str, Any]:
        return self.service.handle("TrentService." + operation, payload, (who or self.operator).caller)

    def key(self) -> str:
        return str(self("CreateKey")["KeyMetadata"]["KeyId"])


def refused(call: Any) -> str:
    with pytest.raises(KmsFault) as caught:
        call()
    return caught.value.code


def test_everything_survives_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    kms = Kms(State(path=path))
    key = kms.key()
    blob = kms("Encrypt", KeyId=key, Plaintext=base64.b64encode(b"secret").decode())["CiphertextBlob"]
    kms("CreateAlias", AliasName="alias/a", TargetKeyId=key)
    kms("RotateKeyOnDemand", KeyId=key)
    kms("EnableKeyRotation", KeyId=key)
    kms("DisableKey", KeyId=kms.key())
    again = Kms(State.load(path))
    assert again.state.keys == kms.state.keys
    assert again.state.aliases == kms.state.aliases
    assert again.state.credentials == kms.state.credentials
    assert again.state.roles == kms.state.roles
    assert base64.b64decode(again("Decrypt", CiphertextBlob=blob)["Plaintext"]) == b"secret"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_state_of_another_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    path.write_text('{"version": 2}')
    with pytest.raises(ValueError, match="version"):
        State.load(path)


def test_a_key_is_gone_when_its_window_has_passed() -> None:
    kms = Kms()
    key = kms.key()
    blob = kms("Encrypt", KeyId=key, Plaintext="eA==")["CiphertextBlob"]
    kms("CreateAlias", AliasName="alias/a", TargetKeyId=key)
    kms("ScheduleKeyDeletion", KeyId=key, PendingWindowInDays=7)
    kms.clock.ms += 7 * DAY - 1
    assert refused(lambda: kms("Decrypt", CiphertextBlob=blob)) == "KMSInvalidStateException"
    kms.clock.ms += 1
    assert refused(lambda: kms("DescribeKey", KeyId=key)) == "NotFoundException"
    assert refused(lambda: kms("DescribeKey", KeyId="alias/a")) == "NotFoundException"
    assert refused(lambda: kms("Decrypt", CiphertextBlob=blob)) == "AccessDeniedException"


def test_a_key_rotates_when_its_period_has_passed() -> None:
    kms = Kms()
    key = kms.key()
    kms("EnableKeyRotation", KeyId=key, RotationPeriodInDays=90)
    kms.clock.ms += 90 * DAY - 1
    assert kms("ListKeyRotations", KeyId=key)["Rotations"] == []
    kms.clock.ms += 1
    assert [r["RotationType"] for r in kms("ListKeyRotations", KeyId=key)["Rotations"]] == ["AUTOMATIC"]


def test_a_key_has_25_rotations_on_demand() -> None:
    kms = Kms()
    key = kms.key()
    for _ in range(25):
        kms("RotateKeyOnDemand", KeyId=key)
    assert refused(lambda: kms("RotateKeyOnDemand", KeyId=key)) == "LimitExceededException"


def test_over_the_quota_is_throttled_and_time_heals() -> None:
    kms = Kms(quotas=Quotas(cryptographic=5, management=1))
    key = kms.key()
    for _ in range(5):
        kms("GenerateDataKey", KeyId=key, KeySpec="AES_256")
    assert refused(lambda: kms("GenerateDataKey", KeyId=key, KeySpec="AES_256")) == "ThrottlingException"
    kms("DescribeKey", KeyId=key)  # another bucket
    assert refused(lambda: kms("DescribeKey", KeyId=key)) == "ThrottlingException"
    kms.clock.ms += 200
    kms("GenerateDataKey", KeyId=key, KeySpec="AES_256")
    assert refused(lambda: kms("GenerateDataKey", KeyId=key, KeySpec="AES_256")) == "ThrottlingException"


def test_refusals_are_logged_and_no_plaintext_ever_is(tmp_path: Path) -> None:
    path = tmp_path / "trail.jsonl"
    kms = Kms(trail=Trail(path))
    key = kms.key()
    secret = base64.b64encode(b"attack at dawn").decode()
    blob = kms("Encrypt", KeyId=key, Plaintext=secret, EncryptionContext={"a": "b"})["CiphertextBlob"]
    kms("Decrypt", CiphertextBlob=blob, EncryptionContext={"a": "b"})
    data_key = kms("GenerateDataKey", KeyId=key, KeySpec="AES_256")["Plaintext"]
    assert refused(lambda: kms("Encrypt", kms.role, KeyId=key, Plaintext=secret)) == "AccessDeniedException"
    assert refused(lambda: kms("Decrypt", CiphertextBlob=blob)) == "InvalidCiphertextException"
    text = path.read_text()
    events = [json.loads(line) for line in text.splitlines()]
    assert events == list(kms.service.trail)
    assert [e["eventName"] for e in events] == [
        "CreateKey", "Encrypt", "Decrypt", "GenerateDataKey", "Encrypt", "Decrypt",
    ]  # fmt: skip
    assert [e.get("errorCode") for e in events] == [None] * 4 + ["AccessDenied", "InvalidCiphertext"]
    assert events[4]["userIdentity"]["sessionContext"]["sessionIssuer"]["userName"] == "adytum-enclave"
    assert events[1]["resources"][0]["ARN"].endswith(key)
    for hidden in (secret, blob, data_key, "attack at dawn"):
        assert hidden not in text


@pytest.mark.parametrize("operation", ["CreateGrant", "Sign", "DeriveSharedSecret", "ImportKeyMaterial"])
def test_an_unsupported_operation_is_named(operation: str) -> None:
    kms = Kms()
    with pytest.raises(KmsFault) as caught:
        kms(operation)
    assert (caught.value.code, operation in (caught.value.message or "")) == ("UnsupportedOperationException", True)


@pytest.mark.parametrize("target", ["TrentService.Nonsense", "Decrypt", "", "TrentService."])
def test_what_is_no_operation_is_unknown(target: str) -> None:
    kms = Kms()
    assert refused(lambda: kms.service.handle(target, {}, kms.operator.caller)) == "UnknownOperationException"


def test_an_unknown_member_is_refused() -> None:
    kms = Kms()
    assert refused(lambda: kms("ListKeys", Nonsense=1)) == "ValidationException"
    assert refused(lambda: kms("Encrypt", KeyId="k", Plaintext="eA==", GrantTokens=["x"])) == (
        "UnsupportedOperationException"
    )


MEMBERS = sorted({name for operation in OPERATIONS.values() for name in operation.members})
VALUES = st.none() | st.booleans() | st.integers(-5, 5000) | st.text(max_size=12) | st.lists(st.text(max_size=3))
PAYLOADS = st.dictionaries(
    st.sampled_from(MEMBERS), VALUES | st.dictionaries(st.text(max_size=4), st.text(max_size=4)), max_size=5
)


@given(st.sampled_from(sorted(OPERATIONS)), PAYLOADS)
def test_any_payload_is_answered_or_refused_with_a_fault(operation: str, payload: dict[str, Any]) -> None:
    kms = Kms()
    key = kms.key()
    try:
        kms.service.handle("TrentService." + operation, {"KeyId": key} | payload, kms.operator.caller)
    except KmsFault as fault:
        assert fault.code.endswith("Exception")
