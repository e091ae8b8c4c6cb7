"""A BIP-39 mnemonic, in English, and its passphrase: checked and turned into its 64-byte seed without leaving slots.

The file is 12, 15, 18, 21 or 24 words in lower case with one space between them and nothing else; the password is the
passphrase, UTF-8 in the form NFKD, which the client sees to (of ASCII there is only one form).

Each word is compared with all 2048 in native code, and what its index adds to the entropy is summed up by libsodium, so
neither time nor memory tells which words they are. Where the spaces lie steers the loops: lengths of words show in the
time. A mnemonic has no right to a second reading, so whatever is not this form is refused.

Both take some 30 ms, so they run on a thread of the shell's (I-3); the slots that they need are taken beforehand.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack
from typing import Any, Final

from nacl._sodium import ffi, lib

from adytum_enclave.core.crypto.pbkdf2 import HASH_SIZE, Pbkdf2Sha512
from adytum_enclave.core.effects import Stretch
from adytum_enclave.core.imports.english import WORDS
from adytum_enclave.core.imports.parts import Parts, invalid
from adytum_enclave.core.secrets import Arena, Slot, copy, equal

SIZES: Final = (12, 15, 18, 21, 24)  # words
ROUNDS: Final = 2048
_SALT: Final = b"mnemonic"
_SPACE: Final = 0x20
_LETTERS: Final = 8  # the longest word
_SHORTEST: Final = 3
_LONGEST_TEXT: Final = 24 * (_LETTERS + 1) - 1
_BITS: Final = 11  # of a word
_SUM: Final = 33  # bytes: 24 words
_TABLE: Final = b"".join(word.encode().ljust(_LETTERS, b"\0") for word in WORDS)


def make_seed(parts: Parts, arena: Arena) -> Generator[Stretch, Any, Slot]:
    """The seed (64 bytes); the caller owns it. Errors: IMPORT_INVALID, RESOURCE_EXHAUSTED. No slot stays taken then."""
    size = parts.file_size
    if size > _LONGEST_TEXT:
        raise invalid("mnemonic")
    with (
        arena.take(size) as text,
        arena.take(len(_SALT) + parts.password_size) as salt,
        ExitStack() as owned,
    ):
        parts.copy_file(text)
        copy(memoryview(_SALT), salt)
        parts.copy_password(salt, len(_SALT))
        check = _Check(text, arena, owned)
        seed = arena.take(HASH_SIZE)
        try:
            stretching = owned.enter_context(Pbkdf2Sha512(text, salt, rounds=ROUNDS, target=seed))

            def work() -> None:
                check.run()
                stretching.run()

            yield Stretch(work=work)
        except BaseException:
            seed.wipe()
            raise
        return seed


class _Check:
    """Whether the words are words and their checksum is right. Everything is taken at the start: see the module."""

    def __init__(self, text: Slot, arena: Arena, owned: ExitStack) -> None:
        self._text = text
        self._words = _split(text)
        self._bits = len(self._words) // 3  # of checksum; 32 times as many of entropy
        sizes = (_SUM, _SUM, _LETTERS, 2, 4 * self._bits, 32, 2, 2)
        self._slots = tuple(owned.enter_context(arena.take(size)) for size in sizes)

    def run(self) -> None:
        total, index, word, nowhere, *rest = self._slots
        missing = 0
        for start, end in self._words:
            word.zero()
            copy(self._text.view[start:end], word)
            missing += not _find(word, index, nowhere)
            for _ in range(_BITS):
                _double(total)
            lib.sodium_add(total.cdata(ffi), index.cdata(ffi), _SUM)
        if missing:
            raise invalid("mnemonic word")
        for _ in range(8 - self._bits):
            _double(total)
        if not _fits(total, self._bits, *rest):
            raise invalid("mnemonic checksum")


def _split(text: Slot) -> list[tuple[int, int]]:
    spaces = [at for at, byte in enumerate(text.view) if byte == _SPACE]
    words = list(zip([0, *(at + 1 for at in spaces)], [*spaces, text.size], strict=True))
    if len(words) not in SIZES or not all(_SHORTEST <= end - start <= _LETTERS for start, end in words):
        raise invalid("mnemonic")
    return words


def _find(word: Slot, index: Slot, nowhere: Slot) -> bool:
    """Write the word's place in the list (little endian) to `index`. All 2048 are compared, whichever it is."""
    found = False
    index.zero()
    targets = nowhere, index
    table: Any = ffi.from_buffer(_TABLE)
    pointer, compare = word.cdata(ffi), lib.sodium_memcmp
    for place in range(len(WORDS)):
        is_it = compare(pointer, table + place * _LETTERS, _LETTERS) == 0
        targets[is_it].view[:2] = place.to_bytes(2, "little")
        found |= is_it
    return found


def _double(number: Slot) -> None:
    lib.sodium_add(number.cdata(ffi), number.cdata(ffi), number.size)


def _fits(total: Slot, check: int, entropy: Slot, digest: Slot, given: Slot, wanted: Slot) -> bool:
    """`total`, little endian: entropy (4 * check bytes) || checksum (check bits) || zeros to the byte."""
    for at in range(entropy.size):
        entropy.view[at : at + 1] = total.view[entropy.size - at : entropy.size - at + 1]
    lib.crypto_hash_sha256(digest.cdata(ffi), entropy.cdata(ffi), entropy.size)
    given.view[:1] = total.view[:1]
    wanted.view[:1] = digest.view[:1]
    for _ in range(check):  # the first `check` bits of each move to the second byte
        _double(given)
        _double(wanted)
    return equal(given.view[1:], wanted.view[1:])
