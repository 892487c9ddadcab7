"""What the plugin offers, the log lines that it reads, and the unit that it brings."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from gpumod.adapters.launches import Resolved
from gpumod.adapters.systemd.rendering import Rendering
from gpumod.api import (
    PLUGIN_API,
    Allocation,
    Driver,
    OffersVariants,
    ReadsItsLog,
    Service,
    Settings,
    SleepStrategy,
    VramEstimator,
)
from gpumod.domain.run import Handle
from gpumod_vllm import plugin
from gpumod_vllm.driver import VllmDriver

SERVICE = Service(id="m", driver="vllm", port=8001, vram_mb=9, model_id="org/m")


def test_every_offer_works() -> None:
    (driver,) = plugin.gpumod_drivers()
    made = driver.factory()
    for power in (Driver, ReadsItsLog, OffersVariants):
        assert isinstance(made, power)
    strategies = {offer.name: offer for offer in plugin.gpumod_sleep_strategies()}
    assert set(strategies) == {"l1", "l2"}
    for offer in strategies.values():
        assert isinstance(offer.factory(), SleepStrategy)
        assert offer.drivers == ("vllm",)
        assert offer.api == PLUGIN_API
    (estimator,) = plugin.gpumod_vram_estimators()
    assert isinstance(estimator.factory(), VramEstimator)


NO_ROOM = (
    "(EngineCore pid=7) ValueError: Free memory on device cuda:0 (1.0/23.99 GiB) on startup is less than "
    "desired GPU memory utilization (0.9, 21.59 GiB). Decrease GPU memory utilization or reduce GPU memory."
)
NO_KV = (
    "ValueError: To serve at least one request with the model's max seq len (32768), (4.5 GiB KV cache is "
    "needed, which is larger than the available KV cache memory (2.25 GiB). Based on the available memory, "
    "the estimated maximum model length is 16384. Try increasing `gpu_memory_utilization`"
)
TRIED = (
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 594.00 MiB. GPU 0 has a total capacity of "
    "23.52 GiB of which 128.50 MiB is free. Process 1 has 3 GiB memory in use."
)
FATAL = [
    (NO_ROOM, "out-of-memory", 22109, 1024, "gpu_memory_utilization"),
    (NO_ROOM.replace(" cuda:0", ""), "out-of-memory", 22109, 1024, "gpu_memory_utilization"),  # before 0.15
    (NO_KV, "out-of-memory", 4608, 2304, "16384"),
    ("x larger than the available KV cache memory", "out-of-memory", None, None, "context_size"),
    (TRIED, "out-of-memory", 594, 129, "stop what else"),
    ("CUDA out of memory. Tried to allocate 2.00 GiB.", "out-of-memory", 2048, None, ""),
    ("ValueError: No available memory for the cache blocks.", "out-of-memory", None, None, "raise"),
    ("Failed to load model - not enough GPU memory. Try lowering", "out-of-memory", None, None, ""),
    ("OSError: [Errno 98] Address already in use", "port-taken", None, None, "port"),
    ("(APIServer pid=7) OSError: [Errno 98] Address already in use", "port-taken", None, None, "port"),
    ("zmq.error.ZMQError: Address already in use (addr='tcp://127.0.0.1:5570')", "port-taken", None, None, "port"),
    (
        "huggingface_hub.errors.HFValidationError: Repo id must be in the form 'repo_name' or 'namespace/repo_name'",
        "bad-model",
        None,
        None,
        "model_path",
    ),
    ("torch.OutOfMemoryError: no more", "out-of-memory", None, None, ""),
    ("vllm: error: unrecognized arguments: --nope", "bad-option", None, None, "unit_vars"),
    ("OSError: no/such is not a local folder and is not a valid model identifier", "bad-model", None, None, "model_id"),
    ("RuntimeError: Engine core initialization failed. See root cause above.", "crashed", None, None, ""),
]


@pytest.mark.parametrize(
    ("line", "code", "need_mb", "have_mb", "hint"),
    FATAL,
)
def test_fatal_lines_are_read_with_their_numbers(
    line: str, code: str, need_mb: int | None, have_mb: int | None, hint: str
) -> None:
    after = "RuntimeError: Engine core initialization failed. Failed core proc(s): {}"
    for lines in (["INFO loading", line, after], [after, line]):
        found = VllmDriver().fatal_line(SERVICE, lines)
        assert found is not None
        if code == "crashed":
            assert found.code == code
            continue
        assert (found.code, found.line, found.need_mb, found.have_mb) == (code, line, need_mb, have_mb)
        assert hint in found.hint


def test_ordinary_lines_are_not_fatal() -> None:
    lines = ["INFO Free memory on device cuda:0 (20/24 GiB)", "WARNING retrying", "INFO It took 3 seconds to sleep"]
    assert VllmDriver().fatal_line(SERVICE, lines) is None


GETS_OVER = (
    "ERROR 08-06 20:11:02 [config.py:130] Error retrieving safetensors: Repo id must be in the form 'repo_name' or "
    "'namespace/repo_name': '/models/gpt-oss-20b'. Use `repo_type` argument if needed., retrying 1 of 2\n"
    "(EngineCore_DP0 pid=7) No valid triton configs. OutOfMemoryError: out of resource: triton_mm Required: 131072 "
    "Hardware limit:101376 Reducing block sizes or `num_stages` may help.\n"
    "WARNING 11-20 10:00:00 [parallel.py:746] Address already in use. Retrying with a new port.\n"
    "[W1120 10:00:00.1 socket.cpp:209] [c10d] The server socket has failed to bind to [::]:29500 (errno: 98 - "
    "Address already in use)."
).splitlines()


@pytest.mark.parametrize("line", GETS_OVER)
def test_what_it_gets_over_is_not_fatal(line: str) -> None:
    """A start that goes on would be ended for it."""
    assert VllmDriver().fatal_line(SERVICE, ["INFO loading", line]) is None


def test_the_unit_holds_hostile_values_as_they_are(tmp_path: Path) -> None:
    hostile = 'a "b" $HOME %n ; c\\'
    service = SERVICE.model_copy(update={"name": hostile, "model_path": hostile, "unit_vars": {"env": {"X": hostile}}})
    launch = VllmDriver().launch(service, Allocation(), Settings())
    (offer,) = plugin.gpumod_templates()
    handle = Handle(service="s", supervisor="systemd-user", nonce="", launched=service, started_at=0)
    found = Resolved("/opt/vllm", launch.argv, launch.env, {}, launch.cwd or tmp_path)
    unit = Rendering(tmp_path, "0" * 12, Settings(), "user", [offer.folder]).unit(handle, launch, found)
    assert unit.template == "vllm.service.j2"
    text = unit.text
    (start,) = [line for line in text.splitlines() if line.startswith("ExecStart=")]
    words = [word.replace("$$", "$").replace("%%", "%") for word in shlex.split(start.removeprefix("ExecStart="))]
    assert words == ["/opt/vllm", *launch.argv[1:]]
    assert 'Environment="X=a \\"b\\" $HOME %%n ; c\\\\"' in text
    assert "Restart=no\n" in text
    assert "[Install]" not in text
