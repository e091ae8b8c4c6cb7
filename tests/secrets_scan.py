"""Looks for known secrets in files, in every form in which they could stand there, also inside other encodings.

    index = Index({"alice's key": secret})
    found = index.search({"dump": dump, "log": log})

A dump writes bytes as hex, which may hold JSON, which may hold base64: each layer is taken off, and what comes out is
searched for 16 bytes in a row of any secret, forwards and backwards, at any place. That takes one look-up for 4 bytes
of text, however many secrets there are: the index knows every 8 bytes in a row of every secret, and 11 bytes of a
secret, wherever they begin, cover 8 that begin at a multiple of 4. Each hit is then compared byte by byte.

Left out: what was encrypted or compressed, and secrets of less than 16 bytes (they stand in texts by accident).
"""

from __future__ import annotations

import base64
import itertools
import re
from collections.abc import Iterator, Mapping

PIECE = 16  # bytes: half of a key is a leak, and no accident
_LEAST = 13  # bytes in a row that count as found: inside longer base64, 16 bytes share the first and last with others
_LEAST_TEXT = 32  # of a secret that is plain text: shorter ones are parts of words and names that stand elsewhere, too
_LEAST_DISTINCT = 9  # different bytes in a hit: random ones have fewer once in a hundred thousand; zeros and words do
_WINDOW, _STEP = 8, 4
_DEPTH = 2

_HEX = re.compile(rb"[0-9a-fA-F]{30,}")
_PAIRS = re.compile(rb"(?:[0-9a-fA-F]{2}[ :\-]){14,}[0-9a-fA-F]{2}")
_BASE64 = re.compile(rb"[A-Za-z0-9+/_\-]{20,}")
_BASE32 = re.compile(rb"(?<![A-Za-z0-9+/])[A-Z2-7]{24,}(?![a-z0-9+/])")
_BASE58 = re.compile(rb"(?<![A-Za-z0-9+/])[1-9A-HJ-NP-Za-km-z]{42,112}(?![A-Za-z0-9+/])")
_BASE58_LENGTHS = {43, 44, 51, 52, 87, 88, 111, 112}  # 32 and 64 bytes, WIF, extended keys
_LIST = re.compile(rb"(?:\d{1,3}, ?){14,}\d{1,3}")
_NUMBER = re.compile(rb"(?<!\d)\d{30,}(?!\d)")
_ESCAPE = re.compile(
    rb"\\x([0-9a-fA-F]{2})|\\u00([0-9a-fA-F]{2})|%([0-9a-fA-F]{2})|\\([0-3][0-7]{2})|\\([nrtabfv\\\"'/])"
)
_CODED = re.compile(rb"[0-9A-Za-z+/_\-]{20}|[0-9a-fA-F]{2}[ :\-][0-9a-fA-F]{2}[ :\-]|\d{1,3},[ \d]\d+,")  # any of these
_TEXT = re.compile(rb"[\x20-\x7e\s]+")
_ESCAPED = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"a": b"\a", b"b": b"\b", b"f": b"\f", b"v": b"\v"}
_LINE_ENDS = re.compile(rb"\\r\\n|\\n|[\r\n]")
_STANDARD = bytes.maketrans(b"-_", b"+/")
_ALPHABET58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


