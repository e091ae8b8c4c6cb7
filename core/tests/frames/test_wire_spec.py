"""spec/wire.md says what the code does: its tables of errors, limits, messages and header fields, and its numbering."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import msgspec

from adytum_wire import frames, limits, messages
from adytum_wire.errors import Code

SPEC = (Path(__file__).parents[3] / "spec" / "wire.md").read_text()


def section(number: int) -> str:
    found = re.search(rf"^## {number}\. .*?(?=^## |\Z)", SPEC, re.M | re.S)
    assert found is not None
    return found.group(0)


def rows(number: int) -> list[list[str]]:
    lines = [line for line in section(number).splitlines() if line.startswith("|")]
    assert len(lines) > 2
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_the_error_table_is_the_enum() -> None:
    wanted = [[f"`{code.value}`", str(code.http_status), "yes" if code.retryable else "no", code.text] for code in Code]
    assert rows(5) == wanted


def test_the_limits_are_those_of_the_code() -> None:
    table = {name.strip("`"): int(value) for name, value, _ in rows(7)}
    assert table == {name: getattr(limits, name) for name in table}


def test_every_limit_that_the_text_names_is_in_the_table() -> None:
    table = {name.strip("`") for name, *_ in rows(7)}
    named = {name for name in re.findall(r"`([A-Z][A-Z_]+)`", SPEC) if hasattr(limits, name)}
    assert named == table


def test_the_message_table_is_the_structs() -> None:
    control, data, replies = get_args(messages.ControlRequest), (messages.DataRequest,), get_args(messages.Reply)
    wanted = {}
    for port, structs in (("control", control), ("data", data), ("", replies)):
        for struct in structs:
            info = msgspec.inspect.type_info(struct)
            assert isinstance(info, msgspec.inspect.StructType)
            wanted[f"`{info.tag}`"] = (port, ", ".join(f"`{field.name}`" for field in info.fields))
    assert {tag: (port, fields) for tag, port, fields, _ in rows(6)} == wanted
    reply_tags = {tag for tag, (port, _) in wanted.items() if not port}
    assert {reply for _, port, _, reply in rows(6) if port} <= reply_tags


def test_the_header_table_is_contiguous_and_as_long_as_the_header() -> None:
    position = 0
    for offset, size, *_ in rows(2):
        assert int(offset) == position
        position += int(size or 0)
    assert position == frames.HEADER_SIZE
    assert rows(2)[0][3] == f"`0x{frames.MAGIC:04X}`"


def test_each_must_has_a_number_in_order() -> None:
    numbers = [int(number) for number in re.findall(r"^- \*\*W-(\d+)\*\*", SPEC, re.M)]
    assert numbers == list(range(1, len(numbers) + 1))
    for line in re.split(r"\n(?=- |\n|#)", SPEC):
        if "MUST" in line:
            assert re.match(r"\n?- \*\*W-\d+\*\*", line), line
