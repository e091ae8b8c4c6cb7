"""PSBTs against bdk: its wallets' signatures are over our digests, its finished transactions are ours; and attacks."""

from __future__ import annotations

import base64
from dataclasses import replace

import bdkpython as bdk
import pytest
from bip_utils import WifEncoder
from coincurve import PrivateKey, PublicKey, PublicKeyXOnly
from coincurve.ecdsa import cdata_to_der, deserialize_compact
from hypothesis import given, settings
from hypothesis import strategies as st

from adytum_policy.content import bitcoin, decode_content, psbt
from adytum_policy.content.address_bitcoin import own_scripts, script_of
from adytum_policy.content.bitcoin_tx import Input, Output, Transaction, compact, parse
from adytum_policy.facts import BitcoinFacts
from adytum_wire.errors import AdytumError, Code
from adytum_wire.requests import BitcoinPsbt
from adytum_wire.types import SigningScheme

SECRET = b"\x11" * 32
KEY = PrivateKey(SECRET).public_key.format()
OWN = own_scripts(KEY)
ECDSA, SCHNORR = SigningScheme.ECDSA_SECP256K1, SigningScheme.BIP340
SOMEBODY = b"\x00\x14" + b"\x77" * 20
KINDS = {
    "wpkh({})": (OWN.segwit, ECDSA),
    "sh(wpkh({}))": (OWN.nested, ECDSA),
    "tr({})": (OWN.taproot, SCHNORR),
}


def previous(number: int, amount: int, script: bytes) -> Transaction:
    """A transaction that pays `amount` to `script` at index 1."""
    spent = Input(txid=bytes([number]) * 32, index=0, sequence=0xFFFFFFFF, script=b"\x01\x01")
    outputs = (Output(amount=700, script=SOMEBODY), Output(amount=amount, script=script))
    return Transaction(version=b"\x02\0\0\0", inputs=(spent,), outputs=outputs, locktime=0)


def of_bdk(kind: str, amounts: list[int], pay: int, fee: int) -> tuple[bytes, bytes]:
    """(PSBT, finished transaction) of a bdk wallet with one key that owns `amounts`."""
    descriptor = bdk.Descriptor(kind.format(WifEncoder.Encode(SECRET, b"\xef")), bdk.NetworkKind.TEST)
    wallet = bdk.Wallet.create_single(descriptor, bdk.Network.REGTEST, bdk.Persister.new_in_memory(), 2)
    wallet.reveal_next_address(bdk.KeychainKind.EXTERNAL)
    owned = [previous(number, amount, KINDS[kind][0]) for number, amount in enumerate(amounts, 1)]
    wallet.apply_unconfirmed_txs([bdk.UnconfirmedTx(tx=bdk.Transaction(tx.encode()), last_seen=0) for tx in owned])
    builder = bdk.TxBuilder().add_recipient(bdk.Script(SOMEBODY), bdk.Amount.from_sat(pay))
    made = builder.fee_absolute(bdk.Amount.from_sat(fee)).drain_wallet().finish(wallet)
    raw = base64.b64decode(made.serialize())
    assert wallet.sign(made, None)
    return raw, bytes(made.extract_tx().serialize())


def decode(data: bytes, scheme: SigningScheme, key: bytes = KEY) -> bitcoin.BitcoinDecoded:
    decoded = decode_content(BitcoinPsbt(data.hex(), "regtest"), scheme, key)
    assert isinstance(decoded, bitcoin.BitcoinDecoded)
    return decoded


def refused(data: bytes, scheme: SigningScheme = ECDSA) -> str:
    with pytest.raises(AdytumError) as caught:
        decode(data, scheme)
    assert caught.value.code is Code.CONTENT_INVALID
    return caught.value.field.removeprefix("$.content.psbt")


def as_v2(data: bytes) -> bytes:
    """The same PSBT in version 2."""
    old = psbt.parse(data)

    def number(value: int, size: int = 4) -> bytes:
        return value.to_bytes(size, "little")

    fields = {
        psbt.TX_VERSION: old.tx.version,
        psbt.FALLBACK: number(old.tx.locktime),
        psbt.INPUTS: compact(len(old.inputs)),
        psbt.OUTPUTS: compact(len(old.outputs)),
        psbt.VERSION: number(2),
    }
    inputs = [
        one | {psbt.TXID: spent.txid, psbt.INDEX: number(spent.index), psbt.SEQUENCE: number(spent.sequence)}
        for one, spent in zip(old.inputs, old.tx.inputs, strict=True)
    ]
    outputs = tuple(
        one | {psbt.AMOUNT: number(paid.amount, 8), psbt.SCRIPT: paid.script}
        for one, paid in zip(old.outputs, old.tx.outputs, strict=True)
    )
    return replace(old, fields=fields, outputs=outputs).encode(inputs)


