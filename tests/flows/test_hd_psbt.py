"""PSBTs of random wallets on random seeds, signed by the enclave's own steps: bdk finishes them to the same
transaction, and Bitcoin Core's script interpreter takes every input. No process is started here; `test_hd.py` goes all
the way."""

from __future__ import annotations

import base64
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from bip_utils import Bip32Slip10Secp256k1
from coincurve import PrivateKey
from coins import KINDS, SOMEBODY, Coins, account_path, finished_by_bdk, require_valid
from hypothesis import given, settings
from hypothesis import strategies as st

from adytum.client.checks import check_signature
from adytum.client.errors import UntrustedError
from adytum_enclave.core.crypto.secp256k1 import tweak_public
from adytum_enclave.core.hd import Seed
from adytum_enclave.core.secrets import Arena
from adytum_enclave.core.steps.sign import sign
from adytum_policy.content import decode_content, psbt
from adytum_policy.content.address_bitcoin import own_scripts
from adytum_policy.content.bitcoin_tx import Input, Output, Transaction
from adytum_policy.facts import BitcoinFacts
from adytum_wire.errors import AdytumError, Code
from adytum_wire.requests import BitcoinPsbt, Sign
from adytum_wire.results import SignResult
from adytum_wire.types import SigningScheme

SEED = bytes(range(32))
ECDSA, SCHNORR = SigningScheme.ECDSA_SECP256K1, SigningScheme.BIP340
SCHEMES = {kind: SCHNORR if kind == "p2tr" else ECDSA for kind in KINDS}


def body_of(data: bytes, path: str, scheme: SigningScheme) -> Sign:
    return Sign(
        v=1,
        tenant="acme",
        request_id="psbt-000001",
        issued_at=1,
        key_id="key-" + "0" * 32,
        path=path,
        scheme=scheme,
        content=BitcoinPsbt(data.hex(), "mainnet"),
    )


def sign_with(seed: bytes, body: Sign) -> SignResult:
    """What the enclave does between its decision and its receipt; nothing stays in the arena, whatever happens."""
    arena = Arena(256 * 1024)
    slot = arena.take(len(seed))
    slot.view[:] = seed
    who: Any = SimpleNamespace(digest=b"\x2a" * 32)
    with Seed(slot) as whole:
        before = arena.in_use
        try:
            return sign(who, body, decode_content(body.content, body.scheme, b"", body.path), whole)
        finally:
            assert arena.in_use == before


@settings(max_examples=12, deadline=None)
@given(
    seed=st.binary(min_size=16, max_size=64),
    kind=st.sampled_from(list(KINDS)),
    account=st.integers(0, 3),
    amounts=st.lists(st.integers(50_000, 10**10), min_size=1, max_size=5),
    fee=st.integers(500, 5_000),
    data=st.data(),
)
def test_every_input_is_valid_by_bitcoin_core(
    seed: bytes, kind: str, account: int, amounts: list[int], fee: int, data: st.DataObject
) -> None:
    pay = data.draw(st.integers(1_000, sum(amounts) - fee - 1_000))
    coins = Coins(seed, kind, account=account)
    spend = coins.spend(amounts, pay, fee)
    body = body_of(spend.psbt, coins.path, SCHEMES[kind])
    result = sign_with(seed, body)
    assert result == sign_with(seed, body)
    check_signature(body, result)
    raw = bytes.fromhex(result.encoded["raw_transaction"])
    require_valid(raw, spend.spent)
    assert finished_by_bdk(result.encoded["psbt"]) == raw
    assert len(bytes.fromhex(result.signature)) == len(amounts) * (64 if kind == "p2tr" else 65)
    assert result.public_key == coins.root.DerivePath(coins.path).PublicKey().RawCompressed().ToBytes().hex()
    decoded = decode_content(body.content, body.scheme, b"", coins.path)
    assert decoded.facts == BitcoinFacts(type="bitcoin-psbt", recipients=(SOMEBODY,), amount=pay, fee=fee)
    assert len(decoded.claims) in (len(amounts), len(amounts) + 1)  # the inputs' keys, and the change's


def test_the_judge_refuses_a_bad_signature() -> None:
    """The check can fail."""
    coins = Coins(SEED, "p2tr")
    spend = coins.spend([90_000, 80_000], 100_000, 1_000)
    raw = sign_with(SEED, body_of(spend.psbt, coins.path, SCHNORR)).encoded["raw_transaction"]
    require_valid(bytes.fromhex(raw), spend.spent)
    with pytest.raises(AssertionError):
        require_valid(bytes.fromhex(raw), [replace(one, amount=one.amount + 1) for one in spend.spent])


