"""What every NSM must do, as AWS's own nsm-check.rs asks: run on the stand-in, and on `/dev/nsm` where there is one.

Each test has PCRs of its own, because a lock cannot be undone: on a real device the suite runs once a boot.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from adytum_enclave.shell import cbor
from adytum_enclave.shell.nsm import Nsm, NsmCode, NsmError, open_device
from adytum_sim.nsm import SimNsm
from adytum_sim.pki import DevPki

NOW_MS = 1_790_000_000_000
MODULE_ID = "i-0123456789abcdef0-enc0123456789abcdef"


@pytest.fixture(scope="module", params=["sim definite", "sim indefinite", "device"])
def nsm(request: pytest.FixtureRequest) -> Iterator[Nsm]:
    if request.param == "device":
        if not Path("/dev/nsm").is_char_device():
            pytest.skip("no /dev/nsm on this machine (the guest of tests/image has one, and no pytest)")
        with open_device() as device:
            yield Nsm(device)
        return
    sim = SimNsm(
        DevPki.create(NOW_MS),
        module_id=MODULE_ID,
        pcrs={0: b"\x01" * 48},
        clock_ms=lambda: NOW_MS,
        payload_encoding=request.param.split()[1],
    )
    yield Nsm(sim.request)


def extended(current: bytes, data: bytes) -> bytes:
    return hashlib.sha384(current + data).digest()


def payload(document: bytes) -> dict:
    envelope = cbor.decode(document)
    assert isinstance(envelope, list) and len(envelope) == 4
    fields = cbor.decode(envelope[2])
    assert isinstance(fields, dict)
    return fields


def refuses(code: NsmCode | None, call: Callable[[], object]) -> None:
    with pytest.raises(NsmError) as caught:
        call()
    assert code is None or caught.value.nsm_code is code


def test_describes_itself(nsm: Nsm) -> None:
    described = nsm.describe()
    assert described.max_pcrs == 32
    assert described.digest == "SHA384"
    assert set(range(16)) <= set(described.locked_pcrs)
    assert described.module_id.startswith("i-")


def test_the_boot_pcrs_are_locked(nsm: Nsm) -> None:
    for index in range(16):
        before = nsm.describe_pcr(index)
        assert before.locked
        refuses(NsmCode.READ_ONLY_INDEX, lambda index=index: nsm.extend_pcr(index, b"x"))
        refuses(None, lambda index=index: nsm.lock_pcr(index))
        assert nsm.describe_pcr(index) == before


def test_extending_is_a_chain_and_a_lock_ends_it(nsm: Nsm) -> None:
    assert nsm.describe_pcr(17).data == bytes(48)
    first = nsm.extend_pcr(17, b"\x01\x02\x03")
    assert first == extended(bytes(48), b"\x01\x02\x03")
    assert first.hex().startswith("cb178fcd3f32") and first.hex().endswith("650694e")
    second = nsm.extend_pcr(17, b"more")
    assert second == extended(first, b"more")
    assert not nsm.describe_pcr(17).locked
    nsm.lock_pcr(17)
    refuses(NsmCode.READ_ONLY_INDEX, lambda: nsm.extend_pcr(17, b"x"))
    refuses(None, lambda: nsm.lock_pcr(17))
    after = nsm.describe_pcr(17)
    assert (after.locked, after.data) == (True, second)


def test_locking_a_range_takes_what_is_locked_already(nsm: Nsm) -> None:
    nsm.lock_pcrs(16)
    nsm.lock_pcrs(17)
    assert nsm.describe_pcr(16).locked
    refuses(None, lambda: nsm.lock_pcrs(33))


def test_an_index_beyond_the_last_is_refused(nsm: Nsm) -> None:
    for index in (32, 255, 65536):
        refuses(None, lambda index=index: nsm.describe_pcr(index))
        refuses(None, lambda index=index: nsm.extend_pcr(index, b"x"))
        refuses(None, lambda index=index: nsm.lock_pcr(index))


def test_documents_carry_what_was_asked_and_locked_pcrs_only(nsm: Nsm) -> None:
    nsm.extend_pcr(18, b"unlocked")
    nsm.extend_pcr(19, b"locked")
    nsm.lock_pcr(19)
    fields = payload(nsm.attest(nonce=b"n" * 32, user_data=b"u" * 32, public_key=b"p" * 294))
    assert (fields["nonce"], fields["user_data"], fields["public_key"]) == (b"n" * 32, b"u" * 32, b"p" * 294)
    assert fields["digest"] == "SHA384"
    assert fields["module_id"] == nsm.describe().module_id
    assert 19 in fields["pcrs"] and 18 not in fields["pcrs"]
    assert fields["pcrs"][19] == extended(bytes(48), b"locked")
    assert isinstance(fields["timestamp"], int) and fields["timestamp"] > 1_500_000_000_000


def test_a_document_without_wishes_has_nulls(nsm: Nsm) -> None:
    fields = payload(nsm.attest())
    assert [fields.get(name) for name in ("nonce", "user_data", "public_key")] == [None, None, None]


def test_what_is_too_large_to_attest_is_refused(nsm: Nsm) -> None:
    refuses(None, lambda: nsm.attest(public_key=bytes(1025)))
    refuses(NsmCode.INPUT_TOO_LARGE, lambda: nsm.attest(user_data=bytes(5000)))


def test_randomness_does_not_repeat(nsm: Nsm) -> None:
    seen = {nsm.get_random() for _ in range(32)}
    assert len(seen) == 32
    assert all(len(set(block)) > 1 for block in seen)