def witnesses(raw: bytes) -> list[list[bytes]]:
    """The witness stacks of a finished transaction, by bdk's own reading."""
    return [[bytes(part) for part in one.witness] for one in bdk.Transaction(raw).input()]


def compacted(der: bytes) -> bytes:
    """65 bytes as the enclave's key gives them; the recovery id plays no part here."""
    length = der[3]
    r, s = der[4 : 4 + length], der[6 + length :]
    return b"".join(int.from_bytes(half, "big").to_bytes(32, "big") for half in (r, s)) + b"\0"


@settings(max_examples=15, deadline=None)
@given(
    kind=st.sampled_from(list(KINDS)),
    amounts=st.lists(st.integers(50_000, 10**10), min_size=1, max_size=4),
    fee=st.integers(500, 5_000),
    version=st.sampled_from([0, 2]),
    data=st.data(),
)
def test_bdk_signs_our_digests_and_finishes_our_transactions(
    kind: str, amounts: list[int], fee: int, version: int, data: st.DataObject
) -> None:
    pay = data.draw(st.integers(1_000, sum(amounts) - fee - 1_000))
    raw, finished = of_bdk(kind, amounts, pay, fee)
    decoded = decode(as_v2(raw) if version else raw, KINDS[kind][1])
    stacks = witnesses(finished)
    assert len(decoded.payloads) == len(stacks) == len(amounts)
    for digest, stack in zip(decoded.payloads, stacks, strict=True):
        if kind.startswith("tr"):
            assert PublicKeyXOnly(decoded.to_sign[0].verifies_under[1:]).verify(stack[0], digest)
        else:
            assert stack[1] == KEY
            assert PublicKey(KEY).verify(stack[0][:-1], digest, hasher=None)
    signatures = tuple(stack[0] if kind.startswith("tr") else compacted(stack[0][:-1]) for stack in stacks)
    result = decoded.finish_all(signatures)
    assert result["raw_transaction"] == finished.hex()
    assert result["txid"] == str(bdk.Transaction(finished).compute_txid())
    change = [one.amount for one in decoded.parsed.tx.outputs if one.script == KINDS[kind][0]]
    assert decoded.facts == BitcoinFacts(type="bitcoin-psbt", recipients=(SOMEBODY,), amount=pay, fee=fee)
    assert pay + sum(change) + fee == sum(amounts)
    assert decoded.summary["fee_sat"] == str(fee)
    assert decoded.summary["form"] == f"psbt v{version}"


@pytest.mark.parametrize("kind", list(KINDS))
def test_bdk_takes_the_psbt_with_our_signatures(kind: str) -> None:
    raw, _ = of_bdk(kind, [90_000, 80_000], 100_000, 1_000)
    decoded = decode(raw, KINDS[kind][1])
    key = PrivateKey(SECRET)
    tweak = decoded.to_sign[0].tweak
    if tweak:
        even = key if KEY[0] == 2 else PrivateKey.from_int(
            0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141 - key.to_int()
        )  # fmt: skip
        tweaked = even.add(tweak)
        signatures = tuple(tweaked.sign_schnorr(digest, b"\0" * 32) for digest in decoded.payloads)
    else:
        signatures = tuple(key.sign_recoverable(digest, hasher=None) for digest in decoded.payloads)
    result = decoded.finish_all(signatures)
    finalized = bdk.Psbt(result["psbt"]).finalize()
    assert finalized.could_finalize
    assert bytes(finalized.psbt.extract_tx().serialize()).hex() == result["raw_transaction"]


# --- attacks; `build` makes a PSBT of version 0 with what the attacker likes


def build(
    spent: list[Transaction], paid: list[Output], inputs: list[psbt.Map] | None = None, locktime: int = 0
) -> bytes:
    tx = Transaction(
        version=b"\x02\0\0\0",
        inputs=tuple(Input(txid=one.txid(), index=1, sequence=0xFFFFFFFD) for one in spent),
        outputs=tuple(paid),
        locktime=locktime,
    )
    maps = [{psbt.PREVIOUS_TX: one.encode()} for one in spent] if inputs is None else inputs
    empty = psbt.Psbt(version=0, fields={psbt.UNSIGNED: tx.encode()}, inputs=(), outputs=tuple({} for _ in paid), tx=tx)
    return empty.encode(maps)


GOOD = previous(1, 50_000, OWN.segwit)
TAP = previous(2, 60_000, OWN.taproot)
PAID = [Output(amount=30_000, script=SOMEBODY), Output(amount=19_000, script=OWN.taproot)]


