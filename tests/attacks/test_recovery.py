"""The second envelope: who opens it, who does not, and what a host can put together out of several."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from outsider import open_record
from vault_files import GOOD_MNEMONIC, Vault, open_vault
from wallet import SUITE, Made, Wallet, made

from adytum.recovery import RecoveryError, is_proven, open_recovery
from adytum_wire.errors import AdytumError, Code
from adytum_wire.messages import ExecuteReply
from adytum_wire.record import parse_header
from adytum_wire.recovery import RecoveryEnvelope, encode_recovery, parse_recovery

Holders = list[X25519PrivateKey]


def rules(holders: Sequence[X25519PrivateKey], threshold: int) -> dict[str, Any]:
    return {"threshold": threshold, "keys": [key.public_key().public_bytes_raw().hex() for key in holders]}


@pytest.fixture
def holders() -> Holders:
    return [X25519PrivateKey.generate() for _ in range(4)]


@pytest.fixture
async def vault(wallet: Wallet, holders: Holders) -> Vault:
    """Three of four."""
    return await open_vault(wallet, recovery=rules(holders, 3))


async def generated(vault: Vault) -> tuple[Made, bytes]:
    reply = await vault.wallet.stack.ask(vault.wallet.alice, "generate_key", algorithm="secp256k1", labels=["treasury"])
    assert isinstance(reply, ExecuteReply), reply
    return made(reply), reply.recovery


def outsiders_reading(data: bytes, private: dict[int, X25519PrivateKey]) -> bytes:
    """The secret, from spec/envelope.md alone and with a library that is not ours."""
    envelope = msgspec.msgpack.decode(data)
    header, chosen = envelope["header"], tuple(sorted(private))
    share = envelope["shares"][
        list(itertools.combinations(range(len(envelope["keys"])), envelope["threshold"])).index(chosen)
    ]
    for layer, place in enumerate(chosen):
        info = b"adytum/recovery/v1\0" + hashlib.sha256(header).digest() + bytes(chosen) + b"\0" + bytes([layer])
        share = SUITE.decrypt(share, private[place], info)
    bound = b"adytum/recovery/v1\0" + header
    derived = HKDF(hashes.SHA256(), 64, b"adytum/envelope/v1", hashlib.sha256(bound).digest()).derive(share)
    sealed = envelope["sealed"]
    assert sealed[:32] == derived[32:]
    return AESGCM(derived[:32]).decrypt(sealed[32:44], sealed[44:], bound)


async def test_every_set_of_holders_opens_every_record(vault: Vault, holders: Holders) -> None:
    key, envelope = await generated(vault)
    secret = open_record(vault.wallet.stack, key.record)[1]
    for chosen in itertools.combinations(range(4), 3):
        assert outsiders_reading(envelope, {place: holders[place] for place in chosen}) == secret
        assert open_recovery(parse_recovery(envelope), [holders[place] for place in chosen]) == secret
    parsed = parse_recovery(envelope)
    assert parsed.header == key.record.header
    assert is_proven(parse_header(parsed.header), secret) is True
    assert is_proven(parse_header(parsed.header), bytes(31) + b"\x01") is False


async def test_each_operation_that_seals_makes_one(vault: Vault, holders: Holders) -> None:
    wallet = vault.wallet
    name = "seal-recovery-1"
    sealed = await wallet.seal("seal", name, b"s" * 40)
    signed = await wallet.sign()
    assert isinstance(signed, ExecuteReply), signed
    assert signed.recovery == b""
    replies = [
        await wallet.stack.ask(wallet.alice, "generate_seed", labels=["treasury"]),
        await wallet.stack.ask(wallet.alice, "seal", request_id=name, labels=["treasury"], sealed=sealed),
        await vault.bring("bip39", GOOD_MNEMONIC.encode()),
        await wallet.stack.ask(wallet.alice, "reseal", key_id=wallet.key.key_id, record=wallet.key.record),
        await wallet.stack.ask(wallet.alice, "disable_key", key_id=wallet.key.key_id, record=wallet.key.record),
    ]
    for reply in replies:
        assert isinstance(reply, ExecuteReply), reply
        assert reply.record is not None
        envelope = parse_recovery(reply.recovery)
        assert envelope.header == reply.record.header
        assert open_recovery(envelope, holders) == open_record(wallet.stack, reply.record)[1]


async def test_without_rules_there_is_no_second_envelope(wallet: Wallet) -> None:
    reply = await wallet.stack.ask(wallet.alice, "generate_key", algorithm="p256", labels=["treasury"])
    assert isinstance(reply, ExecuteReply)
    assert reply.recovery == b""


async def test_fewer_holders_open_nothing(vault: Vault, holders: Holders) -> None:
    _, data = await generated(vault)
    envelope = parse_recovery(data)
    stranger = X25519PrivateKey.generate()
    for given in ([], holders[:2], [holders[0], holders[0], holders[1]], [*holders[:2], stranger]):
        with pytest.raises(RecoveryError):
            open_recovery(envelope, given)
    # two of three, each in the place of the one who is missing, and with the layers they have
    for chosen in itertools.combinations(range(4), 3):
        for missing in chosen:
            for other in [holders[place] for place in chosen if place != missing] + [stranger]:
                private = {place: holders[place] for place in chosen} | {missing: other}
                with pytest.raises(InvalidTag):
                    outsiders_reading(data, private)


async def test_parts_of_two_envelopes_make_none(vault: Vault, holders: Holders) -> None:
    """Another key's, and an older version of the same key."""
    wallet = vault.wallet
    first, one = await generated(vault)
    _, other = await generated(vault)
    reply = await wallet.stack.ask(wallet.alice, "reseal", key_id=first.key_id, record=first.record)
    assert isinstance(reply, ExecuteReply)
    mine = parse_recovery(one)
    for theirs in (parse_recovery(other), parse_recovery(reply.recovery)):
        for name in ("header", "sealed", "shares"):
            mixed = parse_recovery(encode_recovery(msgspec.structs.replace(mine, **{name: getattr(theirs, name)})))
            with pytest.raises(RecoveryError):
                open_recovery(mixed, holders)
    assert open_recovery(mine, holders) == open_record(wallet.stack, first.record)[1]


