"""Expected measurements: what parses, and that everything doubtful refuses."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adytum_verify import AllowList, AttestationCode, AttestationError, PcrPolicy, parse_release

CODE = AttestationCode
A, B, C, M = ("a1" * 48, "b2" * 48, "c3" * 48, "d4" * 48)
IMAGE = [f"PCR0={A}", f"PCR1={B}", f"PCR2={C}"]


def code_of(entries: list[str]) -> AttestationCode:
    with pytest.raises(AttestationError) as caught:
        AllowList.parse(entries)
    return caught.value.code


def test_forms_of_one_image_are_equal() -> None:
    wanted = PcrPolicy({0: bytes.fromhex(A), 1: bytes.fromhex(B), 2: bytes.fromhex(C)})
    assert PcrPolicy.parse(IMAGE) == wanted
    assert PcrPolicy.parse([",".join(IMAGE)]) == wanted
    assert AllowList.parse(IMAGE) == AllowList.parse([" , ".join(IMAGE)]) == AllowList((wanted,))
    assert AllowList.parse([entry.upper() for entry in IMAGE]) == AllowList((wanted,))


def test_several_images() -> None:
    other = [f"PCR0={B}", f"PCR1={B}", f"PCR2={C}", f"PCR16={M}"]
    parsed = AllowList.parse([*IMAGE, *other, ",".join(IMAGE), *IMAGE])
    assert [len(image.pcrs) for image in parsed.images] == [3, 4, 3, 3]
    assert parsed.images[1].pcrs[16] == bytes.fromhex(M)


@pytest.mark.parametrize(
    ("entries", "code"),
    [
        ([], CODE.POLICY_EMPTY),
        ([""], CODE.POLICY_INVALID),
        (["*"], CODE.POLICY_INVALID),
        (["PCR0=" + A], CODE.POLICY_INCOMPLETE),
        (IMAGE[:2], CODE.POLICY_INCOMPLETE),
        ([*IMAGE, "PCR0=" + A], CODE.POLICY_INCOMPLETE),
        ([*IMAGE, "PCR16=" + M, "PCR16=" + M], CODE.POLICY_INCOMPLETE),
        ([",".join([*IMAGE, "PCR16=" + M, "PCR16=" + A])], CODE.POLICY_INVALID),
        ([",".join([*IMAGE, ""])], CODE.POLICY_INVALID),
        ([f"PCR0={'00' * 48}", *IMAGE[1:]], CODE.POLICY_DEBUG),
        ([IMAGE[0], f"PCR1={'00' * 48}", IMAGE[2]], CODE.POLICY_DEBUG),
        ([*IMAGE, "PCR32=" + A], CODE.POLICY_INVALID),
        ([*IMAGE, "PCR-1=" + A], CODE.POLICY_INVALID),
        ([*IMAGE, "PCR00=" + A], CODE.POLICY_INVALID),
        ([*IMAGE, "PCR3=" + A[:-2]], CODE.POLICY_INVALID),
        ([*IMAGE, "PCR3=" + A + "00"], CODE.POLICY_INVALID),
        ([*IMAGE, "PCR3=" + "zz" * 48], CODE.POLICY_INVALID),
        ([*IMAGE, "PCR\u0663=" + A], CODE.POLICY_INVALID),
        ([A], CODE.POLICY_INVALID),
        (["file:/nonexistent/release.json"], CODE.POLICY_INVALID),
    ],
)
def test_doubtful_lists_are_refused(entries: list[str], code: AttestationCode) -> None:
    assert code_of(entries) is code


@pytest.mark.parametrize("form", ["{}", "sha256:{}", "SHA256:{}", "PCR0={}", " {} "])
def test_the_seeds_hash_without_an_index_is_refused_with_a_reason(form: str) -> None:
    entry = form.format(hashlib.sha256(bytes.fromhex(A)).hexdigest())
    for entries in ([entry], [*IMAGE, entry], [",".join([*IMAGE, entry])]):
        assert code_of(entries) is CODE.POLICY_HASHED
    assert "PCR16" in CODE.POLICY_HASHED.text
    assert "PCR0=<96 hex>" in CODE.POLICY_HASHED.text


@pytest.mark.parametrize("pcrs", [{}, {0: b"x" * 48}, dict.fromkeys(range(3), b"x" * 47), {True: b"x" * 48}])
def test_policy_cannot_be_built_weak(pcrs: dict[int, bytes]) -> None:
    with pytest.raises(AttestationError):
        PcrPolicy(pcrs)


def test_policy_does_not_follow_the_callers_dict() -> None:
    pcrs = dict.fromkeys(range(3), b"x" * 48)
    policy = PcrPolicy(pcrs)
    pcrs[0] = b"y" * 48
    assert policy.pcrs[0] == b"x" * 48
    with pytest.raises(TypeError):
        policy.pcrs[0] = b"y" * 48  # type: ignore[index]


def test_empty_allow_list_cannot_be_built() -> None:
    with pytest.raises(AttestationError) as caught:
        AllowList(())
    assert caught.value.code is CODE.POLICY_EMPTY


NITRO_CLI = {"Measurements": {"HashAlgorithm": "Sha384 { ... }", "PCR0": A, "PCR1": B, "PCR2": C}}


def test_release_file_as_nitro_cli_prints_it(tmp_path: Path) -> None:
    path = tmp_path / "release.json"
    path.write_text(json.dumps({"EifVersion": 4, **NITRO_CLI, "IsSigned": False}))
    assert AllowList.parse([f"file:{path}"]) == AllowList.parse(IMAGE)
    assert len(AllowList.parse([*IMAGE, f"file:{path}", *IMAGE]).images) == 3
    assert AllowList.parse(["file:x"], read_file=lambda _path: json.dumps(NITRO_CLI["Measurements"]).encode())


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", CODE.POLICY_INVALID),
        ("[]", CODE.POLICY_INVALID),
        ("{}", CODE.POLICY_EMPTY),
        ('{"Measurements": []}', CODE.POLICY_INVALID),
        ('{"Measurements": {}}', CODE.POLICY_EMPTY),
        (json.dumps({"PCR0": A, "PCR1": B}), CODE.POLICY_INCOMPLETE),
        (json.dumps({**NITRO_CLI["Measurements"], "Other": "1"}), CODE.POLICY_INVALID),
        (json.dumps({**NITRO_CLI["Measurements"], "HashAlgorithm": "Sha256"}), CODE.POLICY_INVALID),
        (json.dumps({**NITRO_CLI["Measurements"], "PCR0": 1}), CODE.POLICY_INVALID),
        (json.dumps(NITRO_CLI["Measurements"])[:-1] + f', "PCR0": "{B}"}}', CODE.POLICY_INVALID),
        (json.dumps({"PCR0": "00" * 48, "PCR1": B, "PCR2": C}), CODE.POLICY_DEBUG),
    ],
)
def test_doubtful_release_files_are_refused(text: str, code: AttestationCode) -> None:
    with pytest.raises(AttestationError) as caught:
        parse_release(text.encode())
    assert caught.value.code is code


def test_large_release_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "release.json"
    path.write_text(json.dumps(NITRO_CLI) + " " * 70_000)
    assert code_of([f"file:{path}"]) is CODE.POLICY_INVALID


@given(
    entries=st.lists(st.text(max_size=20) | st.sampled_from([*IMAGE, ",".join(IMAGE), "PCR0=", "file:"]), max_size=6)
)
def test_any_text_parses_to_complete_images_or_is_refused(entries: list[str]) -> None:
    def no_file(_path: str) -> bytes:
        return b""

    try:
        parsed = AllowList.parse(entries, read_file=no_file)
    except AttestationError:
        return
    assert parsed.images
    assert all({0, 1, 2} <= set(image.pcrs) for image in parsed.images)