def test_the_good_one_that_the_attacks_change() -> None:
    decoded = decode(build([GOOD], PAID, locktime=5), ECDSA)
    assert decoded.facts == BitcoinFacts(type="bitcoin-psbt", recipients=(SOMEBODY,), amount=30_000, fee=1_000)
    assert decoded.payload == decoded.payloads[0]
    assert decoded.summary["output_2"].endswith("(change)")
    assert (decoded.summary["locktime"], decoded.summary["amount_btc"]) == ("5", "0.0003")
    assert [(one.claim, one.tweak, one.verifies_under) for one in decoded.to_sign] == [(None, b"", KEY)]


def test_inputs_of_both_kinds_are_signed_by_two_requests() -> None:
    data = build([GOOD, TAP], [Output(amount=100_000, script=SOMEBODY)])
    first, second = decode(data, ECDSA), decode(data, SCHNORR)
    assert (first.signing, second.signing) == ((0,), (1,))
    key = PrivateKey(SECRET)
    result = first.finish_all((key.sign_recoverable(first.payload, hasher=None),))
    assert set(result) == {"psbt"}
    again = base64.b64decode(result["psbt"])
    assert refused(again, ECDSA) == ".inputs"  # signed once already
    assert decode(again, SCHNORR).payloads == second.payloads


def test_an_amount_that_is_a_lie() -> None:
    """Two PSBTs that each understate one input make, combined, one that burns the difference."""
    lie = Output(amount=40_000, script=OWN.segwit).encode()
    truth = Output(amount=50_000, script=OWN.segwit).encode()
    assert refused(build([GOOD], PAID, [{psbt.WITNESS_OUTPUT: lie}])) == ".inputs"
    assert refused(build([GOOD], PAID, [{psbt.WITNESS_OUTPUT: truth}])) == ".inputs"  # true, and not proven
    assert refused(build([GOOD], PAID, [{psbt.WITNESS_OUTPUT: lie, psbt.PREVIOUS_TX: GOOD.encode()}])) == ".inputs"
    decode(build([GOOD], PAID, [{psbt.WITNESS_OUTPUT: truth, psbt.PREVIOUS_TX: GOOD.encode()}]), ECDSA)
    other = previous(1, 51_000, OWN.segwit)
    assert refused(build([GOOD], PAID, [{psbt.PREVIOUS_TX: other.encode()}])) == ".inputs"
    assert refused(build([GOOD], PAID, [{}])) == ".inputs"


def test_taproot_amounts_are_in_the_digest() -> None:
    fields = {psbt.WITNESS_OUTPUT: TAP.outputs[1].encode()}
    lie = {psbt.WITNESS_OUTPUT: Output(amount=70_000, script=OWN.taproot).encode()}
    decoded = [decode(build([TAP], PAID, [one]), SCHNORR) for one in (fields, lie)]
    assert decoded[0].payload != decoded[1].payload


def test_somebody_elses_input() -> None:
    theirs = previous(3, 10**6, SOMEBODY)
    assert refused(build([GOOD, theirs], PAID)) == ".inputs"
    with pytest.raises(AdytumError):
        decode(build([GOOD], PAID), ECDSA, PrivateKey(b"\x12" * 32).public_key.format())


def test_change_that_only_a_derivation_path_claims() -> None:
    """The PSBT says whose key it is. That proves nothing: the output is paid away."""
    stranger = PrivateKey(b"\x13" * 32).public_key.format()
    script = own_scripts(stranger).segwit
    data = build([GOOD], [Output(amount=49_000, script=script)])
    parsed = psbt.parse(data)
    claimed = replace(parsed, outputs=({b"\x02" + stranger: b"\0" * 4 + b"\0\0\0\x80" * 3},))
    decoded = decode(claimed.encode([dict(one) for one in parsed.inputs]), ECDSA)
    assert decoded.facts == BitcoinFacts(type="bitcoin-psbt", recipients=(script,), amount=49_000, fee=1_000)


def test_more_out_than_in() -> None:
    assert refused(build([GOOD], [Output(amount=50_001, script=SOMEBODY)])) == ".outputs"


