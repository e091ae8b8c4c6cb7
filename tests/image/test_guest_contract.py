"""The same tests as on the stand-in process, on the booted image: real kernel, real ioctl, real AF_VSOCK.

Their code is not repeated here: the functions are those of tests/flows and tests/attacks, called with a wallet whose
enclave is a guest. Left out are those that need to look into the process or to start it again. Marked `image`.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import ModuleType

import pytest
import pytest_asyncio
from eth_account import Account
from wallet import Wallet, open_wallet

from adytum_sim.guest import GuestEnclave, build_image
from adytum_sim.stack import Guest

TESTS = Path(__file__).resolve().parents[1]
pytestmark = [pytest.mark.image, pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("guest")]


def load(path: str) -> ModuleType:
    name = f"on_guest_{Path(path).stem}"
    spec = importlib.util.spec_from_file_location(name, TESTS / path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


SPINE, LOST = load("flows/test_spine.py"), load("flows/test_lost_answers.py")
RECORDS, REQUESTS = load("attacks/test_records.py"), load("attacks/test_requests.py")
FRAMES, KMS = load("attacks/test_frame_attacks.py"), load("attacks/test_kms.py")

CASES: list[Callable[[Wallet], Awaitable[None]]] = [
    SPINE.test_an_eip1559_transfer_is_signed_as_eth_account_expects,
    SPINE.test_every_algorithm_signs_and_other_libraries_verify,
    SPINE.test_an_imported_key_signs_as_the_original,
    SPINE.test_a_sealed_secret_comes_back_to_the_named_recipient_only,
    SPINE.test_reseal_keeps_the_key_and_changes_everything_else,
    LOST.test_a_repeat_after_a_lost_answer_has_the_same_bytes,
    LOST.test_past_the_end_there_is_nothing,
    RECORDS.test_swapped_rows_are_refused,
    RECORDS.test_swapped_data_keys_are_refused_by_kms,
    RECORDS.test_ciphertext_and_data_key_swapped_together_are_refused,
    RECORDS.test_a_truncated_record_is_refused,
    REQUESTS.test_an_edited_body_is_refused,
    REQUESTS.test_a_stamp_by_an_unknown_key_is_refused,
    REQUESTS.test_a_replayed_key_generation_makes_no_second_key,
    REQUESTS.test_a_request_sent_twice_at_once_has_one_effect,
    REQUESTS.test_content_that_does_not_decode_strictly_is_refused,
    FRAMES.test_corrupted_frames_end_their_connection,
    FRAMES.test_an_oversized_frame_is_refused_before_it_is_sent,
    FRAMES.test_a_truncated_frame_changes_nothing,
    FRAMES.test_a_message_that_is_not_one_is_refused_and_the_connection_lives,
    FRAMES.test_a_full_data_port_does_not_blind_the_operator,
    KMS.test_a_second_manifest_is_refused,
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def guest() -> AsyncIterator[Wallet]:
    directory = Path(tempfile.mkdtemp(prefix="ad-"))
    rig, image = build_image(directory)
    try:
        made = Guest(image.pcrs, lambda pki: GuestEnclave(rig, image, pki))
        async with open_wallet(directory / "s", guest=made) as wallet:
            yield wallet
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__.removeprefix("test_"))
async def test_on_the_booted_image(guest: Wallet, case: Callable[[Wallet], Awaitable[None]]) -> None:
    guest.stack.kms.faults.reset()
    guest.key = await guest.make()  # each case has a key of its own, and may leave it in any state
    await case(guest)


async def test_the_demo_runs_with_the_booted_image(tmp_path: Path) -> None:
    command = [
        str(Path(sys.executable).parent / "adytum"),
        "demo",
        "--enclave",
        "qemu",
        "--json",
        "--out",
        str(tmp_path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert Account.recover_transaction(result["raw_transaction"]) == result["address"]
    assert result == json.loads((tmp_path / "result.json").read_text())
