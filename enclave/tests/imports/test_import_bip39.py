"""Mnemonics: the vectors of the BIP, other people's libraries, and every way to be no mnemonic."""

from __future__ import annotations

import hashlib
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import eth_account
import pytest
from bip_utils import Bip39MnemonicGenerator, Bip39SeedGenerator
from hypothesis import given, settings
from hypothesis import strategies as st

from adytum_enclave.core import hd
from adytum_enclave.core.effects import Stretch
from adytum_enclave.core.imports import bip39
from adytum_enclave.core.imports.english import WORDS
from adytum_enclave.core.imports.parts import Parts
from adytum_enclave.core.secrets import Arena, Slot
from adytum_policy.content import address_of
from adytum_wire.errors import AdytumError, Code
from adytum_wire.types import Algorithm

# trezor/python-mnemonic, vectors.json: (mnemonic, seed); the passphrase is TREZOR in all of them
VECTORS = [
    (
        "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon about",
        "c55257c360c07c72029aebc1b53c05ed0362ada38ead3e3e9efa3708e53495531f09a6987599d18264c1e1c92f2cf141630c7a3c4ab7c81b2f001698e7463b04",
    ),
    (
        "legal winner thank year wave sausage worth useful legal winner thank yellow",
        "2e8905819b8723fe2c1d161860e5ee1830318dbf49a83bd451cfb8440c28bd6fa457fe1296106559a3c80937a1c1069be3a3a5bd381ee6260e8d9739fce1f607",
    ),
    (
        "zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo wrong",
        "ac27495480225222079d7be181583751e86f571027b0497b5b5d11218e0a8a13332572917f0f8e5a589620c6f15b11c61dee327651a14c34e18231052e48c069",
    ),
    (
        "void come effort suffer camp survey warrior heavy shoot primary clutch crush open amazing screen patrol group"
        " space point ten exist slush involve unfold",
        "01f5bced59dec48e362f2c45b5de68b9fd6c92c6634f44d6d40aab69056506f0e35524a518034ddc1192e1dacd32c1ed3eaa3c3b131c88ed8e7e54c49a5d0998",
    ),
]


def run(steps: Generator[Stretch, Any, Slot]) -> Slot:
    """As a shell would, on this thread."""
    with closing(steps):
        next(steps).work()
        with pytest.raises(StopIteration) as stop:
            steps.send(b"")
    seed: Slot = stop.value.value
    return seed


def seed_of(mnemonic: bytes, passphrase: bytes = b"") -> bytes:
    arena = Arena(1 << 15)
    sealed = len(passphrase).to_bytes(4, "big") + passphrase + mnemonic
    with arena.take(len(sealed)) as slot:
        slot.view[:] = sealed
        with run(bip39.make_seed(Parts.of(slot), arena)) as seed:
            found = bytes(seed.view)
    assert arena.in_use == 0
    return found


@pytest.mark.parametrize(("mnemonic", "seed"), VECTORS)
def test_the_vectors_of_the_bip(mnemonic: str, seed: str) -> None:
    assert seed_of(mnemonic.encode(), b"TREZOR").hex() == seed


@given(st.sampled_from([12, 15, 18, 21, 24]), st.text(max_size=20))
@settings(max_examples=12, deadline=None)
def test_any_mnemonic_gives_the_seed_that_bip_utils_gives(size: int, passphrase: str) -> None:
    import unicodedata

    mnemonic = str(Bip39MnemonicGenerator().FromWordsNumber(size))
    form = unicodedata.normalize("NFKD", passphrase)
    assert seed_of(mnemonic.encode(), form.encode()) == bytes(Bip39SeedGenerator(mnemonic).Generate(passphrase))


def test_the_first_ethereum_address_is_eth_accounts(bench: Any) -> None:
    eth_account.Account.enable_unaudited_hdwallet_features()
    mnemonic = "test test test test test test test test test test test junk"
    wanted = eth_account.Account.from_mnemonic(mnemonic, passphrase="p").address
    with (
        bench.run(bip39.make_seed(bench.parts(b"p", mnemonic.encode()), bench.arena)) as seed,
        hd.derive(seed, "m/44'/60'/0'/0/0", Algorithm.SECP256K1) as key,
    ):
        assert address_of(key.public_key) == wanted


