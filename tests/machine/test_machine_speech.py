"""The example of speech to text, as a user would run it: its app under uvicorn, put to sleep in a switch.

Its transcriber is a stand-in that tells how long the sound is; it holds memory of the simulated card as a model would.
"""

from __future__ import annotations

import io
import json
import shutil
import sys
import threading
import urllib.error
import urllib.request
import wave
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

import gpumod_sim

if TYPE_CHECKING:
    from tests.machine.conftest import Machine

pytestmark = [pytest.mark.sim, pytest.mark.slow]

EXAMPLE = Path(__file__).parents[2] / "examples" / "speech"
FULL_MB, REST_MB = 4500, 500
ON_THE_CARD = """
import os, sys, time
sys.path.insert(0, {package!r})
from gpumod_sim.ledger import Ledger
from gpumod_sim.machine import Machine
from transcribers import StandIn

ledger = Ledger(Machine({machine!r}))

class OnTheCard(StandIn):
    def __init__(self):
        if os.path.exists("broken"):
            raise RuntimeError("CUDA error: out of memory")
        ledger.hold("speech", {{0: {full}}})

    def __del__(self):
        ledger.hold("speech", {{0: {rest}}})

    def transcribe(self, audio):
        time.sleep(float(os.environ["TAKES_S"]))
        return super().transcribe(audio)
"""


def sound(seconds: float) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(b"\0\0" * int(8000 * seconds))
    return buffer.getvalue()


@pytest.fixture
def speech(machine: Machine, tmp_path: Path) -> Machine:
    folder = tmp_path / "speech"
    shutil.copytree(EXAMPLE, folder)
    package = str(Path(gpumod_sim.__file__).parents[1])
    stand_in = ON_THE_CARD.format(package=package, machine=machine.sim.folder, full=FULL_MB, rest=REST_MB)
    (folder / "on_the_card.py").write_text(stand_in)
    port = machine.ports["speech"] = machine.unused.pop()
    definition = yaml.safe_load((folder / "speech.yaml").read_text())
    assert (definition["vram_mb"], definition["asleep_mb"]) == (FULL_MB, REST_MB)
    env = {"SPEECH_TRANSCRIBER": "on_the_card:OnTheCard", "TAKES_S": "0.5"}
    uvicorn = str(Path(sys.executable).with_name("uvicorn"))
    definition["unit_vars"] |= {"cwd": str(folder), "env": env, "uvicorn_bin": uvicorn}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**definition, "port": port}))
    machine.ok("preset", "load", "--folder", str(tmp_path / "mine.yaml"))
    machine.ok("mode", "create", "listen", "--services", "speech")
    machine.ok("mode", "create", "rest", "--services", "speech", "--asleep", "speech")
    return machine


def transcribe(machine: Machine, audio: bytes) -> Any:
    url = f"http://127.0.0.1:{machine.ports['speech']}/v1/audio/transcriptions"
    with urllib.request.urlopen(urllib.request.Request(url, audio), timeout=20) as reply:
        return json.loads(reply.read())


def test_the_example_listens_sleeps_and_wakes(speech: Machine) -> None:
    machine, watch = speech, speech.watch()
    machine.change("switch", "listen", watch=watch)
    machine.whole("listen")
    assert machine.held() == {"speech": FULL_MB}
    got: list[Any] = []
    asking = threading.Thread(target=lambda: got.append(transcribe(machine, sound(1.5))))
    asking.start()
    from tests.machine.conftest import fetch, wait_until

    activity = f"http://127.0.0.1:{machine.ports['speech']}/gpumod/activity"
    wait_until(lambda: json.loads(fetch(activity))["in_flight"], "the request to be in flight")
    machine.change("switch", "rest", watch=watch)
    asking.join()
    assert got == [{"text": "1.5 seconds of sound"}], "it had its answer before the sleep"
    assert machine.held() == {"speech": REST_MB}
    assert machine.states() == {"speech": "sleeping"}
    with pytest.raises(urllib.error.HTTPError) as refused:
        transcribe(machine, sound(1))
    with refused.value as answer:
        assert (answer.code, answer.headers["Retry-After"]) == (503, "5")

    machine.change("switch", "listen", watch=watch)
    machine.whole("listen")
    assert transcribe(machine, sound(0.5)) == {"text": "0.5 seconds of sound"}
    with pytest.raises(urllib.error.HTTPError, match="422") as refused:
        transcribe(machine, b"no sound")
    refused.value.close()
    machine.change("switch", "blank", watch=watch)
    machine.nothing_left()
    watch.check()


def test_a_model_that_does_not_load_again_is_told_with_its_reason(speech: Machine, tmp_path: Path) -> None:
    machine = speech
    machine.change("switch", "rest")
    (tmp_path / "speech" / "broken").touch()
    failed = machine.change("switch", "listen", "--no-rollback", code=7)
    assert failed.error["code"] in ("wake-failed", "out-of-memory")
    assert "out of memory" in failed.error["why"]
    assert machine.states() == {"speech": "unhealthy"}
    (tmp_path / "speech" / "broken").unlink()
    machine.ok("recover", "--resume")
    machine.whole("listen")
    assert transcribe(machine, sound(1)) == {"text": "1.0 seconds of sound"}
