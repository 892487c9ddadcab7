"""What somebody else runs is adopted, kept by switches, counted, stopped when that is said, and let go untouched."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from tests.machine.strangers import load_model, started, write_models, write_proxy, write_swap

if TYPE_CHECKING:
    from tests.machine.conftest import Machine

pytestmark = [pytest.mark.sim, pytest.mark.slow]

SHARE_MB = 6141


@pytest.fixture
def theirs(machine: Machine, until: Callable[..., Any]) -> Iterator[subprocess.Popen[bytes]]:
    """A vLLM that somebody started by hand; it takes a quarter of the card."""
    port = machine.unused.pop()
    vllm = str(Path(machine.sim.folder) / "bin" / "vllm")
    argv = (vllm, "serve", "acme/Writer", "--port", str(port), "--gpu-memory-utilization", "0.25")
    with started(*argv, ready=f"http://127.0.0.1:{port}/health", until=until, HF_TOKEN="s3cret") as process:
        yield process


def row(machine: Machine, service: str) -> Any:
    return next(row for row in machine.status()["services"] if row["id"] == service)


def test_a_process_is_kept_counted_stopped_and_not_started(
    machine: Machine, theirs: subprocess.Popen[bytes], until: Callable[..., Any]
) -> None:
    assert machine.status()["gpus"][0]["foreign_mb"] == SHARE_MB
    done = machine.ok("service", "adopt", str(theirs.pid)).json
    service = done["service"]
    assert (service["id"], service["driver"], service["model_id"]) == ("writer", "vllm", "acme/Writer")
    assert service["unit_vars"]["gpu_memory_utilization"] == 0.25
    assert (done["footprint"]["vram_mb"], done["footprint"]["sources"]["vram_mb"]) == (SHARE_MB, "measured")
    assert done["pids"] == [theirs.pid]
    assert "s3cret" not in str(done)
    assert "s3cret" not in str(machine.sql("SELECT definition FROM services"))
    again = machine.quick("service", "adopt", str(theirs.pid))
    assert (again.code, again.error["code"]) == (2, "adopted-already")
    assert machine.status()["gpus"][0]["foreign_mb"] == 0
    shown = row(machine, "writer")
    assert (shown["state"], shown["vram_mb"], shown["pid"]) == ("running", SHARE_MB, theirs.pid)

    machine.ok("mode", "create", "small", "--services", "hyde")
    machine.change("switch", "small")  # which does not name it
    assert machine.ok("mode", "verify", "small").json["extra"] == []
    assert set(machine.states()) == {"hyde", "writer"}
    assert machine.status()["foreign"] == []
    refused = machine.change("switch", "code", code=3)  # it counts, so this is too much
    assert "writer" in str(refused.json["plan"])
    machine.change("switch", "blank")
    assert machine.states() == {"writer": "running"}

    machine.ok("mode", "create", "with", "--services", "writer")
    done = machine.change("switch", "with")
    assert done.json["steps"] == []
    removed = machine.quick("service", "remove", "writer", "--stop", "--cascade")
    assert (removed.code, removed.error["code"]) == (1, "adopted")
    assert machine.quick("service", "restart", "writer").error["code"] == "cannot-start-adopted"
    assert theirs.poll() is None

    machine.change("service", "stop", "writer")
    assert theirs.wait(10) is not None
    assert machine.allocations() == []
    assert row(machine, "writer")["state"] == "stopped"
    started_again = machine.quick("service", "start", "writer")
    assert (started_again.code, started_again.error["code"]) == (1, "cannot-start-adopted")
    in_mode = machine.quick("service", "release", "writer")
    assert (in_mode.code, in_mode.error["code"]) == (1, "in-modes")
    assert machine.ok("service", "release", "writer", "--cascade").json["gone"]
    assert "writer" not in {r["id"] for r in machine.status()["services"]}
    assert machine.sql("SELECT service FROM handles") == []
    own = machine.quick("service", "release", "tts")  # it is in modes, too, which does not matter
    assert (own.code, own.error["code"]) == (2, "not-adopted")


def test_the_way_back_does_not_start_a_process_that_was_stopped(
    machine: Machine, theirs: subprocess.Popen[bytes]
) -> None:
    machine.ok("service", "adopt", str(theirs.pid))
    machine.ok("mode", "create", "big", "--services", "glm-code,writer", "--asleep", "writer")
    machine.fault("glm-code", "oom-at-start")
    done = machine.change("switch", "big", code=6)
    assert "writer did not come back" in done.error["why"], done
    assert machine.states() == {}
    assert machine.status()["open_run"] is None
    machine.ok("service", "release", "writer", "--cascade")


def test_released_it_runs_on(machine: Machine, theirs: subprocess.Popen[bytes]) -> None:
    began = psutil.Process(theirs.pid).create_time()
    machine.ok("mode", "edit", "speak", "--remove", "tts")
    machine.ok("service", "remove", "tts")
    adopted = machine.ok("service", "adopt", str(theirs.pid), "--id", "tts").json["service"]
    loaded = machine.ok("preset", "load", "--update").json
    assert loaded["kept"]["tts"] == ["adopted"]
    assert machine.ok("service", "show", "tts").json["service"] == adopted
    assert machine.quick("service", "secret", "set", "tts", "HF_TOKEN", stdin="x").error["code"] == "adopted"
    assert machine.quick("service", "edit", "tts", "--unset", "adopted").error["code"] == "unknown-field"
    port = adopted["port"]
    machine.ok("service", "edit", "tts", "--port", str(machine.unused[-1]))
    said = machine.ok("service", "status", "tts").json["last_error"]
    assert said.endswith(f"it listens on {port}: gpumod service edit tts --port {port}"), said
    machine.ok("service", "edit", "tts", "--port", str(port))
    assert machine.ok("service", "status", "tts").json["health_ok"]
    assert not machine.ok("service", "release", "tts", "--cascade").json["gone"]
    assert psutil.Process(theirs.pid).create_time() == began
    assert theirs.poll() is None
    assert machine.status()["gpus"][0]["foreign_mb"] == SHARE_MB
    assert machine.status()["foreign"][0]["pid"] == theirs.pid


def test_what_cannot_be_adopted_is_said(machine: Machine) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    for args, code in (
        ((str(gone.pid),), "nothing-to-adopt"),
        (("1",), "nothing-to-adopt"),
        (("no such.service",), "nothing-to-adopt"),
    ):
        done = machine.quick("service", "adopt", *args)
        assert (done.code, done.error["code"]) == (4, code), done
    machine.change("service", "start", "hyde")
    pid = str(row(machine, "hyde")["pid"])
    assert machine.quick("service", "adopt", pid).error["code"] == "adopted-already"
    with subprocess.Popen(["sleep", "60"]) as process:
        done = machine.quick("service", "adopt", str(process.pid))
        assert (done.code, done.error["code"]) == (2, "which-port"), done
        told = machine.ok("service", "adopt", str(process.pid), "--port", "9", "--vram-mb", "0", "--id", "naps").json
        assert not any("not known" in note for note in told["notes"]), told
        parent = machine.quick("service", "adopt", str(os.getpid()), "--port", "9")
        assert "runs service" in parent.error["message"], parent
        machine.ok("service", "release", "naps")
        done = machine.quick("service", "adopt", str(process.pid), "--port", "9", "--driver", "vllm")
        assert (done.code, done.error["code"]) == (2, "not-recognised"), done
        process.kill()


def test_init_finds_and_proposes(machine: Machine, theirs: subprocess.Popen[bytes]) -> None:
    found = machine.ok("init").json
    mine = {proposal["service"]["port"]: proposal for proposal in found["proposals"] if proposal["service"]}
    proposal = next(p for p in mine.values() if p["kind"] == "process" and p["held_mb"] == SHARE_MB)
    assert proposal["what"] == f"process {theirs.pid}"
    assert proposal["command"] == f"gpumod service adopt {theirs.pid} --id writer"
    assert {program["name"]: program["version"] for program in found["programs"]}["vllm"] == "0.33.0"
    assert found["taken"] == []
    assert "writer" not in {r["id"] for r in machine.status()["services"]}
    taken = machine.ok("init", "--take", "writer").json
    assert taken["taken"] == ["writer"]
    assert row(machine, "writer")["state"] == "running"
    assert all(p["what"] != proposal["what"] for p in machine.ok("init").json["proposals"])
    assert theirs.poll() is None


def test_llama_swap_becomes_services_that_gpumod_starts(machine: Machine, tmp_path: Path) -> None:
    ports = {"port": machine.unused[0], "voice": machine.unused[-1]}
    file = write_swap(tmp_path, bin=Path(machine.sim.folder) / "bin", **ports)
    text = file.read_bytes()
    dry = machine.ok("import", "llama-swap", str(file), "--dry-run").json
    assert [row["action"] for row in dry["rows"]].count("added") == 4
    assert "small" not in {r["id"] for r in machine.status()["services"]}
    done = machine.ok("import", "llama-swap", str(file)).json
    rows = {row["name"]: row for row in done["rows"]}
    assert {name: row["action"] for name, row in rows.items()} == {
        **dict.fromkeys(("small", "org/big:30b", "writer", "voice"), "added"),
        **dict.fromkeys(("boxed", "far"), "skipped"),
    }
    assert "container" in rows["boxed"]["why"]
    small, big, voice = (rows[name]["service"] for name in ("small", "org/big:30b", "voice"))
    assert (small["name"], small["context_size"], small["startup_timeout"]) == ("Small", 4096, 60.0)
    assert small["unit_vars"]["n_gpu_layers"] == 99
    assert (small["vram_mb"], big["vram_mb"]) == (3, 5)
    assert any("ttl 300" in note for note in rows["small"]["notes"])
    assert (big["id"], big["context_size"], big["gpus"]) == ("org-big-30b", 8192, [0])
    assert big["unit_vars"]["env"] == {"GGML_CUDA_NO_PINNED": "1"}
    assert any("LD_LIBRARY_PATH" in note for note in rows["org/big:30b"]["notes"])
    assert (voice["driver"], voice["port"], voice["health_endpoint"]) == ("fastapi", ports["voice"], "/ready")
    assert len({row["service"]["port"] for row in rows.values() if row["service"]}) == 4
    assert any("groups" in note for note in done["notes"])
    assert file.read_bytes() == text

    again = {row["name"]: row["action"] for row in machine.ok("import", "llama-swap", str(file)).json["rows"]}
    assert set(again.values()) == {"unchanged", "skipped"}
    machine.ok("service", "edit", "small", "--name", "mine")
    kept = {row["name"]: row["action"] for row in machine.ok("import", "llama-swap", str(file)).json["rows"]}
    assert kept["small"] == "kept"
    assert machine.ok("service", "show", "small").json["service"]["name"] == "mine"
    machine.ok("import", "llama-swap", str(file), "--update")
    assert machine.ok("service", "show", "small").json["service"]["name"] == "Small"

    machine.ok("mode", "create", "swapped", "--services", "small,writer")
    machine.change("switch", "swapped")
    machine.whole("swapped")


def test_an_ollama_is_adopted_as_one_service(machine: Machine, tmp_path: Path, until: Callable[..., Any]) -> None:
    nobody = machine.quick("import", "ollama", "--port", str(machine.unused[-1]))
    assert (nobody.code, nobody.error["code"]) == (9, "no-ollama")
    port = machine.unused.pop()
    env = {"OLLAMA_HOST": f"127.0.0.1:{port}", "OLLAMA_MODELS": str(write_models(tmp_path))}
    ollama = str(Path(machine.sim.folder) / "bin" / "ollama")
    with started(ollama, "serve", ready=f"http://127.0.0.1:{port}/", until=until, **env) as process:
        load_model(port)
        dry = machine.ok("import", "ollama", "--port", str(port), "--dry-run").json
        assert dry["rows"][0]["action"] == "added"
        assert "ollama" not in {r["id"] for r in machine.status()["services"]}
        counted = machine.ok("service", "show", "embedding").json["footprint"]["vram_mb"]
        kept = machine.ok("import", "ollama", "--port", str(port), "--id", "embedding").json
        assert kept["notes"][-1] == (
            f"embedding is left as it is, and {counted} MiB are counted for it; its largest model, or what it has"
            " loaded now, takes 5000 MiB: gpumod service edit embedding --vram-mb 5000"
        )
        done = machine.ok("import", "ollama", "--port", str(port)).json
        service = done["rows"][0]["service"]
        assert (service["driver"], service["health_endpoint"], service["vram_mb"]) == ("ollama", "/api/version", 5000)
        assert done["notes"][0] == "llama3:8b: 4500 MiB, loaded (5000 MiB)"
        assert "cloud" not in str(done["notes"])
        shown = row(machine, "ollama")
        assert (shown["state"], shown["vram_mb"], shown["pid"]) == ("running", 5000, process.pid)
        kept = machine.ok("import", "ollama", "--port", str(port)).json
        assert kept["rows"][0]["action"] == "kept"
        assert kept["notes"][-1] == "ollama is left as it is, and 5000 MiB are counted for it"
        machine.change("switch", "blank")
        assert row(machine, "ollama")["state"] == "running"
        machine.ok("service", "release", "ollama")
        assert process.poll() is None


def test_what_stands_before_an_ollama_is_not_adopted(
    machine: Machine, tmp_path: Path, until: Callable[..., Any]
) -> None:
    port, inner = machine.unused.pop(), machine.unused.pop()
    env = {"OLLAMA_HOST": f"127.0.0.1:{inner}", "OLLAMA_MODELS": str(write_models(tmp_path))}
    ollama, proxy = str(Path(machine.sim.folder) / "bin" / "ollama"), write_proxy(tmp_path)
    with (
        started(ollama, "serve", ready=f"http://127.0.0.1:{inner}/", until=until, **env),
        started(str(proxy), str(port), str(inner), ready=f"http://127.0.0.1:{port}/", until=until) as before,
    ):
        for words in ((), ("--dry-run",)):
            done = machine.quick("import", "ollama", "--port", str(port), *words)
            assert (done.code, done.error["code"]) == (2, "not-itself"), done
            assert f"process {before.pid} is not it" in done.error["message"]
            assert "container" in done.error["why"]
        assert "ollama" not in {r["id"] for r in machine.status()["services"]}
        done = machine.ok("import", "ollama", "--port", str(inner), "--id", "inner").json
        assert done["rows"][0]["action"] == "added"
        machine.ok("service", "release", "inner")
