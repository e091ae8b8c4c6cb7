"""The host's configuration: one typed tree, from a YAML file and the environment.

The names of the Go design that Adytum implements work as they are: its YAML (`tee.enclaveCID`, `tee.vsock.kmsPort`,
...), the prefix `APP_` (`APP_TEE_ENCLAVECID`, `APP_TEE_VSOCK_KMSPORT`), and what viper literally looks up when no key
replacer is set (`APP_TEE.ENCLAVECID`). The environment wins over the file. Unknown keys refuse, and every error is
reported at once with its path.

Left out: anything that the enclave believes. What decides about keys stands in the measured manifest, not here.

>>> load(None, {"APP_TEE_ENABLED": "false", "APP_DATABASE_DSN": "postgresql:///adytum"}).tee.vsock.kmsPort
8000
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import pydantic
from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from adytum.settings_sources import environment_tree, merge, read_yaml
from adytum_verify import AllowList, AttestationError

Port = Annotated[int, Field(ge=1, le=65535)]
VsockPort = Annotated[int, Field(ge=1, le=2**32 - 2)]
DEFAULT_TIMEOUT_SECONDS = 5


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class SettingsError(Exception):
    """The configuration is not usable. `problems`: one (path, sentence) for each fault, in the order of the tree."""

    def __init__(self, problems: list[tuple[str, str]]) -> None:
        super().__init__(problems)
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join(f"{path}: {text}" for path, text in self.problems)


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Vsock(_Section):
    """Ports of the pipes that the enclave dials on the host (vsock-proxy)."""

    kmsPort: VsockPort = 8000
    imdsPort: VsockPort = 8001
    stsPort: VsockPort = 8002


class EnclaveAddress(_Section):
    """One enclave of several: exactly one of the three says where it is. `name` stands in metrics and reports."""

    cid: Annotated[int, Field(ge=3, le=2**32 - 2)] | None = None
    developmentDirectory: Path | None = None
    vhostSocket: Path | None = None
    name: Annotated[str, Field(pattern=r"^[a-z0-9-]{0,32}$")] = ""

    @model_validator(mode="after")
    def _one_place(self) -> EnclaveAddress:
        if sum(place is not None for place in (self.cid, self.developmentDirectory, self.vhostSocket)) != 1:
            raise ValueError("want exactly one of cid, developmentDirectory and vhostSocket")
        return self


class Tee(_Section):
    """The enclave, or the `enclaves` behind this host. `enabled: false` serves reads and audit only."""

    enabled: bool = True
    enclaveCID: Annotated[int, Field(ge=3, le=2**32 - 2)] = 16
    # Several enclaves, e.g. two releases side by side; empty: the one that enclaveCID (or a development path) names.
    enclaves: Annotated[tuple[EnclaveAddress, ...], Field(max_length=8)] = ()
    vsock: Vsock = Vsock()
    kmsKeyARN: str = ""
    allowedPCRs: tuple[str, ...] = ()
    requestTimeoutSeconds: int = DEFAULT_TIMEOUT_SECONDS
    manifestFile: Path | None = None
    attestationRootsFile: Path | None = None  # PEM; only for stand-ins, which have a root of their own
    attestationIntervalSeconds: Annotated[int, Field(ge=1, le=600)] = 600
    developmentDirectory: Path | None = None  # the enclave is a process on Unix sockets in this directory
    vhostSocket: Path | None = None  # the enclave is a QEMU guest behind this vhost-user-vsock socket

    @field_validator("requestTimeoutSeconds")
    @classmethod
    def _as_the_seed(cls, value: int) -> int:
        """Zero and negative numbers mean the default, as in the Go loader."""
        if value <= 0:
            return DEFAULT_TIMEOUT_SECONDS
        if value > 60:
            raise ValueError("at most 60: the enclave takes no longer deadline")
        return value

    @field_validator("kmsKeyARN")
    @classmethod
    def _full_arn(cls, value: str) -> str:
        parts = value.split(":")
        whole = len(parts) == 6 and parts[0] == "arn" and parts[2] == "kms" and parts[5].startswith("key/")
        if value and not whole:
            raise ValueError("want the full key ARN (arn:aws:kms:<region>:<account>:key/<id>); no alias, no bare id")
        return value

    @field_validator("enclaves", mode="before")
    @classmethod
    def _cids(cls, value: Any) -> Any:
        """CIDs alone are enough: `enclaves: [16, 17]`, or APP_TEE_ENCLAVES=16,17."""
        if isinstance(value, str):
            value = [part.strip() for part in value.split(",") if part.strip()]
        return [{"cid": one} if isinstance(one, int | str) else one for one in value] if _is_list(value) else value

    @field_validator("allowedPCRs", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @field_validator("allowedPCRs")
    @classmethod
    def _parse(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if value:
            try:
                AllowList.parse(value)
            except AttestationError as error:
                raise ValueError(f"{error.code.text} ({error.code.value})") from None
        return value

    @model_validator(mode="after")
    def _complete(self) -> Tee:
        if self.developmentDirectory and self.vhostSocket:
            raise ValueError("developmentDirectory and vhostSocket exclude each other")
        single = {"enclaveCID", "developmentDirectory", "vhostSocket"} & self.model_fields_set
        if self.enclaves and single:
            raise ValueError(f"enclaves and {min(single)} exclude each other: list every enclave in enclaves")
        names = {address.name for address in self.addresses}
        places = {(a.cid, a.developmentDirectory, a.vhostSocket) for a in self.addresses}
        if not len(names) == len(places) == len(self.addresses):
            raise ValueError("enclaves: two entries have the same place or the same name")
        missing = [name for name in ("kmsKeyARN", "allowedPCRs") if self.enabled and not getattr(self, name)]
        if missing:
            raise _Missing(missing)
        return self

    @property
    def is_development(self) -> bool:
        """True when an enclave is not behind AF_VSOCK."""
        return any(address.cid is None for address in self.addresses)

    @property
    def addresses(self) -> tuple[EnclaveAddress, ...]:
        """Every enclave, named. The name of one that has none is its place in the list: `enclave-1`, ..."""
        single = EnclaveAddress(
            cid=None if self.developmentDirectory or self.vhostSocket else self.enclaveCID,
            developmentDirectory=self.developmentDirectory,
            vhostSocket=self.vhostSocket,
        )
        return tuple(
            address if address.name else address.model_copy(update={"name": f"enclave-{number}"})
            for number, address in enumerate(self.enclaves or (single,), start=1)
        )


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


class _Missing(ValueError):
    def __init__(self, names: list[str]) -> None:
        super().__init__(
            f"{' and '.join(names)} must not be empty while tee.enabled is true: an empty list allows nothing"
        )


class Database(_Section):
    """PostgreSQL. An empty `dsn` starts an embedded one in `embeddedDirectory`, for development only."""

    dsn: SecretStr = SecretStr("")
    embeddedDirectory: Path | None = None
    poolSize: Annotated[int, Field(ge=1, le=64)] = 8
    connectTimeoutSeconds: Annotated[float, Field(gt=0, le=60)] = 5
    statementTimeoutSeconds: Annotated[float, Field(gt=0, le=60)] = 5
    lockTimeoutSeconds: Annotated[float, Field(gt=0, le=60)] = 3


class Tls(_Section):
    """PEM files. `caCertFile` set: clients must show a certificate that chains to it (mTLS)."""

    certFile: Path | None = None
    keyFile: Path | None = None
    caCertFile: Path | None = None

    @model_validator(mode="after")
    def _pair(self) -> Tls:
        if (self.certFile is None) != (self.keyFile is None):
            raise ValueError("certFile and keyFile come together (MPC_TLS_CERT_FILE, MPC_TLS_KEY_FILE)")
        if self.caCertFile is not None and self.certFile is None:
            raise ValueError("caCertFile (MPC_TLS_CA_CERT_FILE) needs certFile and keyFile")
        for path in (self.certFile, self.keyFile, self.caCertFile):
            if path is not None and not path.is_file():
                raise ValueError(f"{path.name} is not a readable file")
        return self


class Http(_Section):
    """Where clients connect. Another address than loopback needs TLS."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8443
    tls: Tls = Tls()
    maxInFlight: Annotated[int, Field(ge=1, le=65536)] = 1024

    @model_validator(mode="after")
    def _no_plain_text(self) -> Http:
        if not _is_loopback(self.host) and self.tls.certFile is None:
            raise ValueError("a bind that is not loopback needs tls.certFile and tls.keyFile")
        return self


