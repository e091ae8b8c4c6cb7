"""Every kind of edit, on a chain that the enclave's own code made, is named: the first bad record, and what it is.

The chain is read back from an audit file, as an auditor would.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from adytum_enclave.core.chain import Draft, ReceiptChain
from adytum_verify import ChainReport, Head, checkpoint_line, verify_chain, verify_checkpoint
from adytum_verify.receipts import read_envelope, read_receipt
from adytum_wire import receipts
from adytum_wire.errors import AdytumError, Code
from adytum_wire.receipts import ApprovalOutcome, LimitOutcome, RuleOutcome

CHAIN, OTHER = "ab" * 16, "cd" * 16
GROUPS = (1, 5, 2, 16, 3, 1)  # 28 receipts; checkpoints after each group but the last


class Boot:
    """One boot's chain. `lines`: receipts; `marks`: (sequence, checkpoint envelope)."""

    def __init__(self, seed: int = 1, chain: str = CHAIN, groups: tuple[int, ...] = GROUPS, salt: str = "") -> None:
        self.signer = Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)
        self.key = self.signer.public_key().public_bytes_raw()
        self.chain = ReceiptChain(chain, self.key, self.signer.sign)
        self.lines: list[bytes] = []
        self.marks: list[tuple[int, bytes]] = []
        for group in groups:
            self.marks.append((len(self.chain), self.chain.checkpoint(1_790_000_000_000 + len(self.chain))))
            tickets = [self._append(salt) for _ in range(group)]
            self.chain.seal()
            self.lines += [ticket.envelope for ticket in tickets]
        self.final = self.chain.checkpoint(1_790_000_001_000)

    def _append(self, salt: str) -> Any:
        number = len(self.chain) + 1
        draft = Draft(
            tenant="acme",
            principal="alice",
            request_id=f"request-{number}{salt}",
            operation="sign",
            request_digest=bytes([number]) * 32,
        )
        draft.rules.append(RuleOutcome("treasury", "allow"))
        draft.approvals.append(ApprovalOutcome("bob", "11" * 32, "approve"))
        draft.limits.append(LimitOutcome("daily", "tenant", "5", "10", "100"))
        draft.policy_version, draft.policy_digest = 5, b"\x22" * 32
        draft.key_id, draft.record_version, draft.public_key = "key-" + "0" * 32, 1, "02" + "33" * 32
        draft.summary = {"to": "0x" + "44" * 20, "value": "1000"}
        return self.chain.append(
            draft, time_ms=1_790_000_000_000 + number, decision="allow", code="", result_digest="55" * 32
        )

    @property
    def head(self) -> Head:
        found = verify_checkpoint(self.final, receipt_key=self.key)
        return Head(sequence=found.sequence, link=found.link)


@pytest.fixture(scope="module")
def boot() -> Boot:
    return Boot()


def audit(lines: list[bytes], boot: Boot, **options: Any) -> ChainReport:
    return verify_chain(lines, receipt_key=boot.key, chain=CHAIN, **options)


def first(report: ChainReport) -> tuple[str, int]:
    assert report.problem is not None, "nothing was found"
    return report.problem.defect.value, report.problem.sequence


def outer(line: bytes, **changes: Any) -> bytes:
    return receipts.encode({**json.loads(line), **changes})


def inner(line: bytes, **changes: Any) -> bytes:
    body = {**json.loads(json.loads(line)["body"]), **changes}
    return outer(line, body=receipts.encode(body).decode())


