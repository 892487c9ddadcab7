"""Reads what is to be checked as JSON from stdin, runs pytest over its suite, and prints the verdict as JSON.

`{"hook", "key", "services"}`: `key` is the name (`driver/level` of a sleep strategy), `services` the examples;
`limit_s` may say for how long one test may go on. pytest's own words go to stderr.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from gpumod.domain.service import Service
from gpumod.plugins.loader import load_plugins
from gpumod.testing.check.cases import CLASSES, bench_of, case_of

COLLECTED = Path(__file__).with_name("collected.py")

LIMIT_S = 60.0
"""No test may take longer: what blocks would keep its author waiting for the other tests' verdict."""


class Blocked(BaseException):
    """A test did not end in time. No Exception: neither hypothesis nor what is tested may take it for theirs."""


@contextlib.contextmanager
def limited(limit_s: float) -> Iterator[None]:
    """Raise Blocked, with the place, out of what takes longer than `limit_s`, be it a call that never returns."""

    def stop(_: int, frame: FrameType | None) -> None:
        where = f", and was at {frame.f_code.co_filename}:{frame.f_lineno}" if frame else ""
        raise Blocked(f"it did not end within {limit_s:g} s{where}")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, limit_s, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Verdict:
    """pytest's plugin: gives the suite its case, and keeps what became of each test."""

    def __init__(self, hook: str, key: str, services: list[Service], limit_s: float) -> None:
        self.hook, self.key, self.services, self.limit_s = hook, key, services, limit_s
        self.plugins = load_plugins()
        self.tests: list[dict[str, str]] = []

    @pytest.fixture
    def case(self) -> Any:
        return case_of(self.plugins, self.hook, self.key, self.services)

    @pytest.fixture
    def bench(self, tmp_path: Path) -> Any:
        bench = bench_of(self.plugins, self.key, tmp_path)
        yield bench
        bench.sweep()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self) -> Generator[None, object, object]:
        with limited(self.limit_s):
            return (yield)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            crash = getattr(report.longrepr, "reprcrash", None)
            why = crash.message if crash else report.longreprtext
            test = report.nodeid.rpartition("::")[2]
            self.tests.append({"test": test, "outcome": report.outcome, "why": "" if report.passed else why[:600]})


def main() -> int:
    request = json.load(sys.stdin)
    services = [Service.model_validate(fields) for fields in request["services"]]
    verdict = Verdict(request["hook"], request["key"], services, request.get("limit_s", LIMIT_S))
    with tempfile.TemporaryDirectory(prefix="gpumod-check-") as folder:
        config = Path(folder, "pytest.ini")
        config.write_text("[pytest]\nasyncio_default_fixture_loop_scope = function\n")
        options = ["-q", "-p", "no:cacheprovider", "-p", "pytest_asyncio.plugin", "-o", "asyncio_mode=auto"]
        options += ["-c", str(config), "--rootdir", folder, "--basetemp", str(Path(folder, "tmp"))]
        with contextlib.redirect_stdout(sys.stderr):
            code = pytest.main([*options, f"{COLLECTED}::{CLASSES[verdict.hook]}"], plugins=[verdict])
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        return int(code)
    json.dump(verdict.tests, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
