"""What of vLLM only a GPU can show: its share, what sleep frees, what waking needs. Needs a vLLM with CUDA.

`vllm` is looked for on PATH, or named by GPUMOD_TEST_VLLM. The model is tiny and its weights are random: nothing is
downloaded. GPUMOD_TEST_VLLM_MODEL names a larger one.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpumod.adapters.nvml.probe import NvmlProbe
from tests.gpu.conftest import CONTEXT_MB, NEAR_MB, Holder, Home, card, wait_until
from tests.vllm.serve import free_port

pytestmark = [pytest.mark.gpu_required, pytest.mark.timeout(1800)]

SHARE_MB = 6000
RESIDUE_MB = 2500
"""More than a sleeper keeps, by published numbers, and less than half of its share."""
TINY_MODEL = Path(__file__).parents[1] / "vllm" / "tiny_model.py"


@pytest.fixture(scope="session")
def vllm_program() -> str:
    found = shutil.which(os.environ.get("GPUMOD_TEST_VLLM", "vllm"))
    if found is None:
        pytest.skip("no vllm here (GPUMOD_TEST_VLLM names one)")
    return found


@pytest.fixture(scope="session")
def model(vllm_program: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    if named := os.environ.get("GPUMOD_TEST_VLLM_MODEL"):
        return named
    folder = tmp_path_factory.mktemp("model") / "tiny"
    python = Path(vllm_program).with_name("python")
    done = subprocess.run([python, TINY_MODEL, folder], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    return str(folder)


@pytest.fixture
def served(home: Home, vllm_program: str, model: str) -> Callable[..., Any]:
    """Define the service `v` and the mode `with-v`; what it answers to a fixed question."""

    def define(level: str, *options: str) -> Callable[[], str]:
        port = free_port()
        given = (f"vllm_bin={vllm_program}", "enforce_eager=true", "max_num_seqs=4", *options)
        sets = [word for option in given for word in ("--set", option)]
        fields = ("--driver", "vllm", "--port", str(port), "--vram-mb", str(SHARE_MB), "--gpus", "0")
        more = ("--model-path", model, "--context-size", "1024", "--sleep-mode", level, "--startup-timeout", "900")
        home.ok("service", "add", "--id", "v", *fields, *more, *sets)
        home.ok("mode", "create", "with-v", "--services", "v")

        def ask() -> str:
            body = {"model": model, "prompt": "one two", "max_tokens": 16, "temperature": 0, "ignore_eos": True}
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}/v1/completions",
                json.dumps(body).encode(),
                {"Content-Type": "application/json"},
            )
            with urllib.request.urlopen(request, timeout=120) as reply:
                text: str = json.loads(reply.read())["choices"][0]["text"]
                return text

        return ask

    return define


def slowly(home: Home, *args: str) -> tuple[int, Any]:
    """As `Home.gpumod`, for a start that may take minutes before it fails."""
    done = subprocess.run(home.argv(*args), capture_output=True, text=True, timeout=900)
    return done.returncode, json.loads(done.stdout)


@pytest.mark.parametrize("level", ["l1", "l2"])
def test_it_takes_its_share_and_gives_it_back_asleep(probe: NvmlProbe, home: Home, served: Any, level: str) -> None:
    ask = served(level)
    before_mb = card(probe).used_mb
    home.ok("switch", "with-v")
    awake_mb = home.row("v")["vram_mb"]
    assert awake_mb <= SHARE_MB + CONTEXT_MB  # vLLM does not count its context beside the share
    answer = ask()
    for _ in range(2):
        home.ok("service", "sleep", "v")
        assert home.row("v")["state"] == "sleeping"
        assert card(probe).used_mb - before_mb <= RESIDUE_MB
        home.ok("service", "wake", "v")
        assert abs(home.row("v")["vram_mb"] - awake_mb) <= 10 * NEAR_MB
        assert ask() == answer, "the weights that came back are others"
    home.ok("switch", "blank")
    wait_until(lambda: card(probe).used_mb - before_mb <= NEAR_MB, "its memory to come back", 60)


def test_a_wake_without_room_is_named_and_it_sleeps_on(
    probe: NvmlProbe, home: Home, served: Any, holders: Callable[[], Holder]
) -> None:
    ask = served("l1")
    home.ok("switch", "with-v")
    answer = ask()
    home.ok("service", "sleep", "v")
    stranger = holders()
    stranger.tell(f"take {card(probe).free_mb - 1000}")
    code, told = home.gpumod("service", "wake", "v")
    assert code == 3, told  # known before anything is asked
    assert home.row("v")["state"] == "sleeping"
    stranger.end()
    home.ok("service", "wake", "v")
    assert ask() == answer


def test_what_it_says_when_others_hold_its_memory_is_read(
    probe: NvmlProbe, home: Home, served: Any, holders: Callable[[], Holder]
) -> None:
    """`--force` passes over the plan, which would have refused: vLLM itself ends, with the numbers in its log."""
    served("none", "gpu_memory_utilization=0.9")
    holders().tell(f"take {card(probe).total_mb // 2}")
    code, told = slowly(home, "switch", "with-v", "--force")
    assert code == 6, told
    assert told["error"]["code"] == "out-of-memory"
    assert told["error"]["details"]["need_mb"] > told["error"]["details"]["have_mb"] > 0


def test_a_context_that_does_not_fit_is_proposed_shorter(home: Home, served: Any) -> None:
    served("none", "kv_cache_memory_bytes=1000000", "max_model_len=2048")
    code, told = slowly(home, "switch", "with-v")
    assert code == 6, told
    assert told["error"]["details"]["remedy"]["unit_vars"]["max_model_len"] < 2048
    (found,) = told["error"]["details"]["alternatives"]
    home.ok("switch", "with-v", "--with", found)
    assert home.row("v")["state"] == "running"
