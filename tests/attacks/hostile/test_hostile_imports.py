"""What a host may do with the answers of imports and exports, and with recovery envelopes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from vault_files import Vault, keystore, open_vault
from wallet import Wallet

from adytum.client.checks import check_answer
from adytum.recovery import RecoveryError, open_recovery
from adytum_sim.hostile.cases import variants
from adytum_sim.hostile.declared import Stop, row, table
from adytum_sim.hostile.paths import JSON, MSGPACK, Path
from adytum_sim.people import request_body
from adytum_wire import messages
from adytum_wire.errors import AdytumError
from adytum_wire.messages import ExecuteReply
from adytum_wire.recovery import parse_recovery
from adytum_wire.requests import parse_body

RESULT: Path = (MSGPACK, "result", JSON)


async def imported(vault: Vault, name: str) -> tuple[bytes, ExecuteReply]:
    sealed = await vault.seal(name, b"p", keystore(b"\x07" * 32, "p"))
    fields = {"format": "keystore-v3", "labels": ["treasury"], "expected": "", "sealed": sealed}
    return await sent(vault, request_body("acme", "import_file", vault.office.now_ms(), request_id=name, **fields))


async def exported(vault: Vault, name: str) -> tuple[bytes, ExecuteReply]:
    fields = {"key_id": vault.wallet.key.key_id, "recipient": "rescue"}
    body = request_body("acme", "export", vault.office.now_ms(), request_id=name, **fields)
    text = vault.office.statement(body)
    return await sent(vault, body, vault.office.bob.approval(text), vault.office.carol.approval(text))


async def sent(vault: Vault, body: bytes, *approvals: Any) -> tuple[bytes, ExecuteReply]:
    record = vault.wallet.key.record if json.loads(body)["operation"] == "export" else None
    reply = await vault.wallet.stack.client.execute(body, vault.office.alice.stamp(body), record, approvals)
    assert isinstance(reply, ExecuteReply), reply
    return body, reply


@pytest.mark.parametrize("struct", ["ImportFileResult", "ExportResult"])
async def test_a_changed_result_is_noticed(wallet: Wallet, struct: str) -> None:
    """Every field: the receipt's digest covers the bytes."""
    public = X25519PrivateKey.generate().public_key().public_bytes_raw().hex()
    vault = await open_vault(wallet, recipients=[{"id": "rescue", "public_key": public}])
    make = imported if struct == "ImportFileResult" else exported
    body, reply = await make(vault, "r-hostile-1")
    _, donor = await make(vault, "r-hostile-2")
    key = bytes.fromhex((await wallet.binding()).receipt_key)
    check_answer(body, parse_body(body), reply.result, reply.receipt, receipt_key=key)
    payload = messages.encode(reply)
    for field in table()[struct]:
        stop, seen = row(struct, field), 0
        assert isinstance(stop, Stop)
        for variant in variants(payload, struct, RESULT, field, donor=messages.encode(donor)):
            changed = messages.decode_reply(variant.payload)
            assert isinstance(changed, ExecuteReply)
            with pytest.raises(AdytumError) as caught:
                check_answer(body, parse_body(body), changed.result, changed.receipt, receipt_key=key)
            expected = stop.malformed if variant.malformed else stop.codes
            assert caught.value.code.value in expected, variant.detail
            seen += 1
        assert seen >= 3, field


async def test_a_changed_recovery_envelope_is_noticed_by_its_holders(wallet: Wallet) -> None:
    """Swap it with another record's, cut it, leave it out, flip its bits: who opens it beside its record sees it."""
    holders = [X25519PrivateKey.generate() for _ in range(2)]
    keys = [holder.public_key().public_bytes_raw().hex() for holder in holders]
    vault = await open_vault(wallet, recovery={"threshold": 2, "keys": keys})
    _, reply = await imported(vault, "r-hostile-3")
    _, donor = await imported(vault, "r-hostile-4")
    assert reply.record is not None
    header = reply.record.header
    assert drilled(reply.recovery, header, holders) == "accepted"
    stop, seen = row("ExecuteReply", "recovery"), 0
    assert isinstance(stop, Stop)
    whole = messages.encode(reply)
    for variant in variants(whole, "ExecuteReply", (MSGPACK,), "recovery", donor=messages.encode(donor)):
        try:
            changed = messages.decode_reply(variant.payload)
        except AdytumError as error:
            code = error.code.value
        else:
            assert isinstance(changed, ExecuteReply)
            code = drilled(changed.recovery, header, holders)
        assert code in (stop.malformed if variant.malformed else stop.codes), variant.detail
        seen += 1
    assert seen >= 3


def drilled(recovery: bytes, header: bytes, holders: Sequence[X25519PrivateKey]) -> str:
    try:
        envelope = parse_recovery(recovery)
        if envelope.header != header:
            return "RECORD_MISMATCH"
        open_recovery(envelope, holders)
    except AdytumError as error:
        return error.code.value
    except RecoveryError:
        return "RECORD_INVALID"
    return "accepted"