# --- attacks: the host, or a client's wallet, writes what it likes into the PSBT


def key_at(path: str) -> bytes:
    return bytes(Bip32Slip10Secp256k1.FromSeed(SEED).DerivePath(path).PublicKey().RawCompressed().ToBytes())


def fingerprint() -> bytes:
    return bytes(Bip32Slip10Secp256k1.FromSeed(SEED).FingerPrint().ToBytes())


def origin(path: str, root: bytes | None = None) -> bytes:
    indices = [int(part.rstrip("'")) + (2**31 if part.endswith("'") else 0) for part in path.split("/")[1:]]
    return (root or fingerprint()) + b"".join(index.to_bytes(4, "little") for index in indices)


PATH = account_path("p2wpkh")
RECEIVE, CHANGE = f"{PATH}/0/7", f"{PATH}/1/3"
STRANGER = PrivateKey(b"\x13" * 32).public_key.format()


def previous(script: bytes, amount: int = 50_000) -> Transaction:
    spent = Input(txid=b"\x09" * 32, index=0, sequence=0xFFFFFFFF, script=b"\x01\x01")
    return Transaction(
        version=b"\x02\0\0\0", inputs=(spent,), outputs=(Output(amount=amount, script=script),), locktime=0
    )


def build(
    *,
    key: bytes = b"",
    derivations: psbt.Map | None = None,
    change_key: bytes = b"",
    change: psbt.Map | None = None,
    extra: psbt.Map | None = None,
    inputs: int = 1,
) -> bytes:
    """One P2WPKH input at RECEIVE, one output to somebody, change at CHANGE; each part may be replaced by a lie."""
    key, change_key = key or key_at(RECEIVE), change_key or key_at(CHANGE)
    funding = previous(own_scripts(key).segwit)
    tx = Transaction(
        version=b"\x02\0\0\0",
        inputs=(Input(txid=funding.txid(), index=0, sequence=0xFFFFFFFD),) * inputs,
        outputs=(
            Output(amount=30_000, script=SOMEBODY),
            Output(amount=19_000, script=own_scripts(change_key).segwit),
        ),
        locktime=0,
    )
    derivations = {psbt.DERIVATION + key: origin(RECEIVE)} if derivations is None else derivations
    change = {psbt.OUT_DERIVATION + change_key: origin(CHANGE)} if change is None else change
    fields = {psbt.PREVIOUS_TX: funding.encode(), **derivations, **(extra or {})}
    whole = psbt.Psbt(version=0, fields={psbt.UNSIGNED: tx.encode()}, inputs=(), outputs=({}, change), tx=tx)
    return whole.encode([fields] * inputs)


def refused(data: bytes, path: str = PATH, scheme: SigningScheme = ECDSA) -> str:
    with pytest.raises(AdytumError) as caught:
        sign_with(SEED, body_of(data, path, scheme))
    assert caught.value.code is Code.CONTENT_INVALID
    return caught.value.field.removeprefix("$.content.psbt")


def test_the_good_one_that_the_attacks_change() -> None:
    body = body_of(build(), PATH, ECDSA)
    result = sign_with(SEED, body)
    require_valid(
        bytes.fromhex(result.encoded["raw_transaction"]), list(previous(own_scripts(key_at(RECEIVE)).segwit).outputs)
    )
    summary = decode_content(body.content, ECDSA, b"", PATH).summary
    assert summary["output_2"].endswith(f"(change at {CHANGE})")


def test_an_input_whose_claimed_key_is_not_ours() -> None:
    """It says of a stranger's key that it lies at our path: the policy sees an input of ours, and nothing is signed."""
    data = build(key=STRANGER, derivations={psbt.DERIVATION + STRANGER: origin(RECEIVE)})
    assert refused(data) == ".public_key"


def test_change_that_is_not_ours() -> None:
    """19,000 satoshi to the attacker, as change: the policy would not see them."""
    data = build(change_key=STRANGER, change={psbt.OUT_DERIVATION + STRANGER: origin(CHANGE)})
    assert refused(data) == ".public_key"


def test_change_that_nobody_claims_is_paid_away() -> None:
    decoded = decode_content(BitcoinPsbt(build(change={}).hex(), "mainnet"), ECDSA, b"", PATH)
    assert isinstance(decoded.facts, BitcoinFacts)
    assert decoded.facts.amount == 49_000
    other = {psbt.OUT_DERIVATION + key_at(CHANGE): origin("m/84'/0'/1'/1/3")}  # another account's
    decoded = decode_content(BitcoinPsbt(build(change=other).hex(), "mainnet"), ECDSA, b"", PATH)
    assert isinstance(decoded.facts, BitcoinFacts)
    assert decoded.facts.amount == 49_000


