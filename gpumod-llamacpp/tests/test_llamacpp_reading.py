"""What a `llama-server` command line says is read back as the fields that it was made of."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gpumod.api import Allocation, CommandLine, Service, Settings, Told
from gpumod_llamacpp.driver import LlamaCppDriver

DRIVER = LlamaCppDriver()
KIND = st.sampled_from(["f16", "q8_0", "q4_0"])
OPTIONS = st.fixed_dictionaries(
    {"n_gpu_layers": st.integers(0, 999)},
    optional={
        "parallel": st.integers(1, 1024),
        "flash_attn": st.sampled_from(["on", "auto"]),
        "cache_type_k": KIND,
        "cache_type_v": KIND,
        "ubatch_size": st.integers(1, 4096),
        "batch_size": st.integers(1, 4096),
        "n_cpu_moe": st.integers(0, 99),
        "mmproj": st.just("/models/mm proj.gguf"),
        "model_draft": st.just("/models/small.gguf"),
        "embeddings": st.just(True),
        "reranking": st.just(True),
        "pooling": st.sampled_from(["none", "mean", "rank"]),
        "extra_args": st.sampled_from([["--threads", "4"], ["--seed", "-1", "--no-warmup"], ["--jinja"]]),
        "llama_server_bin": st.just("/usr/lib/llama/llama-server"),
    },
)
PATH = st.from_regex(r"/models/[A-Za-z0-9 ._-]{1,20}\.gguf", fullmatch=True)


def read(*argv: str, cwd: str = "", **env: str) -> Told:
    told = DRIVER.read_command(CommandLine(argv=argv, cwd=cwd, env=env))
    assert told is not None
    return told


@given(PATH | st.just("user/repo:Q4_K_M"), st.integers(1, 65535), OPTIONS, st.none() | st.integers(1, 10**6))
def test_what_launch_writes_is_read_back(model: str, port: int, options: dict[str, Any], context: int | None) -> None:
    fields: dict[str, Any] = {"port": port, "unit_vars": options}
    fields["model_path" if model.startswith("/") else "model_id"] = model
    fields |= {"context_size": context} if context else {}
    service = Service(id="x", driver="llamacpp", **fields)
    launch = DRIVER.launch(service, Allocation(), Settings())
    told = read(*launch.argv, **launch.env)
    assert told.notes == ()
    if "model_draft" in options:  # it says how many layers of it go to the GPU
        service = service.model_copy(update={"unit_vars": {**options, "n_gpu_layers_draft": 999}})
    again = Service(id="x", driver="llamacpp", **told.fields)
    assert again == service
    assert DRIVER.launch(again, Allocation(), Settings()).argv == launch.argv


def test_forms_that_people_write() -> None:
    told = read(
        "llama-server", "-m", "big.gguf", "-fa", "-ngl", "all", "--api-key=s", "--alias", "x", cwd="/srv/models"
    )
    assert told.fields["model_path"] == "/srv/models/big.gguf"
    assert told.fields["port"] == 8080
    assert told.fields["unit_vars"] == {"flash_attn": "on", "n_gpu_layers": 999}
    assert told.notes == ("left out: --api-key",)
    told = read("llama-server", LLAMA_ARG_MODEL="/m/x.gguf", LLAMA_ARG_PORT="9001", CUDA_VISIBLE_DEVICES="1")
    assert (told.fields["model_path"], told.fields["port"], told.fields["gpus"]) == ("/m/x.gguf", 9001, (1,))
    assert "--fit" in told.notes[0]


def test_a_router_is_told_as_one() -> None:
    told = read("llama-server", "--models-dir", "/models", "--port", "9000")
    assert told.fields == {"port": 9000, "unit_vars": {"router": True}}
    assert any("router" in note for note in told.notes)
    DRIVER.check(Service(id="x", driver="llamacpp", **told.fields))


def test_other_commands_are_not_its_own() -> None:
    assert DRIVER.read_command(CommandLine(argv=("llama-cli", "-m", "x.gguf"))) is None


def test_the_address_that_it_listens_on() -> None:
    assert read("llama-server", "-m", "/m/x.gguf").binds == "127.0.0.1"
    assert read("llama-server", "-m", "/m/x.gguf", "--host", "0.0.0.0").binds == "0.0.0.0"
    assert read("llama-server", LLAMA_ARG_HOST="::").binds == "::"