# Another valid value for each field of a receipt.
FIELDS: dict[str, Any] = {
    "previous": "77" * 32,
    "time": 1_790_000_009_999,
    "tenant": "other",
    "principal": "mallory",
    "request_id": "request-0",
    "operation": "unseal",
    "request_digest": "77" * 32,
    "decision": "deny",
    "code": "POLICY_DENIED",
    "rules": [],
    "approvals": [],
    "wanted": [{"rule": "pay", "role": "approver", "count": 2, "counted": [], "missing": ["bob"], "others": 0}],
    "omitted": ["wanted"],
    "limits": [],
    "policy_version": 4,
    "policy_digest": "77" * 32,
    "key_id": "key-" + "1" * 32,
    "record_version": 2,
    "public_key": "03" + "33" * 32,
    "summary": {"to": "0x" + "66" * 20, "value": "1000"},
    "result_digest": "77" * 32,
    "sequence": 9,
    "chain": OTHER,
}


def test_the_untouched_chain_holds(boot: Boot) -> None:
    lines = [*boot.lines, checkpoint_line(boot.final)]
    for sequence, mark in reversed(boot.marks):
        lines.insert(sequence, checkpoint_line(mark))
    report = audit(lines, boot, head=boot.head)
    report.require_intact()
    assert (report.records, report.checkpoints) == (28, len(GROUPS) + 1)
    assert report.newest_checkpoint is not None
    assert report.newest_checkpoint.sequence == 28


def test_every_field_of_a_receipt_is_attacked() -> None:
    assert FIELDS.keys() == set(receipts.Receipt.__struct_fields__) - {"v"}


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("n", [1, 2, 4, 6, 15, 28])
def test_edited_field(boot: Boot, field: str, n: int) -> None:
    lines = list(boot.lines)
    lines[n - 1] = inner(lines[n - 1], **{field: FIELDS[field]})
    assert first(audit(lines, boot)) == ("edited", n)


EDITS: dict[str, tuple[Callable[[list[bytes]], object], str, int]] = {
    "a later version of the format": (lambda x: x.__setitem__(4, inner(x[4], v=2)), "malformed", 5),
    "a field too many": (lambda x: x.__setitem__(4, inner(x[4], note="")), "malformed", 5),
    "signature empty": (lambda x: x.__setitem__(4, outer(x[4], signature="")), "unsigned", 5),
    "signature gone": (
        lambda x: x.__setitem__(4, receipts.encode({k: v for k, v in json.loads(x[4]).items() if k != "signature"})),
        "unsigned",
        5,
    ),
    "signature null": (lambda x: x.__setitem__(4, outer(x[4], signature=None)), "unsigned", 5),
    "signature of zeros": (lambda x: x.__setitem__(4, outer(x[4], signature="00" * 64)), "edited", 5),
    "another receipt's signature": (
        lambda x: x.__setitem__(4, outer(x[4], signature=json.loads(x[0])["signature"])),
        "edited",
        5,
    ),
    "another key's name": (lambda x: x.__setitem__(4, outer(x[4], key="22" * 32)), "edited", 5),
    "group cut short": (
        lambda x: x.__setitem__(9, outer(x[9], following=json.loads(x[9])["following"][:-1])),
        "edited",
        10,
    ),
    "group cut to nothing": (lambda x: x.__setitem__(9, outer(x[9], following=[])), "edited", 10),
    "group made longer": (
        lambda x: x.__setitem__(9, outer(x[9], following=[*json.loads(x[9])["following"], "00" * 32])),
        "edited",
        10,
    ),
    "group's hashes changed in order": (
        lambda x: x.__setitem__(9, outer(x[9], following=json.loads(x[9])["following"][::-1])),
        "edited",
        10,
    ),
    "last of a group joined to the next": (
        lambda x: x.__setitem__(5, outer(x[5], following=["00" * 32])),
        "edited",
        6,
    ),
    "first missing": (lambda x: x.pop(0), "missing", 1),
    "one missing within a group": (lambda x: x.pop(12), "missing", 13),
    "head of a group missing": (lambda x: x.pop(5), "missing", 6),
    "a whole group missing": (lambda x: x.__delitem__(slice(8, 24)), "missing", 9),
    "two neighbours swapped": (lambda x: x.__setitem__(slice(2, 4), [x[3], x[2]]), "reordered", 3),
    "one moved to the end": (lambda x: x.append(x.pop(9)), "reordered", 10),
    "all reversed": (lambda x: x.reverse(), "reordered", 1),
    "one twice": (lambda x: x.insert(7, x[6]), "duplicated", 7),
    "one again at the end": (lambda x: x.append(x[3]), "duplicated", 4),
    "a forged one put in": (lambda x: x.insert(9, inner(x[9], principal="mallory")), "forged", 10),
    "a forged one put in with a number of its own": (lambda x: x.insert(9, inner(x[9], sequence=77)), "forged", 10),
    "a forged one at the end": (lambda x: x.append(inner(x[27], sequence=29, previous="00" * 32)), "edited", 29),
    "cut within a group": (lambda x: x.__delitem__(slice(20, None)), "truncated", 21),
    "all gone": (lambda x: x.clear(), "missing", 1),
    "a line of rubbish": (lambda x: x.insert(3, b"rubbish\n"), "malformed", 4),
    "half a line": (lambda x: x.__setitem__(3, x[3][:100]), "malformed", 4),
}


