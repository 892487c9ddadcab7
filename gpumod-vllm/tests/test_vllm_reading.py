"""What a `vllm serve` command line says is read back as the fields that it was made of."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gpumod.api import Allocation, CommandLine, GpuShare, Service, Settings, Told
from gpumod_vllm.driver import VllmDriver
from gpumod_vllm.options import served_name

DRIVER = VllmDriver()
WORD = st.from_regex(r"[A-Za-z0-9_./][A-Za-z0-9_./:+@,=-]{0,12}", fullmatch=True)
MODEL = st.from_regex(r"(/models/)?[A-Za-z0-9][A-Za-z0-9_./-]{0,20}", fullmatch=True)
SWITCHES = st.lists(st.sampled_from(["--trust-remote-code", "--enable-prefix-caching", "--seed=7"]), unique=True)
OPTIONS = st.fixed_dictionaries(
    {"gpu_memory_utilization": st.integers(1, 1_000_000).map(lambda n: n / 1_000_000)},
    optional={
        "max_model_len": st.just("auto"),
        "max_num_seqs": st.integers(1, 4096),
        "dtype": WORD,
        "quantization": WORD,
        "kv_cache_dtype": WORD,
        "runner": st.sampled_from(["auto", "generate", "pooling"]),
        "convert": st.sampled_from(["auto", "none", "embed"]),
        "served_model_name": WORD,
        "load_format": WORD,
        "lora_modules": st.dictionaries(st.from_regex(r"[a-z]{1,5}", fullmatch=True), MODEL, min_size=1, max_size=3),
        "enforce_eager": st.just(True),
        "extra_args": SWITCHES.filter(bool),
        "vllm_bin": st.just("/venv/bin/vllm"),
    },
)


def read(*argv: str, **env: str) -> Told:
    told = DRIVER.read_command(CommandLine(argv=argv, env=env))
    assert told is not None
    return told


@given(MODEL, st.integers(1, 65535), OPTIONS, st.none() | st.integers(1, 10**6), st.booleans(), st.sampled_from([1, 2]))
def test_what_launch_writes_is_read_back(
    model: str, port: int, options: dict[str, Any], context: int | None, sleeps: bool, spans: int
) -> None:
    if spans > 1:
        options["tensor_parallel_size"] = spans
    if "max_model_len" in options:
        context = None
    fields: dict[str, Any] = {"port": port, "unit_vars": options}
    fields["model_path" if model.startswith("/") else "model_id"] = model
    fields |= {"context_size": context} if context else {}
    fields |= {"sleep_mode": "l1"} if sleeps else {}
    fields |= {"gpus": tuple(range(spans))} if spans > 1 else {}
    service = Service(id="x", driver="vllm", **fields)
    assume(served_name(service) not in options.get("lora_modules", {}))
    cards = tuple(GpuShare(index=n, total_mb=24564, budget_mb=24564, vram_mb=1000) for n in range(spans))
    launch = DRIVER.launch(service, Allocation(gpus=cards), Settings())
    told = read(*launch.argv, **launch.env)
    assert told.notes == ()
    again = Service(id="x", driver="vllm", **told.fields)
    assert again == service
    assert DRIVER.launch(again, Allocation(gpus=cards), Settings()).argv == launch.argv


def test_a_share_that_was_computed_is_read_as_the_share_it_is() -> None:
    service = Service(id="x", driver="vllm", port=8001, model_id="m", vram_mb=2500)
    card = Allocation(gpus=(GpuShare(index=0, total_mb=24564, budget_mb=24564, vram_mb=2500),))
    argv = DRIVER.launch(service, card, Settings()).argv
    assert read(*argv).fields["unit_vars"] == {"gpu_memory_utilization": 0.101775}


def test_forms_that_people_write() -> None:
    told = read(
        "/usr/bin/python3", "-m", "vllm.entrypoints.openai.api_server", "--model", "/m/x", "--max_model_len=32K"
    )
    assert told.fields["model_path"] == "/m/x"
    assert (told.fields["port"], told.fields["context_size"]) == (8000, 32768)
    assert told.fields["unit_vars"] == {"gpu_memory_utilization": 0.92}
    assert "0.92" in told.notes[0]
    told = read("vllm", "serve", "m", "--api-key", "s3cret", "-tp", "2", CUDA_VISIBLE_DEVICES="3,1,0")
    assert told.fields["gpus"] == (3, 1)
    assert "s3cret" not in str(told)
    assert "--api-key" in told.notes[0]
    assert "sleep" in read("vllm", "serve", "m", "--enable-sleep-mode").notes[-1]


@pytest.mark.parametrize(
    "argv", [("vllm", "bench"), ("vllm",), ("python", "app.py"), ("docker", "run", "vllm", "serve")]
)
def test_other_commands_are_not_its_own(argv: tuple[str, ...]) -> None:
    assert DRIVER.read_command(CommandLine(argv=argv)) is None


def test_the_address_that_it_listens_on() -> None:
    assert read("vllm", "serve", "m").binds == "0.0.0.0"  # vLLM's own
    assert read("vllm", "serve", "m", "--host", "127.0.0.1").binds == "127.0.0.1"


@pytest.mark.parametrize(
    ("more", "env", "says"),
    [
        ((), {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}, "PYTORCH_CUDA_ALLOC_CONF"),
        ((), {"PYTORCH_ALLOC_CONF": "a:1,expandable_segments:true"}, "PYTORCH_ALLOC_CONF"),
        (("--kv-transfer-config", "{}"), {}, "--kv-transfer-config"),
        (("--kv-offloading-size", "8"), {}, "--kv-offloading-size"),
    ],
)
def test_what_defeats_sleep_in_a_unit_is_named(more: tuple[str, ...], env: dict[str, str], says: str) -> None:
    argv = ("vllm", "serve", "org/m", "--enable-sleep-mode", *more)
    told = read(*argv, VLLM_SERVER_DEV_MODE="1", **env)
    assert "sleep_mode" not in told.fields
    assert any("cannot be put to sleep" in note and says in note for note in told.notes)


def test_the_share_has_another_name() -> None:
    told = read("vllm", "serve", "m", "--device-memory-utilization=0.3", "--device-ids", "1")
    assert told.fields["unit_vars"] == {"gpu_memory_utilization": 0.3}
    assert told.notes == ("left out: --device-ids",)


def test_one_dash_and_a_beginning_are_read_as_argparse_does() -> None:
    assert read("vllm", "serve", "m", "-t", "2").fields["gpus"] == (0, 1)
    told = read("vllm", "serve", "m", "-qawq")
    assert "quantization" not in told.fields["unit_vars"]
    assert told.notes[0] == "left out: -qawq"


@pytest.mark.parametrize("flag", ["--served-model-name", "--served_model_name"])
def test_of_several_names_the_first_is_kept_and_the_others_are_told(flag: str) -> None:
    told = read("vllm", "serve", "m", flag, "chat", "gpt-4o", "gpt-4", "--seed", "7")
    options = {"served_model_name": "chat", "extra_args": ["--seed", "7"], "gpu_memory_utilization": 0.92}
    assert told.fields["unit_vars"] == options
    assert told.notes[0] == "it answers to chat alone: further names are left out (gpt-4o, gpt-4)"
    told = read("vllm", "serve", "m", flag, "chat", "--seed", "7")
    assert told.fields["unit_vars"] == options
    assert not any("names" in note for note in told.notes)


def test_of_a_flag_that_is_said_twice_the_last_one_counts() -> None:
    told = read("vllm", "serve", "m", "--served-model-name", "a", "b", "--seed", "7", "--served_model_name", "c", "d")
    assert told.fields["unit_vars"]["served_model_name"] == "c"
    assert told.fields["unit_vars"]["extra_args"] == ["--seed", "7"]
    assert told.notes[0] == "it answers to c alone: further names are left out (d)"


def test_a_flag_of_an_older_version_stays() -> None:
    told = read("vllm", "serve", "m", "--device", "cuda")
    assert told.fields["unit_vars"]["extra_args"] == ["--device", "cuda"]


def test_adapters_may_be_named_as_json() -> None:
    told = read("vllm", "serve", "org/m", "--enable-lora", "--lora-modules", '{"name": "sql", "path": "/x"}', "b=/y")
    assert told.fields["unit_vars"]["lora_modules"] == {"sql": "/x", "b": "/y"}
