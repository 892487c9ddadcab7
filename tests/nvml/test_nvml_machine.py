"""gpumod on a machine whose driver is NVIDIA's: cards chosen, lost and partitioned, and drivers that fail it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.machine.test_machine_versions import be_old
from tests.nvml.driver import Driver, build

if TYPE_CHECKING:
    from tests.machine.conftest import Machine, MakeMachine

pytestmark = [pytest.mark.sim, pytest.mark.nvml, pytest.mark.slow]

TWO = "RTX 4090:24564,RTX 3090:24564"
APP = "command=uvicorn app:app --host {host} --port {port}"


def define(machine: Machine, name: str, mb: int, gpus: str) -> None:
    fields = ("--driver", "fastapi", "--port", str(machine.unused.pop()), "--vram-mb", str(mb), "--gpus", gpus)
    machine.ok("service", "add", "--id", name, *fields, "--set", APP)


def checks(machine: Machine) -> str:
    return " ".join(f"{c['level']} {c['name']}: {c['message']}" for c in machine.quick("doctor").json["checks"])


def run(home: Path, *args: str, **env: str) -> tuple[int, Any]:
    """The program in a process of its own, with nothing but `env` of a driver."""
    clean = {k: v for k, v in os.environ.items() if k not in ("LD_LIBRARY_PATH", "NVML_STANDIN")}
    argv = [sys.executable, "-m", "gpumod", "--home", str(home), "--json", *args]
    done = subprocess.run(argv, capture_output=True, text=True, env=clean | env)
    return done.returncode, json.loads(done.stdout)


def test_init_and_doctor_on_a_machine_with_a_card(tmp_path: Path) -> None:
    told = {"NVML_STANDIN": str(tmp_path), "LD_LIBRARY_PATH": str(build())}
    (tmp_path / "cards").write_text("gpu 0 24564 364 0 8 GPU-one NVIDIA GeForce RTX 4090\n")
    code, made = run(tmp_path / "home", "init", "--yes", **told)
    assert (code, made["gpus"]) == (0, ["0: NVIDIA GeForce RTX 4090, 24564 MiB (Ada, compute capability 8.9)"])
    _, status = run(tmp_path / "home", "status", **told)
    (gpu,) = status["gpus"]
    assert (gpu["free_mb"], gpu["foreign_mb"], gpu["uuid"], gpu["architecture"]) == (24200, 364, "GPU-one", "Ada")
    assert status["foreign"] == [{"pid": None, "name": "driver", "vram_mb": 364, "gpu": 0}]
    _, found = run(tmp_path / "home", "doctor", **told)
    said = " ".join(check["message"] for check in found["checks"])
    assert all(word in said for word in ("driver 580.65.06", "persistence mode", "what each process holds"))
    assert {"ram", "driver"} <= {check["name"] for check in found["checks"]}
    (tmp_path / "cards").write_text("gpu 0 8192 0 0 8 GPU-other RTX 4060\n")
    _, found = run(tmp_path / "home", "doctor", **told)
    assert any("(GPU-one) was here at `gpumod init`" in check["message"] for check in found["checks"])


def test_without_a_driver(tmp_path: Path) -> None:
    code, told = run(tmp_path / "home", "init", "--yes", GPUMOD_GPU_PROBE="nvml", LD_LIBRARY_PATH=empty(tmp_path))
    assert (code, told["error"]["code"]) == (9, "no-nvidia-driver")
    assert "install the driver" in told["error"]["hint"]
    code, told = run(tmp_path / "home", "status", LD_LIBRARY_PATH=empty(tmp_path))
    assert (code, told["error"]["code"]) == (9, "no-gpu-probe")
    assert "nvml: there is no NVIDIA driver" in told["error"]["why"]


def empty(folder: Path) -> str:
    """A folder whose library of that name is none: what else is installed on this computer is not found then."""
    bad = folder / "none"
    bad.mkdir(exist_ok=True)
    (bad / "libnvidia-ml.so.1").write_text("not a library")
    return str(bad)


def test_a_driver_that_was_updated_is_noticed_before_the_first_stop(machine: Machine, driver: Driver) -> None:
    machine.change("switch", "code")
    held = machine.held()
    driver.faults("nvmlInitWithFlags 18")
    refused = machine.quick("switch", "speak")
    assert (refused.code, refused.error["code"]) == (9, "driver-mismatch"), refused
    assert machine.held() == held
    assert "problem gpu: the NVIDIA driver was updated" in checks(machine)
    driver.faults()
    machine.whole("code")


def test_only_the_chosen_cards_are_used(make_machine: MakeMachine) -> None:
    machine = make_machine(TWO)
    for bad, why in (("7", "GPU that is not there: 7"), ("GPU-sim", "GPU-sim"), ("one", "neither an index")):
        refused = machine.quick("settings", "set", "cuda_devices", bad)
        assert (refused.code, refused.error["code"]) == (2, "bad-setting"), refused
        assert why in refused.error["message"] + refused.error["why"]
    for chosen in ("GPU-sim-1", "1"):
        machine.ok("settings", "set", "cuda_devices", chosen)
        assert [gpu["index"] for gpu in machine.status()["gpus"]] == [1]
        machine.change("switch", "code")
        assert {row["gpu"] for row in machine.allocations()} == {1}
        machine.change("switch", "blank")
    machine.nothing_left()


def test_a_card_that_is_lost_in_a_switch(make_machine: MakeMachine, driver: Driver, until) -> None:
    machine = make_machine(TWO)
    define(machine, "here", 1000, "0")
    define(machine, "there", 1000, "1")
    define(machine, "more", 2000, "1")
    machine.ok("mode", "create", "work", "--services", "here,there")
    machine.ok("mode", "create", "talk", "--services", "more")
    machine.change("switch", "work")
    machine.fault("more", "slow-start", 200.0)
    process = machine.begin("switch", "talk")
    until(lambda: machine.sql("SELECT 1 FROM events WHERE kind = 'spawned' AND subject = 'more'"), "more to start")
    driver.faults("device 15 1")
    outcome = machine.end(process)
    assert (outcome.code, outcome.error["code"]) == (7, "gpu-lost"), outcome
    assert "GPU 1 (RTX 3090) is lost" in outcome.error["message"]
    assert "there cannot come back" in outcome.error["why"]
    assert machine.states() == {"here": "running"}
    assert any(problem["code"] == "gpu-lost" for problem in machine.status()["problems"])
    assert "problem gpu 1: GPU 1" in checks(machine)
    driver.faults()
    machine.ok("recover", "--rollback")
    assert machine.states() == {"here": "running", "there": "running"}


def test_a_partitioned_card(make_machine: MakeMachine, driver: Driver) -> None:
    driver.flags = ("--mig",)
    machine = make_machine("A100 MIG 1g.10gb:9856,A100 MIG 2g.20gb:19968")
    names = [gpu["uuid"] for gpu in machine.status()["gpus"]]
    assert names == ["MIG-sim-0", "MIG-sim-1"]
    machine.ok("mode", "create", "two", "--services", "glm-code,embedding-code")
    machine.ok("service", "edit", "glm-code", "--vram-mb", "17000")
    machine.change("switch", "two")
    assert {row["service"]: row["gpu"] for row in machine.allocations()}["glm-code"] == 1
    machine.whole("two")
    assert "partitioned: its 2 instances" in checks(machine)
    define(machine, "wide", 9000, "0,1")
    machine.change("switch", "blank")
    refused = machine.quick("service", "start", "wide")
    assert (refused.code, refused.error["code"]) == (9, "mig-one-instance"), refused
    machine.nothing_left()


def test_an_older_vllm_is_told_its_gpu_by_number(make_machine: MakeMachine, tmp_path: Path) -> None:
    machine = make_machine(TWO)
    for version in ("0.22.0", "0.24.0"):
        program = be_old(machine, version, tmp_path)
        machine.ok("service", "edit", "reranker", "--gpus", "1", "--set", f"vllm_bin={program}")
        machine.change("service", "start", "reranker")
        assert {row["gpu"] for row in machine.allocations()} == {1}
        machine.change("service", "stop", "reranker")


def test_an_older_vllm_on_a_partitioned_card_is_refused_before_anything_is_stopped(
    make_machine: MakeMachine, driver: Driver, tmp_path: Path
) -> None:
    driver.flags = ("--mig",)
    machine = make_machine("A100 MIG 1g.10gb:9856")
    machine.ok("mode", "create", "rank", "--services", "reranker")
    machine.change("service", "start", "embedding")
    machine.ok("service", "edit", "reranker", "--set", f"vllm_bin={be_old(machine, '0.23.0', tmp_path)}")
    refused = machine.quick("switch", "rank")
    assert (refused.code, refused.error["code"]) == (9, "gpus-by-number"), refused
    assert "is a MIG instance" in refused.error["why"]
    assert machine.states() == {"embedding": "running"}
    machine.ok("service", "edit", "reranker", "--set", f"vllm_bin={be_old(machine, '0.24.0', tmp_path)}")
    machine.change("switch", "rank")
    machine.whole("rank")


def test_a_vllm_gets_its_share_of_what_the_driver_does_not_keep(make_machine: MakeMachine, driver: Driver) -> None:
    """CUDA's total, of which vLLM takes its part, is without what the driver keeps for itself."""
    driver.flags = ("--reserved", "600")
    machine = make_machine("RTX 4090:24564")
    words = ("--driver", "vllm", "--vram-mb", "2500", "--model-id", "org/m", "--port", str(machine.unused.pop()))
    machine.ok("service", "add", "--id", "one", *words)
    machine.change("service", "start", "one")
    assert machine.held() == {"one": 2500}
    machine.change("service", "stop", "one")
    machine.ok("service", "edit", "one", "--set", "gpu_memory_utilization=0.5")
    plan = machine.ok("service", "start", "one", "--dry-run").json["plan"]
    machine.change("service", "start", "one")
    assert machine.held() == {"one": 12282}
    assert [gpu["after_mb"] for gpu in plan["gpus"]] == [12282]