@pytest.mark.parametrize("kind", EDITS)
def test_edit_is_named(boot: Boot, kind: str) -> None:
    edit, defect, sequence = EDITS[kind]
    lines = list(boot.lines)
    edit(lines)
    assert first(audit(lines, boot)) == (defect, sequence)


@pytest.mark.parametrize("kept", [1, 6, 8, 24, 27])
def test_cut_between_groups_shows_against_a_checkpoint_and_only_then(boot: Boot, kept: int) -> None:
    lines = boot.lines[:kept]
    audit(lines, boot).require_intact()
    for held in ({"checkpoints": [boot.final]}, {"head": boot.head}):
        assert first(audit(lines, boot, **held)) == ("truncated", kept + 1)
    assert first(audit([*lines, checkpoint_line(boot.final)], boot)) == ("truncated", kept + 1)
    older = dict(boot.marks)[kept] if kept in dict(boot.marks) else boot.marks[0][1]
    report = audit(lines, boot, checkpoints=[older])  # an old one, shown as the newest, hides nothing that it covers
    report.require_intact()
    assert report.newest_checkpoint is not None
    assert report.newest_checkpoint.sequence <= kept  # and says itself how old it is


def test_two_receipts_with_one_number_are_forked(boot: Boot) -> None:
    """What a cloned enclave would sign: the same key and chain, another history from the first record on."""
    clone = Boot(salt="-again", groups=(1,) * 28)
    lines = [*boot.lines[:5], clone.lines[4], *boot.lines[5:]]
    assert first(audit(lines, boot)) == ("forked", 5)
    assert first(audit([*boot.lines[:6], *clone.lines[6:]], boot)) == ("forked", 7)
    assert first(audit([*boot.lines[:8], clone.lines[8]], boot, head=boot.head)) == ("forked", 9)


def test_another_chains_and_another_keys_records(boot: Boot) -> None:
    for stranger, defect in ((Boot(chain=OTHER), "foreign"), (Boot(seed=2), "unattested")):
        assert first(audit([*boot.lines[:6], stranger.lines[6], *boot.lines[6:]], boot)) == (defect, 7)
        assert first(audit(stranger.lines, boot)) == (defect, 1)
    stranger = Boot(seed=2, chain=OTHER)
    assert first(audit(stranger.lines, boot)) == ("foreign", 1)


def test_checkpoint_that_contradicts_the_chain(boot: Boot) -> None:
    clone = Boot(salt="-again")
    for number, (sequence, mark) in enumerate(clone.marks[1:], 1):
        for lines in ([checkpoint_line(mark), *boot.lines], [*boot.lines, checkpoint_line(mark)]):
            assert first(audit(lines, boot)) == ("contradicted", sequence), number
        assert first(audit(boot.lines, boot, checkpoints=[mark])) == ("contradicted", sequence)
        genuine = boot.marks[number][1]
        report = audit([], boot, checkpoints=[genuine, mark])
        assert first(report) == ("contradicted", sequence)
        assert report.problem is not None
        assert report.problem.subject == "checkpoint"


