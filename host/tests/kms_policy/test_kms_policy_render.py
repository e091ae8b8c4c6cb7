"""What `render` writes: the same bytes every time, clean, no statement too many; and what it refuses to write."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from kms_policy_parts import (
    ACCOUNT,
    CONTEXT,
    IAM,
    INDEXES,
    KEY,
    ROLES,
    ROOT,
    A,
    B,
    C,
    Json,
    ask,
    deployment,
    pcrs,
    rendered,
)

from adytum.kms_policy import (
    Image,
    KmsPolicyError,
    Roles,
    key_policy,
    lint,
    parent_role_pcr,
    parse,
    parse_deployment,
    render,
    to_json,
)
from adytum_verify import manifest_pcr
from adytum_wire.manifest import manifest_hash

TWO = (Image("v1", A), Image("v2", B))
SAME_PROGRAM = (Image("node-1", A), Image("node-2", A | {16: B[16]}))
SHARED_KERNEL = (Image("v1", A), Image("v2", B | {1: A[1]}))
PERMIT = {"Effect": "Allow", "Principal": "*", "Action": "kms:*", "Resource": "*"}


@pytest.mark.parametrize("images", [TWO[:1], TWO, SAME_PROGRAM, (*TWO, Image("v3", C))])
def test_what_is_rendered_is_clean_and_can_be_evaluated(images: tuple[Image, ...]) -> None:
    made = render(deployment(*images, tenants=("acme", "globex")))
    assert set(made) == {"key-policy", "iam-parent", "iam-admin", "iam-break-glass", "trust-parent"}
    for name, policy in made.items():
        found = lint(to_json(policy))
        assert [f.code for f in found] == (["NOT_ABOUT_KMS"] if name == "trust-parent" else [])
        if name != "trust-parent":
            parse(to_json(policy), kind="key" if name == "key-policy" else "identity")
        sids = [s["Sid"] for s in policy["Statement"]]
        assert len(set(sids)) == len(sids)
        assert all(sid.isalnum() for sid in sids)


def test_the_same_input_gives_the_same_bytes_in_any_order() -> None:
    first = to_json(key_policy(ROLES, TWO, ["acme", "globex"]))
    assert to_json(key_policy(ROLES, reversed(TWO), ["globex", "acme"])) == first
    reordered = Image("v1", dict(reversed(A.items())))
    assert to_json(key_policy(ROLES, [TWO[1], reordered], ["acme", "globex"])) == first


def requests() -> list[tuple[str, dict[str, Any]]]:
    """Requests that must be refused, whatever else the policy may allow one day."""
    use: list[tuple[str, dict[str, Any]]] = [
        ("unattested", {}),
        ("another image", {"shown": C}),
        ("another tenant", {"shown": A, "context": CONTEXT | {"adytum:tenant": "initech"}}),
        ("no context", {"shown": A, "context": {}}),
        ("another principal", {"shown": A, "who": f"{IAM}:role/other"}),
        ("the root user", {"shown": A, "who": ROOT}),
    ]
    for index in INDEXES:
        use.append((f"one PCR{index} off", {"shown": A | {index: C[index]}}))
        use.append((f"no PCR{index}", {"shown": {i: v for i, v in A.items() if i != index}}))
        use.append((f"mixture at PCR{index}", {"shown": A | {index: B[index]}}))
        use.append((f"mixture at PCR{index}, reversed", {"shown": B | {index: A[index]}}))
    found = [
        (f"{action} {name}", request | {"action": f"kms:{action}"})
        for action in ("Decrypt", "GenerateDataKey")
        for name, request in use
    ]
    for action in (
        "CreateGrant", "DeriveSharedSecret", "Encrypt", "GenerateDataKeyPair", "GenerateDataKeyPairWithoutPlaintext",
        "GenerateDataKeyWithoutPlaintext", "GenerateMac", "ImportKeyMaterial", "ReEncryptFrom", "ReEncryptTo",
        "ReplicateKey", "Sign", "UpdatePrimaryRegion",
    ):  # fmt: skip
        found += [(f"{action} {who}", {"action": f"kms:{action}", "shown": A, "who": who})
                  for who in (ROLES.parent, ROLES.admin, ROLES.break_glass)]  # fmt: skip
    for action in ("PutKeyPolicy", "ScheduleKeyDeletion"):
        found += [(f"{action} {who}", {"action": f"kms:{action}", "who": who}) for who in (ROLES.admin, ROLES.parent)]
    return found


@pytest.mark.parametrize(("name", "request_"), requests())
def test_a_later_allow_opens_nothing(name: str, request_: dict[str, Any]) -> None:
    """The worst mistake that may be added: everything to everybody. The Denies hold."""
    policy = rendered(*TWO)
    policy["Statement"].append(PERMIT)
    assert ask(policy, **request_).verdict == "deny-key", name
    assert not ask(rendered(*TWO), **request_).allowed


@pytest.mark.parametrize(("images", "count"), [(TWO[:1], 4 + 4), (TWO, 1 + 2 * 3 + 4), (SHARED_KERNEL, 2 + 2 * 2 + 4)])
def test_no_deny_is_superfluous(images: tuple[Image, ...], count: int) -> None:
    """Each Deny alone stands between somebody and the key: without it one of the requests passes."""
    policy = rendered(*images)
    denials = [s["Sid"] for s in policy["Statement"] if s["Effect"] == "Deny"]
    assert len(denials) == count
    for sid in denials:
        opened = policy | {"Statement": [s for s in policy["Statement"] if s["Sid"] != sid] + [PERMIT]}
        assert any(ask(opened, **request).allowed for _, request in requests()), sid


@pytest.mark.parametrize("shown", [A, B])
@pytest.mark.parametrize("action", ["kms:Decrypt", "kms:GenerateDataKey"])
def test_what_must_work_works(shown: dict[int, bytes], action: str) -> None:
    assert ask(rendered(*TWO), shown=shown, action=action).allowed
    for who, operation in (
        (ROLES.admin, "DescribeKey"), (ROLES.admin, "DisableKey"), (ROLES.admin, "EnableKey"),
        (ROLES.admin, "RotateKeyOnDemand"), (ROLES.break_glass, "PutKeyPolicy"),
        (ROLES.break_glass, "ScheduleKeyDeletion"), (ROLES.break_glass, "DisableKey"),
    ):  # fmt: skip
        assert ask(rendered(*TWO), who=who, action=f"kms:{operation}").allowed, operation


def test_two_manifests_of_one_program_are_two_images() -> None:
    policy = rendered(*SAME_PROGRAM)
    assert ask(policy, shown=A).allowed
    assert ask(policy, shown=A | {16: B[16]}).allowed
    assert ask(policy, shown=A | {16: C[16]}).verdict == "deny-key"
    assert not any("Program" in s["Sid"] for s in policy["Statement"])


def test_the_parents_iam_policy_holds_by_itself_where_a_key_delegates_to_iam() -> None:
    """A key with AWS's default policy, made by mistake: the instance's role still must be attested."""
    made = render(deployment(*TWO))["iam-parent"]
    default = {"Version": "2012-10-17", "Statement": [{
        "Effect": "Allow", "Principal": {"AWS": ROOT}, "Action": "kms:*", "Resource": "*"}]}  # fmt: skip
    assert ask(default, shown=A, iam=(made,)).allowed
    for shown in (None, C, A | {0: B[0]}):
        assert not ask(default, shown=shown, iam=(made,)).allowed
    for action in ("kms:CreateGrant", "kms:ReEncryptFrom", "kms:PutKeyPolicy"):
        assert ask(default, action=action, iam=(made,)).verdict == "deny-identity"


def test_pinning_pcr3_and_pcr8() -> None:
    more = {3: parent_role_pcr(ROLES.parent), 8: b"\x88" * 48}
    policy = rendered(Image("v1", A | more))
    assert ask(policy, shown=A | more).allowed
    for index in more:
        assert ask(policy, shown=A | more | {index: b"\x01" * 48}).verdict == "deny-key"


def test_pcr3_is_the_extension_of_zero_by_the_role_arn() -> None:
    """The same construction by which PCR4 of genuine documents follows from the instance id; computed with openssl."""
    digest = subprocess.run(
        ["openssl", "dgst", "-sha384", "-binary"],
        input=bytes(48) + ROLES.parent.encode(),
        capture_output=True,
        check=True,
    )
    assert parent_role_pcr(ROLES.parent) == digest.stdout


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: Image("x", {}), "PCR0 is missing"),
        (lambda: Image("x", {i: v for i, v in A.items() if i != 16}), "PCR16 is missing"),
        (lambda: Image("x", A | {0: bytes(48)}), "debug"),
        (lambda: Image("x", A | {16: bytes(48)}), "PCR16 is zero"),
        (lambda: Image("x", A | {2: b"\x01" * 32}), "PCR2 is not 48 bytes"),
        (lambda: Image("x", A | {4: b"\x01" * 48}), "PCR4 cannot be pinned"),
        (lambda: key_policy(ROLES, [], ["acme"]), "1 to 8 images"),
        (lambda: key_policy(ROLES, [Image(f"v{n}", pcrs(n * 20 + 1)) for n in range(9)], ["acme"]), "1 to 8 images"),
        (lambda: key_policy(ROLES, TWO, []), "tenant"),
        (lambda: key_policy(ROLES, [TWO[0], Image("v1", B)], ["acme"]), "same name"),
        (lambda: key_policy(ROLES, [TWO[0], Image("v2", A)], ["acme"]), "same PCRs"),
        (lambda: key_policy(ROLES, [TWO[0], Image("v2", B | {8: A[0]})], ["acme"]), "pin the same PCRs"),
        (lambda: key_policy(ROLES, TWO, [f"tenant-{n:04}" for n in range(1024)]), "32 KiB"),
        (lambda: Roles(parent=ROLES.parent, admin=ROLES.parent, break_glass=ROLES.break_glass), "three different"),
        (lambda: Roles(parent="*", admin=ROLES.admin, break_glass=ROLES.break_glass), "ARN of one IAM role"),
        (lambda: Roles(parent=f"{IAM}:role/*", admin=ROLES.admin, break_glass=ROLES.break_glass), "without wildcards"),
        (lambda: Roles(parent=ROOT, admin=ROLES.admin, break_glass=ROLES.break_glass), "ARN of one IAM role"),
        (
            lambda: Roles(parent=f"arn:aws:iam::{'9' * 12}:role/p", admin=ROLES.admin, break_glass=ROLES.break_glass),
            "different accounts",
        ),
    ],
)  # fmt: skip
def test_what_would_be_unsafe_is_not_rendered(call: Callable[[], Any], said: str) -> None:
    with pytest.raises(KmsPolicyError) as caught:
        call()
    assert said in caught.value.sentence


def file(**changed: Any) -> Json:
    image = {"name": "v1", "pcrs": {str(i): v.hex() for i, v in A.items()}}
    roles = {"parent": ROLES.parent, "admin": ROLES.admin, "break_glass": ROLES.break_glass}
    return {"v": 1, "key": KEY, "roles": roles, "tenants": ["acme"], "images": [image]} | changed


def no_file(name: str) -> bytes:
    raise FileNotFoundError(2, "No such file", name)


def test_a_deployment_file_is_read_as_yaml_and_as_json() -> None:
    for text in (json.dumps(file()), yaml.safe_dump(file())):
        assert parse_deployment(text.encode(), read_file=no_file) == deployment()


MANIFEST = {
    "v": 1, "deployment": "d", "epoch": 1, "debug": False, "node_id": "node-1",
    "kms": {"region": "eu-central-1", "account": ACCOUNT, "keys": [KEY], "host": "kms.eu-central-1.amazonaws.com",
            "port": 8000, "roots": ["x"], "credentials": "pushed"},
    "tenants": [{"id": "acme", "kms_key": KEY, "threshold": 1, "admins": [{"id": "a", "scheme": "ed25519",
                 "public_key": "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"}]}],
    "anchor": {"kind": "none"},
    "bounds": {"request_past_ms": 300000, "request_future_ms": 60000, "approval_past_ms": 86400000,
               "key_ttl_seconds": 60, "key_max_uses": 1000,
               "max_warm_keys": 1000},
}  # fmt: skip
MEASUREMENTS = {"Measurements": {"HashAlgorithm": "Sha384 { ... }", **{f"PCR{i}": A[i].hex() for i in (0, 1, 2)}}}


def files(manifest: Json = MANIFEST) -> Callable[[str], bytes]:
    return lambda name: json.dumps({"m.json": manifest, "measurements.json": MEASUREMENTS}[name]).encode()


def test_pcr16_and_the_tenants_follow_from_the_manifest_and_pcr3_from_the_role() -> None:
    image = {"name": "v1", "measurements": "measurements.json", "manifest": "m.json"}
    text = json.dumps({k: v for k, v in file(images=[image], pin_parent_role=True).items() if k != "tenants"})
    made = parse_deployment(text.encode(), read_file=files())
    pcr16 = manifest_pcr(manifest_hash(files()("m.json")))
    wanted = {i: A[i] for i in (0, 1, 2)} | {16: pcr16, 3: parent_role_pcr(ROLES.parent)}
    assert dict(made.images[0].pcrs) == wanted
    assert made.tenants == ("acme",)
    extra = image | {"pcrs": {"8": "88" * 48}}
    made = parse_deployment(json.dumps(file(images=[extra])).encode(), read_file=files())
    assert made.images[0].pcrs[8] == b"\x88" * 48


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"v": 2}, "$.v"),
        ({"else": 1}, "else"),
        ({"key": "alias/adytum"}, "$.key"),
        ({"key": KEY.replace(ACCOUNT, "9" * 12)}, "different accounts"),
        ({"tenants": []}, "tenant"),
        ({"tenants": ["acme", "acme"]}, ""),
        ({"images": []}, "$.images"),
        ({"images": [{"name": "v1", "pcrs": {"0": "ab" * 32}}]}, "v1"),
        ({"images": [{"name": "v1", "pcrs": {"0": "00" * 48}}]}, "v1"),
        ({"images": [{"name": "v1", "pcrs": {"x": "ab" * 48}}]}, "v1"),
        ({"images": [{"name": "v1"}]}, "PCR0 is missing"),
        ({"images": [{"name": "v1", "measurements": "measurements.json"}]}, "PCR16 is missing"),
        ({"images": [{"name": "v1", "measurements": "measurements.json", "pcrs": {"0": "ab" * 48}}]}, "twice"),
        ({"images": [{"name": "v1", "measurements": "m.json", "manifest": "m.json"}]}, "v1"),
        ({"tenants": ["globex"], "images": [{"name": "v1", "measurements": "measurements.json",
                                             "manifest": "m.json"}]}, "tenant"),
    ],
)  # fmt: skip
def test_a_deployment_file_that_does_not_fit_is_refused(change: Json, said: str) -> None:
    if change == {"tenants": ["acme", "acme"]}:  # said twice, meant once
        assert parse_deployment(json.dumps(file(**change)).encode(), read_file=files()).tenants == ("acme",)
        return
    with pytest.raises(KmsPolicyError) as caught:
        parse_deployment(json.dumps(file(**change)).encode(), read_file=files())
    assert said in caught.value.sentence


@pytest.mark.parametrize(
    ("change", "said"),
    [({"debug": True}, "debug mode"), ({"kms": MANIFEST["kms"] | {"keys": [KEY + "f"]}, "tenants": [
        MANIFEST["tenants"][0] | {"kms_key": KEY + "f"}]}, "does not name this key")],
)  # fmt: skip
def test_a_manifest_that_does_not_fit_is_refused(change: Json, said: str) -> None:
    image = {"name": "v1", "measurements": "measurements.json", "manifest": "m.json"}
    with pytest.raises(KmsPolicyError) as caught:
        parse_deployment(json.dumps(file(images=[image])).encode(), read_file=files(MANIFEST | change))
    assert said in caught.value.sentence


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
@settings(max_examples=150)
def test_any_bytes_are_a_deployment_or_the_one_error(data: bytes) -> None:
    with pytest.raises(KmsPolicyError):
        parse_deployment(data, read_file=no_file)


def test_the_deployment_of_the_reference_is_the_one_that_is_read() -> None:
    """The example in docs/reference/kms-policy.md."""
    page = (Path(__file__).resolve().parents[3] / "docs/reference/kms-policy.md").read_text()
    [example] = page.split("```yaml\n")[1:]
    made = parse_deployment(example.split("```")[0].encode(), read_file=_example_files)
    assert [image.name for image in made.images] == ["v1", "v2"]


def _example_files(name: str) -> bytes:
    if name.endswith("manifest.json"):
        return files()("m.json")
    seed = A if name.startswith("v1/") else B
    return json.dumps({"Measurements": {f"PCR{i}": seed[i].hex() for i in (0, 1, 2)}}).encode()