def test_the_fingerprint_of_another_seed() -> None:
    wrong = {psbt.DERIVATION + key_at(RECEIVE): origin(RECEIVE, b"\0\0\0\0")}
    assert refused(build(derivations=wrong)) == ""  # two roots in one PSBT
    both = {psbt.OUT_DERIVATION + key_at(CHANGE): origin(CHANGE, b"\0\0\0\0")}
    assert refused(build(derivations=wrong, change=both)) == ".path"


def test_a_path_that_leads_to_another_key_of_ours() -> None:
    assert refused(build(derivations={psbt.DERIVATION + key_at(RECEIVE): origin(f"{PATH}/0/8")})) == ".public_key"


@pytest.mark.parametrize("below", ["/2/0", "/0", "/0/0/0", "/0'/0", "/0/0'", "/1/3/0"])
def test_change_where_no_wallet_finds_it(below: str) -> None:
    key = bytes(Bip32Slip10Secp256k1.FromSeed(SEED).DerivePath(PATH + below).PublicKey().RawCompressed().ToBytes())
    change = {psbt.OUT_DERIVATION + key: origin(PATH + below)}
    assert refused(build(change_key=key, change=change)) == ".outputs"
    assert refused(build(key=key, derivations={psbt.DERIVATION + key: origin(PATH + below)})) == ".inputs"


def test_an_input_of_another_account_or_without_a_path() -> None:
    assert refused(build(derivations={})) == ".inputs"
    assert refused(build(derivations={psbt.DERIVATION + key_at(RECEIVE): origin("m/84'/0'/1'/0/7")})) == ".inputs"
    assert refused(build(), path="m/84'/0'/1'") == ".inputs"


def test_a_key_that_the_script_does_not_belong_to() -> None:
    """A second derivation below our path, of a key that has nothing to do with the script."""
    derivations = {psbt.DERIVATION + key_at(RECEIVE): origin(RECEIVE)}
    assert refused(build(derivations=derivations | {psbt.DERIVATION + STRANGER: origin(f"{PATH}/0/9")})) == ".inputs"
    taproot = {psbt.TAP_DERIVATION + key_at(RECEIVE)[1:]: b"\0" + origin(RECEIVE)}
    assert refused(build(derivations=taproot)) == ".inputs"


def many(inputs: int, outputs: int) -> bytes:
    """P2TR inputs and change, each at a path of its own."""
    keys = {}
    account = Bip32Slip10Secp256k1.FromSeed(SEED).DerivePath(PATH)
    for chain, count in ((0, inputs), (1, outputs)):
        node = account.ChildKey(chain)
        for at in range(count):
            keys[chain, at] = bytes(node.ChildKey(at).PublicKey().RawCompressed().ToBytes())
    scripts = {name: b"\x51\x20" + (tweak_public(key[1:], own_scripts(key).tweak) or b"") for name, key in keys.items()}

    def claim(chain: int, at: int, kind: bytes) -> psbt.Map:
        return {kind + keys[chain, at][1:]: b"\0" + origin(f"{PATH}/{chain}/{at}")}

    tx = Transaction(
        version=b"\x02\0\0\0",
        inputs=tuple(Input(txid=bytes([at + 1]) * 32, index=0, sequence=0xFFFFFFFD) for at in range(inputs)),
        outputs=tuple(Output(amount=900, script=scripts[1, at]) for at in range(outputs)),
        locktime=0,
    )
    maps = [
        {psbt.WITNESS_OUTPUT: Output(amount=1_000, script=scripts[0, at]).encode(), **claim(0, at, psbt.TAP_DERIVATION)}
        for at in range(inputs)
    ]
    change = tuple(claim(1, at, psbt.OUT_TAP_DERIVATION) for at in range(outputs))
    whole = psbt.Psbt(version=0, fields={psbt.UNSIGNED: tx.encode()}, inputs=(), outputs=change, tx=tx)
    return whole.encode(maps)


def test_more_claimed_keys_than_all_tenants_can_wait_for() -> None:
    """Each costs a point while it is read and derivations before anything is signed."""
    asked: list[bytes] = []

    def counted(x: bytes, tweak: bytes) -> bytes | None:
        asked.append(x)
        return tweak_public(x, tweak)

    def read(data: bytes) -> Any:
        asked.clear()
        return decode_content(body_of(data, PATH, SCHNORR).content, SCHNORR, b"", PATH, add_tweak=counted)

    assert len(read(many(64, 16)).claims) == len(asked) == 80
    for inputs, outputs in ((64, 17), (20, 61)):
        with pytest.raises(AdytumError) as caught:
            read(many(inputs, outputs))
        assert (caught.value.code, caught.value.field) == (Code.CONTENT_INVALID, "$.content.psbt.outputs")
        assert len(asked) <= 80
    assert len(sign_with(SEED, body_of(many(64, 16), PATH, SCHNORR)).signature) == 2 * 64 * 64