@pytest.mark.parametrize(
    ("changes", "defect"),
    [
        ({"sequence": 99}, "forged"),
        ({"sequence": 3}, "forged"),
        ({"head": "77" * 32}, "forged"),
        ({"time": 1}, "forged"),
        ({"chain": OTHER}, "forged"),
        ({"v": 2}, "forged"),
    ],
)
def test_forged_checkpoint(boot: Boot, changes: dict[str, Any], defect: str) -> None:
    found = json.loads(boot.final)
    forged = outer(boot.final, body=json.dumps({**json.loads(found["body"]), **changes}))
    with pytest.raises(AdytumError) as caught:
        verify_checkpoint(forged, receipt_key=boot.key)
    assert caught.value.code is Code.RECEIPT_INVALID
    assert audit([*boot.lines, checkpoint_line(forged)], boot).problem is not None
    assert first(audit([*boot.lines, checkpoint_line(forged)], boot))[0] == defect


def test_checkpoint_of_another_boot_or_key(boot: Boot) -> None:
    other = Boot(seed=3, chain=OTHER)
    audit(boot.lines, boot, checkpoints=[other.final]).require_intact()  # a second copy holds many chains
    assert first(audit([*boot.lines, checkpoint_line(other.final)], boot))[0] == "unattested"
    same_key = Boot(chain=OTHER)
    assert first(audit([*boot.lines, checkpoint_line(same_key.final)], boot))[0] == "foreign"
    stolen = outer(boot.final, key=other.key.hex())
    assert first(audit([*boot.lines, checkpoint_line(stolen)], boot))[0] == "unattested"


@pytest.mark.parametrize("junk", [b"", b"{}", b"null", b'{"body":"","key":"","signature":""}', b"x" * 9000])
def test_checkpoint_that_is_none(boot: Boot, junk: bytes) -> None:
    assert first(audit([*boot.lines, checkpoint_line(junk)], boot))[0] == "malformed"
    assert first(audit(boot.lines, boot, checkpoints=[junk]))[0] == "malformed"


def test_a_receipts_head_signature_is_no_checkpoints(boot: Boot) -> None:
    """The same key signs both: they are told apart by what is signed."""
    stolen = outer(boot.final, signature=json.loads(boot.lines[-1])["signature"])
    assert first(audit([*boot.lines, checkpoint_line(stolen)], boot))[0] == "forged"


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_the_fast_reader_reads_what_the_strict_one_reads(data: st.DataObject) -> None:
    line = bytearray(_BOOT.lines[data.draw(st.integers(0, 27))])
    for _ in range(data.draw(st.integers(0, 2))):
        at = data.draw(st.integers(0, len(line) - 1))
        line[at : at + data.draw(st.integers(0, 3))] = data.draw(st.sampled_from([b"", b" ", b"0", b'"', b"\\u0061"]))
    for fast, strict, value in (
        (read_envelope, receipts.parse_envelope, bytes(line)),
        (read_receipt, receipts.parse_receipt, bytes(line)),
    ):
        assert _outcome(fast, value) == _outcome(strict, value)


_BOOT = Boot()


def _outcome(read: Callable[[bytes], Any], data: bytes) -> Any:
    try:
        return read(data)
    except AdytumError as error:
        return error.code, error.field


def test_the_fast_reader_refuses_a_key_twice(boot: Boot) -> None:
    twice = boot.lines[0].replace(b'{"body":', b'{"key":"' + b"00" * 32 + b'","body":', 1)
    with pytest.raises(AdytumError):
        read_envelope(twice)


def test_every_kind_of_defect_is_in_this_file() -> None:
    from adytum_verify import Defect

    text = Path(__file__).read_text(encoding="utf-8")
    assert all(f'"{defect.value}"' in text for defect in Defect)
