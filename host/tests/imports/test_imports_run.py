"""An import that is interrupted, or meets what it cannot read, or the same file twice, reports what is true."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from adytum.imports.candidates import Candidate, examine, find
from adytum.imports.report import Line, Report, line_of
from adytum.imports.run import grouped, run


def candidates(count: int) -> list[Candidate]:
    return [Candidate(path=Path(f"{number}.json"), format="keystore-v3") for number in range(count)]


def names(lines: list[Line]) -> dict[str, str]:
    return {line.path: line.outcome for line in lines}


def by_path(candidate: Candidate) -> str:
    return candidate.path.name


def test_files_with_one_content_are_one_request() -> None:
    sent: list[str] = []
    lines: list[Line] = []

    def send(name: str, candidate: Candidate) -> Line:
        sent.append(str(candidate.path))
        return line_of(candidate, "imported", request_id=name, key_id="key-1")

    groups = grouped(candidates(6), lambda candidate: str(int(candidate.path.stem) % 2))
    run(groups, send, lines.append, workers=4, stop=threading.Event())
    assert sorted(sent) == ["0.json", "1.json"]
    assert sorted(line.outcome for line in lines) == ["found"] * 4 + ["imported"] * 2
    same = {line.path: line.same_as for line in lines}
    assert same == {f"{n}.json": "" if n < 2 else f"{n % 2}.json" for n in range(6)}
    assert {line.key_id for line in lines} == {"key-1"}


def test_once_it_is_stopped_nothing_more_is_sent_and_the_rest_is_named() -> None:
    stop, lines = threading.Event(), list[Line]()

    def send(name: str, candidate: Candidate) -> Line:
        if name == "2.json":
            stop.set()
        return line_of(candidate, "imported")

    run(grouped(candidates(20), by_path), send, lines.append, workers=1, stop=stop)
    assert list(names(lines).values()) == ["imported"] * 3 + ["not-reached"] * 17


def test_who_does_not_want_to_wait_is_told_what_was_under_way() -> None:
    under_way, go_on, lines = threading.Event(), threading.Event(), list[Line]()

    def send(_name: str, candidate: Candidate) -> Line:
        if candidate.path.name == "1.json":
            under_way.set()
            go_on.wait(30)
        return line_of(candidate, "imported")

    def take(line: Line) -> None:
        lines.append(line)
        if line.path == "0.json":
            under_way.wait(30)
            raise KeyboardInterrupt

    try:
        with pytest.raises(KeyboardInterrupt):
            run(grouped(candidates(9), by_path), send, take, workers=1, stop=threading.Event())
    finally:
        go_on.set()
    assert names(lines) == {"0.json": "imported", "1.json": "unanswered"} | {
        f"{n}.json": "not-reached" for n in range(2, 9)
    }


def test_ctrl_c_leaves_a_whole_report(tmp_path: Path) -> None:
    """A process of its own is sent SIGINT while its first file is under way."""
    program = textwrap.dedent("""
        import os, signal, sys
        from pathlib import Path
        from adytum.imports.candidates import Candidate
        from adytum.imports.report import Report, line_of
        from adytum.imports.run import grouped, interruptible, run

        def send(name, candidate):
            if name == "1":
                os.kill(os.getpid(), signal.SIGINT)
                stop.wait(30)
            return line_of(candidate, "imported")

        files = [Candidate(path=Path(str(number))) for number in range(5)]
        with Report(Path(sys.argv[1])) as report, interruptible() as stop:
            report.begin()
            run(grouped(files, lambda one: one.path.name), send, report.take, workers=1, stop=stop)
        print(report.counts())
    """)
    out = tmp_path / "report.json"
    done = subprocess.run([sys.executable, "-c", program, out], capture_output=True, text=True, timeout=60, check=True)
    report = json.loads(out.read_text())
    assert report["counts"] == {"imported": 2, "not-reached": 3}
    assert done.stdout.strip() == str(report["counts"])


def test_each_line_is_in_the_file_before_the_next_one_comes(tmp_path: Path) -> None:
    """A kill leaves what was known."""
    out = tmp_path / "report.json"
    with Report(out) as report:
        report.begin()
        for number, candidate in enumerate(candidates(3), 1):
            report.take(line_of(candidate, "imported"))
            found = out.read_text().splitlines()
            assert [json.loads(line.rstrip(","))["outcome"] for line in found[1:]] == ["imported"] * number
    assert json.loads(out.read_text()) == report.data()


def test_a_report_is_begun_only_when_there_is_something_to_report(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_text("of the last run")
    for path in (old, new):
        with Report(path):
            pass
    assert old.read_text() == "of the last run"
    assert not new.exists()
    with pytest.raises(FileNotFoundError):
        Report(tmp_path / "no" / "where")


def test_a_file_that_cannot_be_read_is_a_line_and_not_the_end(tmp_path: Path) -> None:
    (tmp_path / "b.json").write_text("{}")
    (tmp_path / "a.json").symlink_to("/proc/self/mem")  # a regular file, whose first byte nobody can read
    (tmp_path / "c.json").symlink_to("c.json")
    found = {path.name: examine(path) for path in find([tmp_path])}
    assert list(found) == ["a.json", "b.json", "c.json"]
    assert found["a.json"].problem.startswith("cannot be read")
    assert found["c.json"].problem.startswith("cannot be read")
    assert found["b.json"].format == "keystore-v3"
    assert examine(tmp_path).problem.startswith("cannot be read")  # as `find` names a folder that it cannot look into
