"""What the core asks of the shell. A request is a generator: it yields one of these and is resumed with the answer,
or with an `AdytumError` thrown in. Warm requests yield nothing at all."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, TypeAlias


@dataclass(frozen=True, slots=True, kw_only=True)
class NewDataKey:
    """KMS GenerateDataKey (AES-256) with Recipient, under `key_arn`. Answer: `DataKeyAnswer`."""

    key_arn: str
    context: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenDataKey:
    """KMS Decrypt with Recipient. `shared`: equal effects in flight may share one call. Answer: `DataKeyAnswer`."""

    key_arn: str
    context: dict[str, str]
    ciphertext_blob: bytes
    shared: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadPcr:
    """Answer: the PCR's 48 bytes."""

    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """Extend PCR16 with `data`, then lock PCR16 to PCR31. Answer: PCR16's 48 bytes."""

    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class GetDocument:
    """An attestation document from the NSM. Answer: its bytes."""

    nonce: bytes
    user_data: bytes
    public_key: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """Run `work` on another thread, one at a time. It calls native code that takes long, and touches nothing but slots
    that nobody else touches meanwhile. Answer: no bytes."""

    work: Callable[[], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class DataKeyAnswer:
    """`ciphertext_for_recipient`: CMS for our RSA key. `ciphertext_blob`: the data key under the KMS key."""

    ciphertext_for_recipient: bytes
    ciphertext_blob: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchored:
    """What the anchor holds of a tenant: a sealed usage snapshot and its version."""

    version: int
    snapshot: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadAnchor:
    """Answer: `Anchored`, or None when the anchor holds nothing of the tenant."""

    tenant: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteAnchor:
    """Write if the anchor still holds version `expected` (None: nothing). Answer: False when it does not."""

    tenant: str
    expected: int | None
    anchored: Anchored


@dataclass(frozen=True, slots=True, kw_only=True)
class Together:
    """Run `steps` once for all who wait for `key`: who comes while a run is under way shares the next one, which begins
    after it. Answer: None, when the run has ended."""

    key: str
    steps: Callable[[], Generator[Any, Any, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class InTurn:
    """Run `steps` when it is their turn: one at a time of all, tenant by tenant. Nothing of them is held before.
    Answer: None, when they have ended. Errors: theirs; RESOURCE_EXHAUSTED when the tenant has too many that wait."""

    tenant: str
    steps: Callable[[], Generator[Any, Any, None]]


Effect: TypeAlias = (
    NewDataKey | OpenDataKey | ReadPcr | Measure | GetDocument | Stretch | ReadAnchor | WriteAnchor | Together | InTurn
)
Answer: TypeAlias = DataKeyAnswer | bytes | Anchored | bool | None
