"""EIP-712's types and how values of them are hashed (https://eips.ethereum.org/EIPS/eip-712), strictly.

A value has one type and one reading. Refused, although some wallets take them: numbers as fractions, byte strings that
are shorter than their type, addresses with a wrong checksum, `null`, the aliases `int` and `uint`, members that the
type does not have.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from adytum_policy.content.address import is_checksummed, keccak256, to_checksum
from adytum_policy.content.readable import shown

_NAME = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]{0,63}", re.ASCII)
_TYPE = re.compile(r"([A-Za-z_$][A-Za-z0-9_$]{0,63})((?:\[(?:[1-9][0-9]{0,3})?\]){0,8})", re.ASCII)
_LENGTH = re.compile(r"\[([0-9]*)\]", re.ASCII)
# Names that Solidity takes for types of its own, whether they exist or not.
_RESERVED = re.compile(r"(u?int|bytes)[0-9]*|bool|address|string|function|u?fixed[0-9x]*", re.ASCII)
_DECIMAL = re.compile(r"0|-?[1-9][0-9]{0,77}", re.ASCII)
_HEX_NUMBER = re.compile(r"0x[0-9a-fA-F]{1,64}", re.ASCII)
_HEX = re.compile(r"0x([0-9a-fA-F]{2})*", re.ASCII)
_MAX_LEAVES = 512

_SIZES = {f"{sign}int{bits}": bits for sign in ("", "u") for bits in range(8, 257, 8)}
_FIXED = {f"bytes{count}": count for count in range(1, 33)}
_ELEMENTARY = frozenset({"bool", "address", "string", "bytes", *_SIZES, *_FIXED})


class TypedDataError(ValueError):
    """Types that are not well formed, or a value that is not of its type. Carries no data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """`written`: the type as it stands in the encoding. `dimensions`: outermost last, as written; None: any length."""

    name: str
    written: str
    base: str
    dimensions: tuple[int | None, ...]


@dataclass(slots=True)
class Types:
    """Checked struct types. `leaves` collects (path, text) of every value that was hashed."""

    structs: dict[str, tuple[Member, ...]]
    leaves: list[tuple[str, str]] = field(default_factory=list)
    _hashes: dict[str, bytes] = field(default_factory=dict)

    def reachable(self, name: str) -> set[str]:
        """The struct types that a value of `name` consists of, itself included. Errors: TypedDataError."""
        found: set[str] = set()
        waiting = [name]
        while waiting:
            at = waiting.pop()
            if at in found:
                continue
            if at not in self.structs:
                raise TypedDataError
            found.add(at)
            waiting += [member.base for member in self.structs[at] if member.base not in _ELEMENTARY]
        return found

    def type_hash(self, name: str) -> bytes:
        """keccak256 of encodeType: the struct itself, then those it refers to by name."""
        if name not in self._hashes:
            others = sorted(self.reachable(name) - {name})
            text = "".join(
                f"{at}({','.join(f'{member.written} {member.name}' for member in self.structs[at])})"
                for at in (name, *others)
            )
            self._hashes[name] = keccak256(text.encode())
        return self._hashes[name]

    def hash_struct(self, name: str, value: object, path: str) -> bytes:
        """hashStruct of EIP-712. `value`: an object with exactly the type's members. Errors: TypedDataError."""
        members = self.structs[name]
        if not isinstance(value, dict) or len(value) != len(members):
            raise TypedDataError
        words = [self.type_hash(name)]
        for member in members:
            if member.name not in value:
                raise TypedDataError
            inner = f"{path}.{member.name}" if path else member.name
            words.append(self._word(member.base, member.dimensions, value[member.name], inner))
        return keccak256(b"".join(words))

    def _word(self, base: str, dimensions: tuple[int | None, ...], value: object, path: str) -> bytes:
        """The 32 bytes that stand for `value` in its parent."""
        if dimensions:
            length = dimensions[-1]
            if not isinstance(value, list) or (length is not None and len(value) != length):
                raise TypedDataError
            if not value:
                self._leaf(path, "(empty list)")
            return keccak256(
                b"".join(self._word(base, dimensions[:-1], part, f"{path}[{at}]") for at, part in enumerate(value))
            )
        if base not in _ELEMENTARY:
            return self.hash_struct(base, value, path)
        word, text = _elementary(base, value)
        self._leaf(path, text)
        return word

    def _leaf(self, path: str, text: str) -> None:
        if len(self.leaves) == _MAX_LEAVES:
            raise TypedDataError
        self.leaves.append((path, text))


def parse_types(listed: dict[str, list[tuple[str, str]]]) -> Types:
    """Check {struct name: [(member name, type), ...]}. Errors: TypedDataError."""
    structs = {}
    for name, members in listed.items():
        if not _NAME.fullmatch(name) or _RESERVED.fullmatch(name):
            raise TypedDataError
        structs[name] = tuple(_members(members))
        if len({member.name for member in structs[name]}) != len(members):
            raise TypedDataError
    return Types(structs)


def _members(listed: list[tuple[str, str]]) -> Iterator[Member]:
    for name, written in listed:
        found = _TYPE.fullmatch(written)
        if found is None or not _NAME.fullmatch(name):
            raise TypedDataError
        base = found[1]
        if _RESERVED.fullmatch(base) and base not in _ELEMENTARY:
            raise TypedDataError
        dimensions = tuple(int(length) if length else None for length in _LENGTH.findall(found[2]))
        yield Member(name=name, written=written, base=base, dimensions=dimensions)


def number(value: object, bits: int, *, signed: bool) -> int:
    """A JSON integer, a decimal string, or a "0x" string, within the type's range. Errors: TypedDataError."""
    if isinstance(value, str):
        if _DECIMAL.fullmatch(value):
            value = int(value)
        elif _HEX_NUMBER.fullmatch(value):
            value = int(value, 16)
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypedDataError
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1)) if signed else (0, 2**bits)
    if not low <= value < high:
        raise TypedDataError
    return value


def octets(value: object, count: int | None) -> bytes:
    """ "0x" and the hex of exactly `count` bytes, of any number when None. Errors: TypedDataError."""
    if not isinstance(value, str) or not _HEX.fullmatch(value):
        raise TypedDataError
    data = bytes.fromhex(value[2:])
    if count is not None and len(data) != count:
        raise TypedDataError
    return data


def address(value: object) -> bytes:
    """20 bytes; lower case, or with the right checksum. Errors: TypedDataError."""
    data = octets(value, 20)
    text = str(value)
    if text != text.lower() and not is_checksummed(text):
        raise TypedDataError
    return data


def _elementary(kind: str, value: object) -> tuple[bytes, str]:
    """(word, text for people) of a value that is no struct and no array."""
    if kind in _SIZES:
        found = number(value, _SIZES[kind], signed=kind[0] == "i")
        return (found % 2**256).to_bytes(32, "big"), str(found)
    if kind in _FIXED:
        data = octets(value, _FIXED[kind])
        return data.ljust(32, b"\0"), "0x" + data.hex()
    if kind == "bytes":
        data = octets(value, None)
        return keccak256(data), "0x" + data.hex()
    if kind == "address":
        data = address(value)
        return data.rjust(32, b"\0"), to_checksum(data)
    if kind == "bool" and isinstance(value, bool):
        return int(value).to_bytes(32, "big"), "true" if value else "false"
    if kind == "string" and isinstance(value, str):
        return keccak256(value.encode()), shown(value)
    raise TypedDataError
