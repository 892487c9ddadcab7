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
MOST_BLOCKED = 3
"""After so many tests that did not end the others are left out: the same would block most of them."""


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

    blocked = 0
    names: tuple[str, ...] = ()

    def __init__(self, hook: str, key: str, services: list[Service], limit_s: float) -> None:
        self.hook, self.key, self.services, self.limit_s = hook, key, services, limit_s
        self.plugins = load_plugins()
        self.tests: list[dict[str, str]] = []

    @pytest.fixture
    def case(self, request: pytest.FixtureRequest) -> Any:
        try:
            with self._limited(request.session):
                return case_of(self.plugins, self.hook, self.key, self.services)
        except Blocked as blocked:  # pytest clears up after its own outcomes alone
            pytest.fail(str(blocked))

    @pytest.fixture
    def bench(self, tmp_path: Path) -> Any:
        bench = bench_of(self.plugins, self.key, tmp_path)
        yield bench
        bench.sweep()

    @contextlib.contextmanager
    def _limited(self, session: pytest.Session) -> Iterator[None]:
        try:
            with limited(self.limit_s):
                yield
        except Blocked:
            self.blocked += 1
            if self.blocked >= MOST_BLOCKED:
                session.shouldfail = f"{self.blocked} tests did not end"
            raise

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        with self._limited(item.session):
            return (yield)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.names = tuple(item.nodeid.rpartition("::")[2] for item in session.items)

    def rows(self) -> list[dict[str, str]]:
        """What became of each test; those that were left out are skipped."""
        why = f"left out: {self.blocked} tests before it did not end"
        told = {row["test"] for row in self.tests}
        left_out = [name for name in self.names if name not in told]
        return [*self.tests, *({"test": name, "outcome": "skipped", "why": why} for name in left_out)]

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
    json.dump(verdict.rows(), sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