def test_the_paths_that_sign_are_those_of_the_inputs() -> None:
    decoded = decode_content(body_of(many(3, 2), PATH, SCHNORR).content, SCHNORR, b"", PATH)
    assert decoded.signing_paths == {f"{PATH}/0/{at}" for at in range(3)}


@pytest.mark.parametrize("value", [b"", b"\0" * 3, b"\0" * 6, b"\0" * 102])
def test_a_malformed_derivation(value: bytes) -> None:
    assert refused(build(derivations={psbt.DERIVATION + key_at(RECEIVE): value})) == ".inputs"
    assert refused(build(change={psbt.OUT_TAP_DERIVATION + key_at(CHANGE)[1:]: b"\x02" + value})) == ".outputs"


def test_the_same_input_twice() -> None:
    assert refused(build(inputs=2)) == ""


@pytest.mark.parametrize("sighash", [0, 2, 3, 0x81, 0x83])
def test_a_signature_that_would_not_cover_everything(sighash: int) -> None:
    assert refused(build(extra={psbt.SIGHASH: sighash.to_bytes(4, "little")})) == ".inputs"


def test_an_amount_that_the_previous_transaction_does_not_say() -> None:
    lie = Output(amount=60_000, script=own_scripts(key_at(RECEIVE)).segwit).encode()
    assert refused(build(extra={psbt.WITNESS_OUTPUT: lie})) == ".inputs"
    funding = previous(own_scripts(key_at(RECEIVE)).segwit, 60_000)
    assert refused(build(extra={psbt.PREVIOUS_TX: funding.encode()})) == ".inputs"


def test_inputs_of_two_kinds_take_two_requests() -> None:
    """P2WPKH by ECDSA first, then P2TR by BIP-340 on the PSBT that came back; bdk puts both together."""
    taproot_key = key_at(f"{PATH}/0/1")
    fundings = [previous(own_scripts(key_at(RECEIVE)).segwit), previous(own_scripts(taproot_key).taproot, 70_000)]
    tx = Transaction(
        version=b"\x02\0\0\0",
        inputs=tuple(Input(txid=one.txid(), index=0, sequence=0xFFFFFFFD) for one in fundings),
        outputs=(Output(amount=110_000, script=SOMEBODY),),
        locktime=0,
    )
    inputs = [
        {psbt.PREVIOUS_TX: fundings[0].encode(), psbt.DERIVATION + key_at(RECEIVE): origin(RECEIVE)},
        {
            psbt.WITNESS_OUTPUT: fundings[1].outputs[0].encode(),
            psbt.TAP_DERIVATION + taproot_key[1:]: b"\0" + origin(f"{PATH}/0/1"),
            psbt.INTERNAL: taproot_key[1:],
        },
    ]
    whole = psbt.Psbt(version=0, fields={psbt.UNSIGNED: tx.encode()}, inputs=(), outputs=({},), tx=tx)
    first = sign_with(SEED, body_of(whole.encode(inputs), PATH, ECDSA))
    assert set(first.encoded) == {"psbt"}
    second = sign_with(SEED, body_of(base64.b64decode(first.encoded["psbt"]), PATH, SCHNORR))
    require_valid(finished_by_bdk(second.encoded["psbt"]), [one.outputs[0] for one in fundings])


@pytest.mark.parametrize("part", ["swapped", "short", "path", "psbt"])
def test_a_client_finds_out_an_edited_answer(part: str) -> None:
    coins = Coins(SEED, "p2wpkh")
    body = body_of(coins.spend([90_000, 80_000], 100_000, 1_000).psbt, coins.path, ECDSA)
    result = sign_with(SEED, body)
    signature = bytes.fromhex(result.signature)
    encoded: dict[str, Any] = {
        "swapped": {"signature": (signature[65:] + signature[:65]).hex()},
        "short": {"signature": signature[:65].hex()},
        "path": {"path": "m/84'/0'/1'"},
        "psbt": {"encoded": result.encoded | {"psbt": base64.b64encode(bytes.fromhex(body.content.psbt)).decode()}},
    }
    edited = SignResult(**{name: getattr(result, name) for name in result.__struct_fields__} | encoded[part])
    check_signature(body, result)
    with pytest.raises(UntrustedError):
        check_signature(body, edited)
