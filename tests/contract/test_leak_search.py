"""The search of every test run for secrets (tests/leaks) can fail: a run that leaks is told so, by name."""

from __future__ import annotations

import base64
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from leaks.judge import judge
from leaks.plugin import FLOORS, too_little
from leaks.spool import VARIABLE, Spool
from secrets_scan import Index, forms, search

ROOT = Path(__file__).resolve().parents[2]

LEAKING = """
import base64, json, logging
import asyncpg, pytest
from outsider import open_record
from wallet import allow_everything
from adytum_sim.host import running_host
from adytum_sim.people import Person
from adytum_sim.stack import running_stack
from adytum_wire.types import Algorithm
from pathlib import Path

async def test_that_leaks(capsys):
    place, alice = Path({place!r}), Person.new("alice")
    async with (
        running_stack(place / "s", configure=False) as stack,
        running_host(stack, place, durable=False) as host,
        host.client(alice) as client,
    ):
        await stack.put_policy(stack.policy([alice.as_principal("signer")], [allow_everything()]))
        await client.generate_key(Algorithm.SECP256K1, labels=["treasury"])
        [record] = await host.records()
        data_key, secret = open_record(stack, record)
        (place / "secret").write_text(secret.hex())
        connection = await asyncpg.connect(host.dsn)
        await connection.execute("CREATE TABLE notes (id int, note bytea)")
        text = json.dumps({{"key": base64.b64encode(secret).decode()}})
        await connection.execute("INSERT INTO notes VALUES (1, $1)", text.encode())
        await connection.execute("CREATE DATABASE other")
        other = await asyncpg.connect(host.dsn.replace("/postgres?", "/other?"))
        await other.execute("CREATE TABLE notes AS SELECT $$" + str(int.from_bytes(secret)) + "$$ AS note")
        await other.close()
        await connection.execute("DROP DATABASE other")
        await connection.close()
        logging.getLogger("adytum.request").info("signed with %s", secret)
        stack.process.log.append("started with " + base64.urlsafe_b64encode(data_key).decode())
        print(alice.signer._key.private_bytes_raw().hex().upper())

def test_that_is_clean():
    print("nothing")
"""


@pytest.fixture
def place() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="ad-"))
    path.chmod(0o711)  # the database runs as somebody else
    yield path
    shutil.rmtree(path, ignore_errors=True)


def run(place: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """pytest in a process of its own, which this run does not watch."""
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE and "PYTEST" not in name}
    environment["PYTHONPATH"] = str(ROOT / "tests")
    (place / "test_leaking.py").write_text(LEAKING.format(place=str(place)))
    command = [sys.executable, "-m", "pytest", "-p", "leaks.plugin", "-c", str(ROOT / "pyproject.toml")]
    command += ["--rootdir", str(place), *options, str(place / "test_leaking.py")]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_planted_secret_fails_the_run_and_is_named(place: Path, workers: str) -> None:
    done = run(place, "-n", workers)
    found = re.findall(
        r"^SECRET FOUND in (.+) of test_leaking\.py::test_that_leaks: \d+: (.+) \(.*\), as (.+)$", done.stdout, re.M
    )
    assert set(found) == {
        ("dump", "content of a record", "hex, base64"),
        ("dump", "content of a record", "decimal"),  # in the database that was dropped
        ("service log", "content of a record", "escaped"),
        ("enclave log", "data key of KMS", "base64"),
        ("printed", "Ed25519PrivateKey of a test", "hex"),
    }, done.stdout
    assert "2 passed" in done.stdout
    assert done.returncode == 1
    assert (place / "secret").read_text() not in done.stdout.lower()


def test_a_clean_run_passes_and_says_what_it_searched(place: Path) -> None:
    done = run(place, "-n", "0", "-k", "clean")
    assert done.returncode == 0, done.stdout
    assert "; 0 found" in done.stdout


def test_a_whole_run_with_nothing_to_search_fails() -> None:
    assert len(too_little({})) == len(FLOORS)
    assert too_little(FLOORS) == []
    [sentence] = too_little(FLOORS | {"dump": FLOORS["dump"] - 1})
    assert "dump" in sentence


def test_a_secret_is_found_in_every_form_at_any_place() -> None:
    secret, others = os.urandom(32), {str(number): os.urandom(32) for number in range(50)}
    index = Index(others | {"it": secret})
    for name, text in forms(secret):
        for before in (b"", b"\n", b" '", b'{"a":', b"0123 "):
            found = index.search({"file": b"some text" + before + b" " + text + b"' after"})
            assert ("file", "it") in {hit[:2] for hit in found}, (name, before)


@pytest.mark.parametrize("size", [16, 20, 32, 64, 500])
def test_half_of_a_secret_is_found_and_what_is_no_secret_is_not(size: int) -> None:
    secret = os.urandom(size)
    at = int.from_bytes(os.urandom(2)) % (size - 15)
    part = secret[at : at + 16]
    for text in (part, part.hex().encode(), base64.b64encode(part), base64.b64encode(b"??" + part).hex().encode()):
        assert search({"file": b"text " + text + b" text"}, {"it": secret})
    nothing = (
        bytes(100) + b"the quick brown fox " * 10 + os.urandom(size).hex().encode() + str(list(range(99))).encode()
    )
    assert search({"file": nothing}, {"it": secret, "zeros": bytes(32), "words": b"abandon abandon abandon"}) == []
    assert Index({"short": os.urandom(15)}).ignored == ["short"]


def test_a_secret_text_is_found_by_32_of_its_characters_and_not_by_a_word() -> None:
    secret = b'{"access_key_id":"AKIAIOSFODNN7EXAMPLE","secret_access_key":"' + base64.b64encode(os.urandom(30)) + b'"}'
    assert search({"file": b'said {"access_key_id": "AKIAIOSFODNN7EXAMPLE"}'}, {"it": secret}) == []
    assert search({"file": b"said " + secret[62:94]}, {"it": secret}) == [("file", "it", "raw")]


def test_13_bytes_in_a_row_are_found_wherever_they_begin() -> None:
    secret = bytes(range(32))
    for at in range(8):
        assert search({"file": b"." * at + secret[5:18] + b"."}, {"it": secret}) == [("file", "it", "raw")]


def test_what_was_drawn_is_looked_for_everywhere_and_what_was_written_where_it_was_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool, drawn = Spool(tmp_path), bytes(range(100, 132))
    written = b"the pass phrase of the two of us, 17"
    pair = b'{"access_key_id":"AKIAADYTUMANCHORUSER","secret_access_key":"%s"}' % (b"wJalrXUtnFEMI/K7MDENG/bPxRfiCY")
    monkeypatch.setenv("PYTEST_CURRENT_TEST", "tests/test_one.py::test_a (call)")
    for secret in (drawn, written, pair):
        spool.secret("a secret", secret)
    spool.file("printed", b"in the file that used it: " + written)
    monkeypatch.setenv("PYTEST_CURRENT_TEST", "tests/test_two.py::test_b (call)")
    spool.file("printed", b"elsewhere: " + written + b" and " + drawn.hex().encode() + pair[:56])
    found = [(file, form) for file, _, form in judge(spool).findings]
    assert found == [("printed of tests/test_one.py::test_a", "raw"), ("printed of tests/test_two.py::test_b", "hex")]
