"""The hostile host's own tools: they reach what they say, change what they say, and the ledger can say no."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adytum_policy.shape import PolicyDocument
from adytum_sim.hostile.cases import BLOB, locate, variants, words_of
from adytum_sim.hostile.examples import examples
from adytum_sim.hostile.ledger import BrokenPromiseError, Ledger
from adytum_sim.hostile.manipulations import manipulations
from adytum_sim.hostile.paths import BASE64, JSON, MSGPACK, array, edit, find
from adytum_sim.hostile.rules import APPROVER, PATH, RECIPIENT, Json, is_allowed
from adytum_sim.hostile.surface import structs, surface
from adytum_sim.hostile.tls_tap import Direction, spoil
from adytum_wire import messages, receipts
from adytum_wire.errors import AdytumError
from adytum_wire.frames import Frame, Kind
from adytum_wire.messages import ExecuteReply, Health, PutPolicy, Refusal
from adytum_wire.requests import Body, parse_body


def test_a_path_reaches_through_every_layer_and_back() -> None:
    payload = messages.encode(PutPolicy("acme", json.dumps({"payload": "eyJhIjoxfQ=="}).encode()))
    path = (MSGPACK, "envelope", JSON, "payload", BASE64, JSON, "a")
    assert find(payload, path) == 1
    changed = edit(payload, path, lambda value: value + 1)
    assert find(changed, path) == 2
    assert find(payload, path) == 1


@given(
    st.dictionaries(
        st.sampled_from("abcd"), st.one_of(st.binary(), st.text(), st.integers(), st.booleans()), min_size=1
    )
)
@settings(max_examples=60)
def test_no_manipulation_leaves_the_structure_as_it_is(fields: dict[str, object]) -> None:
    name = next(iter(fields))
    found = list(manipulations(fields, name))
    assert found
    for change in found:
        assert [(k, type(v), v) for k, v in change.fields.items()] != [(k, type(v), v) for k, v in fields.items()]
        assert {k: v for k, v in change.fields.items() if k != name} == {k: v for k, v in fields.items() if k != name}


def test_every_length_means_every_length() -> None:
    lengths = [
        len(m.fields["a"]) for m in manipulations({"a": b"x" * 30}, "a", every_length=True) if m.attack == "truncate"
    ]
    assert lengths == list(range(30))


def test_a_variant_knows_whether_it_is_malformed() -> None:
    found = {v.detail: v.malformed for v in variants(messages.encode(Health()), "Health", (MSGPACK,), "type")}
    assert found["Health.type: hello"]
    assert found["Health.type: absent"]


def test_enumerations_and_tags_are_found() -> None:
    assert set(words_of("Stamp", "scheme")) == {"ed25519", "p256", "secp256k1"}
    assert {"configure", "execute", "refusal"} <= set(words_of("Hello", "type"))


def test_the_words_of_a_literal_are_found() -> None:
    assert set(words_of("Kms", "credentials")) == {"pushed", "imds"}
    assert set(words_of("Statement", "decision")) == {"approve", "reject"}


def test_a_list_with_names_is_edited_in_its_place() -> None:
    parts = array("header", "ciphertext_blob", "data_key_ciphertext")
    snapshot = msgspec.msgpack.encode([b"{}", b"sealed", b"key"])
    assert edit(snapshot, (MSGPACK, parts, "header"), lambda _: b"[]") == msgspec.msgpack.encode(
        [b"[]", b"sealed", b"key"]
    )
    found = list(variants(snapshot, "Snapshot", (MSGPACK, parts), "ciphertext_blob"))
    assert {v.malformed for v in found} == {True, False}
    for variant in found:
        items = msgspec.msgpack.decode(variant.payload)
        assert variant.malformed or (len(items) == 3 and items[::2] == [b"{}", b"key"])
    with pytest.raises(ValueError, match="zip"):
        find(msgspec.msgpack.encode([b"{}"]), (MSGPACK, parts))


BODY = {"v": 1, "tenant": "acme", "request_id": "r-00000001", "issued_at": 1}
KEY_ID = "key-" + "0" * 32


@pytest.mark.parametrize(
    ("fields", "changes", "is_right"),
    [
        ({"operation": "derive_key", "key_id": KEY_ID, "path": PATH, "algorithm": "secp256k1"}, {}, True),
        ({"operation": "derive_key", "key_id": KEY_ID, "path": "m/0", "algorithm": "secp256k1"}, {}, False),
        ({"operation": "export", "key_id": KEY_ID, "recipient": RECIPIENT}, {}, False),
        ({"operation": "export", "key_id": KEY_ID, "recipient": RECIPIENT}, {"approvals": ["approve"]}, True),
        ({"operation": "export", "key_id": KEY_ID, "recipient": RECIPIENT}, {"approvals": ["again"]}, False),
        ({"operation": "export", "key_id": KEY_ID, "recipient": "host"}, {"approvals": ["approve"]}, False),
        ({"operation": "generate_seed", "labels": ["treasury"]}, {}, True),
        ({"operation": "generate_seed", "labels": ["cold"]}, {}, False),
        ({"operation": "disable_key", "key_id": KEY_ID}, {}, True),
        ({"operation": "disable_key", "key_id": KEY_ID}, {"principal": "mallory"}, False),
        ({"operation": "rotation_statement"}, {}, True),
    ],
)
def test_what_was_carried_out_is_judged_by_hand(fields: Json, changes: Json, is_right: bool) -> None:
    """The judge of the audit says no to what the policy of a site does not allow."""
    given = [{"principal": APPROVER, "digest": "0" * 64, "outcome": one} for one in changes.get("approvals", [])]
    envelope = receipt(1, **({"operation": fields["operation"]} | changes | {"approvals": given}))
    found = receipts.parse_receipt(receipts.parse_envelope(envelope).body.encode())
    assert is_allowed(parse_body(json.dumps(BODY | fields).encode()), None, found) is is_right


def test_a_blob_comes_apart_at_the_envelopes_sizes() -> None:
    blob = bytes(range(100))
    parts = BLOB.decode(blob)
    assert [len(part) for part in parts.values()] == [32, 12, 40, 16]
    assert BLOB.encode(parts) == blob


def test_there_is_an_example_of_everything_that_is_signed() -> None:
    for root in (Body, PolicyDocument):
        for name, found in examples(root).items():
            assert set(found) == {field for struct, field in surface() if struct == name}
    sample = examples(Body)["Reseal"]
    assert locate({"deep": [sample]}, structs()["Reseal"]) == ("deep", 0)


def test_a_record_is_spoilt_in_its_place_only() -> None:
    hook = spoil(Direction.DOWN, 1, lambda record: [record * 2])
    assert hook(Direction.DOWN, 1, b"x") == [b"xx"]
    assert hook(Direction.DOWN, 0, b"x") == hook(Direction.UP, 1, b"x") == [b"x"]


def note(ledger: Ledger, reply: ExecuteReply | Refusal) -> None:
    ledger.note(5001, Kind.REPLY, Frame(1, 0, messages.encode(reply)))


def receipt(sequence: int, **changes: object) -> bytes:
    body = {
        "v": 1, "chain": "0" * 32, "sequence": sequence, "previous": "0" * 64, "time": 1, "tenant": "acme",
        "principal": "alice", "request_id": "r", "operation": "sign", "request_digest": "0" * 64, "decision": "allow",
        "code": "", "rules": [], "approvals": [], "wanted": [], "limits": [], "policy_version": 1,
        "policy_digest": "", "key_id": "", "record_version": 1, "public_key": "", "summary": {}, "result_digest": "",
    } | changes  # fmt: skip
    return json.dumps({"body": json.dumps(body), "following": [], "key": "0" * 64, "signature": "0" * 128}).encode()


def test_the_ledger_says_no() -> None:
    """Two results for one receipt, two receipts for one number, INTERNAL, an unsigned chain."""
    key = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")  # RFC 8032, test 1
    for replies in (
        [ExecuteReply(b"one", receipt(1)), ExecuteReply(b"two", receipt(1))],
        [ExecuteReply(b"one", receipt(1)), ExecuteReply(b"one", receipt(1, time=2))],
        [Refusal("INTERNAL")],
    ):
        ledger = Ledger()
        for reply in replies:
            note(ledger, reply)
        with pytest.raises(BrokenPromiseError):
            ledger.audit(key, lambda *_: True)
    ledger = Ledger()
    note(ledger, ExecuteReply(b"one", receipt(1)))
    with pytest.raises(AdytumError):
        ledger.audit(key, lambda *_: True)
    assert ledger.missing() == 2