@pytest.mark.parametrize("sighash", [0, 2, 3, 0x81, 0x82, 0x83, 2**32 - 1])
def test_only_all_and_default_are_signed(sighash: int) -> None:
    fields = {psbt.PREVIOUS_TX: GOOD.encode(), psbt.SIGHASH: sighash.to_bytes(4, "little")}
    assert refused(build([GOOD], PAID, [fields])) == ".inputs"
    decode(build([GOOD], PAID, [fields | {psbt.SIGHASH: b"\1\0\0\0"}]), ECDSA)
    taproot = fields | {psbt.PREVIOUS_TX: TAP.encode()}
    if sighash:
        assert refused(build([TAP], PAID, [taproot]), SCHNORR) == ".inputs"
    else:
        default = decode(build([TAP], PAID, [taproot]), SCHNORR)
        every = decode(build([TAP], PAID, [taproot | {psbt.SIGHASH: b"\1\0\0\0"}]), SCHNORR)
        assert default.payload != every.payload
        assert every.finish(bytes(64))["raw_transaction"].endswith("00" * 64 + "01" + "00000000")


def test_scripts_and_keys_that_do_not_belong_to_the_input() -> None:
    nested = previous(4, 50_000, OWN.nested)
    fields = {psbt.PREVIOUS_TX: nested.encode()}
    decode(build([nested], PAID, [fields | {psbt.REDEEM: OWN.redeem}]), ECDSA)
    assert refused(build([nested], PAID, [fields | {psbt.REDEEM: SOMEBODY}])) == ".inputs"
    assert refused(build([GOOD], PAID, [{psbt.PREVIOUS_TX: GOOD.encode(), psbt.REDEEM: OWN.redeem}])) == ".inputs"
    fields = {psbt.PREVIOUS_TX: TAP.encode()}
    decode(build([TAP], PAID, [fields | {psbt.INTERNAL: OWN.internal}]), SCHNORR)
    assert refused(build([TAP], PAID, [fields | {psbt.INTERNAL: b"\x01" * 32}]), SCHNORR) == ".inputs"


def test_schemes_networks_and_no_key() -> None:
    data = build([GOOD], PAID)
    assert refused(data, SCHNORR) == ".inputs"
    for scheme in (SigningScheme.ED25519, SigningScheme.ECDSA_P256):
        with pytest.raises(AdytumError) as caught:
            decode(data, scheme)
        assert (caught.value.code, caught.value.field) == (Code.CONTENT_INVALID, "$.scheme")
    for key in (b"", bytes(33), b"\x02" + b"\xff" * 32, KEY[1:]):
        with pytest.raises(AdytumError) as caught:
            decode(data, ECDSA, key)
        assert caught.value.code is Code.CONTENT_INVALID
    with pytest.raises(AdytumError):
        bitcoin.decode(data, "signet", ECDSA, public_key=KEY)


def test_signatures_of_the_wrong_number_or_size() -> None:
    two = decode(build([GOOD, previous(5, 9_000, OWN.segwit)], PAID), ECDSA)
    assert two.payload == b""  # nothing to sign for whoever knows of one payload only
    for wrong in ((bytes(65),), (bytes(64), bytes(64)), (bytes(65),) * 3):
        with pytest.raises(AdytumError) as caught:
            two.finish_all(wrong)
        assert caught.value.code is Code.INTERNAL
    with pytest.raises(AdytumError):
        decode(build([TAP], PAID), SCHNORR).finish(bytes(65))


@settings(max_examples=300, deadline=None)
@given(data=st.data(), version=st.sampled_from([0, 2]), schnorr=st.booleans())
def test_a_mutated_psbt_is_another_one_or_refused(data: st.DataObject, version: int, schnorr: bool) -> None:
    original = build([GOOD, TAP], [*PAID, Output(amount=5, script=b"\x6a\x01\x2a")])
    original = as_v2(original) if version else original
    at = data.draw(st.integers(0, len(original)))
    cut = data.draw(st.integers(0, 2))
    mutated = original[:at] + data.draw(st.binary(max_size=2)) + original[at + cut :]
    try:
        decoded = decode(mutated, SCHNORR if schnorr else ECDSA)
    except AdytumError as error:
        assert error.code is Code.CONTENT_INVALID
        return
    assert decoded.parsed.encode([dict(one) for one in decoded.parsed.inputs]) == mutated
    spent = [50_000, 60_000][: len(decoded.parsed.inputs)]
    assert sum(spent) >= sum(one.amount for one in decoded.parsed.tx.outputs)


def test_a_finished_transaction_parses_back() -> None:
    decoded = decode(build([GOOD], PAID), ECDSA)
    signature = PrivateKey(SECRET).sign_recoverable(decoded.payload, hasher=None)
    raw = bytes.fromhex(decoded.finish(signature)["raw_transaction"])
    assert parse(raw).txid()[::-1].hex() == decoded.finish(signature)["txid"]
    der = witnesses(raw)[0][0]
    assert der[:-1] == cdata_to_der(deserialize_compact(signature[:64]))
    assert script_of("bcrt1qwamhwamhwamhwamhwamhwamhwamhwamhje54fy") == SOMEBODY
