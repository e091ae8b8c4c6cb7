"""Reach into a message: through MessagePack, JSON inside bytes, base64 and COSE, and put everything back around.

>>> edit(b'{"a": {"b": 1}}', (JSON, "a", "b"), lambda value: value + 1)
b'{"a":{"b":2}}'
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from adytum_sim.nsm import cbor
from adytum_verify.cbor import read_all


@dataclass(frozen=True, slots=True)
class Codec:
    """Bytes or text that carry a value."""

    name: str
    decode: Callable[[Any], Any]
    encode: Callable[[Any], Any]


def _compact(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def _cose(document: bytes) -> list[Any]:
    parts = cbor.decode(document)
    if not isinstance(parts, list):
        raise cbor.CborError("not a COSE_Sign1")
    return list(parts)


MSGPACK = Codec("msgpack", msgspec.msgpack.decode, msgspec.msgpack.encode)
JSON = Codec("json", json.loads, _compact)
JSON_TEXT = Codec("json text", json.loads, lambda value: _compact(value).decode())
BASE64 = Codec("base64", base64.b64decode, lambda data: base64.b64encode(data).decode())
COSE = Codec("COSE_Sign1", _cose, cbor.encode)
PAYLOAD = Codec("payload", lambda data: read_all(data, indefinite_map=True), lambda v: cbor.encode(cbor.Indefinite(v)))


def array(*names: str) -> Codec:
    """A list in which each place has a name, as fields by name. A field that is dropped shifts those after it."""
    return Codec("array", lambda items: dict(zip(names, items, strict=True)), lambda parts: list(parts.values()))


Step = str | int | Codec
Path = tuple[Step, ...]


def find(value: Any, path: Path) -> Any:
    """What lies at the end of `path`. Errors: those of the codecs, KeyError, IndexError."""
    for step in path:
        value = step.decode(value) if isinstance(step, Codec) else value[step]
    return value


def edit(value: Any, path: Path, change: Callable[[Any], Any]) -> Any:
    """`value` with `change` applied at the end of `path`; what was given stays as it is. Errors: as `find`."""
    if not path:
        return change(value)
    step, rest = path[0], path[1:]
    if isinstance(step, Codec):
        return step.encode(edit(step.decode(value), rest, change))
    copy: Any = dict(value) if isinstance(value, dict) else list(value)
    copy[step] = edit(value[step], rest, change)
    return copy
