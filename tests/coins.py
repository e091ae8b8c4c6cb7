"""A Bitcoin wallet that we did not write (bdk), on a seed that the test knows, and Bitcoin Core's own judgement
(libbitcoinkernel) of what comes out of the enclave."""

from __future__ import annotations

import base64
from dataclasses import dataclass

import bdkpython as bdk
import pbk
from bip_utils import Bip32Slip10Secp256k1
from pbk.script import PrecomputedTransactionData

from adytum_policy.content import psbt
from adytum_policy.content.address_bitcoin import script_of
from adytum_policy.content.bitcoin_tx import Input, Output, Transaction

SOMEBODY = b"\x00\x14" + b"\x77" * 20
# Form of the address -> (descriptor, purpose of BIP-44's path)
KINDS = {"p2wpkh": ("wpkh({})", 84), "p2sh-p2wpkh": ("sh(wpkh({}))", 49), "p2tr": ("tr({})", 86)}


def account_path(kind: str, account: int = 0) -> str:
    return f"m/{KINDS[kind][1]}'/0'/{account}'"


@dataclass(slots=True)
class Spend:
    """A PSBT as bdk made it, and the outputs that it spends."""

    psbt: bytes
    spent: list[Output]


class Coins:
    """An account of a seed: `Coins(seed, "p2wpkh").spend([amounts], pay, fee)`."""

    def __init__(self, seed: bytes, kind: str, *, account: int = 0) -> None:
        self.kind = kind
        self.path = account_path(kind, account)
        self.root = Bip32Slip10Secp256k1.FromSeed(seed)
        form, below = KINDS[kind][0], self.path[1:]
        key = self.root.PrivateKey().ToExtended()
        receive, change = (
            bdk.Descriptor(form.format(f"{key}{below}/{chain}/*"), bdk.NetworkKind.MAIN) for chain in (0, 1)
        )
        self.wallet = bdk.Wallet(receive, change, bdk.Network.BITCOIN, bdk.Persister.new_in_memory())
        self._number = 0

    def address(self) -> str:
        """The next address to receive at."""
        return str(self.wallet.reveal_next_address(bdk.KeychainKind.EXTERNAL).address)

    def fund(self, amounts: list[int]) -> list[Transaction]:
        """Transactions that pay each amount to an address of its own."""
        made = []
        for amount in amounts:
            self._number += 1
            spent = Input(txid=bytes([self._number]) * 32, index=0, sequence=0xFFFFFFFF, script=b"\x01\x01")
            outputs = (Output(amount=700, script=SOMEBODY), Output(amount=amount, script=script_of(self.address())))
            made.append(Transaction(version=b"\x02\0\0\0", inputs=(spent,), outputs=outputs, locktime=0))
        unconfirmed = [bdk.UnconfirmedTx(tx=bdk.Transaction(tx.encode()), last_seen=0) for tx in made]
        self.wallet.apply_unconfirmed_txs(unconfirmed)
        return made

    def spend(self, amounts: list[int], pay: int, fee: int) -> Spend:
        """Every coin of `amounts` in; `pay` to somebody, `fee`, the rest as change."""
        funded = {tx.txid(): tx for tx in self.fund(amounts)}
        builder = bdk.TxBuilder().add_recipient(bdk.Script(SOMEBODY), bdk.Amount.from_sat(pay))
        made = builder.fee_absolute(bdk.Amount.from_sat(fee)).drain_wallet().finish(self.wallet)
        inputs = made.extract_tx().input()
        spent = [
            funded[bytes.fromhex(str(one.previous_output.txid))[::-1]].outputs[one.previous_output.vout]
            for one in inputs
        ]
        return Spend(base64.b64decode(made.serialize()), spent)


def single_key_psbt(scripts: list[bytes], *, change: bytes, redeem: bytes = b"") -> tuple[bytes, list[Output]]:
    """(PSBT, spent outputs): 50,000 satoshi of each script in, 30,000 to somebody, the rest less 1,000 to `change`."""
    funded = [
        Transaction(
            version=b"\x02\0\0\0",
            inputs=(Input(txid=bytes([at]) * 32, index=0, sequence=0xFFFFFFFF, script=b"\x01\x01"),),
            outputs=(Output(amount=50_000, script=script),),
            locktime=0,
        )
        for at, script in enumerate(scripts, 1)
    ]
    tx = Transaction(
        version=b"\x02\0\0\0",
        inputs=tuple(Input(txid=one.txid(), index=0, sequence=0xFFFFFFFD) for one in funded),
        outputs=(
            Output(amount=30_000, script=SOMEBODY),
            Output(amount=50_000 * len(scripts) - 31_000, script=change),
        ),
        locktime=0,
    )
    whole = psbt.Psbt(version=0, fields={psbt.UNSIGNED: tx.encode()}, inputs=(), outputs=({}, {}), tx=tx)
    spent = [one.outputs[0] for one in funded]
    return whole.encode(
        [
            {psbt.PREVIOUS_TX: one.encode(), psbt.WITNESS_OUTPUT: paid.encode()}
            | ({psbt.REDEEM: redeem} if redeem else {})
            for one, paid in zip(funded, spent, strict=True)
        ]
    ), spent


def finished_by_bdk(psbt: str) -> bytes:
    """The transaction that bdk makes of a signed PSBT (base64)."""
    finalized = bdk.Psbt(psbt).finalize()
    assert finalized.could_finalize, finalized.errors
    return bytes(finalized.psbt.extract_tx().serialize())


def require_valid(raw: bytes, spent: list[Output]) -> None:
    """Bitcoin Core's script interpreter takes every input, with all consensus rules. Raises otherwise."""
    transaction = pbk.Transaction(raw)
    outputs = [pbk.TransactionOutput(pbk.ScriptPubkey(one.script), one.amount) for one in spent]
    precomputed = PrecomputedTransactionData(transaction, outputs)
    for at, one in enumerate(spent):
        script = pbk.ScriptPubkey(one.script)
        assert script.verify(one.amount, transaction, precomputed, at, pbk.ScriptVerificationFlags.ALL), at
