"""Settings: every name of the Go design works as it is, and everything that must refuse does, with its path."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adytum.settings import Settings, SettingsError, load, shown

ARN = "arn:aws:kms:us-east-1:111122223333:key/11111111-2222-3333-4444-555555555555"
PCRS = ",".join(f"PCR{index}={str(index + 1) * 96}" for index in range(3))
GOOD = {
    "APP_TEE_KMSKEYARN": ARN,
    "APP_TEE_ALLOWEDPCRS": PCRS,
    "APP_DATABASE_DSN": "postgresql://adytum@db/adytum",
}
# The design's own YAML (section 5.4), with the two empty values filled in.
SEED_YAML = f"""
tee:
  enabled: true
  enclaveCID: 16
  vsock:
    kmsPort: 8000
    imdsPort: 8001
    stsPort: 8002
  kmsKeyARN: "{ARN}"
  allowedPCRs: ["{PCRS}"]
  requestTimeoutSeconds: 5
"""


def at(tree: Settings, path: str) -> Any:
    value: Any = tree
    for part in path.split("."):
        value = getattr(value, part)
    return value


def problems(path: Path | None, environ: dict[str, str]) -> dict[str, str]:
    with pytest.raises(SettingsError) as caught:
        load(path, environ)
    return dict(caught.value.problems)


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "adytum.yaml"
    path.write_text(text)
    return path


def test_the_seeds_yaml_works_as_it_is(tmp_path: Path) -> None:
    tree = load(written(tmp_path, SEED_YAML), {"APP_DATABASE_DSN": GOOD["APP_DATABASE_DSN"]})
    assert (tree.tee.enabled, tree.tee.enclaveCID, tree.tee.requestTimeoutSeconds) == (True, 16, 5)
    assert (tree.tee.vsock.kmsPort, tree.tee.vsock.imdsPort, tree.tee.vsock.stsPort) == (8000, 8001, 8002)
    assert (tree.tee.kmsKeyARN, tree.tee.allowedPCRs) == (ARN, (PCRS,))


def test_the_seeds_defaults() -> None:
    tree = load(None, GOOD)
    assert (tree.tee.enabled, tree.tee.enclaveCID, tree.tee.requestTimeoutSeconds) == (True, 16, 5)
    assert (tree.tee.vsock.kmsPort, tree.tee.vsock.imdsPort, tree.tee.vsock.stsPort) == (8000, 8001, 8002)


@pytest.mark.parametrize(
    ("path", "text", "value"),
    [
        ("tee.enabled", "false", False),
        ("tee.enclaveCID", "21", 21),
        ("tee.vsock.kmsPort", "9000", 9000),
        ("tee.vsock.imdsPort", "9001", 9001),
        ("tee.vsock.stsPort", "9002", 9002),
        ("tee.kmsKeyARN", ARN, ARN),
        ("tee.requestTimeoutSeconds", "9", 9),
        ("tee.requestTimeoutSeconds", "0", 5),  # as the Go loader
        ("tee.requestTimeoutSeconds", "-3", 5),
    ],
)
@pytest.mark.parametrize("separator", ["_", "."])
def test_every_seed_name_works_from_the_environment(path: str, text: str, value: object, separator: str) -> None:
    """Both spellings: the intended one, and viper's literal one."""
    name = "APP_" + separator.join(path.split(".")).upper()
    assert at(load(None, GOOD | {name: text}), path) == value


@pytest.mark.parametrize(
    "text", [json.dumps([PCRS]), json.dumps(PCRS.split(",")), PCRS, PCRS.replace(",", " , ")], ids=str.__len__
)
def test_allowed_pcrs_as_json_or_comma_list(text: str) -> None:
    tree = load(None, GOOD | {"APP_TEE_ALLOWEDPCRS": text})
    assert ",".join(tree.tee.allowedPCRs) == PCRS


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    tree = load(written(tmp_path, SEED_YAML), GOOD | {"APP_TEE_ENCLAVECID": "99"})
    assert tree.tee.enclaveCID == 99


def test_the_tls_names_of_the_go_service_are_honoured(tmp_path: Path) -> None:
    names = ("MPC_TLS_CERT_FILE", "MPC_TLS_KEY_FILE", "MPC_TLS_CA_CERT_FILE")
    files = {name: str(written(tmp_path, "pem")) for name in names}
    tree = load(None, GOOD | files | {"APP_HTTP_HOST": "0.0.0.0"})
    assert str(tree.http.tls.certFile) == str(tree.http.tls.keyFile) == files["MPC_TLS_CERT_FILE"]
    assert tree.http.tls.caCertFile is not None


