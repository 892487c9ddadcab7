"""gpumod's driver against a real vLLM on a CPU, which sleeps in all but memory: run by `nox -s real-vllm`."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gpumod.adapters.asking import Asker
from gpumod.adapters.clock import SystemClock
from gpumod.adapters.http import LoopbackHttp
from gpumod.api import Failed, Launch, Service, Settings, refuse_flags
from gpumod_vllm.driver import VllmDriver
from gpumod_vllm.options import DENIED_FLAGS
from gpumod_vllm.reading import KNOWN
from gpumod_vllm.sleep import AWAKE, L1Sleep, L2Sleep, level_of
from gpumod_vllm.versions import version_in
from tests.vllm.serve import ON_A_CPU, begin, end, free_port, launch_of

URL = os.environ.get("GPUMOD_TEST_VLLM_URL", "")
PROGRAM, MODEL = os.environ.get("GPUMOD_TEST_VLLM", ""), os.environ.get("GPUMOD_TEST_VLLM_MODEL", "")
if not URL:
    pytest.skip("no real vLLM here: nox -s real-vllm installs and starts one", allow_module_level=True)

pytestmark = pytest.mark.timeout(600)
DRIVER, HTTP, CLOCK = VllmDriver(), LoopbackHttp(), SystemClock()
PORT = int(URL.rpartition(":")[2])
PATIENCE: dict[str, Any] = {"sleep_timeout_s": 60, "wake_timeout_s": 60}


def tiny(sleep_mode: str) -> Service:
    fields = {"vram_mb": 1000, "model_path": MODEL, "sleep_mode": sleep_mode, "unit_vars": PATIENCE}
    return Service(id="tiny", driver="vllm", port=PORT, **fields)


async def complete(tokens: int) -> None:
    body = {"model": MODEL, "prompt": "hello", "max_tokens": tokens, "ignore_eos": True}
    assert (await HTTP.request("POST", PORT, "/v1/completions", json_body=body, timeout_s=60)).ok


@pytest.mark.parametrize(("strategy", "level"), [(L1Sleep(), 1), (L2Sleep(), 2)])
async def test_it_sleeps_and_wakes_twice_at_each_level(strategy: Any, level: int) -> None:
    service = tiny(f"l{level}")
    for _ in range(2):
        assert (await DRIVER.probe(service, PORT, HTTP)).state == "ready"
        await strategy.sleep(service, PORT, HTTP, CLOCK)
        assert (await DRIVER.probe(service, PORT, HTTP)).state == "sleeping"
        assert await level_of(PORT, HTTP) == level
        await strategy.wake(service, PORT, HTTP, CLOCK)
    assert (await DRIVER.probe(service, PORT, HTTP)).state == "ready"
    await complete(2)


async def test_another_level_goes_through_a_wake() -> None:
    await L1Sleep().sleep(tiny("l1"), PORT, HTTP, CLOCK)
    await L2Sleep().sleep(tiny("l2"), PORT, HTTP, CLOCK)
    assert await level_of(PORT, HTTP) == 2
    await L1Sleep().wake(tiny("l1"), PORT, HTTP, CLOCK)  # by what it is, not by what is believed
    await complete(2)


async def test_one_that_is_only_paused_is_waited_for_and_not_woken() -> None:
    """A sleep that nobody waits for any more, while a request is in flight."""
    working = asyncio.create_task(complete(600))
    while True:
        activity = await DRIVER.activity(tiny("l1"), PORT, HTTP)
        if activity is not None and activity.in_flight:
            break
    query = [("level", "1"), ("mode", "wait")]
    pausing = asyncio.create_task(HTTP.request("POST", PORT, "/sleep", query=query, timeout_s=60))
    while (await DRIVER.probe(tiny("l1"), PORT, HTTP)).state != "sleeping":
        pass
    assert await level_of(PORT, HTTP) == AWAKE
    with pytest.raises(Failed, match="did not wake"):
        await L1Sleep().wake(tiny("l1"), PORT, HTTP, CLOCK)
    assert not working.done()
    await L1Sleep().sleep(tiny("l1"), PORT, HTTP, CLOCK)
    await working
    assert (await pausing).ok
    assert await level_of(PORT, HTTP) == 1
    await L1Sleep().wake(tiny("l1"), PORT, HTTP, CLOCK)
    await complete(2)


async def test_requests_are_activity_and_our_own_questions_are_none() -> None:
    service = tiny("l1")
    before = await DRIVER.activity(service, PORT, HTTP)
    assert before is not None
    assert before.in_flight == 0
    for _ in range(3):
        await DRIVER.probe(service, PORT, HTTP)
        for path in ("/health", "/v1/models", "/is_sleeping", "/version", "/metrics"):
            await HTTP.request("GET", PORT, path)
    assert await DRIVER.activity(service, PORT, HTTP) == before
    await complete(8)
    after = await DRIVER.activity(service, PORT, HTTP)
    assert after is not None
    assert (after.served or 0) >= (before.served or 0) + 8


async def test_its_files_tell_the_version_that_it_tells_itself() -> None:
    launch = Launch(argv=(PROGRAM, "serve"))
    by_files = await Asker(Settings()).ask("tiny", launch, (PROGRAM, "--version"), Path("/"))
    assert by_files is not None
    told = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True, timeout=300)
    assert version_in(by_files.output) == version_in(told.stdout) != None  # noqa: E711


FORMS = """
import json
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser

