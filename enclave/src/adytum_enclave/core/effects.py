"""What the core asks of the shell. A request is a generator: it yields one of these and is resumed with the answer,
or with an `AdytumError` thrown in. Warm requests yield nothing at all."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias


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
class DataKeyAnswer:
    """`ciphertext_for_recipient`: CMS for our RSA key. `ciphertext_blob`: the data key under the KMS key."""

    ciphertext_for_recipient: bytes
    ciphertext_blob: bytes = field(repr=False)


Effect: TypeAlias = NewDataKey | OpenDataKey | ReadPcr | Measure | GetDocument
Answer: TypeAlias = DataKeyAnswer | bytes