@pytest.mark.parametrize("fault", ["no-memory", "no-processes"])
def test_memory_that_is_not_told_by_process(machine: Machine, driver: Driver, fault: str) -> None:
    driver.faults(fault)
    for mode in ("code", "rag", "code"):
        machine.change("switch", mode)
        machine.whole(mode)
    status = machine.status()
    rows = {row["id"]: row for row in status["services"] if row["state"] == "running"}
    assert {name: row["vram_mb"] for name, row in rows.items()} == pytest.approx(machine.held(), abs=64)
    assert {row["source"] for row in rows.values()} == {"device"}
    assert status["gpus"][0]["foreign_mb"] <= 64
    plan = machine.ok("switch", "speak", "--dry-run").json["plan"]
    assert any("device's difference" in note for note in plan["notes"])
    machine.fault("tts", "cpu-fallback")
    failed = machine.change("switch", "speak", code=6)
    assert failed.error["code"] == "cpu-fallback"
    machine.clear()
    machine.whole("code")
    machine.change("switch", "blank")
    machine.nothing_left()


def test_a_router_whose_cards_are_others_now(make_machine: MakeMachine) -> None:
    """A card is left out while a member is on it: a router counts the cards that it saw when it was started."""
    machine = make_machine(TWO)
    for name, gpu in (("here", "0"), ("there", "1"), ("more", "0")):
        words = ("--driver", "llamacpp", "--host-service", "llama-router", "--gpus", gpu, "--sleep-mode", "router")
        machine.ok("service", "add", "--id", name, *words, "--vram-mb", "1000", "--model-path", f"/m/{name}.gguf")
    machine.change("service", "start", "here")
    machine.change("service", "start", "there")
    loaded = machine.sql("SELECT service, started_at FROM handles WHERE service = 'here'")
    machine.ok("settings", "set", "cuda_devices", "0")
    machine.change("service", "start", "more")
    ini = Path(machine.home, "services", "llama-router", "models.ini").read_text()
    assert ini.count("device = CUDA0") == 2, ini
    assert ini.count("device = CUDA1") == 1, ini
    assert machine.held() == pytest.approx({"here": 1000, "there": 1000, "more": 1000}, abs=64)
    assert machine.sql("SELECT service, started_at FROM handles WHERE service = 'here'") == loaded
    machine.change("service", "stop", "llama-router", "--cascade")
    machine.change("service", "start", "here")
    assert "device" not in Path(machine.home, "services", "llama-router", "models.ini").read_text()
    machine.ok("settings", "set", "cuda_devices", "--default")
    refused = machine.change("service", "start", "there", code=6)
    assert refused.error["code"] == "card-not-seen", refused
    assert "service restart llama-router" in refused.error["hint"]
    assert machine.states()["here"] == "running"
