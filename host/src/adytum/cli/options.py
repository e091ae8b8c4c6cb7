"""Options that several commands share: the settings file, and what a client needs to know."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import click
import httpx

from adytum.client import Adytum, load_signer
from adytum.client.signers import KeySigner, Signer
from adytum.settings import Settings, load
from adytum_verify import AWS_ANCHOR, AllowList, anchor_from_pem
from adytum_wire.manifest import manifest_hash, parse_manifest

F = TypeVar("F", bound=Callable[..., Any])
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
DEFAULT_URL = "http://127.0.0.1:8443"


def settings_option(command: F) -> F:
    """`-c FILE` (or ADYTUM_CONFIG); the command gets `settings_file`. See `read_settings`."""
    return click.option(
        "-c", "--config", "settings_file", type=click.Path(dir_okay=False, path_type=Path), envvar="ADYTUM_CONFIG",
        help="Settings file (YAML). The environment (APP_...) wins over it.  [env: ADYTUM_CONFIG]",
    )(command)  # fmt: skip


def read_settings(settings_file: Path | None) -> Settings:
    """Errors: SettingsError, with every problem."""
    return load(settings_file, os.environ)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientOptions:
    url: str
    tenant: str
    signer_file: Path | None
    pcrs: tuple[str, ...]
    roots: Path | None
    manifest: Path | None
    ca: Path | None

    def for_tenant(self, tenant: str) -> ClientOptions:
        return replace(self, tenant=tenant)

    def http(self) -> httpx.Client:
        context = ssl.create_default_context(cafile=self.ca) if self.ca else ssl.create_default_context()
        return httpx.Client(timeout=15, trust_env=False, verify=context)

    def signer(self) -> Signer:
        if self.signer_file is None:
            raise click.UsageError("--key is needed: the private key (PEM) that stamps the request")
        return load_signer(self.signer_file)

    def open(self, *, needs_signer: bool = True, needs_proof: bool = True) -> Adytum:
        """A client. Without `needs_proof` it is good for reads only, and believes no enclave."""
        if needs_proof and not self.pcrs:
            raise click.UsageError("--pcr is needed: without an expected measurement no answer can be believed")
        if needs_signer and not self.tenant:
            raise click.UsageError("--tenant is needed")
        expected = AllowList.parse(self.pcrs or (_NOBODY,))
        return Adytum(
            self.url,
            self.tenant,
            self.signer() if needs_signer else _no_signer(),
            expected=expected,
            anchors=(AWS_ANCHOR,) if self.roots is None else (anchor_from_pem(self.roots.read_bytes()),),
            manifest_hash=None if self.manifest is None else _hash(self.manifest),
            http=self.http(),
        )


def client_options(command: F) -> F:
    """Add the options of `ClientOptions`; the command gets `client`."""

    def wrap(
        *arguments: Any,
        url: str,
        tenant: str,
        signer_file: Path | None,
        pcrs: tuple[str, ...],
        roots: Path | None,
        manifest: Path | None,
        ca: Path | None,
        **options: Any,
    ) -> Any:
        client = ClientOptions(
            url=url, tenant=tenant, signer_file=signer_file, pcrs=pcrs, roots=roots, manifest=manifest, ca=ca
        )
        return command(*arguments, client=client, **options)

    wrap.__name__, wrap.__doc__ = command.__name__, command.__doc__
    wrap.__click_params__ = getattr(command, "__click_params__", [])  # type: ignore[attr-defined]
    made: Any = wrap
    for option in reversed(_CLIENT_OPTIONS):
        made = option(made)
    return made  # type: ignore[no-any-return]


_CLIENT_OPTIONS = (
    click.option(
        "--url", envvar="ADYTUM_URL", default=DEFAULT_URL, show_default=True, help="The service.  [env: ADYTUM_URL]"
    ),
    click.option("--tenant", envvar="ADYTUM_TENANT", default="", help="Your tenant.  [env: ADYTUM_TENANT]"),
    click.option(
        "--key",
        "signer_file",
        envvar="ADYTUM_KEY",
        type=FILE,
        help="Private key (PEM: Ed25519, P-256, secp256k1) that stamps requests.  [env: ADYTUM_KEY]",
    ),
    click.option(
        "--pcr",
        "pcrs",
        multiple=True,
        envvar="ADYTUM_PCRS",
        help="An image you allow: PCR0=..,PCR1=..,PCR2=.. or file:RELEASE.json; may repeat.  [env: ADYTUM_PCRS]",
    ),
    click.option("--roots", type=FILE, help="Attestation root (PEM) of a stand-in, instead of AWS's."),
    click.option("--manifest", type=FILE, help="Believe only enclaves that are configured with this manifest."),
    click.option("--ca", type=FILE, help="CA certificates (PEM) for TLS to the service."),
)

# Allows no real image: for commands that read what the host says and verify nothing.
_NOBODY = ",".join(f"PCR{index}={'f' * 96}" for index in range(3))


def _hash(path: Path) -> bytes:
    data = path.read_bytes()
    parse_manifest(data)
    return manifest_hash(data)


def _no_signer() -> Signer:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return KeySigner(Ed25519PrivateKey.generate())
