"""Bitcoin: which inputs of a PSBT our keys sign, what moves where, and what stays ours.

Every input has to be ours, and what it spends has to be proven: for P2WPKH by the whole previous transaction, whose id
the input names (otherwise two half-true PSBTs could be combined to one that burns a fortune as fees), for P2TR by the
digest, which covers all amounts. What is ours, input or change, is `bitcoin_own`'s business.

Only SIGHASH_ALL, and for P2TR SIGHASH_DEFAULT, are signed; only the key path of P2TR, without scripts (BIP-86).

Sources: BIP-174, BIP-370, BIP-371; see `bitcoin_tx` for the digests.
"""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass, replace

from adytum_policy.content import psbt
from adytum_policy.content.address_bitcoin import (
    NETWORKS,
    AddTweak,
    BitcoinAddressError,
    Network,
    add_tweak,
    address_of_script,
    is_taproot,
)
from adytum_policy.content.bitcoin_own import NotOursError, Owner, Owners
from adytum_policy.content.bitcoin_tx import (
    SIGHASH_ALL,
    SIGHASH_DEFAULT,
    BitcoinTransactionError,
    Output,
    parse,
    parse_output,
    segwit_digest,
    taproot_digest,
)
from adytum_policy.content.decoded import Claim, Decoded, ToSign
from adytum_policy.facts import BitcoinFacts
from adytum_wire import limits
from adytum_wire.errors import AdytumError, Code
from adytum_wire.paths import format_path, parse_path
from adytum_wire.types import SigningScheme

TYPE = "bitcoin-psbt"
_DIGITS = 8
_NESTED = 23  # bytes of P2SH-P2WPKH's script, the only one of ours with that size


@dataclass(frozen=True, slots=True, kw_only=True)
class BitcoinDecoded(Decoded):
    """`payload` is the digest when there is one, else empty: whoever knows of one payload only has nothing to sign.
    `signing`: the inputs that `digests` and `sighashes` belong to. `scripts`, `owners`: of each input."""

    digests: tuple[bytes, ...]
    signing: tuple[int, ...]
    sighashes: tuple[int, ...]
    parsed: psbt.Psbt
    taproot: bool
    scripts: tuple[bytes, ...]
    owners: tuple[Owner, ...]
    claimed: tuple[Claim, ...]

    @property
    def to_sign(self) -> tuple[ToSign, ...]:
        return tuple(self._one(self.owners[at], digest) for at, digest in zip(self.signing, self.digests, strict=True))

    @property
    def claims(self) -> tuple[Claim, ...]:
        return self.claimed

    def _one(self, owner: Owner, digest: bytes) -> ToSign:
        if self.taproot:
            output = b"\x02" + owner.scripts.taproot[2:]
            return ToSign(payload=digest, claim=owner.claim, tweak=owner.scripts.tweak, verifies_under=output)
        return ToSign(payload=digest, claim=owner.claim, verifies_under=owner.public_key)

    def finish(self, signature: bytes) -> dict[str, str]:
        return self.finish_all((signature,))

    def finish_all(self, signatures: tuple[bytes, ...]) -> dict[str, str]:
        """`psbt` in base64 with our signatures; and `raw_transaction` in hex and its `txid`, when they are all that it
        needs. `signatures`: one a payload, 64 bytes, of ECDSA 65 with the recovery id. Errors: INTERNAL."""
        size = 64 if self.taproot else 65
        if len(signatures) != len(self.digests) or any(len(signature) != size for signature in signatures):
            raise AdytumError(Code.INTERNAL, "signature")
        maps = [dict(one) for one in self.parsed.inputs]
        witnesses: list[list[bytes]] = [[] for _ in maps]
        for at, sighash, signature in zip(self.signing, self.sighashes, signatures, strict=True):
            if self.taproot:
                written = signature + (bytes([sighash]) if sighash != SIGHASH_DEFAULT else b"")
                maps[at][psbt.KEY_SIGNATURE] = written
                witnesses[at] = [written]
            else:
                public_key = self.owners[at].public_key
                written = _der(signature) + bytes([sighash])
                maps[at][psbt.PARTIAL + public_key] = written
                witnesses[at] = [written, public_key]
        result = {"psbt": b64encode(self.parsed.encode(maps)).decode()}
        if len(self.signing) == len(maps):
            tx = self.parsed.tx
            inputs = tuple(
                replace(spent, script=_pushed(owner.scripts.redeem) if len(script) == _NESTED else b"")
                for spent, script, owner in zip(tx.inputs, self.scripts, self.owners, strict=True)
            )
            final = replace(tx, inputs=inputs)
            result["raw_transaction"] = final.encode(witnesses).hex()
            result["txid"] = final.txid()[::-1].hex()
        return result