@pytest.mark.parametrize(
    ("changes", "path", "words"),
    [
        ({"APP_TEE_KMSKEYARN": ""}, "tee", "kmsKeyARN must not be empty"),
        ({"APP_TEE_ALLOWEDPCRS": ""}, "tee", "allowedPCRs must not be empty"),
        ({"APP_TEE_ALLOWEDPCRS": "[]"}, "tee", "an empty list allows nothing"),
        ({"APP_TEE_ALLOWEDPCRS": "a" * 64}, "tee.allowedPCRs", "Any enclave can satisfy it by extending PCR16"),
        ({"APP_TEE_ALLOWEDPCRS": "PCR0=" + "1" * 96}, "tee.allowedPCRs", "must name PCR0, PCR1 and PCR2"),
        ({"APP_TEE_ALLOWEDPCRS": PCRS.replace("1", "0")}, "tee.allowedPCRs", "debug mode"),
        ({"APP_TEE_ALLOWEDPCRS": '["x"'}, "APP_TEE_ALLOWEDPCRS", "not a JSON list"),
        ({"APP_TEE_KMSKEYARN": "alias/adytum"}, "tee.kmsKeyARN", "full key ARN"),
        ({"APP_TEE_ENCLAVECID": "2"}, "tee.enclaveCID", "greater than or equal to 3"),
        ({"APP_TEE_ENCLAVECID": "x"}, "tee.enclaveCID", "valid integer"),
        ({"APP_TEE_REQUESTTIMEOUTSECONDS": "61"}, "tee.requestTimeoutSeconds", "at most 60"),
        ({"APP_TEE_ALLOWEDPCR": "x"}, "APP_TEE_ALLOWEDPCR", "names no setting"),
        ({"APP_TEE.VSOCK.KMSPORTS": "1"}, "APP_TEE.VSOCK.KMSPORTS", "names no setting"),
        ({"APP_TEE.ENCLAVECID": "3", "APP_TEE_ENCLAVECID": "4"}, "APP_TEE_ENCLAVECID", "contradicts"),
        ({"APP_HTTP_HOST": "0.0.0.0"}, "http", "not loopback"),
        ({"APP_HTTP_HOST": "adytum.example"}, "http", "not loopback"),
        ({"MPC_TLS_CERT_FILE": "/dev/null"}, "http.tls", "come together"),
        ({"APP_DATABASE_DSN": ""}, "(root)", "database.dsn must not be empty"),
        ({"APP_DATABASE_POOLSIZE": "0"}, "database.poolSize", "greater than or equal to 1"),
    ],
)
def test_what_refuses_to_start(changes: dict[str, str], path: str, words: str) -> None:
    found = problems(None, GOOD | changes)
    assert words in found[path]


@pytest.mark.parametrize("bind", ["127.0.0.1", "::1", "localhost", "127.9.9.9"])
def test_loopback_needs_no_tls(bind: str) -> None:
    assert load(None, GOOD | {"APP_HTTP_HOST": bind}).http.host == bind


def test_an_embedded_database_is_for_development_only(tmp_path: Path) -> None:
    embedded = {k: v for k, v in GOOD.items() if k != "APP_DATABASE_DSN"} | {
        "APP_DATABASE_EMBEDDEDDIRECTORY": str(tmp_path)
    }
    assert "development only" in problems(None, embedded)["(root)"]
    load(None, embedded | {"APP_TEE_DEVELOPMENTDIRECTORY": str(tmp_path)})


def test_disabled_needs_neither_key_nor_pcrs() -> None:
    assert not load(None, {"APP_TEE_ENABLED": "false", "APP_DATABASE_DSN": "postgresql:///x"}).tee.enabled


@pytest.mark.parametrize(
    ("text", "path", "words"),
    [
        ("tee:\n  enclaveCid: 16\n", "tee.enclaveCid", "unknown key"),
        ("tee:\n  vsock:\n    port: 1\n", "tee.vsock.port", "unknown key"),
        ("teee: {}\n", "teee", "unknown key"),
        ("tee: {enabled: true, enabled: false}\n", "FILE", "a key is given twice"),
        ("tee: [\n", "FILE", "not valid YAML"),
        ("- tee\n", "FILE", "must be a mapping"),
        ("tee: !!python/object:os.system {}\n", "FILE", "not valid YAML"),
        ("tee: 3\n", "tee", "valid dictionary"),
    ],
)
def test_files_that_refuse(tmp_path: Path, text: str, path: str, words: str) -> None:
    file = written(tmp_path, text)
    found = problems(file, GOOD if "tee: 3" not in text else {"APP_DATABASE_DSN": "postgresql:///x"})
    assert words in found[str(file) if path == "FILE" else path]


def test_a_missing_file_refuses(tmp_path: Path) -> None:
    assert "cannot be read" in problems(tmp_path / "none.yaml", GOOD)[str(tmp_path / "none.yaml")]


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    file = written(tmp_path, "tee:\n  enclaveCID: 1\n  nope: 1\nhttp:\n  port: 99999\nelse: 1\n")
    found = problems(file, {"APP_TEE_TYPO": "1", "APP_DATABASE_DSN": "x"})
    assert {"APP_TEE_TYPO", "tee.enclaveCID", "tee.nope", "http.port", "else"} <= set(found)


def test_secrets_are_masked_and_never_quoted_in_errors() -> None:
    secret = "postgresql://adytum:hunter2@db/adytum"
    tree = load(None, GOOD | {"APP_DATABASE_DSN": secret, "AWS_SECRET_ACCESS_KEY": "hunter2", "AWS_ACCESS_KEY_ID": "A"})
    assert "hunter2" not in json.dumps(shown(tree)) + repr(tree) + str(tree)
    with pytest.raises(SettingsError) as caught:
        load(
            None, GOOD | {"APP_DATABASE_DSN": secret, "APP_AWS_SECRETACCESSKEY": "hunter2", "APP_HTTP_PORT": "hunter2"}
        )
    assert "hunter2" not in str(caught.value) + repr(caught.value)


KEYS = st.sampled_from(["tee", "vsock", "http", "kmsPort", "tls", "x"])
SCALARS = st.none() | st.booleans() | st.integers() | st.text(max_size=8)
TREES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=8
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tree=TREES)
def test_whatever_the_file_holds_it_loads_or_raises_settings_error(tmp_path: Path, tree: object) -> None:
    file = written(tmp_path, yaml.safe_dump(tree))
    try:
        assert isinstance(load(file, GOOD), Settings)
    except SettingsError as error:
        assert error.problems
