"""What drivers launch in a container: places of this machine are there and only read, variables do not go round it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gpumod.adapters.clock import SystemClock
from gpumod.api import Allocation, ChecksVariables, Driver, Handle, Launch, Service, Settings
from gpumod_docker.supervisor import DockerSupervisor
from gpumod_fastapi.ollama.driver import OllamaDriver
from gpumod_llamacpp.driver import LlamaCppDriver
from gpumod_vllm.driver import VllmDriver

VLLM, LLAMACPP = VllmDriver(), LlamaCppDriver()


def service(driver: Driver, *, container: dict[str, Any] | None = None, **fields: Any) -> Service:
    options = {"container": {"image": "a", **(container or {})}, **fields.pop("unit_vars", {})}
    return Service(id="svc", driver=driver.name, port=7850, vram_mb=4000, unit_vars=options, **fields)


def launched(driver: Driver, it: Service) -> tuple[Launch, dict[str, str]]:
    """Its launch, and where what is mounted read-only lies on this machine, by where it is in there."""
    supervisor = DockerSupervisor(Path("/nowhere"), "0123456789ab", Settings(), SystemClock())
    launch = supervisor.launch(driver, it, Allocation(), Settings())
    handle = Handle(service="svc", supervisor="docker", nonce="n", launched=it, started_at=0.0)
    mounts = supervisor.draft(handle, launch, {})["HostConfig"]["Mounts"]
    return launch, {mount["Target"]: mount["Source"] for mount in mounts if mount["ReadOnly"]}


@pytest.fixture
def places(tmp_path: Path) -> Path:
    for name in ("main", "small", "french", "kv"):
        (tmp_path / name).mkdir()
    for name in ("main/m.gguf", "small/d.gguf", "kv/lmcache.yaml", "kv/token"):
        (tmp_path / name).write_text("x")
    (tmp_path / "linked").symlink_to("small")
    return tmp_path


def test_a_draft_model_is_mounted_as_the_model_is(places: Path) -> None:
    draft = {"model_draft": f"{places}/linked/d.gguf"}
    launch, mounts = launched(LLAMACPP, service(LLAMACPP, model_path=f"{places}/main/m.gguf", unit_vars=draft))
    assert draft["model_draft"] in launch.argv
    small = f"{places}/small"
    assert mounts == {f"{places}/main": f"{places}/main", f"{places}/linked": small, small: small}


@pytest.mark.parametrize("form", ["words", "list", "mapping"])
def test_adapters_and_a_file_of_ones_own_are_mounted(places: Path, form: str) -> None:
    words = [f"fr={places}/french", "de=org/german"]
    adapters: Any = {"words": " ".join(words), "list": words, "mapping": dict(word.split("=") for word in words)}[form]
    config = f"{places}/kv/lmcache.yaml"
    options = {"lora_modules": adapters, "kv_offload": "lmcache", "kv_offload_config": config}
    launch, mounts = launched(VLLM, service(VLLM, model_id="org/m", unit_vars=options))
    assert launch.argv[launch.argv.index("--lora-modules") + 1 :][:2] == tuple(words)
    assert launch.env["LMCACHE_CONFIG_FILE"] == config
    assert mounts == {place: place for place in (f"{places}/french", config)}, "the file alone, not what lies beside it"


def test_places_are_mapped_by_volumes_of_ones_own(places: Path) -> None:
    volumes = {"volumes": [f"{places}:/data"]}
    options: dict[str, Any] = {"lora_modules": f"fr={places}/french", "kv_offload": "lmcache"}
    options["kv_offload_config"] = f"{places}/kv/lmcache.yaml"
    launch, mounts = launched(VLLM, service(VLLM, container=volumes, model_path=f"{places}/main", unit_vars=options))
    assert "fr=/data/french" in launch.argv
    assert launch.env["LMCACHE_CONFIG_FILE"] == "/data/kv/lmcache.yaml"
    assert mounts == {"/data": str(places)}
    options = {"model_draft": f"{places}/small/d.gguf"}
    launch, _ = launched(
        LLAMACPP, service(LLAMACPP, container=volumes, model_path=f"{places}/main/m.gguf", unit_vars=options)
    )
    assert "/data/small/d.gguf" in launch.argv


@pytest.mark.parametrize("size", [1, "20", 0.5])
def test_a_kv_cache_on_disk_is_refused_in_a_container(size: Any) -> None:
    """It would be in the service's own folder, which is mounted read-only."""
    supervisor = DockerSupervisor(Path("/nowhere"), "0123456789ab", Settings(), SystemClock())
    options = {"kv_offload": "lmcache", "kv_offload_disk_gb": size}
    with pytest.raises(ValueError, match=r"service 'svc': kv_offload_disk_gb .* cannot write .* kv_offload_config"):
        supervisor.check_service(service(VLLM, model_id="org/m", unit_vars=options), Settings())
    options["kv_offload_disk_gb"] = 0
    supervisor.check_service(service(VLLM, model_id="org/m", unit_vars=options), Settings())


