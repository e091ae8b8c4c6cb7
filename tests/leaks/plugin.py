"""pytest's side: watches every test of a run, searches when the last has ended, and fails the run for what it finds.

Each xdist worker searches what its own tests made; the first process adds up and reports in one line. A whole run also
fails when there was much less to search than there is now: a search of nothing finds nothing.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from leaks import hooks
from leaks.spool import VARIABLE, Spool
from leaks.verdict import Verdict

CHILD = Path(__file__).parent / "child"
OUTPUT = "leaks"

# About half of what the whole suite has (November 2026). Raise them when it grows.
FLOORS = {
    "enclave": 200,
    "enclave log": 200,
    "database dumped": 200,
    "dump": 200,
    "PostgreSQL log": 30,
    "service log": 180,
    "printed": 200,
    "records opened": 3500,
    "secrets": 9000,
}

# At import: pytest loads the conftests, and with them what is watched, before it configures plugins.
SPOOL = Spool(Path(tempfile.mkdtemp(prefix="adytum-leaks-")))
hooks.watch(SPOOL)


class Watch:
    """Of one process that runs tests."""

    def __init__(self, spool: Spool) -> None:
        self.spool = spool
        self._end_log = hooks.keep_log(spool)
        self._before = {name: os.environ.get(name) for name in (VARIABLE, "PYTHONPATH")}
        os.environ[VARIABLE] = str(self.spool.directory)
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(CHILD), self._before["PYTHONPATH"])))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for name, text in report.sections:
            if not name.startswith("Captured log"):  # that one is the service log
                self.spool.file("printed", text.encode(errors="surrogateescape"))

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Any:
        """What a test reads of its own output is printed, too."""
        made = yield
        if isinstance(made, pytest.CaptureFixture):
            inner = made.readouterr

            def readouterr() -> Any:
                captured = inner()
                for text in captured:
                    data = text if isinstance(text, bytes) else text.encode(errors="surrogateescape")
                    self.spool.file("printed", data)
                return captured

            made.readouterr = readouterr
        return made

    def finish(self) -> Verdict:
        from leaks.judge import judge  # now, not before the hooks: it imports what they watch

        began = time.process_time()
        self._end_log()
        verdict = judge(self.spool)
        verdict.counts["milliseconds"] = round((time.process_time() - began) * 1000)
        return verdict

    def close(self) -> None:
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class Report:
    """Of the process that pytest was started as. `verdict`: of all workers."""

    def __init__(self, config: pytest.Config, watch: Watch | None) -> None:
        self.verdict = Verdict()
        self._config = config
        self._watch = watch
        self._missing: list[str] = []

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object) -> None:
        output = getattr(node, "workeroutput", {})
        if OUTPUT in output:
            self.verdict.add(Verdict.read(output[OUTPUT]))
        else:
            self._missing.append(f"worker {node.gateway.id} did not search what its tests made")

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self._watch is not None and not session.config.option.collectonly:
            self.verdict.add(self._watch.finish())
        if _is_whole(self._config):
            self._missing += too_little(self.verdict.counts)
        if self.verdict.findings or self._missing:
            session.exitstatus = max(session.exitstatus, pytest.ExitCode.TESTS_FAILED)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        counts = self.verdict.counts
        for file, secret, form in self.verdict.findings:
            terminalreporter.line(f"SECRET FOUND in {file}: {secret}, as {form}", red=True)
        for sentence in self._missing:
            terminalreporter.line(sentence, red=True)
        if counts["bytes"]:
            kinds = ("dump", "enclave log", "service log", "PostgreSQL log", "printed")
            files = ", ".join(f"{counts[kind]} {kind}{'s' if kind != 'printed' else ''}" for kind in kinds)
            terminalreporter.line(
                f"secrets: {files} of {counts['enclave']} enclaves and {counts['database started']} databases "
                f"({counts['bytes'] / 1e6:.1f} MB) searched for {counts['secrets']} secrets in "
                f"{counts['milliseconds'] / 1000:.1f} s of CPU; {counts['records opened']} records opened, "
                f"{counts['records that do not open']} not, {counts['database down at its end']} databases were down; "
                f"{len(self.verdict.findings)} found"
            )


def too_little(counts: Mapping[str, int]) -> list[str]:
    """What a whole run should have had to search, in sentences."""
    return [
        f"the search for secrets had {counts.get(what, 0)} of: {what}; the whole suite has {least} at least"
        for what, least in FLOORS.items()
        if counts.get(what, 0) < least
    ]


def _is_whole(config: pytest.Config) -> bool:
    """As `make test` runs it: no folder, no file and no word chosen."""
    chosen = config.option.keyword or config.option.markexpr not in ("", "not image") or config.option.collectonly
    return config.args_source is pytest.Config.ArgsSource.TESTPATHS and not chosen


def pytest_configure(config: pytest.Config) -> None:
    is_worker = hasattr(config, "workerinput")
    is_first_of_many = not is_worker and config.getoption("numprocesses", None)
    config.add_cleanup(lambda: shutil.rmtree(SPOOL.directory, ignore_errors=True))
    watch = None if is_first_of_many else Watch(SPOOL)
    if watch is not None:
        config.pluginmanager.register(watch, "leaks-watch")
        config.add_cleanup(watch.close)
    if is_worker:
        config.pluginmanager.register(_Worker(config, watch), "leaks-worker")
    else:
        config.pluginmanager.register(Report(config, watch), "leaks-report")


class _Worker:
    def __init__(self, config: Any, watch: Watch | None) -> None:
        self._config = config
        self._watch = watch

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        if self._watch is not None:
            self._config.workeroutput[OUTPUT] = self._watch.finish().plain()