@pytest.mark.parametrize(
    ("text", "field"),
    [
        (b"abandon " * 11 + b"abandon", "$.sealed (mnemonic checksum)"),
        (b"abandon " * 11 + b"aboutt", "$.sealed (mnemonic word)"),
        (b"abandon " * 11 + b"About", "$.sealed (mnemonic word)"),
        (b"abandon " * 11 + b"about\n", "$.sealed (mnemonic word)"),
        (b"abandon  " + b"abandon " * 10 + b"about", "$.sealed (mnemonic)"),
        (b" " + b"abandon " * 11 + b"about", "$.sealed (mnemonic)"),
        (b"abandon " * 10 + b"about", "$.sealed (mnemonic)"),
        (b"abandon " * 11 + b"zo\xc3\xb6", "$.sealed (mnemonic word)"),
        (b"\0" * 64, "$.sealed (mnemonic)"),
        (b"a" * 300, "$.sealed (mnemonic)"),
        (b"x", "$.sealed (mnemonic)"),
    ],
)
def test_what_is_no_mnemonic(bench: Any, text: bytes, field: str) -> None:
    assert bench.refused(lambda parts: bench.run(bip39.make_seed(parts, bench.arena)), b"", text) == field


def test_each_wrong_last_word_is_refused_unless_its_checksum_is_right() -> None:
    """One in sixteen words fits; the others are refused: a check that can fail, and does."""
    entropy = bytes(16)
    right = hashlib.sha256(entropy).digest()[0] >> 4
    good = 0
    for word in WORDS[:64]:
        try:
            seed_of(b"abandon " * 11 + word.encode())
        except AdytumError as error:
            assert error.code is Code.IMPORT_INVALID
        else:
            good += 1
    assert WORDS[right] == "about"
    assert good == 64 // 16


@given(st.binary(min_size=1, max_size=120))
@settings(max_examples=60, deadline=None)
def test_any_bytes_are_refused_or_are_a_mnemonic(data: bytes) -> None:
    try:
        seed_of(data)
    except AdytumError as error:
        assert error.code is Code.IMPORT_INVALID


def test_the_word_list_is_the_one_that_others_have() -> None:
    path = Path(eth_account.__file__).parent / "hdaccount/wordlist/english.txt"
    assert tuple(path.read_text().split()) == WORDS
    assert len(set(WORDS)) == 2048


def test_the_words_are_looked_up_and_the_seed_is_stretched_beside_the_loop(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What takes long is in the effect, runs on a thread that must not touch the arena, and may refuse there."""
    steps = bip39.make_seed(bench.parts(b"TREZOR", VECTORS[0][0].encode()), bench.arena)
    effect = next(steps)
    with monkeypatch.context() as other_thread, ThreadPoolExecutor(1) as thread:
        for name in ("take", "_give_back"):  # nobody takes or gives back a slot there
            other_thread.setattr(Arena, name, None)
        thread.submit(effect.work).result()
    with pytest.raises(StopIteration) as stop:
        steps.send(b"")
    with stop.value.value as seed:
        assert bytes(seed.view).hex() == VECTORS[0][1]


@pytest.mark.parametrize("text", [b"abandon " * 11 + b"aboutt", b"abandon " * 12])
def test_nothing_long_happens_before_the_effect(bench: Any, text: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither lookup nor stretching: both are still to come when the effect is asked for."""
    called: list[str] = []
    for name in ("_find", "_fits"):
        monkeypatch.setattr(bip39, name, lambda *_, name=name: called.append(name) or True)
    monkeypatch.setattr(bip39.Pbkdf2Sha512, "run", lambda _self: called.append("run"))
    with closing(bip39.make_seed(bench.parts(b"", text.strip()), bench.arena)) as steps:
        effect = next(steps)
        assert called == []
        effect.work()
    assert called == ["_find"] * 12 + ["_fits", "run"]
