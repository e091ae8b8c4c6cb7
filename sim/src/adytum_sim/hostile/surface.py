"""What a host can touch: every field of every struct that can be reached from a message, found by introspection.

Some fields are bytes that carry another structure; `CARRIES` says which, and nothing else here is written by hand. A
struct or a field that is added to the protocol later therefore shows up by itself, and is attacked or fails the suite.

>>> ("Header", "tenant") in surface()
True
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Final

import msgspec
from msgspec import Struct, inspect

from adytum_enclave.core import envelope
from adytum_enclave.shell import kms
from adytum_policy.shape import PolicyDocument
from adytum_verify.document import AttestationDocument
from adytum_wire import approvals, checkpoints, dsse, messages, receipts, recovery, results, usage
from adytum_wire.binding import Binding
from adytum_wire.manifest import Manifest
from adytum_wire.record import Header, Record
from adytum_wire.requests import Body

ROOTS: Final = (messages.ControlRequest, messages.DataRequest, messages.Reply)

CARRIES: Final[dict[tuple[type[Struct], str], Any]] = {
    (messages.Configure, "manifest"): Manifest,
    (messages.PutPolicy, "envelope"): dsse.Envelope,
    (dsse.Envelope, "payload"): PolicyDocument,
    (messages.ResetUsage, "envelope"): approvals.UsageReset,  # the payload of another such envelope
    (messages.PutUsage, "snapshot"): usage.Snapshot,
    (usage.Snapshot, "header"): usage.SnapshotHeader,
    (messages.Execute, "body"): Body,
    (approvals.Approval, "statement"): approvals.Statement,
    (messages.CheckpointReply, "envelope"): checkpoints.CheckpointEnvelope,
    (checkpoints.CheckpointEnvelope, "body"): checkpoints.CheckpointBody,
    (Record, "header"): Header,
    (messages.AttestReply, "binding"): Binding,
    (messages.ExecuteReply, "result"): results.Result,
    (messages.ExecuteReply, "receipt"): receipts.ReceiptEnvelope,
    (messages.ExecuteReply, "usage"): usage.Snapshot,
    (messages.ExecuteReply, "recovery"): recovery.RecoveryEnvelope,
    (recovery.RecoveryEnvelope, "header"): Header,
    (receipts.ReceiptEnvelope, "body"): receipts.Receipt,
}

# What is no msgspec struct: the sealed blob by the envelope's own sizes, the document by the verifier's own type.
_BODY: Final = envelope.COMMITMENT_SIZE + envelope.NONCE_SIZE
BLOB_PARTS: Final[dict[str, tuple[int, int | None]]] = {
    "commitment": (0, envelope.COMMITMENT_SIZE),
    "nonce": (envelope.COMMITMENT_SIZE, _BODY),
    "ciphertext": (_BODY, _BODY - envelope.OVERHEAD),
    "tag": (_BODY - envelope.OVERHEAD, None),
}
DOCUMENT_FIELDS: Final = tuple(
    {"timestamp_ms": "timestamp"}.get(field.name, field.name)
    for field in dataclasses.fields(AttestationDocument)
    if field.name not in ("valid_from_ms", "valid_until_ms")  # made by the verifier
)
FRAME_FIELDS: Final = ("magic", "version", "kind", "flags", "request_id", "deadline", "payload_length", "crc32")


@functools.cache
def structs() -> dict[str, type[Struct]]:
    """Every struct that a host carries, by name."""
    found: dict[str, type[Struct]] = {}
    todo: list[Any] = list(ROOTS)
    while todo:
        for struct in _structs_in(inspect.type_info(todo.pop())):
            if found.setdefault(struct.__name__, struct) is not struct:
                raise ValueError(f"two structs are called {struct.__name__}")
        if not todo:
            todo = [inner for (outer, _), inner in CARRIES.items() if _is_new(outer, inner, found)]
    return found


def surface() -> list[tuple[str, str]]:
    """(struct, field) of everything, with the field's name as it stands on the wire."""
    fields = [(name, field) for name, struct in structs().items() for field in names(struct)]
    fields += [("ciphertext_blob", part) for part in BLOB_PARTS]
    fields += [("AttestationDocument", name) for name in (*DOCUMENT_FIELDS, "signature", "protected", "unprotected")]
    fields += [("Frame", name) for name in FRAME_FIELDS]
    fields += [("KMS answer", field.encode_name) for field in msgspec.structs.fields(kms._Answer)]
    return fields


def names(struct: type[Struct]) -> list[str]:
    """A struct's fields on the wire; its tag, which says what it is, is one of them."""
    tag = struct.__struct_config__.tag_field
    return [*([tag] if tag else []), *(field.encode_name for field in msgspec.structs.fields(struct))]


def _is_new(outer: type[Struct], inner: Any, found: dict[str, type[Struct]]) -> bool:
    return outer.__name__ in found and any(s.__name__ not in found for s in _structs_in(inspect.type_info(inner)))


def _structs_in(info: inspect.Type) -> list[type[Struct]]:
    """Structs below a type, itself included, each once."""
    found: list[type[Struct]] = []
    todo: list[Any] = [info]
    while todo:
        at = todo.pop()
        if isinstance(at, inspect.StructType):
            if at.cls in found:
                continue
            found.append(at.cls)
            todo += [field.type for field in at.fields]
        elif isinstance(at, inspect.UnionType):
            todo += at.types
        elif isinstance(at, inspect.ListType | inspect.VarTupleType | inspect.SetType):
            todo.append(at.item_type)
        elif isinstance(at, inspect.DictType):
            todo += [at.key_type, at.value_type]
    return found
