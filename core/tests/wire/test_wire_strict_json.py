"""strict_json: one reading or a refusal. The oracle for valid input is the standard library's `json`."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec import Meta, Struct

from adytum_wire import limits, strict_json
from adytum_wire.errors import AdytumError, Code


class Inner(Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    flag: bool


class Outer(Struct, frozen=True, forbid_unknown_fields=True):
    v: Literal[1]
    number: Annotated[int, Meta(ge=0)]
    inner: list[Inner]


GOOD = b'{"v":1,"number":5,"inner":[{"name":"a","flag":true}]}'


def decode(data: bytes, kind: Any = Any, limit: int = 10_000) -> Any:
    return strict_json.decode(data, kind, limit=limit, code=Code.REQUEST_INVALID)


def refused(data: bytes, kind: Any = Any, limit: int = 10_000) -> str:
    with pytest.raises(AdytumError) as caught:
        decode(data, kind, limit)
    assert caught.value.code is Code.REQUEST_INVALID
    assert caught.value.__cause__ is None  # a parser's message may quote the sender's bytes
    return caught.value.field


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b" ",
        b"{",
        b'{"a":1,"a":1}',
        b'{"a":1,"\\u0061":2}',
        b'[{"x":{"a":1,"b":2,"a":3}}]',
        b"1 2",
        b"{}x",
        b"{}\0",
        b"{}{}",
        b"NaN",
        b"Infinity",
        b"-Infinity",
        b"1.0",
        b"1e3",
        b"-0.0",
        b"01",
        b"+1",
        b"0x10",
        b"[1,]",
        b'{"a":1,}',
        b"{'a':1}",
        b"{a:1}",
        b"// c\n{}",
        b"\xef\xbb\xbf{}",
        '{"a":1}'.encode("utf-16"),
        '{"a":1}'.encode("utf-16-le"),
        '{"a":1}'.encode("utf-32-be"),
        b'"\xff"',
        b'"\xc0\x80"',
        b'"\xed\xa0\x80"',
        b'"\\ud800"',
        b'"\\udc00\\ud800"',
        b'{"\\ud800":1}',
        b'"\\x41"',
        b'"\n"',
        b'"\x00"',
        b"True",
        b"nul",
        b"1" * 5_000,
    ],
)
def test_not_strict_json(data: bytes) -> None:
    assert refused(data) == "$ (not strict JSON)"


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b' \t\r\n{"a":1}\n', {"a": 1}),
        (b'"\\ud83d\\ude00"', "\U0001f600"),
        ('"\U0001f600é"'.encode(), "\U0001f600é"),
        (b'"\\u0000"', "\0"),
        (b'"[[[[[[[[[[[[[[[[[[[[[[[[["', "[" * 25),
        (b'{"{[\\"{[":"]}"}', {'{["{[': "]}"}),
        (b"-5", -5),
        (b"-0", 0),
        (b"null", None),
        (b'{"":1}', {"": 1}),
    ],
)
def test_strict_json(data: bytes, value: Any) -> None:
    assert decode(data) == value


def test_size_limit_counts_bytes() -> None:
    assert decode(b'"\xc3\xa9"', limit=4) == "é"
    assert refused(b'"\xc3\xa9"', limit=3) == "$ (too large)"


def test_depth_limit() -> None:
    deepest = limits.MAX_JSON_DEPTH
    decode(b"[" * deepest + b"]" * deepest)
    assert refused(b"[" * (deepest + 1) + b"]" * (deepest + 1)) == "$ (too deep)"
    assert refused(b'{"a":' * (deepest + 1) + b"1" + b"}" * (deepest + 1)) == "$ (too deep)"
    assert refused(b"[" * 9_000) == "$ (too deep)"
    # brackets in strings, also after escaped quotes and backslashes, are no depth
    decode(b'["\\"[[[[[[[[[[[[[[[[[[[[", "\\\\", "[[[["]')
    assert refused(b'["\\\\"' + b",[" * deepest + b"]" * (deepest + 1)) == "$ (too deep)"
    # wide is not deep
    decode(b"[" + b"[]," * 500 + b"[]]")


@pytest.mark.parametrize(
    ("data", "field"),
    [
        (GOOD.replace(b'"v":1', b'"v":2'), "$.v"),
        (GOOD.replace(b'"v":1', b'"v":"1"'), "$.v"),
        (GOOD.replace(b'"number":5', b'"number":-5'), "$.number"),
        (GOOD.replace(b'"number":5', b'"number":"5"'), "$.number"),
        (GOOD.replace(b'"number":5', b'"number":true'), "$.number"),
        (GOOD.replace(b'"number":5', b'"number":null'), "$.number"),
        (GOOD.replace(b'"number":5,', b""), "$"),
        (GOOD.replace(b"true", b"1"), "$.inner[0].flag"),
        (GOOD.replace(b'"flag"', b'"secret-text"'), "$.inner[0]"),
        (b'{"v":1}', "$"),
        (b"[]", "$"),
    ],
)
def test_types_are_strict_and_the_field_is_ours(data: bytes, field: str) -> None:
    assert decode(GOOD, Outer) == Outer(1, 5, [Inner("a", True)])
    assert refused(data, Outer) == field


def test_a_refusal_never_repeats_the_senders_words() -> None:
    for data in (GOOD.replace(b"flag", b"hunter2"), GOOD.replace(b"true", b'"hunter2"'), b"hunter2"):
        with pytest.raises(AdytumError) as caught:
            decode(data, Outer)
        assert "hunter2" not in str(caught.value) + repr(caught.value) + str(caught.value.args)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


@given(VALUES, st.booleans(), st.sampled_from([None, 1]))
def test_agrees_with_json_on_valid_input(value: Any, ascii_only: bool, indent: int | None) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    assert decode(text.encode()) == value == json.loads(text)


@given(VALUES)
def test_what_encode_writes_decode_reads(value: Any) -> None:
    assert decode(strict_json.encode(value)) == value


@given(
    st.builds(
        Outer, st.just(1), st.integers(0, 2**63), st.lists(st.builds(Inner, st.text(), st.booleans()), max_size=3)
    )
)
def test_structs_go_round(value: Outer) -> None:
    assert decode(strict_json.encode(value), Outer, limit=100_000) == value


FRAGMENTS = [
    b"{",
    b"}",
    b"[",
    b"]",
    b'"',
    b":",
    b",",
    b"1",
    b'"v"',
    b"true",
    b"\\u",
    b"\\ud800",
    b"\\",
    b"-",
    b"\xc3",
    b"1.5",
    b"e",
]


@settings(max_examples=400)
@example(b'"\\ud800\\udc00"')
@given(st.binary(max_size=100) | st.lists(st.sampled_from(FRAGMENTS), max_size=40).map(b"".join) | st.just(GOOD))
def test_hostile_bytes_give_a_value_or_the_one_error(data: bytes) -> None:
    for kind in (Any, Outer):
        try:
            value = decode(data, kind)
        except AdytumError as error:
            assert error.code is Code.REQUEST_INVALID
        else:
            assert decode(msgspec.json.encode(value), kind) == value
            json.loads(data)  # whatever we read, everybody reads


@given(st.integers(0, len(GOOD)), st.integers(0, 4), st.binary(max_size=4))
def test_a_mutated_document_is_refused_or_a_valid_one(at: int, cut: int, patch: bytes) -> None:
    data = GOOD[:at] + patch + GOOD[at + cut :]
    try:
        value = decode(data, Outer)
    except AdytumError as error:
        assert error.code is Code.REQUEST_INVALID
    else:
        assert msgspec.to_builtins(value) == json.loads(data)