EXPANDABLE = {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}


@pytest.mark.parametrize(
    ("driver", "sleep_mode", "environment", "says"),
    [
        (VLLM, "l1", EXPANDABLE, "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True defeats sleep"),
        (VLLM, "l1", {"VLLM_SERVER_DEV_MODE": "0"}, "VLLM_SERVER_DEV_MODE"),
        (VLLM, "l2", {"VLLM_API_KEY": "k"}, "VLLM_API_KEY"),
        (LLAMACPP, "none", {"LLAMA_ARG_CTX_SIZE": "512"}, "LLAMA_ARG_CTX_SIZE may not be set"),
        (
            LLAMACPP,
            "none",
            {"LLAMA_API_KEY": "k"},
            "LLAMA_API_KEY .*: gpumod itself asks without a key",
        ),
    ],
)
def test_the_environment_of_a_container_goes_round_no_check(
    driver: Driver, sleep_mode: str, environment: dict[str, str], says: str
) -> None:
    it = service(driver, model_id="org/m", sleep_mode=sleep_mode, container={"environment": environment})
    with pytest.raises(ValueError, match=f"service 'svc': .*{says}"):
        launched(driver, it)
    harmless = {"environment": {"HF_HUB_OFFLINE": "1", "PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:64"}}
    assert launched(driver, service(driver, model_id="org/m", sleep_mode=sleep_mode, container=harmless))


def test_a_secret_that_no_container_is_given_is_known_before_the_start() -> None:
    supervisor = DockerSupervisor(Path("/nowhere"), "0123456789ab", Settings(), SystemClock())
    it = service(VLLM, model_id="org/m")
    supervisor.check_variables(it, {"HF_TOKEN": "t"})
    with pytest.raises(ValueError, match="service 'svc': NVIDIA_VISIBLE_DEVICES is refused") as caught:
        supervisor.check_variables(it, {"NVIDIA_VISIBLE_DEVICES": "all-of-them"})
    assert "all-of-them" not in str(caught.value)


@pytest.mark.parametrize(
    ("driver", "fields", "name", "says"),
    [
        (LLAMACPP, {"unit_vars": {"router": True}}, "LLAMA_API_KEY", "asks without a key"),
        (VLLM, {"model_id": "org/m", "sleep_mode": "l2"}, "VLLM_API_KEY", "use l1"),
        (
            VLLM,
            {"model_id": "org/m", "unit_vars": {"kv_offload": "lmcache"}},
            "LMCACHE_CONFIG_FILE",
            "kv_offload_config",
        ),
        (OllamaDriver(), {}, "OLLAMA_HOST", "is set by gpumod"),
    ],
)
def test_secrets_that_a_runtime_would_take_for_its_own_settings(
    driver: Driver, fields: dict[str, Any], name: str, says: str
) -> None:
    it = Service(id="svc", driver=driver.name, port=7850, vram_mb=4000, **fields)
    assert isinstance(driver, ChecksVariables)
    driver.check_variables(it, {"HF_TOKEN": "t"})
    with pytest.raises(ValueError, match=f"service 'svc': .*{name}.*{says}") as caught:
        driver.check_variables(it, {name: "s3cr3t"})
    assert "s3cr3t" not in str(caught.value)


def test_a_key_is_no_trouble_where_nothing_is_asked_with_it() -> None:
    VLLM.check_variables(service(VLLM, model_id="org/m", sleep_mode="l1"), {"VLLM_API_KEY": "k"})
