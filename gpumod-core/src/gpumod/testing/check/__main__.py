"""Reads what is to be checked as JSON from stdin, runs pytest over its suite, and prints the verdict as JSON.

`{"hook", "key", "services"}`: `key` is the name (`driver/level` of a sleep strategy), `services` the examples. pytest's
own words go to stderr.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from gpumod.domain.service import Service
from gpumod.plugins.loader import load_plugins
from gpumod.testing.check.cases import CLASSES, bench_of, case_of

COLLECTED = Path(__file__).with_name("collected.py")


class Verdict:
    """pytest's plugin: gives the suite its case, and keeps what became of each test."""

    def __init__(self, hook: str, key: str, services: list[Service]) -> None:
        self.hook, self.key, self.services = hook, key, services
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

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            crash = getattr(report.longrepr, "reprcrash", None)
            why = crash.message if crash else report.longreprtext
            test = report.nodeid.rpartition("::")[2]
            self.tests.append({"test": test, "outcome": report.outcome, "why": "" if report.passed else why[:600]})


def main() -> int:
    request = json.load(sys.stdin)
    services = [Service.model_validate(fields) for fields in request["services"]]
    verdict = Verdict(request["hook"], request["key"], services)
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
