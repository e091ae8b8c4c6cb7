"""Each fault breaks what it says, as often as it says, and nothing else."""

from __future__ import annotations

import json
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from botocore.exceptions import BotoCoreError, ClientError

from adytum_sim.kms import Faults, KmsFault, RunningKms, attested_key_policy
from adytum_sim.kms.faultport import running_fault_port

Opener = Callable[[bytes, bytes], bytes]
IMAGE = {0: b"\x10" * 48, 1: b"\x11" * 48, 2: b"\x12" * 48}


@pytest.fixture(scope="module")
def key(kms: RunningKms) -> str:
    return kms.create_key(attested_key_policy(account=kms.account, role_arn=kms.role_arn, pcrs=IMAGE))


@pytest.fixture
def attested(kms: RunningKms, recipient: Callable[..., Any]) -> Any:
    return recipient(kms.pki)


@pytest.fixture(autouse=True)
def _reset(kms: RunningKms) -> Iterator[None]:
    yield
    kms.faults.reset()


def data_key(role: Any, key: str, attested: Any, **more: Any) -> Any:
    return role.generate_data_key(KeyId=key, KeySpec="AES_256", Recipient=attested.parameter, **more)


@pytest.mark.parametrize(
    ("fault", "code", "status"), [("throttle", "ThrottlingException", 400), ("refuse", "KMSInternalException", 500)]
)
def test_refusals_come_as_often_as_asked(
    kms: RunningKms, operator: Any, key: str, fault: str, code: str, status: int
) -> None:
    kms.faults.set(**{fault: 2})
    for _ in range(2):
        with pytest.raises(ClientError) as caught:
            operator.describe_key(KeyId=key)
        assert caught.value.response["Error"]["Code"] == code
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == status
    assert operator.describe_key(KeyId=key)["KeyMetadata"]["Arn"] == key


def test_hang_up_closes_the_connection_without_an_answer(kms: RunningKms, operator: Any, key: str) -> None:
    kms.faults.set(hang_up=1)
    with pytest.raises(BotoCoreError):
        operator.describe_key(KeyId=key)
    assert operator.describe_key(KeyId=key)["KeyMetadata"]["Arn"] == key


def test_delay_holds_answers_back(kms: RunningKms, operator: Any, key: str) -> None:
    kms.faults.set(delay_ms=300)
    start = time.monotonic()
    operator.describe_key(KeyId=key)
    assert time.monotonic() - start >= 0.3


def test_a_forged_answer_opens_to_the_attackers_key(
    kms: RunningKms, role: Any, key: str, attested: Any, open_cms: Opener
) -> None:
    kms.faults.set(forge=1)
    forged = data_key(role, key, attested)
    assert open_cms(forged["CiphertextForRecipient"], attested.pem) == kms.faults.forged[0]
    true = role.decrypt(CiphertextBlob=forged["CiphertextBlob"], KeyId=key, Recipient=attested.parameter)
    assert open_cms(true["CiphertextForRecipient"], attested.pem) != kms.faults.forged[0]
    assert len(kms.faults.forged) == 1


def test_an_answer_for_somebody_else_does_not_open(
    kms: RunningKms, role: Any, key: str, attested: Any, open_cms: Opener
) -> None:
    kms.faults.set(wrong_recipient=1)
    answer = data_key(role, key, attested)
    with pytest.raises(subprocess.CalledProcessError):
        open_cms(answer["CiphertextForRecipient"], attested.pem)


def test_a_plaintext_comes_beside_the_envelope(
    kms: RunningKms, role: Any, key: str, attested: Any, open_cms: Opener
) -> None:
    kms.faults.set(plaintext_beside=1)
    answer = data_key(role, key, attested)
    assert answer["Plaintext"] == open_cms(answer["CiphertextForRecipient"], attested.pem)


def test_no_envelope_comes_at_all(kms: RunningKms, role: Any, key: str, attested: Any) -> None:
    kms.faults.set(no_envelope=1)
    assert "CiphertextForRecipient" not in data_key(role, key, attested)


def test_another_key_id_comes_back(kms: RunningKms, role: Any, key: str, attested: Any) -> None:
    kms.faults.set(other_key_id=1)
    assert data_key(role, key, attested)["KeyId"] != key
    assert data_key(role, key, attested)["KeyId"] == key


def test_an_old_answer_is_replayed(kms: RunningKms, role: Any, key: str, attested: Any) -> None:
    first = data_key(role, key, attested)
    kms.faults.set(replay=1)
    assert data_key(role, key, attested)["CiphertextForRecipient"] == first["CiphertextForRecipient"]
    assert data_key(role, key, attested)["CiphertextForRecipient"] != first["CiphertextForRecipient"]


def test_two_answers_are_swapped(
    kms: RunningKms, client: Callable[..., Any], key: str, attested: Any, open_cms: Opener
) -> None:
    plain = client(kms.role)
    sizes = {"AES_128": 16, "AES_256": 32}
    blobs = {spec: plain.generate_data_key(KeyId=key, KeySpec=spec, Recipient=attested.parameter) for spec in sizes}
    kms.faults.set(swap=1)
    answers: dict[str, Any] = {}

    def ask(spec: str) -> None:
        own = client(kms.role)
        answers[spec] = own.decrypt(
            CiphertextBlob=blobs[spec]["CiphertextBlob"], KeyId=key, Recipient=attested.parameter
        )

    threads = [threading.Thread(target=ask, args=(spec,)) for spec in sizes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert len(open_cms(answers["AES_128"]["CiphertextForRecipient"], attested.pem)) == 32
    assert len(open_cms(answers["AES_256"]["CiphertextForRecipient"], attested.pem)) == 16


@pytest.mark.parametrize("values", [{"nonsense": 1}, {"throttle": -1}, {"throttle": True}, {"throttle": "1"}])
def test_what_is_no_fault_is_refused_and_changes_nothing(values: dict[str, Any]) -> None:
    faults = Faults()
    with pytest.raises(KmsFault) as caught:
        faults.set(forge=1, **values)
    assert caught.value.code == "ValidationException"
    assert set(faults.snapshot().values()) == {0}


async def test_the_fault_port_sets_tells_and_resets() -> None:
    import asyncio

    faults = Faults()

    def talk(url: str, method: str, body: bytes | None = None) -> dict[str, int]:
        request = urllib.request.Request(url, data=body, method=method)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return dict(json.loads(answer.read()))

    async with running_fault_port(faults) as url:
        after = await asyncio.to_thread(talk, url, "POST", b'{"throttle": 2, "delay_ms": 5}')
        assert (after["throttle"], after["delay_ms"], faults.snapshot()) == (2, 5, after)
        with pytest.raises(urllib.error.HTTPError) as refused:
            await asyncio.to_thread(talk, url, "POST", b'{"nonsense": 1}')
        refused.value.close()
        assert (await asyncio.to_thread(talk, url, "GET")) == after
        assert set((await asyncio.to_thread(talk, url, "DELETE")).values()) == {0}
