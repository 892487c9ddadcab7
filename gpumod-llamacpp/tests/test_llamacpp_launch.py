"""Command lines, options, variants, log lines and offers of the llama.cpp plugin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumod.adapters.launches import Resolved
from gpumod.adapters.systemd.rendering import Rendering
from gpumod.api import (
    PLUGIN_API,
    Allocation,
    AlternativeKind,
    Driver,
    HostsMembers,
    Launch,
    OffersVariants,
    ReadsItsLog,
    ReportsActivity,
    Service,
    Settings,
    SleepStrategy,
)
from gpumod.domain.run import Handle
from gpumod_llamacpp import plugin
from gpumod_llamacpp.denied import DENIED_FLAGS
from gpumod_llamacpp.driver import LlamaCppDriver

DRIVER = LlamaCppDriver()
ROUTER = Launch(argv=("llama-server",))


def a_service(**fields: Any) -> Service:
    known = {"id": "glm", "driver": "llamacpp", "port": 8001, "vram_mb": 19100, "model_path": "/m/a b.gguf"}
    return Service.model_validate(known | fields)


def test_a_single_model_is_told_everything() -> None:
    options = {"parallel": 2, "cache_type_v": "q8_0", "extra_args": "--jinja --threads 4", "env": {"GGML_X": "1"}}
    service = a_service(context_size=32768, unit_vars=options)
    launch = DRIVER.launch(service, Allocation(), Settings(llama_server_bin="/opt/llama-server", hf_home="/hf"))
    assert launch.argv == (
        "/opt/llama-server", "-m", "/m/a b.gguf", "-c", "32768", "--n-gpu-layers", "999", "--fit", "off",
        "--parallel", "2", "--cache-type-v", "q8_0", "--metrics", "--alias", "glm",
        "--host", "127.0.0.1", "--port", "8001", "--jinja", "--threads", "4",
    )  # fmt: skip
    assert launch.env == {"GGML_X": "1", "HF_HOME": "/hf"}
    assert launch.files == ()
    assert DRIVER.capabilities(service).sleep_levels == ()


@pytest.mark.parametrize("host", [None, "router"])
@pytest.mark.parametrize("flag", ["--device", "--mmproj-device", "-mmdev", "-otd"])
def test_what_names_devices_is_not_tried_where_no_gpu_is_in_sight(flag: str, host: str | None) -> None:
    """llama-server would say that it does not know the device."""
    service = a_service(host=host, port=None if host else 8001, unit_vars={"extra_args": [flag, "CUDA0", "--jinja"]})
    launch = DRIVER.launch(service, Allocation(), Settings()) if host is None else ROUTER
    trial = DRIVER.questions(service, launch, Settings())[1]
    assert not {flag, "CUDA0"} & set(trial)
    assert trial[-2:] == ("--jinja", "--version")


def test_a_router_starts_without_members_and_loads_nothing_by_itself() -> None:
    host = a_service(model_path=None, unit_vars={"router": True, "extra_args": ["--threads", "4"]})
    launch = DRIVER.launch(host, Allocation(), Settings())
    assert launch.argv == (
        "llama-server", "--models-preset", "{service_dir}/models.ini", "--models-max", "0", "--no-models-autoload",
        "--host", "127.0.0.1", "--port", "8001", "--threads", "4",
    )  # fmt: skip
    (file,) = launch.files
    assert (file.name, file.content, file.mode) == ("models.ini", "version = 1\n", 0o600)
    assert DRIVER.capabilities(host).hosts_members
    assert launch.ports == (8001,)


@pytest.mark.parametrize("fields", [{}, {"model_path": None, "unit_vars": {"router": True}}], ids=["single", "router"])
def test_how_long_a_process_may_take_to_end(fields: dict[str, Any]) -> None:
    assert DRIVER.launch(a_service(**fields), Allocation(), Settings()).stop_timeout_s == 30
    patient = fields | {"unit_vars": {**fields.get("unit_vars", {}), "stop_timeout_s": 0.5}}
    assert DRIVER.launch(a_service(**patient), Allocation(), Settings()).stop_timeout_s == 0.5


def test_a_member_is_loaded_not_started() -> None:
    member = a_service(port=None, host="router", sleep_mode="router")
    assert DRIVER.capabilities(member).sleep_levels == ("router",)
    with pytest.raises(ValueError, match="loaded by its host"):
        DRIVER.launch(member, Allocation(), Settings())


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"unit_vars": {"n_gpu_layer": 3}}, "did you mean n_gpu_layers"),
        ({"unit_vars": {"fit": "on"}}, "fit"),
        ({"unit_vars": {"extra_args": ["--host", "0.0.0.0"]}}, "--host"),
        ({"unit_vars": {"extra_args": ["--tools", "all"]}}, "--tools"),
        ({"unit_vars": {"extra_args": ["--agent"]}}, "--agent"),
        ({"unit_vars": {"extra_args": ["--mcp_servers_config", "x"]}}, "--mcp-servers-config"),
        ({"unit_vars": {"extra_args": ["--ui-mcp-proxy"]}}, "--ui-mcp-proxy"),
        ({"unit_vars": {"extra_args": ["--props"]}}, "--props"),
        ({"unit_vars": {"extra_args": ["--api-key-file", "/x"]}}, "--api-key-file"),
        ({"unit_vars": {"extra_args": ["--sleep-idle-seconds", "5"]}}, "--sleep-idle-seconds"),
        ({"unit_vars": {"extra_args": ["--stop-timeout", "5"]}}, "--stop-timeout"),
        ({"port": None, "host": "router", "unit_vars": {"stop_timeout_s": 0.5}}, "whole seconds"),
        ({"unit_vars": {"env": {"LLAMA_ARG_HOST": "0.0.0.0"}}}, "LLAMA_ARG_HOST"),
        ({"unit_vars": {"env": {"LD_PRELOAD": "/x.so"}}}, "LD_PRELOAD"),
        ({"unit_vars": {"env": {"GGML_BACKEND_PATH": "/x.so"}}}, "GGML_BACKEND_PATH"),
        ({"unit_vars": {"cache_type_v": "q8_0", "flash_attn": False}}, "flash attention"),
        ({"unit_vars": {"mmproj": "x.gguf"}}, "mmproj"),
        ({"unit_vars": {"model_draft": "x.gguf"}}, "model_draft"),
        ({"unit_vars": {"n_gpu_layers_draft": 3}}, "needs model_draft"),
        ({"unit_vars": {"drain_timeout_s": 60}}, "members of a router"),
        ({"model_path": "models/a.gguf"}, "absolute"),
        ({"model_path": None}, "model_path"),
        ({"model_path": None, "model_id": "--tools"}, "model_id"),
        ({"port": None}, "port"),
        ({"host": "router"}, "no port"),
        ({"sleep_mode": "router"}, "sleep_mode"),
        ({"unit_vars": {"router": True}}, "no model"),
        ({"model_path": None, "unit_vars": {"router": True, "parallel": 2}}, "parallel"),
        ({"model_path": None, "unit_vars": {"router": True}, "sleep_mode": "router"}, "does not sleep"),
        ({"model_path": None, "unit_vars": {"router": True}, "port": None}, "port"),
        ({"model_path": None, "unit_vars": {"router": True}, "port": None, "host": "r"}, "no host"),
    ],
)
def test_what_would_not_work_is_refused_with_its_reason(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match="'glm'") as caught:
        DRIVER.check(a_service(**fields))
    assert says in str(caught.value)


@pytest.mark.parametrize("host", [None, "router"])
def test_a_denied_flag_is_refused_however_it_is_written(host: str | None) -> None:
    for flag in DENIED_FLAGS:
        bare = flag.rstrip("*").lstrip("-")
        for way in (f"-{bare}", f"--{bare}", f"---{bare}", f"--{bare.replace('-', '_')}", f"--{bare}=1"):
            options = {"extra_args": [way, "1"]}
            with pytest.raises(ValueError, match="extra_args may not hold"):
                DRIVER.check(a_service(port=None if host else 8001, host=host, unit_vars=options))


def test_a_draft_model_goes_to_the_gpu_whole_unless_it_is_said() -> None:
    def words(**options: Any) -> list[str]:
        service = a_service(unit_vars={"model_draft": "/m/small.gguf", **options})
        return list(DRIVER.launch(service, Allocation(), Settings()).argv)

    draft = ["--model-draft", "/m/small.gguf", "--gpu-layers-draft"]
    for argv, layers in ((words(), "999"), (words(n_gpu_layers_draft=4), "4")):
        at = argv.index("--model-draft")
        assert argv[at : at + 4] == [*draft, layers]


def test_context_and_layers_are_always_said_and_never_fitted() -> None:
    argv = DRIVER.launch(a_service(), Allocation(), Settings()).argv
    assert argv[3:9] == ("-c", "0", "--n-gpu-layers", "999", "--fit", "off")


clean = st.text(st.characters(exclude_categories=("C", "Zl", "Zp")), min_size=1, max_size=30)
SWITCHES = {"--embeddings", "--reranking", "--metrics"}


@given(
    path=clean,
    unit_vars=st.fixed_dictionaries(
        {},
        optional={
            "n_gpu_layers": st.integers(0, 99),
            "ubatch_size": st.integers(1, 4096),
            "cache_type_k": st.sampled_from(["f16", "q8_0", "q4_0"]),
            "flash_attn": st.sampled_from(["on", "off", "auto", True, False]),
            "mmproj": clean.map(lambda text: "/" + text),
            "reranking": st.booleans(),
            "extra_args": st.lists(clean.filter(lambda text: not text.startswith("-")), max_size=3),
        },
    ),
)
def test_what_is_accepted_reaches_llama_server_as_it_is(path: str, unit_vars: dict[str, Any]) -> None:
    service = a_service(model_path="/" + path, unit_vars=unit_vars)
    argv = DRIVER.launch(service, Allocation(), Settings()).argv
    extra = tuple(unit_vars.get("extra_args", ()))
    assert argv[len(argv) - len(extra) :] == extra
    rest, read = list(argv[1 : len(argv) - len(extra)]), {}
    while rest:
        flag = rest.pop(0)
        assert flag.startswith("-")
        read[flag] = "" if flag in SWITCHES else rest.pop(0)
    assert read["-m"] == "/" + path
    assert read["--alias"] == "glm"
    assert ("--reranking" in read) is unit_vars.get("reranking", False)
    for name in ("n_gpu_layers", "ubatch_size", "cache_type_k", "mmproj"):
        if name in unit_vars:
            assert read["--" + name.replace("_", "-")] == str(unit_vars[name])
    if "flash_attn" in unit_vars:
        assert read["--flash-attn"] == {True: "on", False: "off"}.get(unit_vars["flash_attn"], unit_vars["flash_attn"])


def test_variants_save_what_they_promise() -> None:
    service = a_service(context_size=32768, kv_cache_per_1k=170, unit_vars={"n_layers": 40})
    kv, quarter, half = DRIVER.variants(service)
    assert (kv.kind, kv.saves_mb) == (AlternativeKind.KV_TYPE, 2611)
    assert kv.unit_vars == {"cache_type_k": "q8_0", "cache_type_v": "q8_0"}
    assert (quarter.kind, quarter.unit_vars) == (AlternativeKind.CPU_OFFLOAD, {"n_gpu_layers": 31})
    assert quarter.saves_mb == int((19100 - 32.768 * 170) * 10 / 41)
    assert half.saves_mb == int((19100 - 32.768 * 170) * 20 / 41)
    assert quarter.cost < half.cost
    for variant in (kv, quarter, half):
        DRIVER.check(service.model_copy(update={"unit_vars": {**service.unit_vars, **variant.unit_vars}}))


@pytest.mark.parametrize(("layers", "on_gpu"), [(None, 41), (999, 41), (99, 41), (41, 41), (40, 40)])
def test_all_layers_on_the_gpu_can_be_said_in_several_ways(layers: int | None, on_gpu: int) -> None:
    said = {} if layers is None else {"n_gpu_layers": layers}
    quarter, half = DRIVER.variants(a_service(unit_vars={"n_layers": 40, **said}))
    assert [v.unit_vars["n_gpu_layers"] for v in (quarter, half)] == [31, 21]
    assert [v.saves_mb for v in (quarter, half)] == [19100 * (on_gpu - left) // on_gpu for left in (31, 21)]
    assert "with 10 of 40 layers on the CPU" in quarter.title


def test_a_tiny_model_saves_nothing_by_a_layer_that_is_not_there() -> None:
    (half,) = DRIVER.variants(a_service(unit_vars={"n_layers": 3, "n_gpu_layers": 3}))
    assert (half.unit_vars, half.saves_mb) == ({"n_gpu_layers": 2}, 19100 // 3)


def test_no_variant_is_invented() -> None:
    assert DRIVER.variants(a_service()) == ()
    assert DRIVER.variants(a_service(model_path=None, unit_vars={"router": True})) == ()
    known = {"context_size": 32768, "kv_cache_per_1k": 170}
    assert DRIVER.variants(a_service(unit_vars={"cache_type_k": "q8_0", "cache_type_v": "q8_0"}, **known)) == ()
    assert DRIVER.variants(a_service(unit_vars={"flash_attn": "off"}, **known)) == ()
    assert DRIVER.variants(a_service(unit_vars={"n_layers": 40, "n_gpu_layers": 20})) == ()


ALLOC = (
    "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 7000.00 MiB on device 0: cudaMalloc failed: out of memory"
)
BUFFER = "alloc_tensor_range: failed to allocate CUDA0 buffer of size 7340032000"


@pytest.mark.parametrize(
    ("line", "code", "need_mb"),
    [
        (ALLOC, "out-of-memory", 7000),
        (BUFFER, "out-of-memory", 7000),
        ("llama_model_load: error loading model: unable to allocate CUDA0 buffer", "out-of-memory", None),
        ("llama_kv_cache: failed to allocate buffer for kv cache", "out-of-memory", None),
        ("main: couldn't bind HTTP server socket, hostname: 127.0.0.1, port: 8080", "port-taken", None),
        ("error: invalid argument: --nope", "bad-option", None),
        ("option 'nope' not recognized in preset 'chat'", "bad-option", None),
        ("gguf_init_from_file: failed to open GGUF file '/m/a.gguf'", "bad-model", None),
        ("GGML_ASSERT(n > 0) failed", "crashed", None),
    ],
)
def test_fatal_lines_are_read_with_their_numbers(line: str, code: str, need_mb: int | None) -> None:
    lines = ["GGML_ASSERT(x) failed", line, "common_init_from_params: failed to load model '/m/a.gguf'"]
    found = DRIVER.fatal_line(a_service(), [line] if code == "crashed" else lines)
    assert found is not None
    assert (found.code, found.line, found.need_mb) == (code, line, need_mb)


def test_a_member_reads_only_its_own_lines() -> None:
    member = a_service(port=None, host="router", sleep_mode="router")
    log = [
        "srv load: spawning server instance with name=other on port 4001",
        f"[4001] {ALLOC}",
        "srv load: spawning server instance with name=glm on port 4002",
        "[4001] main: couldn't bind HTTP server socket",
        "[4002] loading",
    ]
    assert DRIVER.fatal_line(member, log) is None
    found = DRIVER.fatal_line(member, [*log, "[4002] error: invalid argument: --x"])
    assert found is not None
    assert found.code == "bad-option"
    by_its_model = [f"[4003] load_model: loading model '{member.model_path}'", f"[4003] {ALLOC}"]
    assert (found := DRIVER.fatal_line(member, [log[3], *by_its_model])) is not None
    assert found.code == "out-of-memory"
    assert DRIVER.fatal_line(member, ["main: couldn't bind HTTP server socket"]) is not None


def test_a_second_try_takes_back_what_the_first_one_said() -> None:
    tried = [
        ALLOC,
        "ggml_gallocr_reserve_n_impl: failed to allocate CUDA1 buffer of size 1073741824",
        "sched_reserve: compute buffer allocation failed, retrying without pipeline parallelism",
    ]
    assert DRIVER.fatal_line(a_service(), [*tried, "main: model loaded"]) is None
    found = DRIVER.fatal_line(a_service(), [*tried, ALLOC])
    assert found is not None
    assert found.code == "out-of-memory"
    member = a_service(port=None, host="router", sleep_mode="router")
    spawned = "srv load: spawning server instance with name=glm on port 4002"
    assert DRIVER.fatal_line(member, [spawned, *(f"[4002] {line}" for line in tried)]) is None


def test_members_with_the_same_model_are_told_apart() -> None:
    member = a_service(port=None, host="router", sleep_mode="router")
    loading = f"load_model: loading model '{member.model_path}'"
    mine = "srv load: spawning server instance with name=glm on port 4001"
    other = "srv load: spawning server instance with name=glm2 on port 4002"
    log = [mine, f"[4001] {loading}", other, f"[4002] {loading}", f"[4002] {ALLOC}"]
    assert DRIVER.fatal_line(member, log) is None
    taken_over = [*log[:2], "srv load: spawning server instance with name=glm2 on port 4001", f"[4001] {ALLOC}"]
    assert DRIVER.fatal_line(member, taken_over) is None
    for another in (f"{member.model_path}.old", f"/other{member.model_path}", f"{member.model_path}2"):
        log = [f"[4003] loading model '{another}'", f"[4003] {ALLOC}", f"[4004] {loading}"]
        assert DRIVER.fatal_line(member, log) is None


def test_every_offer_works() -> None:
    (driver,) = plugin.gpumod_drivers()
    for power in (Driver, ReadsItsLog, OffersVariants, HostsMembers, ReportsActivity):
        assert isinstance(driver.factory(), power)
    (strategy,) = plugin.gpumod_sleep_strategies()
    assert (strategy.name, strategy.drivers, strategy.api) == ("router", ("llamacpp",), PLUGIN_API)
    made = strategy.factory()
    assert isinstance(made, SleepStrategy)
    assert (made.residue_mb(a_service(), 9), made.ram_mb(a_service(), 9)) == (0, 0)


def test_the_unit_holds_hostile_values_as_they_are(tmp_path: Path) -> None:
    service = a_service(model_path='/m/a "b" $HOME %n ; c')
    launch = DRIVER.launch(service, Allocation(), Settings())
    (offer,) = plugin.gpumod_templates()
    handle = Handle(service="s", supervisor="systemd-user", nonce="", launched=service, started_at=0)
    found = Resolved("/opt/llama-server", launch.argv, launch.env, {}, launch.cwd or tmp_path)
    unit = Rendering(tmp_path, "0" * 12, Settings(), "user", [offer.folder]).unit(handle, launch, found)
    assert unit.template == "llamacpp.service.j2"
    text = unit.text
    assert 'ExecStart="/opt/llama-server" "-m" "/m/a \\"b\\" $$HOME %%n ; c" "-c" "0" "--n-gpu-layers" "999"' in text
    assert "Restart=no\n" in text
