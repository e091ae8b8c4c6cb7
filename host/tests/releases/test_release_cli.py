"""`adytum release`: what it prints, how it exits, what it leaves in the database; and where enclaves are, in the
settings."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from host_fake_enclave import ARN
from test_host_cli import run

from adytum.releases import store
from adytum.releases.store import Report
from adytum.settings import SettingsError, load
from adytum.storage.database import Database

ROLE = "arn:aws:iam::111122223333:role/"


def measured(number: int) -> dict[str, str]:
    return {f"PCR{index}": bytes([number * 16 + index + 1]).hex() * 48 for index in range(3)}


@pytest.fixture
def site(tmp_path: Path, fresh: Any) -> Path:
    """A directory with settings, measurements of a and b, and a deployment file."""
    pcrs = ",".join(f"{name}={value}" for name, value in measured(1).items())
    tree = {"tee": {"kmsKeyARN": ARN, "allowedPCRs": [pcrs]}, "database": {"dsn": fresh.dsn}}
    (tmp_path / "adytum.yaml").write_text(yaml.safe_dump(tree))
    for number, name in enumerate(("a", "b"), start=1):
        (tmp_path / f"{name}.json").write_text(json.dumps({"Measurements": measured(number)}))
    deployment = {
        "v": 1,
        "key": ARN,
        "roles": {"parent": ROLE + "parent", "admin": ROLE + "admin", "break_glass": ROLE + "break-glass"},
        "tenants": ["acme"],
        "images": [{"name": "a", "measurements": "a.json", "pcrs": {"16": "77" * 48}}],
    }
    (tmp_path / "deployment.yaml").write_text(yaml.safe_dump(deployment))
    return tmp_path


def release(site: Path, *arguments: str, fails: str = "", env: dict[str, str] | None = None) -> dict[str, Any]:
    result = run("release", *arguments, "-c", str(site / "adytum.yaml"), "--json", env=env)
    found: dict[str, Any] = json.loads(result.output)
    if fails:
        assert (result.exit_code, found["error"]["code"]) == (1, fails), result.output
        assert found["error"]["text"]
    else:
        assert result.exit_code == 0, result.output
    return found


def report(dsn: str, *names: str) -> None:
    async def write() -> None:
        database = Database(dsn)
        found = [Report(enclave=f"e{n}", boot_id="b", release=name, state="proven") for n, name in enumerate(names)]
        await store.write_reports(database, "host-1", found)
        await database.close()

    asyncio.run(write())


def test_the_whole_way(site: Path, fresh: Any) -> None:
    deployment = ("--deployment", str(site / "deployment.yaml"))
    b = str(site / "b.json")
    # the image that the settings allow would be shut out by a policy that does not know it
    release(site, "plan", "b", b, *deployment, fails="RELEASE_KEY_POLICY")
    assert release(site, "status")["releases"] == []
    assert release(site, "add", "a", str(site / "a.json"))["release"]["state"] == "active"
    report(fresh.dsn, "a")
    assert release(site, "promote", "a")["release"]["state"] == "promoted"

    release(site, "plan", "b", b, *deployment, "--dry-run")
    assert len(release(site, "status")["releases"]) == 1
    planned = release(site, "plan", "b", b, *deployment, "-o", str(site / "policy.json"))
    assert planned["release"]["state"] == "planned"
    policy = (site / "policy.json").read_text()
    assert json.loads(policy) == planned["key_policy"]
    assert measured(1)["PCR0"] in policy
    assert measured(2)["PCR0"] in policy
    assert any("promote b" in step for step in planned["steps"])
    again = release(site, "plan", "b", b, *deployment, "--current-policy", str(site / "policy.json"))
    assert again["difference"] == ""
    release(site, "promote", "b", fails="RELEASE_STATE")
    release(site, "add", "b")
    release(site, "promote", "b", fails="RELEASE_NOT_PROVEN")
    report(fresh.dsn, "a", "b")
    release(site, "promote", "b")
    release(site, "retire", "b", fails="RELEASE_PROMOTED")
    shown = {r["name"]: (r["state"], r["proven"]) for r in release(site, "status")["releases"]}
    assert shown == {"a": ("active", 1), "b": ("promoted", 1)}
    human = run("release", "status", "-c", str(site / "adytum.yaml"))
    assert (human.exit_code, "promoted" in human.output, measured(2)["PCR0"][:16] in human.output) == (0, True, True)

    report(fresh.dsn, "b")  # a's enclave has been stopped
    done = release(site, "retire", "a", *deployment, "--current-policy", str(site / "policy.json"))
    assert done["release"]["state"] == "retired"
    assert measured(1)["PCR0"] not in json.dumps(done["key_policy"])
    assert "-" in done["difference"]
    release(site, "add", "a", fails="RELEASE_RETIRED")
    assert release(site, "add", "a", "--again")["release"]["state"] == "active"


def test_mistakes_are_sentences(site: Path) -> None:
    (site / "bad.json").write_text("{}")
    release(site, "add", "a", str(site / "bad.json"), fails="MEASUREMENTS_INVALID")
    release(site, "add", "A!", str(site / "a.json"), fails="RELEASE_NAME_INVALID")
    release(site, "promote", "none", fails="RELEASE_UNKNOWN")
    assert run("release", "add", "a", "nofile.json", "-c", str(site / "adytum.yaml")).exit_code == 2
    plain = run("release", "promote", "none", "-c", str(site / "adytum.yaml"))
    assert plain.exit_code == 1
    assert plain.output == "adytum: refused: There is no such release.\n"


def test_a_canary_that_is_not_configured_exits_with_one(site: Path) -> None:
    result = run("release", "canary", "-c", str(site / "adytum.yaml"), "--json")
    assert result.exit_code == 1
    found = json.loads(result.output)
    assert (found["ok"], found["alert"], found["problem"]) == (False, "CANARY_NOT_RUN", "NOT_CONFIGURED")


@pytest.mark.parametrize("command", ["", "plan", "add", "promote", "retire", "status", "canary", "canary-secret"])
def test_release_help_is_worth_reading(command: str) -> None:
    result = run("release", *([command] if command else []), "--help")
    assert result.exit_code == 0
    assert len(result.output.split("Options:")[0].split()) > 8
    assert all(len(line) <= 100 for line in result.output.splitlines())


# --- settings

BASE = {
    "APP_TEE_KMSKEYARN": ARN,
    "APP_TEE_ALLOWEDPCRS": ",".join(f"{n}={v}" for n, v in measured(1).items()),
    "APP_DATABASE_DSN": "postgresql:///x",
}


def settings_of(tmp_path: Path, tee: dict[str, Any], **more: Any) -> Any:
    path = tmp_path / "s.yaml"
    path.write_text(yaml.safe_dump({"tee": tee, **more}))
    return load(path, BASE)


def test_the_seeds_single_enclave_is_a_list_of_one(tmp_path: Path) -> None:
    [only] = settings_of(tmp_path, {"enclaveCID": 20}).tee.addresses
    assert (only.cid, only.name) == (20, "enclave-1")
    [only] = settings_of(tmp_path, {"developmentDirectory": str(tmp_path)}).tee.addresses
    assert (only.cid, only.developmentDirectory) == (None, tmp_path)


def test_several_enclaves_are_named(tmp_path: Path) -> None:
    tee = settings_of(tmp_path, {"enclaves": [{"cid": 16, "name": "blue"}, 17]}).tee
    assert [(a.name, a.cid) for a in tee.addresses] == [("blue", 16), ("enclave-2", 17)]
    assert not tee.is_development
    listed = load(None, BASE | {"APP_TEE_ENCLAVES": "16,17"}).tee.addresses
    assert [a.cid for a in listed] == [16, 17]
    places = [{"cid": 16}, {"developmentDirectory": str(tmp_path)}]
    assert settings_of(tmp_path, {"enclaves": places}).tee.is_development


@pytest.mark.parametrize(
    "tee",
    [
        {"enclaves": [16], "enclaveCID": 16},
        {"enclaves": [16, 16]},
        {"enclaves": [{"cid": 16, "name": "x"}, {"cid": 17, "name": "x"}]},
        {"enclaves": [{}]},
        {"enclaves": [{"cid": 2}]},
        {"enclaves": [{"cid": 16, "vhostSocket": "/x"}]},
        {"enclaves": [{"cid": 16, "name": "A B"}]},
        {"enclaves": list(range(16, 25))},
    ],
)
def test_lists_of_enclaves_that_are_refused(tmp_path: Path, tee: dict[str, Any]) -> None:
    with pytest.raises(SettingsError) as caught:
        settings_of(tmp_path, tee)
    assert all(path.startswith("tee") for path, _ in caught.value.problems)


@pytest.mark.parametrize(
    "canary", [{"tenant": "acme"}, {"kmsEndpoint": "http://kms"}, {"intervalSeconds": 0}, {"unknown": 1}]
)
def test_canary_settings_that_are_refused(tmp_path: Path, canary: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        settings_of(tmp_path, {}, canary=canary)
