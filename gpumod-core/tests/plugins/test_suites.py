"""The conformance suites find what they are for: each way to be wrong fails the test that is about it.

The wrong ones are classes of their own, which pytest runs in a process of its own through every test that is to find
one of them: all failures are compared.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gpumod.api import (
    Allocation,
    Capabilities,
    Estimate,
    Http,
    HttpFailure,
    Launch,
    ModelInfo,
    Options,
    ProbeResult,
    Service,
    Settings,
    parse_options,
)
from gpumod.testing import (
    DriverCase,
    DriverSuite,
    EstimatorCase,
    EstimatorSuite,
    ModelInfoCase,
    ModelInfoSourceSuite,
)

pytestmark = pytest.mark.slow  # the pages' own plugins go through the suites in the default run


class NoOptions(Options):
    """It has none."""


class Plain:
    """A driver that keeps every promise, as small as it can be."""

    name = "plain"

    def check(self, service: Service) -> None:
        parse_options(NoOptions, service)
        if service.port is None or not (service.model_path or "").startswith("/"):
            raise ValueError(f"service {service.id!r}: it needs a port, and model_path must be absolute")

    def capabilities(self, service: Service) -> Capabilities:
        return Capabilities()

    def launch(self, service: Service, allocation: Allocation, settings: Settings) -> Launch:
        self.check(service)
        port = service.port or 0
        words = ("serve", "--model", service.model_path or "", "--host", settings.bind_host, "--port", str(port))
        return Launch(argv=words, ports=(port,))

    async def probe(self, service: Service, port: int, http: Http) -> ProbeResult:
        try:
            reply = await http.request("GET", port, service.health_endpoint)
        except HttpFailure as failure:
            return ProbeResult(state="starting", detail=str(failure))
        return ProbeResult(state="ready" if reply.ok else "starting")


EXAMPLE = Service(id="s", driver="plain", port=8000, model_path="/m", vram_mb=100, context_size=2000)


class TestPlainDriver(DriverSuite):
    @pytest.fixture
    def case(self) -> DriverCase:
        return DriverCase(Plain(), [EXAMPLE])


class ByContext:
    def estimate(self, service: Service, gpu_total_mb: int, info: ModelInfo | None) -> Estimate | None:
        if service.context_size is None:
            return None
        return Estimate(estimator="by-context", vram_mb=1000 + service.context_size // 10, why="weights and context")


class TestSmallEstimator(EstimatorSuite):
    @pytest.fixture
    def case(self) -> EstimatorCase:
        return EstimatorCase("by-context", ByContext(), [EXAMPLE])


class BesideIt:
    """Knows a model by a file beside it."""

    def info(self, service: Service, settings: Settings) -> ModelInfo | None:
        if service.model_path is None:
            return None
        try:
            fields = json.loads(Path(service.model_path, "config.json").read_text())
        except (OSError, ValueError, RecursionError):
            return None
        return ModelInfo(model=service.id, fields=fields) if isinstance(fields, dict) else None


class TestSmallSource(ModelInfoSourceSuite):
    @pytest.fixture
    def case(self, tmp_path: Path) -> ModelInfoCase:
        folder = tmp_path / "model"
        folder.mkdir()
        (folder / "config.json").write_text('{"layers": 4}')
        return ModelInfoCase(BesideIt(), [EXAMPLE.model_copy(update={"model_path": str(folder)})])


WRONG = '''
import pathlib, time
import pytest
from gpumod.api import Activity, Capabilities, Estimate, FatalLine, ModelInfo, ProbeResult, Settings, Variant
from gpumod.api import AlternativeKind
from gpumod.testing import *
from test_suites import BesideIt, ByContext, EXAMPLE, Plain

class Anywhere(Plain):
    def launch(self, service, allocation, settings):
        return super().launch(service, allocation, Settings(bind_host="0.0.0.0"))

class Impure(Plain):
    def launch(self, service, allocation, settings):
        launch = super().launch(service, allocation, settings)
        return launch.model_copy(update={"argv": (*launch.argv, str(time.monotonic_ns()))})

class OtherPort(Plain):
    def launch(self, service, allocation, settings):
        return super().launch(service.model_copy(update={"port": 8000}), allocation, settings)

class TakesAnything(Plain):
    def check(self, service):
        if service.port is None:
            raise ValueError("no port")

class Shell(Plain):
    def launch(self, service, allocation, settings):
        launch = super().launch(service, allocation, settings)
        return launch.model_copy(update={"argv": tuple(" ".join(launch.argv).split(" "))})

class Naive(Plain):
    async def probe(self, service, port, http):
        reply = await http.request("GET", port, "/health")
        return ProbeResult(state="ready" if reply.json_body["status"] == "ok" else "starting")

class Restless(Plain):
    async def probe(self, service, port, http):
        try:
            await http.request("POST", port, "/wake_up")
        except Exception as error:
            return ProbeResult(state="starting")
        return ProbeResult(state="ready")

class Hopeful(Plain):
    async def probe(self, service, port, http):
        return ProbeResult(state="ready")

class NoStrategy(Plain):
    def capabilities(self, service):
        return Capabilities(sleep_levels=("deep",))

class NoHost(Plain):
    def capabilities(self, service):
        return Capabilities(hosts_members=True)

class Talkative(Plain):
    def check(self, service):
        if service.unit_vars:
            raise ValueError(f"no_such_option or another: {service.unit_vars}")
        super().check(service)

class Alarmed(Plain):
    def fatal_line(self, service, lines):
        return FatalLine(code="crashed", line=lines[0])

class Generous(Plain):
    def variants(self, service):
        kind = AlternativeKind.KV_TYPE
        return (Variant(kind=kind, title="t", unit_vars={"nope": 1}, saves_mb=10),)

class Blabbing(Plain):
    def check_variables(self, service, variables):
        raise ValueError(f"{variables} are not for {service.id}")

class Busy(Plain):
    async def activity(self, service, port, http):
        reply = await http.request("POST", port, "/metrics")
        return Activity(in_flight=reply.json_body["running"])

class Versions(Plain):
    def questions(self, service, launch, settings):
        return (("serve", "--version"),)
    def suited(self, service, launch, answers):
        return launch if int(answers[0].output.split(".")[1]) > 1 else None

class Unordered(Plain):
    def questions(self, service, launch, settings):
        return {("serve", "--version")}
    def suited(self, service, launch, answers):
        return launch

class OneText(Unordered):
    def questions(self, service, launch, settings):
        return ("serve --version",)

def suite(driver):
    class Suite(DriverSuite):
        @pytest.fixture
        def case(self):
            return DriverCase(driver(), [EXAMPLE])
    return Suite

for found in (*Plain.__subclasses__(), OneText):
    globals()["Test" + found.__name__] = suite(found)

class Asleep:
    def residue_mb(self, service, vram_mb):
        return 5000 - vram_mb
    def ram_mb(self, service, vram_mb):
        return 0
    async def sleep(self, service, port, http, clock):
        await http.request("POST", port, "/sleep")
    wake = sleep

class TestAsleep(SleepStrategySuite):
    @pytest.fixture
    def case(self):
        return SleepCase(Asleep(), EXAMPLE.model_copy(update={"sleep_mode": "deep"}))

class Halves(Asleep):
    def residue_mb(self, service, vram_mb):
        return vram_mb / 2

class TestHalves(SleepStrategySuite):
    @pytest.fixture
    def case(self):
        return SleepCase(Halves(), EXAMPLE.model_copy(update={"sleep_mode": "deep"}))

class Shrinks(ByContext):
    def estimate(self, service, gpu_total_mb, info):
        if info:
            return info.fields["layers"]
        return Estimate(estimator="other", vram_mb=2_000_000 - service.context_size, why="w")

class TestShrinks(EstimatorSuite):
    @pytest.fixture
    def case(self):
        return EstimatorCase("shrinks", Shrinks(), [EXAMPLE])

class Trusting:
    def info(self, service, settings):
        text = pathlib.Path(service.model_path).read_text()
        return ModelInfo(model="m", fields={"text": text}, provenance={"other": "x"})

class TestTrusting(ModelInfoSourceSuite):
    @pytest.fixture
    def case(self, tmp_path):
        (tmp_path / "m").write_text("x")
        return ModelInfoCase(Trusting(), [EXAMPLE.model_copy(update={"model_path": str(tmp_path / "m")})])
'''  # fmt: skip

FOUND = {
    "TestAnywhere": {"test_launch_stays_on_this_machine"},
    "TestImpure": {"test_launch_is_pure", "test_launch_and_service_survive_json"},
    "TestOtherPort": {"test_launch_listens_on_the_port"},
    "TestTakesAnything": {"test_an_unknown_option_is_refused_by_name", "test_a_model_is_not_taken_for_a_flag"},
    "TestShell": {"test_a_text_stays_one_word"},
    "TestNaive": {
        "test_probe_of_nobody_is_not_ready", "test_probe_takes_any_answer_and_only_looks", "test_probe_takes_any_json",
    },
    "TestRestless": {"test_probe_takes_any_answer_and_only_looks"},
    "TestHopeful": {"test_probe_of_nobody_is_not_ready"},
    "TestNoStrategy": {"test_every_level_has_a_strategy"},
    "TestNoHost": {"test_who_hosts_members_can"},
    "TestTalkative": {"test_a_secret_stays_in_the_environment"},
    "TestAlarmed": {"test_ordinary_lines_end_nothing", "test_any_log_can_be_read"},
    "TestBlabbing": {"test_variables_are_checked_and_not_repeated"},
    "TestGenerous": {"test_variants_can_be_run_and_save_memory"},
    "TestBusy": {"test_asking_for_use_changes_nothing", "test_any_answer_about_use_can_be_read"},
    "TestVersions": {"test_a_program_may_answer_anything"},
    "TestUnordered": {"test_questions_are_pure_command_lines"},
    "TestOneText": {"test_questions_are_pure_command_lines"},
    "TestAsleep": {
        "test_predictions_are_pure_and_grow_with_the_service", "test_asleep_it_keeps_no_more_than_it_had",
        "test_no_answer_is_an_error", "test_who_agrees_and_does_nothing_is_not_believed",
    },
    "TestHalves": {
        "test_predictions_are_pure_and_grow_with_the_service", "test_no_answer_is_an_error",
        "test_who_agrees_and_does_nothing_is_not_believed",
    },
    "TestShrinks": {
        "test_estimates_are_pure_and_make_sense", "test_a_longer_context_takes_no_less",
        "test_whatever_is_known_of_a_model_can_be_read", "test_a_service_that_it_does_not_know",
    },
    "TestTrusting": {
        "test_what_it_tells_is_plain_data", "test_a_model_that_is_not_there", "test_junk_where_the_model_should_be",
    },
}  # fmt: skip


@pytest.mark.timeout(300)
def test_each_way_to_be_wrong_is_found(tmp_path: Path) -> None:
    (tmp_path / "test_wrong.py").write_text(WRONG)
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = -p no:cacheprovider\n")
    told = " or ".join(sorted({test for tests in FOUND.values() for test in tests}))
    command = [sys.executable, "-m", "pytest", "-q", "-rf", "--tb=no", "-k", told, "test_wrong.py"]
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    env |= {"PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=280)
    assert done.returncode == 1, done.stdout + done.stderr
    found: dict[str, Any] = {}
    for line in done.stdout.splitlines():
        if line.startswith("FAILED"):
            _, owner, test = line.split(" - ")[0].split("::")
            found.setdefault(owner, set()).add(test.partition("[")[0])
    assert found == FOUND
