"""A value of any struct of the protocol, made from its type alone: what is signed needs no hand-written sample.

Good enough to be parsed field by field; rules that span fields may not hold.

>>> example(Stamp)["scheme"]
'ed25519'
"""

from __future__ import annotations

import enum
import re
from typing import Any, Final

from msgspec import Struct, inspect

from adytum_sim.hostile.surface import names
from adytum_wire.requests import Stamp

# Tried in turn for a text with a pattern.
_TEXTS: Final = (
    "aa", "00", "00" * 32, "00" * 64, "00" * 16, "1", "*", "none", "0x" + "00" * 20, "role:aa", "key-" + "00" * 16,
    "r-00000001", "arn:aws:kms:eu-west-1:111122223333:key/a", "111122223333", "00" * 20, "0x" + "00" * 32,
    "0x00000000", "00:00", "mon", "bc1qaaaa", "11111111111111111111111111111111", "m/0", "2026-01-01",
    "https://a.example", "eip155:1/native",
)  # fmt: skip

__all__ = ["NoExampleError", "Stamp", "example", "examples"]


class NoExampleError(Exception):
    """No value is known for a type. The text names the pattern; add a text to `_TEXTS`."""


def example(struct: type[Struct]) -> dict[str, Any]:
    """Plain data, as JSON would have it. Errors: NoExampleError."""
    found: dict[str, Any] = {}
    info = inspect.type_info(struct)
    if not isinstance(info, inspect.StructType):
        raise NoExampleError(struct.__name__)
    if info.tag_field is not None:
        found[info.tag_field] = info.tag
    for field in info.fields:
        found[field.encode_name] = _value(field.type)
    return found


def examples(root: Any) -> dict[str, dict[str, Any]]:
    """An example of every struct below `root`, by name."""
    found: dict[str, dict[str, Any]] = {}
    todo = [inspect.type_info(root)]
    while todo:
        at = todo.pop()
        if isinstance(at, inspect.StructType):
            if at.cls.__name__ not in found:
                found[at.cls.__name__] = {name: example(at.cls)[name] for name in names(at.cls)}
                todo += [field.type for field in at.fields]
        elif isinstance(at, inspect.UnionType):
            todo += at.types
        elif isinstance(at, inspect.ListType | inspect.VarTupleType):
            todo.append(at.item_type)
    return found


def _value(info: inspect.Type) -> Any:
    match info:
        case inspect.StructType():
            return example(info.cls)
        case inspect.UnionType():
            structs = [part for part in info.types if isinstance(part, inspect.StructType)]
            return _value(structs[0] if structs else info.types[0])
        case inspect.ListType() | inspect.VarTupleType():
            return [_value(info.item_type)]
        case inspect.DictType():
            return {}
        case inspect.LiteralType():
            return info.values[0]
        case inspect.EnumType():
            return _member(info.cls)
        case inspect.BoolType():
            return True
        case inspect.IntType():
            return max(info.ge or 0, 1)
        case inspect.StrType():
            return _text(info.pattern)
        case inspect.BytesType():
            return bytes(info.min_length or 1)
        case inspect.NoneType():
            return None
        case _:
            raise NoExampleError(type(info).__name__)


def _member(kind: type[enum.Enum]) -> Any:
    return next(iter(kind)).value


def _text(pattern: str | None) -> str:
    for text in _TEXTS:
        if pattern is None or re.search(pattern, text):
            return text
    raise NoExampleError(f"no text matches {pattern}")