class Aws(_Section):
    """Credentials that are pushed to the enclave. They authorise; attestation binds."""

    accessKeyId: str = ""
    secretAccessKey: SecretStr = SecretStr("")
    sessionToken: SecretStr = SecretStr("")


class Canary(_Section):
    """What proves, on a timer, that KMS refuses whom it must refuse. See docs/how-to/release.md.

    `keyId`: a secret record that protects nothing, made for this. `signerFile`: the private key (PEM) of a principal
    that may do nothing but unseal it. `kmsEndpoint`: where the host reaches KMS (default: the manifest's host).
    """

    intervalSeconds: Annotated[float, Field(gt=0, le=86_400)] = 60
    tenant: str = ""
    keyId: str = ""
    signerFile: Path | None = None
    kmsEndpoint: str = ""

    @model_validator(mode="after")
    def _all_or_none(self) -> Canary:
        given = [bool(self.tenant), bool(self.keyId), self.signerFile is not None]
        if any(given) and not all(given):
            raise ValueError("tenant, keyId and signerFile come together")
        if self.kmsEndpoint and not self.kmsEndpoint.startswith("https://"):
            raise ValueError("kmsEndpoint must be an https:// address")
        return self


class Audit(_Section):
    """Checkpoints of the receipt chains, and their second copies. See docs/how-to/audit.md.

    `fileDirectory`: a copy as files (`fileReceipts`: of the receipts too). `s3Bucket`: a copy under Object Lock.
    `requireSecondSink`: while a copy cannot be written, nothing is signed.
    """

    checkpointReceipts: Annotated[int, Field(ge=1, le=1_000_000)] = 1000
    checkpointSeconds: Annotated[float, Field(gt=0, le=86_400)] = 60
    fileDirectory: Path | None = None
    fileReceipts: bool = False
    s3Bucket: Annotated[str, Field(pattern=r"^([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])?$")] = ""
    s3Region: Annotated[str, Field(pattern=r"^([a-z0-9-]{1,32})?$")] = ""
    s3Prefix: Annotated[str, Field(pattern=r"^([A-Za-z0-9_-]+/)*$", max_length=256)] = "adytum/"
    s3RetentionDays: Annotated[int, Field(ge=1, le=36_500)] = 2555
    s3Endpoint: str = ""
    requireSecondSink: bool = False

    @model_validator(mode="after")
    def _sinks(self) -> Audit:
        if bool(self.s3Bucket) != bool(self.s3Region):
            raise ValueError("s3Bucket and s3Region come together")
        if self.s3Endpoint and not self.s3Endpoint.startswith("https://"):
            raise ValueError("s3Endpoint must be an https:// address")
        if self.fileReceipts and self.fileDirectory is None:
            raise ValueError("fileReceipts needs fileDirectory")
        if self.requireSecondSink and self.fileDirectory is None and not self.s3Bucket:
            raise ValueError("requireSecondSink needs fileDirectory or s3Bucket")
        return self


