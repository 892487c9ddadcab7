"""A third party's driver that breaks its word, in the real program: others' services are changed, and it is named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.machine.conftest import Machine, Outcome

MODULE = """
import os, time
from gpumod.api import Capabilities, DriverOffer, Launch, hookimpl

class Driver:
    name = "acme"
    def __init__(self):
        if os.environ.get("ACME") == "is never made":
            time.sleep(600)
    def check(self, service): pass
    def launch(self, service, allocation, settings): return Launch(argv=("true",))
    async def probe(self, service, port, http):
        time.sleep(600)
    def capabilities(self, service):
        how = os.environ.get("ACME")
        if how == "exits":
            raise SystemExit(3)
        return {"sleep_levels": ()} if how == "answers" else Capabilities()

@hookimpl
def gpumod_drivers():
    return [DriverOffer(name="acme", summary="of acme", factory=Driver)]
"""
SAID = {"exits": "capabilities: SystemExit: 3", "answers": "capabilities answered dict, not Capabilities"}


@pytest.fixture(name="site")
def _site(tmp_path: Path) -> Path:
    site = tmp_path / "site"
    info = site / "acme_gpumod-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-gpumod\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text("[gpumod]\nacme = acme_gpumod\n")
    (site / "acme_gpumod.py").write_text(MODULE)
    return site


@pytest.mark.slow
@pytest.mark.parametrize("how", SAID)
def test_a_driver_that_breaks_its_word_stops_no_other_and_is_named(site: Path, machine: Machine, how: str) -> None:
    def gpumod(*args: str, acme: str = how) -> Outcome:
        env = {**os.environ, "PYTHONPATH": str(site), "ACME": acme}
        return machine.end(machine.begin(*args, env=env))

    port = str(machine.unused.pop())
    added = gpumod("service", "add", "--id", "odd", "--driver", "acme", "--vram-mb", "100", "--port", port, acme="")
    assert added.code == 0, added
    for command in (("switch", "code", "--dry-run"), ("service", "start", "embedding-code"), ("watch", "--once")):
        done = gpumod(*command)
        assert done.code == 0, done
    assert machine.states()["embedding-code"] == "running"
    told = f"the driver 'acme' of acme-gpumod is broken: {SAID[how]}"
    doctor = gpumod("doctor")
    assert "internal-error" not in str(doctor)
    assert [check["name"] for check in doctor.json["checks"] if told in check["message"]] == ["service odd"]
    start = gpumod("service", "start", "odd")
    assert (start.code, start.error["code"]) == (1, "plugin-broken"), start
    assert told in start.error["message"]


def verdict(site: Path, limit_s: float, acme: str = "") -> list[dict[str, str]]:
    service = {"id": "odd", "driver": "acme", "vram_mb": 100, "port": 9000}
    request = {"hook": "gpumod_drivers", "key": "acme", "services": [service], "limit_s": limit_s}
    env = {name: value for name, value in os.environ.items() if not name.startswith(("GPUMOD_", "PYTEST_"))}
    done = subprocess.run(
        [sys.executable, "-m", "gpumod.testing.check"],
        input=json.dumps(request),
        env={**env, "PYTHONPATH": str(site), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "ACME": acme},
        cwd=site,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    tests: list[dict[str, str]] = json.loads(done.stdout)
    return tests


@pytest.mark.slow
def test_a_suite_tells_which_of_its_tests_blocked_and_goes_on(site: Path) -> None:
    tests = verdict(site, 8)
    blocked = [test for test in tests if "it did not end within 8 s" in test["why"]]
    assert blocked
    assert all(test["test"].startswith("test_") and "acme_gpumod.py:" in test["why"] for test in blocked)
    assert "passed" in {test["outcome"] for test in tests}


@pytest.mark.slow
def test_a_suite_ends_after_a_few_tests_that_blocked_be_it_before_they_began(site: Path) -> None:
    tests = verdict(site, 1, acme="is never made")
    outcomes = [test["outcome"] for test in tests]
    assert outcomes == ["failed"] * 3 + ["skipped"] * (len(tests) - 3)
    assert len(tests) > 20
    assert all("it did not end within 1 s" in test["why"] for test in tests[:3])
    assert {test["why"] for test in tests[3:]} == {"left out: 3 tests before it did not end"}
