"""STS and the metadata service, through boto3 and botocore's own metadata client."""

from __future__ import annotations

import asyncio
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError
from botocore.utils import InstanceMetadataFetcher

from adytum_sim.imds import running_imds
from adytum_sim.kms import KmsService, RunningKms, State
from adytum_sim.kms.caller import Credentials
from adytum_sim.kms.identities import bootstrap
from adytum_sim.kms.running import system_clock_ms


def code_of(call: Callable[[], Any]) -> str:
    with pytest.raises(ClientError) as caught:
        call()
    return str(caught.value.response["Error"]["Code"])


def test_the_caller_learns_who_it_is(kms: RunningKms, client: Callable[..., Any]) -> None:
    identity = client(kms.role, "sts").get_caller_identity()
    assert identity["Arn"] == f"arn:aws:sts::{kms.account}:assumed-role/adytum-enclave/i-0123456789abcdef0"
    assert identity["Account"] == kms.account
    assert client(kms.operator, "sts").get_caller_identity()["Arn"].endswith(":user/operator")


def test_a_role_is_assumed_and_its_session_works(kms: RunningKms, client: Callable[..., Any]) -> None:
    made = client(kms.operator, "sts").assume_role(RoleArn=kms.role_arn, RoleSessionName="check", DurationSeconds=900)
    assert made["AssumedRoleUser"]["Arn"].endswith("assumed-role/adytum-enclave/check")
    found = made["Credentials"]
    session = Credentials(
        access_key_id=found["AccessKeyId"],
        secret_access_key=found["SecretAccessKey"],
        session_token=found["SessionToken"],
        caller=kms.role.caller,
    )
    assert client(session).generate_random(NumberOfBytes=8)["Plaintext"]
    remaining_s = found["Expiration"].timestamp() - system_clock_ms() / 1000
    assert 880 < remaining_s <= 900


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"RoleArn": "arn:aws:iam::111122223333:role/absent"}, "AccessDenied"),
        ({"RoleArn": "arn:aws:iam::999999999999:role/adytum-enclave"}, "AccessDenied"),
        ({"DurationSeconds": 43_201}, "ValidationError"),
        ({"RoleSessionName": "with space"}, "ValidationError"),
        ({"Policy": "{}"}, "ValidationError"),
    ],
)
def test_what_cannot_be_assumed_is_refused(
    kms: RunningKms, client: Callable[..., Any], change: dict[str, Any], code: str
) -> None:
    known = set(kms.service.state.credentials)
    request = {"RoleArn": kms.role_arn, "RoleSessionName": "check"} | change
    assert code_of(lambda: client(kms.operator, "sts").assume_role(**request)) == code
    assert set(kms.service.state.credentials) == known


def test_sts_refuses_wrong_signers(kms: RunningKms, client: Callable[..., Any]) -> None:
    request = {"RoleArn": kms.role_arn, "RoleSessionName": "check"}
    assert code_of(lambda: client(kms.role, "sts").assume_role(**request)) == "AccessDenied"
    wrong = client(kms.operator, "sts", aws_secret_access_key="guess")
    assert code_of(wrong.get_caller_identity) == "SignatureDoesNotMatch"
    stranger = client(kms.operator, "sts", aws_access_key_id="AKIASTRANGER")
    assert code_of(stranger.get_caller_identity) == "InvalidClientTokenId"
    assert code_of(client(kms.operator, "sts").get_session_token) == "InvalidAction"


async def test_botocore_fetches_the_roles_credentials_from_the_metadata_service() -> None:
    state, now = State(), [1_790_000_000_000]
    service = KmsService(state, anchors=[], now_ms=lambda: now[0], random_bytes=os.urandom)
    bootstrap(state, os.urandom)
    async with running_imds(service, now_ms=lambda: now[0], random_bytes=os.urandom) as endpoint:
        fetcher = InstanceMetadataFetcher(
            timeout=5, num_attempts=1, base_url=endpoint, config={"ec2_metadata_v1_disabled": True}
        )
        found = await asyncio.to_thread(fetcher.retrieve_iam_role_credentials)
        assert found["role_name"] == "adytum-enclave"
        known = state.credentials[found["access_key"]]
        assert (known.secret_access_key, known.session_token) == (found["secret_key"], found["token"])
        assert known.expires_ms == now[0] + 6 * 3_600_000
        again = await asyncio.to_thread(fetcher.retrieve_iam_role_credentials)
        assert again["access_key"] == found["access_key"]
        now[0] += 6 * 3_600_000 - 60_000
        renewed = await asyncio.to_thread(fetcher.retrieve_iam_role_credentials)
        assert renewed["access_key"] != found["access_key"]


async def test_the_metadata_service_refuses_without_a_living_token() -> None:
    state, now = State(), [1_790_000_000_000]
    service = KmsService(state, anchors=[], now_ms=lambda: now[0], random_bytes=os.urandom)
    bootstrap(state, os.urandom)

    def talk(url: str, method: str = "GET", **headers: str) -> tuple[int, str]:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(url, method=method, headers=sent)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, ""

    async with running_imds(service, now_ms=lambda: now[0], random_bytes=os.urandom) as endpoint:
        region = endpoint + "/latest/meta-data/placement/region"
        ttl = "X_aws_ec2_metadata_token_ttl_seconds"
        tokens = endpoint + "/latest/api/token"
        for bad in ({}, {ttl: "0"}, {ttl: "21601"}, {ttl: "x"}):
            assert (await asyncio.to_thread(talk, tokens, "PUT", **bad))[0] == 400
        assert (await asyncio.to_thread(talk, tokens, "PUT", X_Forwarded_For="1.2.3.4", **{ttl: "60"}))[0] == 403
        status, token = await asyncio.to_thread(talk, tokens, "PUT", **{ttl: "60"})
        assert status == 200
        assert (await asyncio.to_thread(talk, region))[0] == 401
        assert (await asyncio.to_thread(talk, region, X_aws_ec2_metadata_token="guess"))[0] == 401
        assert await asyncio.to_thread(talk, region, X_aws_ec2_metadata_token=token) == (200, "us-east-1")
        missing = endpoint + "/latest/user-data"
        assert (await asyncio.to_thread(talk, missing, X_aws_ec2_metadata_token=token))[0] == 404
        now[0] += 60_000
        assert (await asyncio.to_thread(talk, region, X_aws_ec2_metadata_token=token))[0] == 401
