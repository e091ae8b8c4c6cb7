"""What a host can do to one field of one structure: each manipulation with its name, as a changed copy.

The value decides what is possible: bytes and hex can be flipped and cut at every length, a number raised and lowered, a
list shortened, an enumerated word replaced by each other one. `donor` is the same structure of another request
(swap), the structure's other fields give what may be moved here (relocate), `older` is an earlier one (roll back).

>>> [m.attack for m in manipulations({"n": 1}, "n")]
['drop', 'flip', 'forge', 'forge', 'forge']
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Fields = Mapping[str, Any]

_HEX = re.compile(r"\A([0-9a-f]{2})+\Z")
MAX_LENGTHS = 6


@dataclass(frozen=True, slots=True)
class Manipulation:
    """`attack`: one of the fixed words. `detail`: for a person. `fields`: the structure afterwards."""

    attack: str
    detail: str
    fields: dict[str, Any]


def manipulations(
    fields: Fields,
    name: str,
    *,
    donor: Fields | None = None,
    older: Fields | None = None,
    words: tuple[str, ...] = (),
    every_length: bool = False,
) -> Iterator[Manipulation]:
    """All manipulations of `fields[name]`, none of which leaves the value as it is. `words`: the other values that the
    protocol knows for it. `every_length`: truncate to each shorter length, else to a few."""
    value = fields[name]

    def made(attack: str, detail: str, new: Any) -> Manipulation:
        return Manipulation(attack, detail, {**fields, name: new})

    yield Manipulation("drop", "absent", {key: fields[key] for key in fields if key != name})
    seen = [value]
    for attack, detail, new in _candidates(fields, name, donor, older, words, every_length):
        if not any(new == old and type(new) is type(old) for old in seen):
            seen.append(new)
            yield made(attack, detail, new)


def invented(fields: Fields) -> Manipulation:
    """A field that nobody knows."""
    return Manipulation("forge", "an unknown field", {**fields, "host": 1})


def _candidates(
    fields: Fields,
    name: str,
    donor: Fields | None,
    older: Fields | None,
    words: tuple[str, ...],
    every_length: bool,
) -> Iterator[tuple[str, str, Any]]:
    value = fields[name]
    if donor is not None and name in donor:
        yield "swap", "of another request", donor[name]
    if older is not None and name in older:
        yield "roll back", "of an earlier one", older[name]
    for other, moved in fields.items():
        if other != name and type(moved) is type(value) and not isinstance(value, bool):
            yield "relocate", f"the value of {other}", moved
    yield from _damaged(value, every_length)
    for word in words:
        yield "forge", f"{word}", word
    yield "forge", "of another type", [] if not isinstance(value, list) else {}
    if value is not None:
        yield "forge", "null", None


def _damaged(value: Any, every_length: bool) -> Iterator[tuple[str, str, Any]]:
    if isinstance(value, bool):
        yield "flip", "the other truth", not value
    elif isinstance(value, int):
        yield "flip", "the lowest bit", value ^ 1
        yield "forge", "one more", value + 1
    elif isinstance(value, bytes):
        for at in _places(len(value)):
            yield "flip", f"a bit of byte {at}", value[:at] + bytes([value[at] ^ 0x10]) + value[at + 1 :]
        for length in _lengths(len(value), every_length):
            yield "truncate", f"to {length} bytes", value[:length]
        yield "forge", "a byte more", value + b"\x00"
    elif isinstance(value, str):
        yield from _damaged_text(value, every_length)
    elif isinstance(value, list):
        for length in _lengths(len(value), every_length):
            yield "truncate", f"to {length} items", value[:length]
        yield "reorder", "backwards", value[::-1]
    elif isinstance(value, dict):
        for key in list(value)[:4]:
            yield "truncate", f"without {key}", {k: v for k, v in value.items() if k != key}
        yield "forge", "an entry more", {**value, "host": "1"}


def _damaged_text(value: str, every_length: bool) -> Iterator[tuple[str, str, Any]]:
    is_hex = _HEX.match(value) is not None
    for at in _places(len(value)):
        other = format(int(value[at], 16) ^ 1, "x") if is_hex else ("b" if value[at] == "a" else "a")
        yield "flip", f"character {at}", value[:at] + other + value[at + 1 :]
    for length in _lengths(len(value), every_length):
        yield "truncate", f"to {length} characters", value[:length]
    yield "forge", "two characters more", value + ("00" if is_hex else "aa")


def _places(size: int) -> list[int]:
    return sorted({0, size // 2, size - 1}) if size else []


def _lengths(size: int, every: bool) -> list[int]:
    if every or size <= MAX_LENGTHS:
        return list(range(size))
    return sorted({0, 1, size // 2, size - 2, size - 1})