def decode(
    data: bytes,
    network_name: str,
    scheme: SigningScheme,
    *,
    public_key: bytes = b"",
    path: str = "",
    add_tweak: AddTweak = add_tweak,
) -> BitcoinDecoded:
    """Decode a PSBT for the key (`public_key`: 33 bytes), or the seed and `path`, that is to sign it: with ECDSA its
    P2WPKH and P2SH-P2WPKH inputs, with BIP-340 its P2TR inputs. Errors: CONTENT_INVALID."""
    if len(data) > limits.MAX_CONTENT:
        raise _invalid("")
    network = next((network for network in NETWORKS if network.name == network_name), None)
    try:
        owners = Owners(parse_path(path) if path else None, public_key, add_tweak)
        parsed = psbt.parse(data)
    except (psbt.PsbtError, BitcoinAddressError):
        raise _invalid("") from None
    if network is None:
        raise _invalid("")
    spent = [_spent(parsed, at) for at in range(len(parsed.inputs))]
    inputs = [_owner(parsed, at, one, owners) for at, one in enumerate(spent)]
    paid = parsed.tx.outputs
    fee = sum(one.amount for one in spent) - sum(one.amount for one in paid)
    if fee < 0:
        raise _invalid(".outputs")
    outputs = [_change(fields, one, owners) for fields, one in zip(parsed.outputs, paid, strict=True)]
    claimed = tuple({owner.claim: None for owner in (*inputs, *outputs) if owner is not None and owner.claim})
    if len({claim.fingerprint for claim in claimed}) > 1:
        raise _invalid("")
    taproot = scheme is SigningScheme.BIP340
    signing = tuple(at for at, one in enumerate(spent) if is_taproot(one.script) is taproot)
    if not signing:
        raise _invalid(".inputs")
    sighashes = tuple(_sighash(parsed.inputs[at], taproot=taproot) for at in signing)
    digests = tuple(
        taproot_digest(parsed.tx, at, spent, sighash)
        if taproot
        else segwit_digest(parsed.tx, at, inputs[at].scripts.redeem[2:], spent[at].amount)
        for at, sighash in zip(signing, sighashes, strict=True)
    )
    away = [one for one, owner in zip(paid, outputs, strict=True) if owner is None]
    facts = BitcoinFacts(
        type=TYPE,
        recipients=tuple(one.script for one in away),
        amount=sum(one.amount for one in away),
        fee=fee,
    )
    return BitcoinDecoded(
        payload=digests[0] if len(digests) == 1 else b"",
        facts=facts,
        summary=_summary(parsed, spent, facts, network, signing, outputs),
        digests=digests,
        signing=signing,
        sighashes=sighashes,
        parsed=parsed,
        taproot=taproot,
        scripts=tuple(one.script for one in spent),
        owners=tuple(inputs),
        claimed=claimed,
    )


def _spent(parsed: psbt.Psbt, at: int) -> Output:
    """What input `at` spends, not contradicted by anything that the PSBT says of it."""
    fields, spending = parsed.inputs[at], parsed.tx.inputs[at]
    try:
        witness = parse_output(fields[psbt.WITNESS_OUTPUT]) if psbt.WITNESS_OUTPUT in fields else None
        previous = parse(fields[psbt.PREVIOUS_TX]) if psbt.PREVIOUS_TX in fields else None
    except BitcoinTransactionError:
        raise _invalid(".inputs") from None
    found = witness
    if previous is not None:
        if previous.txid() != spending.txid or spending.index >= len(previous.outputs):
            raise _invalid(".inputs")
        found = previous.outputs[spending.index]
        if witness is not None and witness != found:
            raise _invalid(".inputs")
    if found is None:
        raise _invalid(".inputs")
    return found