actions = make_arg_parser(FlexibleArgumentParser())._actions
print(json.dumps([action.option_strings for action in actions if action.option_strings]))
"""


def test_every_form_of_what_is_gpumods_to_give_is_known() -> None:
    """By the parser that it really has: a flag may have got another name beside its own."""
    python = str(Path(PROGRAM).with_name("python"))
    env = {**os.environ, **ON_A_CPU}
    told = subprocess.run([python, "-c", FORMS], capture_output=True, text=True, timeout=300, env=env, check=True)
    flags = json.loads(told.stdout.splitlines()[-1])
    assert len(flags) > 100
    for forms in flags:
        assert len({is_denied(form) for form in forms}) == 1, forms
        assert len({KNOWN.get(form) for form in forms if not form.startswith("--no-")}) == 1, forms


def is_denied(flag: str) -> bool:
    try:
        refuse_flags([flag], DENIED_FLAGS, abbreviations=True)
    except ValueError:
        return True
    return False


@pytest.fixture
def failing(tmp_path: Path) -> Iterator[Callable[..., tuple[int, list[str]]]]:
    """Starts that end by themselves: exit status and log."""
    begun: list[subprocess.Popen[bytes]] = []

    def start(model: str, port: int, **fields: Any) -> tuple[int, list[str]]:
        log = tmp_path / "log"
        begun.append(begin(launch_of(PROGRAM, model, port, **fields), log, sorted(os.sched_getaffinity(0))))
        code = begun[-1].wait(400)
        return code, log.read_text(errors="replace").splitlines()

    yield start
    for process in begun:
        if process.poll() is None:
            end(process)


@pytest.mark.parametrize(
    ("what", "code"),
    [("flag", "bad-option"), ("model", "bad-model"), ("port", "port-taken"), ("length", "out-of-memory")],
)
def test_why_it_does_not_start_is_read_in_its_log(failing: Any, tmp_path: Path, what: str, code: str) -> None:
    options: dict[str, Any] = {"vllm_bin": PROGRAM, "enforce_eager": True, "kv_cache_memory_bytes": 256 * 2**20}
    fields: dict[str, Any] = {"unit_vars": options}
    if what == "flag":
        options["extra_args"] = ["--no-such-flag-of-vllm"]
    if what == "length":
        options |= {"kv_cache_memory_bytes": 2_000_000, "max_num_seqs": 4}
        fields["context_size"] = 2048
    model = str(tmp_path / "nothing") if what == "model" else MODEL
    status, log = failing(model, PORT if what == "port" else free_port(), **fields)
    assert status not in (0, -signal.SIGKILL)
    fatal = DRIVER.fatal_line(tiny("l1"), log)
    assert fatal is not None, log[-30:]
    assert fatal.code == code, fatal