def forms(secret: bytes) -> Iterator[tuple[str, bytes]]:
    """(name, text) of a secret of at least 16 bytes and of each 16-byte piece, as somebody might write it."""
    pieces = [secret] + [secret[at : at + PIECE] for at in range(0, len(secret) - PIECE + 1, PIECE)]
    for piece in dict.fromkeys(pieces):
        part = "" if piece is secret else "piece, "
        for order, data in (("", piece), ("reversed ", piece[::-1])):
            yield f"{part}{order}raw", data
            yield f"{part}{order}hex", data.hex().encode()
            yield f"{part}{order}upper hex", data.hex().upper().encode()
            yield f"{part}{order}hex in pairs", data.hex(":").encode()
            yield f"{part}{order}decimal", str(int.from_bytes(data, "big")).encode()
            yield f"{part}{order}list", str(list(data))[1:-1].encode()
            yield f"{part}{order}escaped", "".join(f"\\x{byte:02x}" for byte in data).encode()
            yield f"{part}{order}repr", repr(data).encode()
            yield f"{part}{order}percent", "".join(f"%{byte:02X}" for byte in data).encode()
            yield f"{part}{order}octal", "".join(f"\\{byte:03o}" for byte in data).encode()
            yield f"{part}{order}base32", base64.b32encode(data).rstrip(b"=")
            for shift in range(3):
                # Inside a longer text the first and last characters depend on the neighbours: only what does not.
                text = base64.b64encode(bytes(shift) + data)
                yield f"{part}{order}base64", text[-(-shift * 8 // 6) : (shift + len(data)) * 8 // 6]


def _hex(run: bytes) -> Iterator[bytes]:
    for shift in range(2):
        text = run[shift:]
        yield bytes.fromhex(text[: len(text) // 2 * 2].decode())


def _base64(run: bytes) -> Iterator[bytes]:
    if _HEX.fullmatch(run):
        return
    text = run.translate(_STANDARD)
    for shift in range(4):
        yield base64.b64decode(b"A" * shift + text + b"A" * (-(shift + len(text)) % 4))


def _base32(run: bytes) -> Iterator[bytes]:
    for shift in range(8):
        yield base64.b32decode(b"A" * shift + run + b"A" * (-(shift + len(run)) % 8))


def _base58(run: bytes) -> Iterator[bytes]:
    if len(run) in _BASE58_LENGTHS:
        number = 0
        for character in run.decode():
            number = number * 58 + _ALPHABET58.index(character)
        yield number.to_bytes((number.bit_length() + 7) // 8, "big")


def _pairs(run: bytes) -> Iterator[bytes]:
    yield bytes.fromhex(run.translate(None, b" :-").decode())


def _list(run: bytes) -> Iterator[bytes]:
    yield bytes(number for number in map(int, run.split(b",")) if number < 256)


def _unescaped(match: re.Match[bytes]) -> bytes:
    x, u, percent, octal, letter = match.groups()
    if letter:
        return _ESCAPED.get(letter, letter)
    if octal:
        return bytes([int(octal, 8)])
    return bytes.fromhex((x or u or percent).decode())


def layers(data: bytes, depth: int = _DEPTH, name: str = "") -> Iterator[tuple[str, bytes]]:
    """(how it was written, bytes): `data`, and what its runs of any encoding decode to, also theirs."""
    yield name or "raw", data
    prefix = f"{name}, " if name else ""
    if b"\\" in data or b"%" in data:
        yield f"{prefix}escaped", _ESCAPE.sub(_unescaped, data)
    if depth == 0 or _CODED.search(data) is None:
        return
    joined = _LINE_ENDS.sub(b"", data)  # what stands in lines that were broken is read across them
    for kind, pattern, decode, text in (
        ("hex", _HEX, _hex, joined),
        ("base64", _BASE64, _base64, joined),
        ("base32", _BASE32, _base32, data),
        ("base58", _BASE58, _base58, data),
        ("hex in pairs", _PAIRS, _pairs, data),
        ("list", _LIST, _list, data),
    ):
        runs = [decode(run) for run in pattern.findall(text)]
        for column in itertools.zip_longest(*runs, fillvalue=b""):
            if decoded := b"\n".join(filter(None, column)):
                yield from layers(decoded, depth - 1, prefix + kind)


class Index:
    """Secrets by name, made ready to be looked for in many files. `ignored`: names of those that are too short."""

    def __init__(self, secrets: Mapping[str, bytes]) -> None:
        self._secrets = {name: secret for name, secret in secrets.items() if len(secret) >= PIECE}
        self.ignored = [name for name in secrets if name not in self._secrets]
        self._windows: set[int] = set()
        self._numbers: dict[bytes, str] = {}
        self._holders: dict[bytes, list[tuple[str, bytes]]] = {}  # of windows that were hit: looked up once
        dull: set[int] = set()
        for name, secret in self._secrets.items():
            for order in (secret, secret[::-1]):
                for shift in range(_WINDOW):
                    self._windows.update(_words(order, shift))
                    dull.update(word for word in _words(order, shift) if _is_dull(word))
                pieces = [order] if len(order) <= 64 else []
                for piece in pieces + [order[at : at + PIECE] for at in range(0, len(order) - PIECE + 1, PIECE)]:
                    self._numbers[str(int.from_bytes(piece, "big")).encode()] = name
        self._windows -= dull

    def __len__(self) -> int:
        return len(self._secrets)

    def search(self, files: Mapping[str, bytes]) -> list[tuple[str, str, str]]:
        """(file, secret, form) of everything that was found."""
        return [(file, name, form) for file, data in files.items() for name, form in self.search_one(data)]

    def search_one(self, data: bytes) -> list[tuple[str, str]]:
        found: dict[tuple[str, str], None] = {}
        for form, layer in layers(data):
            for number in _NUMBER.findall(layer):
                if number in self._numbers and len(set(number)) > 4:
                    found[self._numbers[number], f"{form}, decimal" if form != "raw" else "decimal"] = None
            for shift in range(0, _WINDOW, _STEP):
                if not self._windows.isdisjoint(_words(layer, shift)):
                    for name in self._explain(layer, shift):
                        if (name, form.removesuffix(", escaped")) not in found:
                            found[name, form] = None
        return list(found)

    def _explain(self, layer: bytes, shift: int) -> Iterator[str]:
        """The names of the secrets that stand there. A hit of zeros or of a common word has none."""
        places: dict[bytes, list[int]] = {}
        for number, word in enumerate(_words(layer, shift)):
            if word in self._windows:
                at = shift + number * _WINDOW
                places.setdefault(layer[at : at + _WINDOW], []).append(at)
        for window, ats in places.items():
            for name, order in self._who_holds(window):
                if any(_is_same(layer, at, order, window) for at in ats):
                    yield name

    def _who_holds(self, window: bytes) -> list[tuple[str, bytes]]:
        """(name, secret or secret backwards) of each that has `window` in it."""
        found = self._holders.get(window)
        if found is None:
            both = ((name, order) for name, secret in self._secrets.items() for order in (secret, secret[::-1]))
            found = self._holders[window] = [(name, order) for name, order in both if window in order]
        return found


def _words(data: bytes, shift: int) -> memoryview:
    """Each 8 bytes from `shift` on as one number."""
    whole = max(0, len(data) - shift) // _WINDOW * _WINDOW
    return memoryview(data)[shift : shift + whole].cast("Q")


def _is_dull(word: int) -> bool:
    """Zeros and the like, of which every file has many."""
    return len(set(word.to_bytes(_WINDOW, "big"))) < 4


def is_text(secret: bytes) -> bool:
    """What somebody has written, and not drawn."""
    return _TEXT.fullmatch(secret) is not None


def _is_same(layer: bytes, at: int, secret: bytes, window: bytes) -> bool:
    """Whether enough of `secret` stands around `at`."""
    least = min(len(secret), _LEAST_TEXT) if is_text(secret) else _LEAST
    place = secret.find(window)
    while place >= 0:
        back = 0
        while back < min(at, place) and layer[at - back - 1] == secret[place - back - 1]:
            back += 1
        end = _WINDOW
        while at + end < len(layer) and place + end < len(secret) and layer[at + end] == secret[place + end]:
            end += 1
        if back + end >= least and len(set(secret[place - back : place + end])) >= _LEAST_DISTINCT:
            return True
        place = secret.find(window, place + 1)
    return False


def search(files: Mapping[str, bytes], secrets: Mapping[str, bytes]) -> list[tuple[str, str, str]]:
    """(file, secret, form) of everything that was found."""
    return Index(secrets).search(files)