def _owner(parsed: psbt.Psbt, at: int, spent: Output, owners: Owners) -> Owner:
    """Whose input `at` is, of us; and what it spends is proven."""
    fields = parsed.inputs[at]
    try:
        owner = owners.of(fields, spent.script, plain=psbt.DERIVATION, taproot=psbt.TAP_DERIVATION)
    except (NotOursError, BitcoinAddressError):
        raise _invalid(".inputs") from None
    if owner is None:
        raise _invalid(".inputs")
    own = owner.scripts
    taproot = is_taproot(spent.script)  # and then it is the owner's
    if psbt.PREVIOUS_TX not in fields and not taproot:
        raise _invalid(".inputs")
    redeem = fields.get(psbt.REDEEM)
    if redeem is not None and (len(spent.script) != _NESTED or redeem != own.redeem):
        raise _invalid(".inputs")
    if psbt.INTERNAL in fields and (not taproot or fields[psbt.INTERNAL] != own.internal):
        raise _invalid(".inputs")
    return owner


def _change(fields: psbt.Map, paid: Output, owners: Owners) -> Owner | None:
    try:
        return owners.of(fields, paid.script, plain=psbt.OUT_DERIVATION, taproot=psbt.OUT_TAP_DERIVATION)
    except (NotOursError, BitcoinAddressError):
        raise _invalid(".outputs") from None


def _sighash(fields: psbt.Map, *, taproot: bool) -> int:
    """The type that the PSBT asks for, of an input that nobody has signed yet."""
    allowed = (SIGHASH_DEFAULT, SIGHASH_ALL) if taproot else (SIGHASH_ALL,)
    written = fields.get(psbt.SIGHASH, allowed[0].to_bytes(4, "little"))
    found = int.from_bytes(written, "little")
    signed = psbt.KEY_SIGNATURE in fields or any(key[:1] == psbt.PARTIAL for key in fields)
    if len(written) != 4 or found not in allowed or signed:
        raise _invalid(".inputs")
    return found


def _summary(
    parsed: psbt.Psbt,
    spent: list[Output],
    facts: BitcoinFacts,
    network: Network,
    signing: tuple[int, ...],
    owners: list[Owner | None],
) -> dict[str, str]:
    def line(output: Output, owner: Owner | None) -> str:
        where = address_of_script(output.script, network) or f"script {output.script[:80].hex()}"
        claim = owner.claim if owner is not None else None
        change = "" if owner is None else f" (change at {format_path(claim.path)})" if claim else " (change)"
        return f"{output.amount} sat to {where}{change}"

    return {
        "type": TYPE,
        "form": f"psbt v{parsed.version}",
        "network": network.name,
        **{
            f"input_{at}": f"{one.amount} sat of {source.txid[::-1].hex()}:{source.index}"
            for at, (one, source) in enumerate(zip(spent, parsed.tx.inputs, strict=True), 1)
        },
        "signed_inputs": ", ".join(str(at + 1) for at in signing),
        **{
            f"output_{at}": line(one, owner)
            for at, (one, owner) in enumerate(zip(parsed.tx.outputs, owners, strict=True), 1)
        },
        "amount_sat": str(facts.amount),
        "amount_btc": _btc(facts.amount),
        "fee_sat": str(facts.fee),
        **({"locktime": str(parsed.tx.locktime)} if parsed.tx.locktime else {}),
    }


def _btc(satoshi: int) -> str:
    whole, fraction = divmod(satoshi, 10**_DIGITS)
    digits = f"{fraction:0{_DIGITS}d}".rstrip("0")
    return f"{whole}.{digits}" if digits else str(whole)


def _der(signature: bytes) -> bytes:
    """r||s as DER (BIP-66)."""
    parts = b""
    for half in (signature[:32], signature[32:64]):
        number = half.lstrip(b"\0") or b"\0"
        number = b"\0" + number if number[0] & 0x80 else number
        parts += b"\x02" + bytes([len(number)]) + number
    return b"\x30" + bytes([len(parts)]) + parts


def _pushed(redeem: bytes) -> bytes:
    """The input's script that shows the script behind P2SH."""
    return bytes([len(redeem)]) + redeem


def _invalid(part: str) -> AdytumError:
    return AdytumError(Code.CONTENT_INVALID, "$.content.psbt" + part)
