"""The NSM client: request bytes of the real library, replies of every wrong kind, and the ioctl itself."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from adytum_enclave.shell import cbor
from adytum_enclave.shell.nsm import Device, Nsm, NsmCode, NsmError, open_device
from adytum_wire.errors import Code

PCR = bytes(range(48))
DESCRIPTION = {
    "version_major": 1,
    "version_minor": 0,
    "version_patch": 0,
    "module_id": "i-0123456789abcdef0-enc0123456789abcdef",
    "max_pcrs": 32,
    "locked_pcrs": [1, 0, 2],
    "digest": "SHA384",
}

# (call, request bytes as the AWS library sends them, a good reply, what the call returns)
CALLS: list[tuple[str, Callable[[Nsm], object], str, object, object]] = [
    ("GetRandom", Nsm.get_random, "6947657452616e646f6d", {"GetRandom": {"random": b"r" * 256}}, b"r" * 256),
    (
        "ExtendPCR",
        lambda n: n.extend_pcr(16, bytes.fromhex("010203")),
        "a169457874656e64504352a265696e64657810646461746143010203",
        {"ExtendPCR": {"data": PCR}},
        PCR,
    ),
    ("LockPCR", lambda n: n.lock_pcr(16), "a1674c6f636b504352a165696e64657810", "LockPCR", None),
    ("LockPCRs", lambda n: n.lock_pcrs(32), "a1684c6f636b50435273a16572616e67651820", "LockPCRs", None),
    (
        "Attestation",
        lambda n: n.attest(nonce=b"\x01\x02"),
        "a16b4174746573746174696f6ea3" + "69" + b"user_data".hex() + "f6" + "65" + b"nonce".hex() + "420102"
        "6a" + b"public_key".hex() + "f6",
        {"Attestation": {"document": b"d" * 5000}},
        b"d" * 5000,
    ),
]


class Scripted:
    """A transport that records the request and gives the reply it was told to."""

    def __init__(self, reply: bytes) -> None:
        self.reply = reply
        self.requests: list[bytes] = []

    def __call__(self, request: bytes) -> bytes:
        self.requests.append(request)
        return self.reply


def indefinite(value: object) -> bytes:
    """The same value with every map and array of indefinite length."""
    if isinstance(value, dict):
        return b"\xbf" + b"".join(indefinite(k) + indefinite(v) for k, v in value.items()) + b"\xff"
    if isinstance(value, list):
        return b"\x9f" + b"".join(indefinite(v) for v in value) + b"\xff"
    return cbor.encode(value)  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "call", "request_hex", "reply", "result"), CALLS, ids=[c[0] for c in CALLS])
@pytest.mark.parametrize("encode", [cbor.encode, indefinite], ids=["definite", "indefinite"])
def test_speaks_the_bytes_of_the_aws_library(
    name: str, call: Callable[[Nsm], object], request_hex: str, reply: object, result: object, encode: Callable
) -> None:
    transport = Scripted(encode(reply))
    assert call(Nsm(transport)) == result
    assert transport.requests == [bytes.fromhex(request_hex)]


@pytest.mark.parametrize("encode", [cbor.encode, indefinite])
def test_describes(encode: Callable[..., bytes]) -> None:
    transport = Scripted(encode({"DescribeNSM": DESCRIPTION}))
    described = Nsm(transport).describe()
    assert transport.requests == [bytes.fromhex("6b44657363726962654e534d")]
    assert (described.version, described.max_pcrs, described.locked_pcrs) == ((1, 0, 0), 32, (0, 1, 2))
    assert (described.module_id, described.digest) == (DESCRIPTION["module_id"], "SHA384")
    transport = Scripted(encode({"DescribePCR": {"lock": True, "data": PCR}}))
    pcr = Nsm(transport).describe_pcr(0)
    assert transport.requests == [bytes.fromhex("a16b4465736372696265504352a165696e64657800")]
    assert (pcr.locked, pcr.data) == (True, PCR)


@pytest.mark.parametrize("code", list(NsmCode))
def test_the_nsm_s_own_refusals_keep_their_code(code: NsmCode) -> None:
    for _, call, _, _, _ in CALLS:
        with pytest.raises(NsmError) as caught:
            call(Nsm(Scripted(cbor.encode({"Error": code.value}))))
        assert caught.value.nsm_code is code
        assert (caught.value.code, caught.value.field) == (Code.INTERNAL, f"nsm.{code.value}")


NONSENSE = [
    b"",
    b"\xff",
    b"\x00",
    cbor.encode({}),
    cbor.encode([]),
    cbor.encode({"Error": "Novel"}),
    cbor.encode({"Error": 3}),
    cbor.encode({"Error": "InvalidIndex", "GetRandom": {"random": b"x"}}),
    cbor.encode("GetRandom"),
    cbor.encode({"Success": {}}),
    bytes(0x3001),
]


@pytest.mark.parametrize("reply", NONSENSE)
def test_nonsense_is_an_invalid_response(reply: bytes) -> None:
    for _, call, _, _, _ in CALLS:
        with pytest.raises(NsmError) as caught:
            call(Nsm(Scripted(reply)))
        assert caught.value.nsm_code is NsmCode.INVALID_RESPONSE


@pytest.mark.parametrize(
    ("call", "reply"),
    [
        (Nsm.get_random, {"GetRandom": {"random": b""}}),
        (Nsm.get_random, {"GetRandom": {"random": b"x" * 257}}),
        (Nsm.get_random, {"GetRandom": {"random": "text"}}),
        (lambda n: n.extend_pcr(16, b""), {"ExtendPCR": {"data": bytes(32)}}),
        (lambda n: n.extend_pcr(16, b""), {"DescribePCR": {"data": bytes(48)}}),
        (lambda n: n.lock_pcr(16), {"LockPCR": {}}),
        (lambda n: n.lock_pcr(16), "LockPCRs"),
        (lambda n: n.attest(), {"Attestation": {"document": b""}}),
        (lambda n: n.describe_pcr(0), {"DescribePCR": {"lock": 1, "data": bytes(48)}}),
        (Nsm.describe, {"DescribeNSM": DESCRIPTION | {"locked_pcrs": [32]}}),
        (Nsm.describe, {"DescribeNSM": DESCRIPTION | {"locked_pcrs": [True]}}),
        (Nsm.describe, {"DescribeNSM": DESCRIPTION | {"module_id": ""}}),
        (Nsm.describe, {"DescribeNSM": DESCRIPTION | {"max_pcrs": True}}),
    ],
)
def test_a_reply_of_the_wrong_type_or_size_is_refused(call: Callable[[Nsm], object], reply: object) -> None:
    with pytest.raises(NsmError) as caught:
        call(Nsm(Scripted(cbor.encode(reply))))  # type: ignore[arg-type]
    assert caught.value.nsm_code is NsmCode.INVALID_RESPONSE


def test_a_request_that_is_too_large_never_reaches_the_device() -> None:
    transport = Scripted(b"")
    with pytest.raises(NsmError) as caught:
        Nsm(transport).attest(user_data=bytes(4096))
    assert caught.value.nsm_code is NsmCode.INPUT_TOO_LARGE
    assert transport.requests == []


# --- the device


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch):
    """/dev/null with the driver's ioctl: takes two addresses and lengths, writes the reply and its length."""
    seen: dict[str, object] = {"reply": b"\xf6", "errno": 0}

    def ioctl(descriptor: int, number: int, argument: bytearray, mutate: bool) -> int:
        if seen["errno"]:
            raise OSError(seen["errno"], "scripted")
        assert number == 0xC0200A00
        assert mutate is True and len(argument) == 32
        request, request_size, response, response_size = struct.unpack("<4Q", argument)
        seen["request"] = ctypes.string_at(request, request_size)
        assert response_size == 0x3000
        reply = seen["reply"]
        assert isinstance(reply, bytes)
        ctypes.memmove(response, reply, min(len(reply), response_size))
        struct.pack_into("<4Q", argument, 0, request, request_size, response, seen.get("length", len(reply)))
        return 0

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    with open_device("/dev/null") as opened:
        yield opened, seen


