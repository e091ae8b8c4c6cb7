"""A chain of receipts, and the name of the first record that does not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adytum_verify import ChainReport, Defect, Head, verify_chain
from adytum_wire.errors import AdytumError, Code

GROUPS = (1, 3, 1, 4, 2)  # eleven records under five heads


def edit_body(envelope: bytes, **changes: Any) -> bytes:
    outer = json.loads(envelope)
    return json.dumps({**outer, "body": json.dumps({**json.loads(outer["body"]), **changes})}).encode()


def edit(envelope: bytes, **changes: Any) -> bytes:
    return json.dumps({**json.loads(envelope), **changes}).encode()


def names(report: ChainReport) -> tuple[str, int, int]:
    """(defect, sequence at fault, position in the input)."""
    assert report.problem is not None
    assert not report.is_intact
    with pytest.raises(AdytumError) as caught:
        report.require_intact()
    assert caught.value.code is Code.RECEIPT_INVALID
    assert caught.value.field == f"{report.problem.defect.value} #{report.problem.sequence}"
    return report.problem.defect.value, report.problem.sequence, report.problem.position


@pytest.fixture
def lines(ledger: Any) -> list[bytes]:
    return ledger.groups(*GROUPS)  # type: ignore[no-any-return]


def test_sound_chain_and_where_it_ends(ledger: Any, lines: list[bytes]) -> None:
    report = verify_chain(iter(lines), receipt_key=ledger.key, chain=ledger.chain)
    report.require_intact()
    assert (report.records, report.first_sequence, report.chain) == (11, 1, ledger.chain)
    assert report.head == Head(sequence=11, link=ledger.link)
    assert report.last_time_ms - report.first_time_ms == 10
    assert report.signatures == len(GROUPS)  # one for each head, not for each record


@pytest.mark.parametrize("n", range(1, 12))
def test_missing_record_is_named(ledger: Any, lines: list[bytes], n: int) -> None:
    del lines[n - 1]
    defect = "missing" if n < 11 else "truncated"  # the tenth record's group promises an eleventh
    assert names(verify_chain(lines, receipt_key=ledger.key)) == (defect, n, n)


@pytest.mark.parametrize("n", range(1, 12))
@pytest.mark.parametrize(
    "changes",
    [
        {"decision": "deny"},
        {"previous": "77" * 32},
        {"sequence": 3},
        {"sequence": 99},
        {"summary": {}},
        {"request_digest": "77" * 32},
    ],
)
def test_edited_record_is_named(ledger: Any, lines: list[bytes], n: int, changes: dict[str, Any]) -> None:
    lines[n - 1] = edit_body(lines[n - 1], **changes)
    assert names(verify_chain(lines, receipt_key=ledger.key)) == ("edited", n, n)


@pytest.mark.parametrize("n", range(1, 12))
def test_edited_signature_or_future_is_named(ledger: Any, lines: list[bytes], n: int) -> None:
    for changed in (edit(lines[n - 1], signature="00" * 64), edit(lines[n - 1], following=["00" * 32])):
        attempt = [*lines[: n - 1], changed, *lines[n:]]
        assert names(verify_chain(attempt, receipt_key=ledger.key)) == ("edited", n, n)


@pytest.mark.parametrize("n", range(1, 11))
def test_reordered_record_is_named(ledger: Any, lines: list[bytes], n: int) -> None:
    lines[n - 1], lines[n] = lines[n], lines[n - 1]
    assert names(verify_chain(lines, receipt_key=ledger.key)) == ("reordered", n, n)


def test_record_moved_to_the_end_is_named(ledger: Any, lines: list[bytes]) -> None:
    lines.append(lines.pop(4))
    assert names(verify_chain(lines, receipt_key=ledger.key)) == ("reordered", 5, 5)


@pytest.mark.parametrize("n", range(1, 12))
@pytest.mark.parametrize("later", [0, 1, 5])
def test_duplicated_record_is_named(ledger: Any, lines: list[bytes], n: int, later: int) -> None:
    at = min(n + later, 11)
    lines.insert(at, lines[n - 1])
    assert names(verify_chain(lines, receipt_key=ledger.key)) == ("duplicated", n, at + 1)


def fork(make_ledger: Any, at: int) -> tuple[Any, list[bytes]]:
    """Two histories of one key that agree before record `at`: what a rolled-back or cloned enclave would sign."""
    twin = make_ledger()
    before = twin.groups(*[1] * (at - 1))
    return twin, [*before, *twin.group(1, request_id="the-other-history"), *twin.groups(1, 1)]


def test_forked_record_beside_the_other_is_named(make_ledger: Any) -> None:
    ledger = make_ledger()
    lines = ledger.groups(*[1] * 6)
    _, other = fork(make_ledger, 4)
    lines.insert(4, other[3])
    assert names(verify_chain(lines, receipt_key=ledger.key)) == ("forked", 4, 5)


def test_forked_history_is_named_where_it_parts(make_ledger: Any) -> None:
    ledger = make_ledger()
    lines = ledger.groups(*[1] * 6)
    _, other = fork(make_ledger, 4)
    assert names(verify_chain([*lines[:4], *other[4:]], receipt_key=ledger.key)) == ("forked", 5, 5)


def test_record_that_contradicts_an_earlier_head_is_forked(make_ledger: Any) -> None:
    """Record 1 was signed together with the hash of record 2; another, validly signed record 2 takes its place."""
    ledger, twin = make_ledger(), make_ledger()
    honest = ledger.group(3)
    twin.group(1)
    assert twin.sequence == 1
    swapped = [honest[0], *twin.group(1, request_id="the-other-history")]
    assert names(verify_chain(swapped, receipt_key=ledger.key)) == ("forked", 2, 2)


def test_two_heads_that_promise_different_futures_are_forked(make_ledger: Any) -> None:
    ledger, twin = make_ledger(), make_ledger()
    honest = ledger.group(3)
    twin.group(1)
    other = twin.group(1) + twin.group(1)  # the same record 2 under its own head
    merged = [honest[0], other[0], honest[2]]
    verify_chain(merged, receipt_key=ledger.key).require_intact()  # they agree: no fork
    cut = merged[:2]  # the shorter head does not take back what the longer one promised
    assert names(verify_chain(cut, receipt_key=ledger.key)) == ("truncated", 3, 3)
    contrary = make_ledger()
    contrary.group(1)
    body2 = contrary.receipt()
    longer = contrary.group(2, request_id="request-2")
    assert json.loads(longer[0])["body"] == json.loads(honest[1])["body"]
    assert body2.sequence == 2
    assert names(verify_chain([honest[0], longer[0], honest[2]], receipt_key=ledger.key)) == ("forked", 3, 2)


def test_promised_record_that_names_another_predecessor_is_named(make_ledger: Any) -> None:
    """A key holder that signs a body whose `previous` is not the link before it."""
    ledger = make_ledger()
    lines = ledger.groups(1) + ledger.group(2, previous=ledger.link.hex())
    assert names(verify_chain(lines, receipt_key=ledger.key)) == ("edited", 3, 3)


def test_forged_copy_further_on_does_not_make_a_gap_a_reordering(ledger: Any, lines: list[bytes]) -> None:
    forged = edit_body(lines[4], tenant="other")
    assert names(verify_chain([*lines[:4], *lines[5:], forged], receipt_key=ledger.key)) == ("missing", 5, 5)


def test_foreign_records_are_named(make_ledger: Any) -> None:
    ledger = make_ledger()
    lines = ledger.groups(1, 1, 1)
    for stranger, defect in ((make_ledger(seed=2), "unattested"), (make_ledger(chain="cd" * 16), "foreign")):
        mixed = [*lines[:1], *stranger.group(1), *lines[1:]]
        assert names(verify_chain(mixed, receipt_key=ledger.key)) == (defect, 2, 2)
    assert names(verify_chain(lines, receipt_key=ledger.key, chain="cd" * 16)) == ("foreign", 1, 1)
    assert names(verify_chain(lines, receipt_key=make_ledger(seed=3).key)) == ("unattested", 1, 1)


@pytest.mark.parametrize("junk", [b"", b"{}", b"\xff", b"x" * 200_000])
def test_malformed_record_is_named(ledger: Any, lines: list[bytes], junk: bytes) -> None:
    lines.insert(2, junk)
    assert names(verify_chain(lines, receipt_key=ledger.key)) == ("malformed", 3, 3)


@pytest.mark.parametrize("kept", range(11))
def test_chain_cut_off_at_its_end(ledger: Any, lines: list[bytes], kept: int) -> None:
    """Inside a group the cut shows by itself; between groups only against a head that the auditor holds."""
    head = Head(sequence=11, link=ledger.link)
    defect = "truncated" if kept else "missing"
    assert names(verify_chain(lines[:kept], receipt_key=ledger.key, head=head)) == (defect, kept + 1, kept + 1)
    report = verify_chain(lines[:kept], receipt_key=ledger.key)
    ends = {sum(GROUPS[:i]) for i in range(1, len(GROUPS) + 1)}
    assert report.is_intact == (kept in ends)


def test_head_that_is_held_must_be_met(ledger: Any, lines: list[bytes]) -> None:
    full = verify_chain(lines, receipt_key=ledger.key)
    middle = verify_chain(lines[:5], receipt_key=ledger.key).head
    assert middle is not None
    for head in (middle, full.head):
        verify_chain(lines, receipt_key=ledger.key, head=head).require_intact()
    wrong = Head(sequence=middle.sequence, link=b"x" * 32)
    report = verify_chain(lines, receipt_key=ledger.key, head=wrong)
    assert names(report) == ("forked", 5, 5)
    assert report.records == 4  # what is at fault is not counted among what fits


def test_verification_goes_on_where_the_last_one_ended(ledger: Any, lines: list[bytes]) -> None:
    first = verify_chain(lines[:5], receipt_key=ledger.key)
    assert first.head is not None
    rest = verify_chain(lines[5:], receipt_key=ledger.key, previous=first.head)
    rest.require_intact()
    assert (rest.first_sequence, rest.records) == (6, 6)
    forked = Head(sequence=5, link=b"x" * 32)
    assert names(verify_chain(lines[5:], receipt_key=ledger.key, previous=forked)) == ("forked", 6, 1)
    with pytest.raises(ValueError, match="before"):
        verify_chain(lines[5:], receipt_key=ledger.key, previous=first.head, head=Head(sequence=5, link=bytes(32)))


def test_part_of_a_chain(ledger: Any, lines: list[bytes]) -> None:
    verify_chain(lines[3:], receipt_key=ledger.key, from_sequence=4).require_intact()
    assert names(verify_chain(lines[3:], receipt_key=ledger.key)) == ("missing", 1, 1)
    assert names(verify_chain(lines[2:], receipt_key=ledger.key, from_sequence=4)) == ("reordered", 3, 1)
    with pytest.raises(ValueError, match="before"):
        verify_chain(lines, receipt_key=ledger.key, from_sequence=0)


@pytest.mark.parametrize("key", [b"", bytes(31), bytes(32), b"\xff" * 32])
def test_key_that_is_none_is_refused(lines: list[bytes], key: bytes) -> None:
    with pytest.raises(ValueError, match="Ed25519"):
        verify_chain(lines, receipt_key=key)


def test_no_records_are_no_success(ledger: Any) -> None:
    assert names(verify_chain([], receipt_key=ledger.key)) == ("missing", 1, 1)


def test_genesis_must_be_zero(make_ledger: Any) -> None:
    ledger = make_ledger()
    ledger.link = b"x" * 32
    assert names(verify_chain(ledger.groups(1, 1), receipt_key=ledger.key))[0] == "forked"


def test_every_defect_is_reached() -> None:
    tests = Path(__file__).parent.glob("test_verify_audit*.py")
    text = "".join(path.read_text(encoding="utf-8") for path in tests)
    assert all(f'"{defect.value}"' in text for defect in Defect)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    groups=st.lists(st.integers(1, 5), min_size=1, max_size=5),
    operations=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 30), st.integers(0, 30)), max_size=3),
)
def test_whatever_happened_to_the_lines_only_the_true_start_is_taken(
    make_ledger: Any, groups: list[int], operations: list[tuple[int, int, int]]
) -> None:
    ledger = make_ledger()
    sound = ledger.groups(*groups)
    lines = list(sound)
    for kind, a, b in operations:
        if not lines:
            break
        a, b = a % len(lines), b % len(lines)
        if kind == 0:
            lines[a], lines[b] = lines[b], lines[a]
        elif kind == 1:
            lines.insert(a, lines[b])
        elif kind == 2:
            del lines[a]
        else:
            lines[a] = lines[a].replace(b"acme", b"evil", 1)
    report = verify_chain(lines, receipt_key=ledger.key, head=Head(sequence=len(sound), link=ledger.link))
    assert report.is_intact == (lines == sound)
    assert lines[: report.records] == sound[: report.records]


def test_one_signature_is_verified_a_group_and_none_a_record(make_ledger: Any) -> None:
    """What keeps 100,000 receipts under 20 s (measured in sim/bench, not asserted here: machines differ)."""
    ledger = make_ledger()
    lines = ledger.groups(*[16] * 40)
    report = verify_chain(lines, receipt_key=ledger.key)
    assert (report.records, report.signatures) == (640, 40)
