"""The receipt chain: links, groups, what is remembered. Judged by the verifier, which does not share its code."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from adytum_enclave.core.chain import MAX_GROUP, Draft, ReceiptChain, Ticket
from adytum_verify import verify_chain, verify_checkpoint, verify_receipt
from adytum_wire import limits

CHAIN = "ab" * 16


def draft(number: int) -> Draft:
    return Draft(
        tenant="acme", principal="alice", request_id=f"request-{number}", operation="sign", request_digest=bytes(32)
    )


class Counting:
    def __init__(self) -> None:
        self.key = Ed25519PrivateKey.generate()
        self.signatures = 0

    def __call__(self, data: bytes) -> bytes:
        self.signatures += 1
        return self.key.sign(data)

    @property
    def public(self) -> bytes:
        return self.key.public_key().public_bytes_raw()


def append(chain: ReceiptChain, number: int) -> Ticket:
    return chain.append(draft(number), time_ms=number, decision="allow", code="", result_digest="")


@pytest.mark.parametrize("sizes", [[1], [1, 1, 1], [3], [2, 64, 1], [MAX_GROUP + 5, 200]])
def test_groups_of_any_size_verify_alone_and_together(sizes: list[int]) -> None:
    sign = Counting()
    chain = ReceiptChain(CHAIN, sign.public, sign)
    tickets = []
    for size in sizes:
        tickets += [append(chain, len(tickets) + n) for n in range(size)]
        chain.seal()
    envelopes = [ticket.envelope for ticket in tickets]
    for number, envelope in enumerate(envelopes, start=1):
        assert verify_receipt(envelope, receipt_key=sign.public).receipt.sequence == number
    verify_chain(envelopes, receipt_key=sign.public).require_intact()
    assert sign.signatures == sum(-(-size // MAX_GROUP) for size in sizes)


def test_nothing_to_seal_signs_nothing() -> None:
    sign = Counting()
    chain = ReceiptChain(CHAIN, sign.public, sign)
    chain.seal()
    assert sign.signatures == 0
    assert len(chain) == 0


def test_a_ticket_has_no_envelope_before_its_group_is_signed() -> None:
    sign = Counting()
    chain = ReceiptChain(CHAIN, sign.public, sign)
    ticket = append(chain, 1)
    assert ticket.envelope == b""
    assert chain.remembered(1) == []
    chain.seal()
    assert chain.remembered(1) == [ticket.envelope]


def test_remembered_receipts_continue_where_the_host_stopped() -> None:
    sign = Counting()
    chain = ReceiptChain(CHAIN, sign.public, sign)
    tickets = [append(chain, n) for n in range(300)]
    chain.seal()
    open_ticket = append(chain, 300)
    found: list[bytes] = []
    while more := chain.remembered(len(found) + 1):
        assert sum(map(len, more)) <= limits.MAX_RECEIPTS_REPLY
        found += more
    assert found == [ticket.envelope for ticket in tickets]
    assert open_ticket.envelope not in found
    assert chain.remembered(302) == []


def test_what_is_no_longer_remembered_is_not_answered_with_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_REMEMBERED_RECEIPTS", 10)
    sign = Counting()
    chain = ReceiptChain(CHAIN, sign.public, sign)
    for n in range(25):
        append(chain, n)
    chain.seal()
    assert chain.remembered(15) == []
    assert len(chain.remembered(16)) == 10


def test_checkpoint_covers_what_is_sealed_and_nothing_else() -> None:
    sign = Counting()
    chain = ReceiptChain(CHAIN, sign.public, sign)
    empty = verify_checkpoint(chain.checkpoint(5), receipt_key=sign.public)
    assert (empty.chain, empty.sequence, empty.link, empty.time_ms) == (CHAIN, 0, bytes(32), 5)
    tickets = [append(chain, n) for n in range(MAX_GROUP + 3)]
    assert verify_checkpoint(chain.checkpoint(6), receipt_key=sign.public).sequence == 0  # open: nobody has seen them
    chain.seal()
    append(chain, 99)
    found = verify_checkpoint(chain.checkpoint(7), receipt_key=sign.public)
    assert (found.sequence, found.link) == (MAX_GROUP + 3, tickets[-1].link)
    report = verify_chain([t.envelope for t in tickets], receipt_key=sign.public, checkpoints=[chain.checkpoint(8)])
    report.require_intact()
    assert report.checkpoints == 1
