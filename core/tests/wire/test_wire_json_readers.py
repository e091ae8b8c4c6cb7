"""Two parsers read each signed document: the scanner that may only refuse, and msgspec, whose value is used. They agree
on everything that both accept, so the value is the one reading of the bytes."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adytum_wire import strict_json
from adytum_wire.errors import AdytumError, Code
from adytum_wire.requests import Body, parse_body

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)
# Text that is JSON, nearly JSON, or JSON in an unusual spelling.
spellings = st.one_of(
    values.map(json.dumps),
    values.map(lambda value: json.dumps(value, ensure_ascii=False, indent=1)),
    st.text(alphabet='{}[]",:\\u0dD8aef19-+.eE \n\t\r\x00\x0b\xa0\u0661ntruefals', max_size=24),
)


def read(data: bytes) -> Any:
    return strict_json.decode(data, Any, limit=10_000, code=Code.REQUEST_INVALID)  # type: ignore[arg-type]


@settings(max_examples=400, deadline=None)
@given(spellings)
def test_what_is_accepted_reads_the_same_by_the_standard_library(text: str) -> None:
    try:
        value = read(text.encode("utf-8", "surrogatepass"))
    except AdytumError:
        return
    assert value == json.loads(text)


@settings(max_examples=200, deadline=None)
@given(values)
def test_genuine_json_is_accepted_by_both(value: Any) -> None:
    assert read(json.dumps(value).encode()) == value


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_typed_document_is_what_a_conversion_of_the_scanned_value_gives(data: st.DataObject) -> None:
    """As it was read before msgspec read the bytes itself: by conversion of the standard library's value."""
    document: dict[str, Any] = {
        "operation": data.draw(st.sampled_from(["sign", "reseal", "unseal", "none"])),
        "v": data.draw(st.sampled_from([1, 2, "1", True, None])),
        "tenant": data.draw(st.sampled_from(["acme", "Acme", ""])),
        "request_id": data.draw(st.sampled_from(["r-00000001", "short", 5])),
        "issued_at": data.draw(st.sampled_from([0, 2**53, 2**53 + 1, -1, 2**70, "0"])),
        "key_id": "key-" + "0" * 32,
        "scheme": data.draw(st.sampled_from(["ed25519", "none"])),
        "content": data.draw(
            st.sampled_from([{"type": "raw-message", "message": "00"}, {"type": "none"}, {"message": "00"}, []])
        ),
    }
    for name in data.draw(st.sets(st.sampled_from(sorted(document)), max_size=2)):
        del document[name]
    if document.get("operation") == "reseal" and data.draw(st.booleans()):
        document.pop("scheme", None)
        document.pop("content", None)
    wire = json.dumps(document).encode()
    try:
        expected = msgspec.convert(json.loads(wire), Body, strict=True)  # type: ignore[call-overload]
    except msgspec.ValidationError:
        with pytest.raises(AdytumError) as caught:
            parse_body(wire)
        assert caught.value.code is Code.REQUEST_INVALID
    else:
        assert parse_body(wire) == expected