async def test_every_changed_byte_is_noticed(vault: Vault, holders: Holders) -> None:
    _, data = await generated(vault)
    size = len(data)
    for at in {0, 1, size - 1, *(int.from_bytes(os.urandom(4)) % size for _ in range(60))}:
        broken = bytearray(data)
        broken[at] ^= 1 << (at % 8)
        try:
            envelope = parse_recovery(bytes(broken))
            assert _opens_only_elsewhere(envelope, data, holders)
        except AdytumError as error:
            assert error.code is Code.RECORD_INVALID


def _opens_only_elsewhere(envelope: RecoveryEnvelope, data: bytes, holders: Holders) -> bool:
    """A changed share concerns its own set of holders; the others must not notice, that set must."""
    whole = parse_recovery(data)
    for number, chosen in enumerate(itertools.combinations(range(4), 3)):
        given = [holders[place] for place in chosen]
        touched = (envelope.header, envelope.sealed, envelope.keys, envelope.shares[number]) != (
            whole.header,
            whole.sealed,
            whole.keys,
            whole.shares[number],
        )
        try:
            open_recovery(envelope, given)
        except RecoveryError:
            if not touched:
                return False
        else:
            if touched and envelope.keys == whole.keys:
                return False
    return True


@pytest.mark.parametrize(
    ("count", "threshold", "field"),
    [(3, 4, "$.recovery.threshold"), (16, 8, "$.recovery"), (16, 14, "$.recovery"), (2, 1, "$.recovery.threshold")],
)
async def test_rules_that_ask_for_too_much(wallet: Wallet, count: int, threshold: int, field: str) -> None:
    keys = [X25519PrivateKey.generate() for _ in range(count)]
    before = await wallet.state()
    with pytest.raises(AdytumError) as caught:
        await open_vault(wallet, recovery=rules(keys, threshold))
    assert caught.value.code is Code.POLICY_INVALID
    assert caught.value.field == field
    assert (await wallet.state())["policies"]["acme"] <= before["policies"]["acme"] + 1


async def test_the_largest_envelope_comes_through(wallet: Wallet) -> None:
    """Seven of ten: 120 sets, and a secret of the largest size."""
    from adytum_wire import limits

    keys = [X25519PrivateKey.generate() for _ in range(10)]
    vault = await open_vault(wallet, recovery=rules(keys, 7))
    secret = os.urandom(limits.MAX_SECRET)
    sealed = await wallet.seal("seal", "seal-largest-1", secret)
    reply = await wallet.stack.ask(
        vault.wallet.alice, "seal", request_id="seal-largest-1", labels=["treasury"], sealed=sealed
    )
    assert isinstance(reply, ExecuteReply), reply
    assert open_recovery(parse_recovery(reply.recovery), keys[3:]) == secret