def test_the_ioctl_hands_over_addresses_and_takes_the_actual_length(device: tuple[Device, dict]) -> None:
    transport, seen = device
    seen["reply"] = cbor.encode({"GetRandom": {"random": b"r" * 256}})
    assert Nsm(transport).get_random() == b"r" * 256
    assert seen["request"] == bytes.fromhex("6947657452616e646f6d")
    seen["reply"] = bytes(0x3000)
    assert transport(b"x") == bytes(0x3000)
    assert transport(b"x" * 0x1000) and seen["request"] == b"x" * 0x1000


def test_a_length_beyond_the_buffer_is_refused(device: tuple[Device, dict]) -> None:
    transport, seen = device
    seen["length"] = 0x3001
    with pytest.raises(NsmError) as caught:
        transport(b"x")
    assert caught.value.nsm_code is NsmCode.INVALID_RESPONSE


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.EMSGSIZE, NsmCode.INPUT_TOO_LARGE),
        (errno.ETIMEDOUT, NsmCode.INTERNAL_ERROR),
        (errno.EIO, NsmCode.INTERNAL_ERROR),
        (errno.EBADF, NsmCode.INTERNAL_ERROR),
    ],
)
def test_each_errno_has_a_code(device: tuple[Device, dict], number: int, code: NsmCode) -> None:
    transport, seen = device
    seen["errno"] = number
    with pytest.raises(NsmError) as caught:
        transport(b"x")
    assert caught.value.nsm_code is code
    with pytest.raises(NsmError) as caught:
        transport(b"x" * 0x1001)
    assert caught.value.nsm_code is NsmCode.INPUT_TOO_LARGE


def test_what_is_no_nsm_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for path in (str(tmp_path / "absent"), str(tmp_path / "file")):
        with pytest.raises(NsmError):
            open_device(path)
    with open_device("/dev/null") as transport, pytest.raises(NsmError) as caught:
        transport(b"x")  # the kernel's own ENOTTY
    assert caught.value.nsm_code is NsmCode.INTERNAL_ERROR
    with pytest.raises(NsmError):
        transport(b"x")  # closed
