"""The shipped presets: they load, and are launched as their images want it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

import gpumod_docker
from gpumod.adapters.presets import load_presets
from gpumod.api import Allocation, GpuShare, Handle, Launch, Service, Settings
from gpumod_docker.driver import DockerDriver
from gpumod_docker.plugin import gpumod_presets
from gpumod_docker.supervisor import DockerSupervisor

FOLDER = Path(gpumod_docker.__file__).parent / "presets"
SEAT = Allocation(
    gpus=(GpuShare(index=0, uuid="GPU-1", total_mb=24_000, budget_mb=23_000, vram_mb=8000),), visible=(0,)
)


class Now:
    """The real clock."""

    now = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("nothing is waited for")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    for name in ("models", "hf"):
        (tmp_path / "srv" / name).mkdir(parents=True)
    return Settings(models_dir=str(tmp_path / "srv/models"), hf_home=str(tmp_path / "srv/hf"))


def service(name: str, settings: Settings) -> Service:
    catalogue = load_presets([("docker", FOLDER)], settings)
    assert catalogue.problems == ()
    found: Service = catalogue.services[name].value
    return found


def made(driver: Any, name: str, settings: Settings) -> tuple[Launch, dict[str, Any]]:
    supervisor = DockerSupervisor(Path("/nowhere"), "0123456789ab", settings, Now())
    one = service(name, settings)
    launch = supervisor.launch(driver, one, SEAT, settings)
    handle = Handle(service=one.id, supervisor="docker", nonce="n", launched=one, started_at=0.0)
    return launch, supervisor.draft(handle, launch, {"CUDA_VISIBLE_DEVICES": "GPU-1"})


def mounts(config: dict[str, Any]) -> dict[str, tuple[str, bool]]:
    return {m["Target"]: (m["Source"], m["ReadOnly"]) for m in config["HostConfig"]["Mounts"]}


def test_the_hook_offers_the_folder_where_there_is_an_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for told in (f"unix://{tmp_path}/nobody", "tcp://10.0.0.1:2375"):
        monkeypatch.setenv("DOCKER_HOST", told)
        assert list(gpumod_presets()) == []
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}")
    (offer,) = gpumod_presets()
    assert offer.folder == FOLDER


def test_ollama(settings: Settings) -> None:
    launch, config = made(DockerDriver(), "ollama-docker", settings)
    assert launch.ports == (7841,)
    assert "Entrypoint" not in config, "it runs what its image runs"
    assert config["HostConfig"]["PortBindings"] == {"11434/tcp": [{"HostIp": "127.0.0.1", "HostPort": "7841"}]}
    assert mounts(config) == {"/models": ("gpumod-ollama", False)}
    assert config["HostConfig"]["DeviceRequests"] == [{"DeviceIDs": ["GPU-1"], "Capabilities": [["gpu"]]}]


def test_vllm(settings: Settings) -> None:
    driver = pytest.importorskip("gpumod_vllm.driver").VllmDriver()
    launch, config = made(driver, "vllm-docker", settings)
    words = (*config["Entrypoint"], *config["Cmd"])
    assert words[:3] == ("vllm", "serve", "Qwen/Qwen3-4B-AWQ")
    assert words[words.index("--host") + 1] == "0.0.0.0"
    assert "--enable-sleep-mode" in words
    assert launch.ports == (7842,)
    assert {"HF_HOME=/hf", "CUDA_VISIBLE_DEVICES=0"} <= set(config["Env"]), "its version is not known: GPUs by number"
    assert config["HostConfig"]["DeviceRequests"][0]["DeviceIDs"] == ["GPU-1"]
    there = mounts(config)
    assert there["/hf"] == ("gpumod-hf", False), "a folder of somebody's could not be written by root in there"
    assert there[str(settings.models_dir)] == (settings.models_dir, True)
    assert config["HostConfig"]["ShmSize"] == 8192 << 20


def test_the_containers_own_word_on_its_folder_wins(settings: Settings) -> None:
    """A service that had a folder on this machine has another one in its image."""
    driver = pytest.importorskip("gpumod_fastapi.driver").FastApiDriver()
    supervisor = DockerSupervisor(Path("/nowhere"), "0123456789ab", settings, Now())
    for container, folder in (({"workdir": "/app"}, "/app"), ({}, "/srv/app")):
        options = {"command": "serve", "cwd": "/srv/app", "container": {"image": "a", **container}}
        one = Service(id="svc", driver="fastapi", port=7850, unit_vars=options)
        handle = Handle(service="svc", supervisor="docker", nonce="n", launched=one, started_at=0.0)
        config = supervisor.draft(handle, supervisor.launch(driver, one, SEAT, settings), {})
        assert config["WorkingDir"] == folder


def test_what_a_driver_sets_stays(settings: Settings) -> None:
    """A vLLM that is told otherwise would not sleep."""
    driver = pytest.importorskip("gpumod_vllm.driver").VllmDriver()
    supervisor = DockerSupervisor(Path("/nowhere"), "0123456789ab", settings, Now())
    shipped = service("vllm-docker", settings)
    for name, given, clashes in (("VLLM_SERVER_DEV_MODE", "0", True), ("VLLM_SERVER_DEV_MODE", "1", False)):
        container = {**shipped.unit_vars["container"], "environment": {name: given}}
        changed = shipped.model_copy(update={"unit_vars": {**shipped.unit_vars, "container": container}})
        if clashes:
            with pytest.raises(ValueError, match=r"VLLM_SERVER_DEV_MODE .* is its driver's"):
                supervisor.launch(driver, changed, SEAT, settings)
        else:
            supervisor.launch(driver, changed, SEAT, settings)


def test_models_are_seen_and_the_token_beside_them_is_not(settings: Settings) -> None:
    """Unless a volume or a variable of one's own says otherwise."""
    driver = pytest.importorskip("gpumod_vllm.driver").VllmDriver()
    home = Path(str(settings.hf_home))
    (home / "hub").mkdir()
    (home / "token").write_text("hf_secret")
    supervisor = DockerSupervisor(Path("/nowhere"), "0123456789ab", settings, Now())
    shipped = service("vllm-docker", settings)
    for more, sees, told in (
        ({}, {str(home / "hub")}, str(home)),
        ({"volumes": ["cache:/c:rw"], "environment": {"HF_HOME": "/c"}}, {"/c"}, "/c"),
        ({"volumes": [f"{home}:/hf"]}, {"/hf"}, "/hf"),
    ):
        options = {**shipped.unit_vars, "container": {"image": "a", **more}}
        one = shipped.model_copy(update={"unit_vars": options})
        launch = supervisor.launch(driver, one, SEAT, settings)
        handle = Handle(service=one.id, supervisor="docker", nonce="n", launched=one, started_at=0.0)
        config = supervisor.draft(handle, launch, {})
        assert set(mounts(config)) == {str(settings.models_dir), *sees}
        assert f"HF_HOME={told}" in config["Env"]


def test_llama_cpp(settings: Settings) -> None:
    driver = pytest.importorskip("gpumod_llamacpp.driver").LlamaCppDriver()
    _, config = made(driver, "llama-docker", settings)
    assert config["Entrypoint"] == ["/app/llama-server"]
    model = f"{settings.models_dir}/Qwen3-4B-Q4_K_M.gguf"
    assert config["Cmd"][config["Cmd"].index("-m") + 1] == model
    assert mounts(config)[str(settings.models_dir)] == (settings.models_dir, True)
