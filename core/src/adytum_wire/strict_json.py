"""JSON for signed bytes: one reading, or a refusal.

Refuses what parsers disagree about: duplicate keys, trailing bytes, NaN and Infinity, floats, lone surrogates,
byte order marks, encodings other than UTF-8, depth over `limits.MAX_JSON_DEPTH`. The standard library's scanner looks
for these and can only refuse; the value comes from msgspec in strict mode, where unknown and missing fields refuse.

Contract for the fuzzer: `decode` returns a value of the type, or raises `AdytumError` with the caller's code. Nothing
else ever leaves it.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import Any, NoReturn, TypeVar

import msgspec

from adytum_wire import limits
from adytum_wire.errors import AdytumError, Code

T = TypeVar("T")

_PATH = re.compile(r"`(\$[A-Za-z0-9_.\[\]]*)`$")


class _Refusal(ValueError):
    """Internal: one of our own reasons, raised inside the json scanner."""


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise _Refusal("duplicate key")
    return result


def _no_number(_text: str) -> NoReturn:
    raise _Refusal("not an integer")


_scanner = json.JSONDecoder(object_pairs_hook=_pairs, parse_float=_no_number, parse_constant=_no_number)


def is_too_deep(text: str) -> bool:
    """True when JSON text nests deeper than `limits.MAX_JSON_DEPTH`; brackets inside strings do not count. Ask before a
    recursive scanner sees hostile text: its own limit is the interpreter's, which others may have raised."""
    if text.count("[") + text.count("{") <= limits.MAX_JSON_DEPTH:
        return False
    depth = 0
    in_string = escaped = False
    for char in text:
        if in_string:
            if escaped:
                escaped = False
            elif char == "\\":
                escaped = True
            elif char == '"':
                in_string = False
        elif char == '"':
            in_string = True
        elif char in "[{":
            depth += 1
            if depth > limits.MAX_JSON_DEPTH:
                return True
        elif char in "]}":
            depth -= 1
    return False


@lru_cache(maxsize=64)  # one for each of our document types
def _reader(kind: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind, strict=True)


def decode(data: bytes, kind: type[T], *, limit: int, code: Code) -> T:
    """Parse `data` (at most `limit` bytes of UTF-8 JSON) as `kind`.

    Errors: `AdytumError(code)`; its `field` is the path of the first offending field, as far as it is a name of ours.
    """
    if len(data) > limit:
        raise AdytumError(code, "$ (too large)")
    try:
        text = data.decode("utf-8")
        if is_too_deep(text):
            raise AdytumError(code, "$ (too deep)")
        value = _scanner.decode(text)
        if "\\u" in text:  # only an escape can smuggle in a lone surrogate
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError):  # includes JSONDecodeError, UnicodeError and our own refusals
        raise AdytumError(code, "$ (not strict JSON)") from None
    try:
        result: T = _reader(kind).decode(data)  # type: ignore[arg-type]  # a type is hashable
        return result
    except msgspec.ValidationError as error:
        found = _PATH.search(str(error))
        raise AdytumError(code, found.group(1) if found else "$") from None
    except ValueError:  # msgspec.DecodeError, UnicodeError
        raise AdytumError(code, "$ (not strict JSON)") from None


def encode(value: Any) -> bytes:
    """Compact UTF-8 JSON in declared field order. What `encode` writes, `decode` reads."""
    return msgspec.json.encode(value)
