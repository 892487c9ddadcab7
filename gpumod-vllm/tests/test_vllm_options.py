"""LoRA adapters and KV cache beyond the GPU: what reaches vLLM, and what is refused with its reason."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumod.api import Allocation, GpuShare, Launch, Service, Settings
from gpumod_vllm.driver import VllmDriver
from gpumod_vllm.lora import RANKS

DRIVER = VllmDriver()
CARD = Allocation(gpus=(GpuShare(index=0, total_mb=24564, budget_mb=24564, vram_mb=9000),))


def a_service(sleep_mode: str = "none", **options: Any) -> Service:
    fields = {"vram_mb": 9000, "model_id": "org/m", "sleep_mode": sleep_mode, "unit_vars": options}
    return Service(id="chat", driver="vllm", port=8001, **fields)


def launched(service: Service) -> Launch:
    return DRIVER.launch(service, CARD, Settings())


def after(argv: tuple[str, ...], flag: str, count: int = 1) -> tuple[str, ...]:
    at = argv.index(flag)
    return argv[at + 1 : at + 1 + count]


names = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,12}", fullmatch=True)
paths = st.text(st.characters(min_codepoint=33, exclude_characters="=,{", exclude_categories=("C", "Z")), min_size=1)


@given(
    adapters=st.dictionaries(names, paths.filter(lambda path: path[0] != "-"), min_size=1, max_size=4),
    typed=st.booleans(),
)
def test_adapters_reach_vllm_as_they_are(adapters: dict[str, str], typed: bool) -> None:
    told: Any = " ".join(f"{name}={path}" for name, path in adapters.items()) if typed else adapters
    argv = launched(a_service(lora_modules=told, max_loras=2, max_lora_rank=64)).argv
    assert "--enable-lora" in argv
    assert after(argv, "--max-lora-rank") == ("64",)
    assert after(argv, "--lora-modules", len(adapters)) == tuple(f"{name}={path}" for name, path in adapters.items())


def test_without_adapters_there_is_no_lora() -> None:
    assert not [word for word in launched(a_service()).argv if "lora" in word]
    assert "--enable-lora" in launched(a_service(enable_lora=True)).argv
    for rank in RANKS:
        DRIVER.check(a_service(enable_lora=True, max_lora_rank=rank))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"lora_modules": "sql"}, "NAME=PATH"),
        ({"lora_modules": "a=/x a=/y"}, "two adapters"),
        ({"lora_modules": {"a b": "/x"}}, "cannot name an adapter"),
        ({"lora_modules": {"--port": "/x"}}, "cannot name an adapter"),
        ({"lora_modules": {"a": ""}}, "path of adapter a"),
        ({"lora_modules": {"a": "--uds=/x"}}, "path of adapter a"),
        ({"lora_modules": {"a": "/x,y"}}, "splits at"),
        ({"lora_modules": {"a": '{"path": "/x"}'}}, "path of adapter a"),
        ({"lora_modules": {"org/m": "/x"}}, "as the model itself is"),
        ({"lora_modules": {"a": "/x"}, "max_lora_rank": 17}, "must be one of 1, 8, 16"),
        ({"max_lora_rank": 16}, "says nothing without lora_modules"),
        ({"enable_lora": True, "max_loras": 4, "max_cpu_loras": 2}, "at least max_loras (4)"),
        ({"extra_args": ["--lora-modules", "a=/x"]}, "--lora-modules"),
        ({"extra_args": ["--hf-token", "x"]}, "--hf-token"),
        ({"extra_args": ["--allowed-local-media-path=/"]}, "--allowed-local-media-path"),
        ({"extra_args": ["--device-memory-utilization", "0.95"]}, "--device-memory-utilization"),
        ({"extra_args": ["--device_ids=1"]}, "--device-ids"),
        ({"extra_args": "-t 4"}, "-t"),
        ({"extra_args": "-qawq"}, "-qawq"),
        ({"extra_args": "--shutdown-timeout 60"}, "stop_timeout_s (30) must be above"),
        ({"extra_args": "--shutdown_t=60", "stop_timeout_s": 60}, "stop_timeout_s (60) must be above"),
        ({"kv_offload": "redis"}, "kv_offload"),
        ({"kv_offload_cpu_gb": 3}, "says nothing without kv_offload"),
        ({"kv_offload": "lmcache", "kv_offload_cpu_gb": 0}, "kv_offload_cpu_gb"),
        ({"kv_offload": "lmcache", "kv_offload_config": "relative.yaml"}, "kv_offload_config"),
        ({"kv_offload": "lmcache", "env": {"LMCACHE_CONFIG_FILE": "/x"}}, "LMCACHE_CONFIG_FILE"),
        ({"kv_offload": "lmcache", "extra_args": ["--kv-transfer-config", "{}"]}, "both choose a connector"),
        ({"kv_offload": "lmcache", "extra_args": ["--kv-offloading-size", "8"]}, "both choose a connector"),
    ],
)  # fmt: skip
def test_what_says_nothing_or_says_two_things_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match="'chat'") as caught:
        DRIVER.check(a_service(**options))
    assert says in str(caught.value)


def test_a_flag_of_an_older_version_is_no_beginning_of_another() -> None:
    DRIVER.check(a_service(extra_args=["--device", "cuda"]))


@pytest.mark.parametrize(
    ("level", "options", "says"),
    [
        ("l1", {"kv_offload": "lmcache"}, "cannot sleep"),
        ("l2", {"kv_offload": "lmcache"}, "cannot sleep"),
        ("l1", {"extra_args": ["--kv-transfer-config={}"]}, "cannot sleep"),
        ("l1", {"extra_args": ["--kv_transfer", "{}"]}, "cannot sleep"),
        ("l1", {"extra_args": ["--kv-transfer-config.kv_role", "kv_both"]}, "cannot sleep"),
        ("l1", {"extra_args": ["--kv-offloading-size=8"]}, "cannot sleep"),
        ("l2", {"extra_args": ["--kv_offloading_s", "8"]}, "cannot sleep"),
        ("l2", {"lora_modules": {"a": "/x"}}, "do not come back from level 2"),
    ],
)
def test_what_cannot_sleep_is_refused_with_a_sleep_mode(level: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        DRIVER.check(a_service(level, **options))
    DRIVER.check(a_service(**options))
    if level == "l2" and "lora_modules" in options:
        DRIVER.check(a_service("l1", **options))


def test_lmcache_is_told_by_a_file_beside_the_service() -> None:
    launch = launched(a_service(kv_offload="lmcache", kv_offload_cpu_gb=8.5, kv_offload_disk_gb=100))
    assert after(launch.argv, "--kv-transfer-config") == (
        '{"kv_connector": "LMCacheConnectorV1", "kv_role": "kv_both"}',
    )
    assert launch.env["LMCACHE_CONFIG_FILE"] == "{service_dir}/lmcache.yaml"
    (file,) = launch.files
    assert (file.name, file.mode) == ("lmcache.yaml", 0o600)
    head, *lines = file.content.splitlines()
    assert head.startswith('# Written by gpumod at every start of "chat".')
    assert lines == [
        "chunk_size: 256", "local_cpu: true", "max_local_cpu_size: 8.5",
        'local_disk: "file://{service_dir}/lmcache/"', "max_local_disk_size: 100.0",
    ]  # fmt: skip
    (plain,) = launched(a_service(kv_offload="lmcache")).files
    assert plain.content.splitlines()[1:] == ["chunk_size: 256", "local_cpu: true", "max_local_cpu_size: 5.0"]
    assert plain.content.endswith("\n")


def test_a_file_of_ones_own_is_used_as_it_is() -> None:
    launch = launched(a_service(kv_offload="lmcache", kv_offload_config="/etc/lmcache.yaml"))
    assert (launch.files, launch.env["LMCACHE_CONFIG_FILE"]) == ((), "/etc/lmcache.yaml")
    assert launched(a_service()).files == ()
