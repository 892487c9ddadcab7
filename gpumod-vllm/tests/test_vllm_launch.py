"""The command line, options and memory share of a vLLM service."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumod.api import Allocation, AlternativeKind, GpuShare, NeedsFormats, Service, Settings, Source
from gpumod_vllm.driver import VllmDriver, utilization
from gpumod_vllm.estimator import VllmEstimator

DRIVER = VllmDriver()


def a_service(**fields: Any) -> Service:
    given_fields = {
        "id": "emb",
        "driver": "vllm",
        "port": 8001,
        "vram_mb": 2500,
        "model_id": "Qwen/Qwen3-Embedding-0.6B",
    }
    return Service.model_validate(given_fields | fields)


def on_card(vram_mb: int, total_mb: int = 24564, count: int = 1) -> Allocation:
    shares = [GpuShare(index=n, total_mb=total_mb, budget_mb=total_mb, vram_mb=vram_mb) for n in range(count)]
    return Allocation(gpus=tuple(shares))


def value_of(argv: tuple[str, ...], flag: str) -> str:
    return argv[argv.index(flag) + 1]


def test_a_plain_service_binds_to_loopback_and_takes_its_share() -> None:
    launch = DRIVER.launch(a_service(context_size=8192), on_card(2500), Settings(vllm_bin="/opt/vllm", hf_home="/hf"))
    assert launch.argv == (
        "/opt/vllm", "serve", "Qwen/Qwen3-Embedding-0.6B", "--host", "127.0.0.1", "--port", "8001",
        "--gpu-memory-utilization", "0.101775", "--max-model-len", "8192",
    )  # fmt: skip
    assert launch.env == {"HF_HOME": "/hf"}
    assert launch.ports == (8001,)
    assert launch.stop_timeout_s == 30
    patient = a_service(unit_vars={"stop_timeout_s": 90})
    assert DRIVER.launch(patient, on_card(2500), Settings()).stop_timeout_s == 90


def test_sleep_mode_brings_its_flag_and_its_routes() -> None:
    for level in ("l1", "l2"):
        launch = DRIVER.launch(a_service(sleep_mode=level), on_card(2500), Settings())
        assert "--enable-sleep-mode" in launch.argv
        assert launch.env["VLLM_SERVER_DEV_MODE"] == "1"
        assert set(DRIVER.capabilities(a_service(sleep_mode=level)).sleep_levels) == {"l1", "l2"}
    launch = DRIVER.launch(a_service(), on_card(2500), Settings())
    assert "--enable-sleep-mode" not in launch.argv
    assert "VLLM_SERVER_DEV_MODE" not in launch.env
    assert DRIVER.capabilities(a_service()).sleep_levels == ()
    assert DRIVER.capabilities(a_service()).exclusive_start


def test_the_users_word_decides_over_the_computed_one() -> None:
    options = {"gpu_memory_utilization": 0.5, "max_model_len": "auto", "tensor_parallel_size": 1}
    argv = DRIVER.launch(a_service(context_size=8192, unit_vars=options), on_card(2500), Settings()).argv
    assert value_of(argv, "--gpu-memory-utilization") == "0.5"
    assert value_of(argv, "--max-model-len") == "auto"
    argv = DRIVER.launch(a_service(unit_vars={"kv_cache_memory_bytes": 2**30}), on_card(2500), Settings()).argv
    assert float(value_of(argv, "--gpu-memory-utilization")) * 24564 == pytest.approx(2500, abs=0.1)  # must be free
    assert value_of(argv, "--kv-cache-memory-bytes") == "1073741824"


def test_a_service_on_two_gpus_is_split_over_them() -> None:
    argv = DRIVER.launch(a_service(gpus=(0, 1)), on_card(12000, count=2), Settings()).argv
    assert value_of(argv, "--tensor-parallel-size") == "2"
    assert float(value_of(argv, "--gpu-memory-utilization")) * 24564 >= 12000


def test_a_local_model_wins_over_the_hub() -> None:
    argv = DRIVER.launch(a_service(model_path="/models/a b;c"), on_card(2500), Settings()).argv
    assert argv[2] == "/models/a b;c"


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"unit_vars": {"max_modellen": 3}}, "did you mean max_model_len"),
        ({"unit_vars": {"gpu_memory_utilization": 1.01}}, "gpu_memory_utilization"),
        ({"unit_vars": {"gpu_memory_utilization": 0}}, "gpu_memory_utilization"),
        ({"unit_vars": {"extra_args": ["--port", "1"]}}, "--port"),
        ({"unit_vars": {"extra_args": "--api_key=secret"}}, "--api-key"),
        ({"unit_vars": {"extra_args": ["--hos", "0.0.0.0"]}}, "--hos"),
        ({"unit_vars": {"extra_args": ["--uds", "/tmp/x"]}}, "--uds"),
        ({"unit_vars": {"extra_args": ["--no-enable-sleep-mode"]}}, "--no-enable-sleep-mode"),
        ({"unit_vars": {"extra_args": ["--no_enforce_eager"]}}, "--no-enforce-eager"),
        ({"unit_vars": {"extra_args": ["--no-enable-s"]}}, "--no-enable-s"),
        ({"unit_vars": {"extra_args": ["--no-en"]}}, "--no-en"),
        ({"unit_vars": {"extra_args": ["--ssl-keyfile", "/k"]}}, "--ssl-keyfile"),
        ({"unit_vars": {"env": {"LD_PRELOAD": "/x.so"}}}, "LD_PRELOAD"),
        ({"unit_vars": {"env": {"A=B": "c"}}}, "environment variable"),
        ({"unit_vars": {"dtype": "--uds=/tmp/x"}}, "dtype"),
        ({"unit_vars": {"runner": "embed"}}, "runner"),
        ({"unit_vars": {"tensor_parallel_size": 2}}, "tensor_parallel_size"),
        (
            {"gpus": (0, 1), "unit_vars": {"extra_args": ["--pipeline_parallel_size=2"]}},
            "say tensor_parallel_size beside",
        ),
        ({"model_id": None}, "model_path or model_id"),
        ({"model_id": "--uds=/tmp/x"}, "flag"),
        ({"port": None}, "port"),
        ({"vram_mb": 0}, "vram_mb"),
        ({"vram_mb": 0, "unit_vars": {"kv_cache_memory_bytes": 10}}, "vram_mb must be above the 1 MiB"),
        ({"sleep_mode": "router"}, "l1 or l2"),
        ({"host": "other", "port": None}, "host"),
        ({"sleep_mode": "l2", "unit_vars": {"load_format": "bitsandbytes"}}, "load_format"),
        ({"sleep_mode": "l2", "unit_vars": {"env": {"VLLM_API_KEY": "k"}}}, "VLLM_API_KEY"),
        ({"sleep_mode": "l1", "unit_vars": {"env": {"VLLM_SERVER_DEV_MODE": "0"}}}, "VLLM_SERVER_DEV_MODE"),
        (
            {"sleep_mode": "l1", "unit_vars": {"env": {"PYTORCH_CUDA_ALLOC_CONF": "a:1,expandable_segments: true"}}},
            "defeats sleep",
        ),
    ],
)
def test_what_would_not_work_is_refused_with_its_reason(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match="'emb'") as caught:
        DRIVER.check(a_service(**fields))
    assert says in str(caught.value)


def test_a_refused_environment_is_not_repeated() -> None:
    with pytest.raises(ValueError, match="env") as caught:
        DRIVER.check(a_service(unit_vars={"env": {"HF_TOKEN": "hf_secret", "LD_PRELOAD": "x"}}))
    assert "hf_secret" not in str(caught.value)


def test_options_may_come_as_typed_on_a_command_line() -> None:
    typed = {"gpu_memory_utilization": "0.4", "enforce_eager": "true", "extra_args": "--seed 7", "env": "A=1 B='x y'"}
    launch = DRIVER.launch(a_service(unit_vars=typed), on_card(2500), Settings())
    assert launch.argv[-3:] == ("--enforce-eager", "--seed", "7")
    assert launch.env == {"A": "1", "B": "x y"}


@given(total_mb=st.integers(1000, 200_000), data=st.data())
def test_the_utilization_grants_the_share_and_hardly_more(total_mb: int, data: st.DataObject) -> None:
    vram_mb = data.draw(st.integers(1, total_mb))
    share = utilization(on_card(vram_mb, total_mb))
    assert share is not None
    assert 0 < share <= 1
    assert round(share, 6) == share
    assert share * total_mb >= vram_mb - 1e-6
    assert share * total_mb <= vram_mb + total_mb / 1_000_000 + 1e-6


clean = st.text(st.characters(exclude_categories=("C", "Zl", "Zp")), min_size=1, max_size=30)
words = st.from_regex(r"\A[A-Za-z0-9_./][A-Za-z0-9_./:+@,=-]{0,20}\Z")
options = st.fixed_dictionaries(
    {},
    optional={
        "gpu_memory_utilization": st.floats(0.0001, 1),
        "max_model_len": st.integers(1, 10**6) | st.just("auto"),
        "max_num_seqs": st.integers(1, 4096),
        "dtype": words,
        "quantization": words,
        "kv_cache_dtype": words,
        "runner": st.sampled_from(["auto", "generate", "pooling"]),
        "served_model_name": words,
        "load_format": words,
        "enforce_eager": st.booleans(),
        "extra_args": st.lists(clean.filter(lambda text: not text.startswith("-")), max_size=3),
        "env": st.dictionaries(st.from_regex(r"\AX[A-Z_]{1,8}\Z"), clean, max_size=3),
    },
)
SWITCHES = {"--enforce-eager", "--enable-sleep-mode"}
FLAG_OF = {"gpu_memory_utilization": "--gpu-memory-utilization", "max_model_len": "--max-model-len"}


@given(
    model=clean.filter(lambda text: not text.startswith("-")), unit_vars=options, sleep=st.sampled_from(["none", "l1"])
)
def test_what_is_accepted_reaches_vllm_as_it_is(model: str, unit_vars: dict[str, Any], sleep: str) -> None:
    service = a_service(model_path=model, unit_vars=unit_vars, sleep_mode=sleep)
    launch = DRIVER.launch(service, on_card(2500), Settings())
    extra = tuple(unit_vars.get("extra_args", ()))
    argv = launch.argv[: len(launch.argv) - len(extra)]
    assert launch.argv[len(argv) :] == extra
    assert argv[:3] == ("vllm", "serve", model)
    read: dict[str, Any] = {}
    rest = list(argv[3:])
    while rest:
        flag = rest.pop(0)
        assert flag.startswith("--")
        read[flag] = True if flag in SWITCHES else rest.pop(0)
    for name, value in unit_vars.items():
        if name in ("extra_args", "env", "enforce_eager"):
            continue
        got = read["--" + name.replace("_", "-")]
        assert math.isclose(float(got), value) if isinstance(value, float) else got == str(value)
    assert ("--enforce-eager" in read) is unit_vars.get("enforce_eager", False)
    for name, value in unit_vars.get("env", {}).items():
        assert launch.env[name] == value


def test_the_estimate_is_what_the_option_says_not_the_preset() -> None:
    estimator = VllmEstimator()
    found = estimator.estimate(a_service(unit_vars={"gpu_memory_utilization": 0.5}), 24564, None)
    assert found is not None
    assert (found.source, found.vram_mb, found.start_peak_mb) == (Source.EXPLICIT, 12282, 12282)
    both = a_service(gpus=(0, 1), unit_vars={"gpu_memory_utilization": 0.5})
    assert (found := estimator.estimate(both, 24564, None)) is not None
    assert found.vram_mb == 24564
    assert estimator.estimate(a_service(), 24564, None) is None
    assert estimator.estimate(a_service(unit_vars={"nonsense": 1}), 24564, None) is None


@given(
    vram_mb=st.integers(0, 100_000),
    kv_bytes=st.integers(1, 200 * 2**30),
    gpus=st.sampled_from(["any", (0,), (0, 1), (0, 1, 2, 3)]),
)
def test_a_fixed_kv_cache_is_never_planned_below_its_size(vram_mb: int, kv_bytes: int, gpus: Any) -> None:
    options = {"gpu_memory_utilization": 0.5, "kv_cache_memory_bytes": kv_bytes}
    service = a_service(vram_mb=vram_mb, gpus=gpus, unit_vars=options)
    count = 1 if gpus == "any" else len(gpus)
    found = VllmEstimator().estimate(service, 24564, None)
    assert found is not None
    assert found.vram_mb is not None
    assert found.source is Source.EXPLICIT
    assert found.vram_mb >= vram_mb
    assert found.vram_mb * 2**20 >= kv_bytes * count
    if vram_mb * 2**20 > (kv_bytes + 2**20) * count:
        DRIVER.check(service)
    elif vram_mb * 2**20 <= kv_bytes * count:
        with pytest.raises(ValueError, match="weights come on top"):
            DRIVER.check(service)


def test_a_smaller_kv_cache_is_offered_only_where_it_saves() -> None:
    known = {"context_size": 32768, "kv_cache_per_1k": 100}
    (variant,) = DRIVER.variants(a_service(vram_mb=10000, **known))
    assert (variant.kind, variant.saves_mb) == (AlternativeKind.KV_TYPE, 1638)
    assert variant.unit_vars == {"kv_cache_dtype": "fp8"}
    assert DRIVER.variants(a_service()) == ()
    for fixed in ({"kv_cache_dtype": "fp8"}, {"gpu_memory_utilization": 0.5}, {"kv_cache_memory_bytes": 1}):
        assert DRIVER.variants(a_service(unit_vars=fixed, **known)) == ()


@given(totals_mb=st.lists(st.integers(8000, 100_000), min_size=2, max_size=4), part=st.floats(0.01, 1))
def test_of_cards_of_different_sizes_it_takes_nowhere_more_than_its_share(totals_mb: list[int], part: float) -> None:
    wanted_mb = int(part * sum(totals_mb))
    parts_mb = [-(-wanted_mb * total_mb // sum(totals_mb)) for total_mb in totals_mb]
    shares = [
        GpuShare(index=n, total_mb=total_mb, budget_mb=total_mb, vram_mb=parts_mb[n])
        for n, total_mb in enumerate(totals_mb)
    ]
    share = utilization(Allocation(gpus=tuple(shares)))
    assert share is not None
    for total_mb, part_mb in zip(totals_mb, parts_mb, strict=True):
        assert part_mb - 2 <= int(share * total_mb + 1e-6) <= part_mb
    gpus = tuple(range(len(totals_mb)))
    assert DRIVER.capabilities(a_service(gpus=gpus)).equal_part
    assert not DRIVER.capabilities(a_service(gpus=gpus, unit_vars={"kv_cache_memory_bytes": 2**30})).equal_part


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ({}, []),
        ({"dtype": "auto", "kv_cache_dtype": "auto", "quantization": "awq"}, []),
        ({"kv_cache_dtype": "fp8_e5m2"}, []),
        ({"kv_cache_dtype": "fp8"}, [("fp8", "kv_cache_dtype=fp8", "--set kv_cache_dtype=auto", True)]),
        ({"kv_cache_dtype": "bfloat16"}, [("bf16", "kv_cache_dtype=bfloat16", "--set kv_cache_dtype=auto", False)]),
        ({"dtype": "bfloat16"}, [("bf16", "dtype=bfloat16", "--set dtype=float16", False)]),
        ({"quantization": "fp8"}, [("fp8", "quantization=fp8", "a model with AWQ or GPTQ weights", True)]),
    ],
)
def test_the_number_formats_that_options_ask_for(
    options: dict[str, str], asked: list[tuple[str, str, str, bool]]
) -> None:
    assert isinstance(DRIVER, NeedsFormats)
    needs = DRIVER.formats(a_service(unit_vars=options))
    assert [(need.number_format, need.option, need.instead, need.emulated) for need in needs] == asked
