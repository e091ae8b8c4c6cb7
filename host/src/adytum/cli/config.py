"""`adytum config`: is the configuration complete, and what does it say?"""

from __future__ import annotations

import json
from pathlib import Path

import click

from adytum.cli.groups import Group
from adytum.cli.options import read_settings, settings_option
from adytum.cli.output import is_json, json_option, say
from adytum.settings import Settings, shown
from adytum_verify import AllowList
from adytum_wire.errors import AdytumError, Code
from adytum_wire.manifest import manifest_hash, parse_manifest


@click.group(cls=Group)
def config() -> None:
    """Check and show the settings: a YAML file, overlaid by the environment (APP_TEE_ENCLAVECID and so on)."""


@config.command()
@settings_option
@json_option
def check(settings_file: Path | None) -> None:
    """Say every problem at once, with its path; exit 1 if there is one. Starts and changes nothing."""
    settings = read_settings(settings_file)
    found = _check_manifest(settings)
    images = len(AllowList.parse(settings.tee.allowedPCRs).images) if settings.tee.allowedPCRs else 0
    say({"ok": True, "images": images, **found}, "The settings are complete.", *(f"{k}: {v}" for k, v in found.items()))


@config.command()
@settings_option
@json_option
def show(settings_file: Path | None) -> None:
    """Print the settings that are in force, with secrets masked."""
    tree = shown(read_settings(settings_file))
    if is_json():
        say(tree)
        return
    click.echo(json.dumps(tree, indent=2))


def _check_manifest(settings: Settings) -> dict[str, str]:
    path = settings.tee.manifestFile
    if path is None:
        return {}
    data = path.read_bytes()
    manifest = parse_manifest(data)
    if settings.tee.kmsKeyARN and settings.tee.kmsKeyARN not in manifest.kms.keys:
        raise AdytumError(Code.MANIFEST_INVALID, "$.kms.keys (tee.kmsKeyARN is not among them)")
    return {"manifest": manifest_hash(data).hex()}