class Rotation(_Section):
    """The workers of `adytum rotate worker`. See docs/how-to/rotate.md.

    `url`: where the workers reach a service. `signerFile`: the private key (PEM) of a principal that may do nothing but
    `reseal` and `rotation_statement`. `inFlight`: requests of one worker at once. `leaseSeconds`: after so long a
    silence a worker's batches go to others.
    """

    url: str = "http://127.0.0.1:8443"
    caCertFile: Path | None = None
    signerFile: Path | None = None
    inFlight: Annotated[int, Field(ge=1, le=256)] = 16
    leaseSeconds: Annotated[float, Field(gt=0, le=600)] = 30


class Settings(BaseSettings):
    """The whole tree. Build it with `load`."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    tee: Tee
    database: Database = Database()
    http: Http = Http()
    aws: Aws = Aws()
    canary: Canary = Canary()
    rotation: Rotation = Rotation()
    audit: Audit = Audit()

    @model_validator(mode="after")
    def _database_given(self) -> Settings:
        if not self.database.dsn.get_secret_value():
            if self.tee.enabled and not self.tee.is_development:
                raise ValueError("database.dsn must not be empty: an embedded PostgreSQL is for development only")
            if self.database.embeddedDirectory is None:
                raise ValueError("database.dsn or database.embeddedDirectory must be set")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what `load` merged: a second, silent way in would break 'every error with its path'."""
        return (init_settings,)


def load(path: Path | None, environ: Mapping[str, str]) -> Settings:
    """Read `path` (YAML, may be None) and overlay `environ`. Errors: SettingsError with every problem found."""
    problems: list[tuple[str, str]] = []
    tree = read_yaml(path, problems) if path is not None else {}
    merge(tree, environment_tree(Settings, environ, problems))
    tree.setdefault("tee", {})
    try:
        settings = Settings(**tree)
    except pydantic.ValidationError as error:
        problems += [(_path(item["loc"]), _sentence(item)) for item in error.errors(include_input=False)]
    if problems:
        raise SettingsError(problems)
    return settings


def shown(settings: Settings) -> dict[str, Any]:
    """The tree as plain JSON values with secrets masked, for `adytum config show`."""
    return settings.model_dump(mode="json")


def _path(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location) or "(root)"


def _sentence(item: Any) -> str:
    if item["type"] == "extra_forbidden":
        return "unknown key"
    text = str(item["msg"]).removeprefix("Value error, ")
    return text[0].lower() + text[1:] if text[:2].istitle() else text
