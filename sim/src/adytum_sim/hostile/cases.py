"""From a message to all its manipulated copies: one struct at one place of it, one field, one copy a manipulation.

>>> [v.attack for v in variants(encode(Health()), "Health", (MSGPACK,), "type")][:2]
['drop', 'flip']
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from msgspec import Struct, inspect

from adytum_enclave.core import envelope
from adytum_sim.hostile.manipulations import Manipulation, invented, manipulations
from adytum_sim.hostile.paths import MSGPACK, Codec, Path, edit, find
from adytum_sim.hostile.surface import BLOB_PARTS, structs
from adytum_wire.messages import Health, encode

__all__ = ["BLOB", "MSGPACK", "Health", "Variant", "encode", "locate", "variants", "words_of"]


def _split(blob: bytes) -> dict[str, bytes]:
    return {name: blob[start:end] for name, (start, end) in BLOB_PARTS.items()}


BLOB: Final = Codec("parts", _split, lambda parts: b"".join(parts.get(name, b"") for name in BLOB_PARTS))

# Values that a type allows and that mean something else; enumerations and tags are found by themselves.
WORDS: Final[dict[tuple[str, str], tuple[Any, ...]]] = {
    ("Header", "tenant"): ("umbrella",),
    ("Header", "node_id"): ("node-2",),
    ("Header", "labels"): (["cold"], ["treasury", "cold"]),
    ("Header", "kms_key_arn"): (
        "arn:aws:kms:eu-central-1:111122223333:key/attacker",
        "arn:aws:kms:eu-central-1:999900001111:key/attacker",
    ),
    ("PutPolicy", "tenant"): ("umbrella",),
    ("Hello", "protocol"): (2,),
    ("Credentials", "expires_at"): (1,),
}

# Manipulations without a meaning: the order of the signatures on a policy says nothing (spec/policy.md, P-4), nor does
# that of approvals (spec/approvals.md, A-15).
MEANINGLESS: Final = frozenset({("Envelope", "signatures", "reorder"), ("Execute", "approvals", "reorder")})


@dataclass(frozen=True, slots=True)
class Variant:
    """A manipulated copy. `malformed`: the field's type does not allow its value (or there is no such field)."""

    attack: str
    detail: str
    payload: bytes
    malformed: bool


def variants(
    payload: bytes,
    struct: str,
    path: Path,
    field: str,
    *,
    donor: bytes | None = None,
    older: bytes | None = None,
    every_length: bool = False,
    thin: bool = False,
) -> Iterator[Variant]:
    """Every copy of `payload` in which `field` of the `struct` at `path` is another one.

    `donor`, `older`: whole messages of another request and of an earlier time, from which values are taken.
    `thin`: one of each kind. Copies that mean the same (an optional field left out) are left out.
    """
    fields = find(payload, path)
    changes = manipulations(
        fields,
        field,
        donor=None if donor is None else find(donor, path),
        older=None if older is None else find(older, path),
        words=words_of(struct, field),
        every_length=every_length,
    )
    honest = _read(struct, fields)
    had: set[tuple[str, bool]] = set()
    for change in [*changes, invented(fields)]:
        if not _fits(struct, change) or (struct, field, change.attack) in MEANINGLESS:
            continue
        meaning = _read(struct, change.fields)
        if meaning is not None and meaning == honest and change.attack != "forge":
            continue
        kind = (change.attack, meaning is None)
        if thin and kind in had:
            continue
        had.add(kind)
        changed = edit(payload, path, functools.partial(_replaced, change.fields))
        yield Variant(change.attack, f"{struct}.{field}: {change.detail}", changed, meaning is None)


@functools.cache
def words_of(struct: str, field: str) -> tuple[Any, ...]:
    """Other values that the protocol knows for a field: its enumeration's, its literals', tags of other messages."""
    known = structs()
    kind = known.get(struct)
    if kind is None:
        return ()
    tag = kind.__struct_config__.tag_field
    if field == tag:
        return tuple(
            sorted({str(s.__struct_config__.tag) for s in known.values() if s.__struct_config__.tag_field == tag})
        )
    found: tuple[Any, ...] = WORDS.get((struct, field), ())
    info = inspect.type_info(kind)
    for part in info.fields if isinstance(info, inspect.StructType) else ():
        if part.encode_name == field and isinstance(part.type, inspect.EnumType):
            found += tuple(member.value for member in part.type.cls)
        elif part.encode_name == field and isinstance(part.type, inspect.LiteralType):
            found += tuple(part.type.values)
    return found


def locate(value: Any, struct: type[Struct]) -> Path | None:
    """The path to the first place in plain data that reads as `struct`."""
    if isinstance(value, dict):
        try:
            msgspec.convert(value, struct, strict=True)
        except msgspec.ValidationError:
            pass
        else:
            return ()
    items: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    for key, item in items:
        path = locate(item, struct)
        if path is not None:
            return (key, *path)
    return None


def _replaced(new: dict[str, Any], _old: Any) -> dict[str, Any]:
    return new


def _fits(struct: str, change: Manipulation) -> bool:
    """A blob is bytes and nothing else: its parts cannot be of another type."""
    return struct != "ciphertext_blob" or all(
        name in BLOB_PARTS and isinstance(part, bytes) for name, part in change.fields.items()
    )


def _read(struct: str, fields: dict[str, Any]) -> object | None:
    """What the fields mean, None when they mean nothing."""
    if struct == "ciphertext_blob":
        size = sum(len(part) for part in fields.values())
        return dict(fields) if envelope.OVERHEAD < size <= envelope.MAX_BLOB else None
    kind = structs().get(struct)
    if kind is None:
        return dict(fields)
    tag = kind.__struct_config__.tag_field
    if tag is not None and fields.get(tag) != kind.__struct_config__.tag:
        return None  # msgspec lets the tag of a lone struct be absent
    plain = list(fields.values()) if kind.__struct_config__.array_like else fields
    try:
        return msgspec.convert(plain, kind, strict=True)
    except msgspec.ValidationError:
        return None
