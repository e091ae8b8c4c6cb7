"""The canary: only the expected refusals are good. And the one call to KMS, judged by AWS's own signer."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotoCredentials
from host_fake_enclave import ARN, ScriptedEnclave, now_ms
from test_host_service import generate

from adytum.client import KeySigner
from adytum.releases.canary import Alert, Canary, Secret
from adytum.releases.images import Images
from adytum.releases.kms_probe import HttpKmsProbe, KmsUnansweredError
from adytum.releases.release import Release
from adytum.releases.sigv4 import signed_headers
from adytum.service.metrics import Metrics
from adytum.storage.batcher import AuditBatcher
from adytum.storage.database import Database
from adytum.storage.lookup import Lookup
from adytum.storage.rows import Outcome, receipt_row, record_row
from adytum_sim.kms.running import RunningKms, running_kms
from adytum_wire.errors import AdytumError, Code
from adytum_wire.messages import Credentials
from adytum_wire.record import Header, Record, encode_header
from adytum_wire.types import Algorithm, KeyState, RecordKind

KEY = "key-" + "c" * 32


class Probe:
    """Answers what a test says; remembers what it was asked."""

    def __init__(self) -> None:
        self.says: str | Exception = "AccessDeniedException"
        self.asked: list[tuple[str, bytes, dict[str, str]]] = []

    async def decrypt(self, key_arn: str, ciphertext: bytes, context: Mapping[str, str]) -> str:
        self.asked.append((key_arn, ciphertext, dict(context)))
        if isinstance(self.says, Exception):
            raise self.says
        return self.says


class Site:
    def __init__(self, database: Database, enclave: ScriptedEnclave) -> None:
        self.enclave, self.probe, self.metrics = enclave, Probe(), Metrics()
        self.images = Images(releases=(Release(name="old", pcrs=enclave.pcrs, state="retired"),))
        self.lookup, self.batcher = Lookup(database), AuditBatcher(database)

    def canary(self, **changes: Any) -> Canary:
        parts: dict[str, Any] = {
            "secret": Secret(tenant="acme", key_id=KEY, signer=KeySigner(self.enclave.client_key)),
            "probe": self.probe,
            "enclaves": {"enclave-1": self.enclave},
            "images": lambda: self.images,
            "lookup": self.lookup,
            "batcher": self.batcher,
            "anchors": (self.enclave.pki.anchor,),
            "now_ms": now_ms,
            "random_bytes": secrets.token_bytes,
            "metrics": self.metrics,
        }
        return Canary(**(parts | changes))

    def store(self, kind: RecordKind = RecordKind.SECRET) -> Outcome:
        header = Header(
            tenant="acme",
            key_id=KEY,
            node_id="node-1",
            kind=kind,
            algorithm=Algorithm.NONE,
            public_key="",
            version=1,
            generation=1,
            labels=["canary"],
            state=KeyState.ACTIVE,
            delete_after=0,
            kms_key_arn=ARN,
            created_at=1,
        )
        self.enclave.secrets[KEY] = b"nothing"
        record = Record(encode_header(header), b"blob", b"wrapped")
        body = generate("r-canary-0001")
        receipt = self.enclave.receipt(body, b"{}", header=header)
        return Outcome(receipt=receipt_row(receipt), record=record_row(record))


@pytest.fixture
async def site(database: Database, enclave: ScriptedEnclave) -> AsyncIterator[Site]:
    made = Site(database, enclave)
    await made.batcher.commit(made.store())
    enclave.refuse, enclave.refuse_as = Code.KMS_DENIED, "error"
    yield made
    await made.lookup.close()
    await made.batcher.close()


def shown(site: Site) -> bool:
    return "adytum_canary_ok 1.0" in site.metrics.render().decode()


async def test_both_refusals_are_good(site: Site, fresh: Any) -> None:
    verdict = await site.canary().run()
    assert (verdict.ok, verdict.unattested, verdict.retired) == (
        True, "AccessDeniedException", {"enclave-1": "KMS_DENIED"}
    )  # fmt: skip
    assert shown(site)
    [(arn, ciphertext, context)] = site.probe.asked
    assert (arn, ciphertext) == (ARN, b"wrapped")
    assert context == {
        "adytum:tenant": "acme", "adytum:key": KEY, "adytum:kind": "secret", "adytum:version": "1"
    }  # fmt: skip
    assert [r["code"] for r in await fresh.rows("SELECT code FROM receipts ORDER BY sequence")] == ["", "KMS_DENIED"]


async def test_an_unattested_decrypt_that_succeeds_is_an_alarm(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site.probe.says = ""
    verdict = await site.canary().run()
    assert (verdict.ok, verdict.alert) == (False, Alert.UNATTESTED_ALLOWED)
    assert not shown(site)
    assert "alert=CANARY_UNATTESTED_ALLOWED" in caplog.text


async def test_a_retired_image_that_unseals_is_an_alarm(site: Site) -> None:
    canary = site.canary()
    assert (await canary.run()).ok
    site.enclave.refuse = None
    verdict = await canary.run()
    assert (verdict.ok, verdict.alert, verdict.retired) == (False, Alert.RETIRED_ALLOWED, {"enclave-1": ""})
    assert not shown(site)


@pytest.mark.parametrize(
    ("says", "problem"),
    [
        ("ExpiredTokenException", "ExpiredTokenException"),
        ("ThrottlingException", "ThrottlingException"),
        (KmsUnansweredError("KMS_UNREACHABLE"), "KMS_UNREACHABLE"),
        (RuntimeError("bug"), "RuntimeError"),
        (AdytumError(Code.INTERNAL), "INTERNAL"),
    ],
)
async def test_a_canary_that_could_not_ask_kms_is_not_well(site: Site, says: Any, problem: str) -> None:
    site.probe.says = says
    verdict = await site.canary().run()
    assert (verdict.ok, verdict.alert, verdict.problem) == (False, Alert.NOT_RUN, problem)
    assert not shown(site)


@pytest.mark.parametrize("code", [Code.KMS_UNAVAILABLE, Code.POLICY_DENIED, Code.PRINCIPAL_UNKNOWN, Code.INTERNAL])
async def test_another_refusal_of_the_retired_image_proves_nothing(site: Site, code: Code) -> None:
    """A policy that denies the canary, say: KMS was not asked."""
    site.enclave.refuse = code
    verdict = await site.canary().run()
    assert (verdict.ok, verdict.alert, verdict.problem) == (False, Alert.NOT_RUN, code.value)


async def test_one_that_is_not_retired_or_gone_is_not_asked(site: Site) -> None:
    executed = site.enclave.executed
    site.images = Images(releases=(Release(name="old", pcrs=dict.fromkeys(range(3), b"o" * 48), state="retired"),))
    assert (await site.canary().run()).ok
    site.images = Images()
    assert (await site.canary().run()).ok
    site.images = Images(releases=(Release(name="old", pcrs=site.enclave.pcrs, state="retired"),))
    site.enclave.down = True
    assert (await site.canary().run()).ok
    assert site.enclave.executed == executed


async def test_without_configuration_secret_or_releases_it_is_not_well(site: Site) -> None:
    assert (await site.canary(secret=None).run()).problem == "NOT_CONFIGURED"
    assert (await site.canary(probe=None).run()).problem == "NOT_CONFIGURED"
    await site.canary(secret=None).watch(60)  # says so once, and ends
    wrong = Secret(tenant="acme", key_id="key-" + "0" * 32, signer=KeySigner(site.enclave.client_key))
    assert (await site.canary(secret=wrong).run()).problem == "NOT_FOUND"
    stranger = Secret(tenant="other", key_id=KEY, signer=KeySigner(site.enclave.client_key))
    assert (await site.canary(secret=stranger).run()).problem == "RECORD_MISMATCH"
    site.images = Images.unknown()
    assert (await site.canary().run()).problem == "RELEASES_UNKNOWN"
    assert site.probe.asked == []


async def test_a_wallet_key_is_never_used_as_canary(database: Database, enclave: ScriptedEnclave) -> None:
    site = Site(database, enclave)
    await site.batcher.commit(site.store(RecordKind.SIGNING_KEY))
    assert (await site.canary().run()).problem == "RECORD_MISMATCH"
    assert site.probe.asked == []
    await site.lookup.close()
    await site.batcher.close()


# --- the call


@pytest.mark.parametrize("token", ["", "session/token=="])
def test_the_signature_is_the_one_that_botocore_makes(token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    body, host = b'{"KeyId":"x"}', "kms.eu-central-1.amazonaws.com"
    ours = signed_headers(
        host=host,
        target="TrentService.Decrypt",
        body=body,
        region="eu-central-1",
        credentials=Credentials("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG", token, 0),
        now_ms=now_ms(),
    )
    request = AWSRequest(
        "POST",
        f"https://{host}/",
        data=body,
        headers={n: ours[n] for n in ("content-type", "x-amz-target")},
    )
    signer = SigV4Auth(BotoCredentials("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG", token or None), "kms", "eu-central-1")
    request.context["timestamp"] = ours["x-amz-date"]
    request.headers["X-Amz-Date"] = ours["x-amz-date"]
    if token:
        request.headers["X-Amz-Security-Token"] = token
    canonical = signer.canonical_request(request)
    assert ours["authorization"].endswith(signer.signature(signer.string_to_sign(request, canonical), request))
    assert f"SignedHeaders={signer.signed_headers(signer.headers_to_sign(request))}," in ours["authorization"]


def probe_of(kms: RunningKms, **changes: Any) -> HttpKmsProbe:
    async def credentials() -> Credentials:
        return Credentials(kms.access_key_id, kms.secret_access_key, kms.session_token, 0)

    arguments: dict[str, Any] = {
        "endpoint": kms.endpoint,
        "region": kms.region,
        "credentials": credentials,
        "now_ms": now_ms,
        "roots": [kms.ca_pem.decode()],
    } | changes
    return HttpKmsProbe(arguments.pop("endpoint"), **arguments)


async def reason(probe: HttpKmsProbe) -> str:
    with pytest.raises(KmsUnansweredError) as caught:
        await probe.decrypt(ARN, b"wrapped", {})
    return caught.value.reason


async def test_the_probe_tells_a_refusal_from_a_success_and_from_silence() -> None:
    async with running_kms() as kms:
        use = {"Effect": "Allow", "Principal": {"AWS": kms.role_arn}, "Action": "kms:*", "Resource": "*"}
        manage = {**use, "Principal": {"AWS": kms.operator.caller.principal_arn}}
        key = kms.create_key({"Version": "2012-10-17", "Statement": [use, manage]})
        context = {"adytum:tenant": "acme"}
        made = kms.service.handle(
            "TrentService.GenerateDataKey", {"KeyId": key, "KeySpec": "AES_256", "EncryptionContext": context},
            kms.role.caller,
        )  # fmt: skip
        blob = base64.b64decode(made["CiphertextBlob"])
        assert await probe_of(kms).decrypt(key, blob, context) == ""
        kms.service.handle(
            "TrentService.PutKeyPolicy",
            {
                "KeyId": key,
                "PolicyName": "default",
                "Policy": json.dumps({"Version": "2012-10-17", "Statement": [manage]}),
            },
            kms.operator.caller,
        )
        assert await probe_of(kms).decrypt(key, blob, context) == "AccessDeniedException"

        async def nobody() -> None:
            return None

        async def stranger() -> Credentials:
            return Credentials("AKIDSTRANGER", "x", "", 0)

        assert await probe_of(kms, credentials=stranger).decrypt(key, blob, context) == "UnrecognizedClientException"
        assert await reason(probe_of(kms, credentials=nobody)) == "NO_CREDENTIALS"
        assert await reason(probe_of(kms, roots=())) == "KMS_UNREACHABLE"  # another CA than the manifest's
    assert await reason(probe_of(kms)) == "KMS_UNREACHABLE"
