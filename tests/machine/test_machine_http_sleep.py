"""A service of one's own sleeps in a switch: VRAM and host RAM at every step, and each fault of a sleep by its name."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.machine.conftest import Machine, Outcome

pytestmark = [pytest.mark.sim, pytest.mark.slow]

FULL_MB, REST_MB, RAM_MB, OTHER_MB = 16_000, 300, 12_000, 12_000
BOTH = {"own": FULL_MB}
FREE = json.dumps({"unload_models": True, "free_memory": True})
COMFY = (
    "loads_by_use=true", "sleep_path=/free", f"sleep_body={FREE}", "asleep_path=/system_stats",
    "asleep_field=devices.0.torch_vram_total", "asleep_at_most=0", "activity_path=/queue",
    'activity_fields=["queue_running","queue_pending"]', 'env={"SIM_LOADS_BY_USE":"1"}',
)  # fmt: skip
OWN = (
    "sleep_path=/sleep", "wake_path=/wake", "activity_path=/activity", f"asleep_ram_mb={RAM_MB}",
    f'env={{"SIM_ASLEEP_RAM_MB":"{RAM_MB}"}}', "sleep_timeout_s=0.5",
)  # fmt: skip


def add(machine: Machine, service: str, vram_mb: int, *options: str, sleeps: bool = False) -> int:
    port = machine.ports[service] = machine.unused.pop()
    words = ["service", "add", "--id", service, "--driver", "fastapi", "--port", str(port), "--vram-mb", str(vram_mb)]
    words += ["--sleep-mode", "http", "--asleep-mb", str(REST_MB)] if sleeps else []
    for option in ("app=app:app", *options):
        words += ["--set", option]
    machine.ok(*words)
    return port


@pytest.fixture
def apps(machine: Machine) -> Machine:
    """`own`, which takes two thirds of the card awake, and `other`, which takes half: both awake do not fit."""
    add(machine, "own", FULL_MB, *OWN, sleeps=True)
    add(machine, "other", OTHER_MB)
    machine.ok("mode", "create", "day", "--services", "own")
    machine.ok("mode", "create", "night", "--services", "own,other", "--asleep", "own")
    return machine


def ram(machine: Machine) -> dict[str, int]:
    from gpumod_sim.ledger import Ledger

    return {row["service"]: row["mb"] for row in Ledger(machine.sim).public()["ram"]}


def steps(done: Outcome) -> list[tuple[str, str]]:
    return [(one["action"], one["service"]) for one in done.json["steps"] if one["action"] != "verify"]


def step_of(done: Outcome, action: str) -> Any:
    return next(step for step in done.json["plan"]["steps"] if step["action"] == action)


def test_vram_and_ram_are_as_planned_at_every_step(apps: Machine) -> None:
    machine, watch = apps, apps.watch()
    machine.change("switch", "day", watch=watch)
    machine.whole("day")
    assert (machine.held(), ram(machine)) == (BOTH, {})

    done = machine.change("switch", "night", watch=watch)
    machine.whole("night")
    assert steps(done) == [("sleep", "own"), ("start", "other")]
    assert (machine.held(), ram(machine)) == ({"own": REST_MB, "other": OTHER_MB}, {"own": RAM_MB})
    assert step_of(done, "sleep")["ram"] == {"before_mb": 0, "peak_mb": RAM_MB, "after_mb": RAM_MB}
    sleep, start = (step_of(done, action)["gpus"][0] for action in ("sleep", "start"))
    assert (sleep["before_mb"], sleep["after_mb"]) == (FULL_MB, REST_MB)
    assert (start["peak_mb"], start["after_mb"]) == (REST_MB + OTHER_MB, REST_MB + OTHER_MB)
    asked = urllib.request.Request(f"http://127.0.0.1:{machine.ports['own']}/echo", b"x")
    with pytest.raises(urllib.error.HTTPError, match="503") as refused:
        urllib.request.urlopen(asked, timeout=5)
    refused.value.close()

    done = machine.change("switch", "day", watch=watch)
    machine.whole("day")
    assert steps(done) == [("stop", "other"), ("wake", "own")]
    assert step_of(done, "wake")["ram"]["after_mb"] == 0
    assert (machine.held(), ram(machine)) == (BOTH, {})
    with urllib.request.urlopen(asked, timeout=5) as reply:
        reply.read()
    machine.change("switch", "blank", watch=watch)
    machine.nothing_left()
    watch.check()


def test_a_sleep_for_which_the_computer_has_no_memory_is_not_begun(apps: Machine) -> None:
    apps.change("switch", "day")
    apps.sim.configure(ram_mb=RAM_MB - 1)
    done = apps.change("switch", "night")
    assert steps(done) == [("stop", "own"), ("start", "other")]
    assert any(f"asleep it takes {RAM_MB} MiB of host RAM" in note for note in done.json["notes"])
    assert (apps.held(), ram(apps)) == ({"other": OTHER_MB}, {})


def test_a_request_in_flight_gets_its_answer_before_the_sleep(apps: Machine) -> None:
    apps.ok("service", "edit", "own", "--set", "sleep_timeout_s=10")
    apps.change("switch", "day")
    got: list[Any] = []

    def ask() -> None:
        with urllib.request.urlopen(f"http://127.0.0.1:{apps.ports['own']}/echo?seconds=1", b"whole", 20) as reply:
            got.append(json.loads(reply.read()))

    asking = threading.Thread(target=ask)
    asking.start()
    wait_for_flight(apps)
    apps.change("switch", "night")
    asking.join()
    assert got == [{"echo": "whole", "query": {"seconds": "1"}}]


def wait_for_flight(machine: Machine) -> None:
    from tests.machine.conftest import fetch, wait_until

    url = f"http://127.0.0.1:{machine.ports['own']}/activity"
    wait_until(lambda: json.loads(fetch(url))["in_flight"], "the request to be in flight")


def test_each_fault_of_a_sleep_is_named_and_undone(apps: Machine) -> None:
    apps.change("switch", "day")
    pid = pid_of(apps)
    for kind, code in (
        ("sleep-500", "sleep-failed"),
        ("sleep-refused", "busy"),
        ("sleep-hangs", "sleep-timeout"),
        ("sleep-dies", "sleep-failed"),
    ):
        apps.fault("own", kind)
        failed = apps.change("switch", "night", code=6)
        assert (failed.error["code"], failed.json["status"]) == (code, "rolled-back"), (kind, failed)
        assert "own" in failed.error["message"]
        apps.clear()
        apps.whole("day")
        assert (apps.held(), ram(apps)) == (BOTH, {}), kind
        died, late = kind == "sleep-dies", kind == "sleep-hangs"  # what did not answer may still fall asleep
        assert (pid_of(apps) == pid) is not (died or late), kind
        pid = pid_of(apps)

    apps.fault("own", "sleep-frees-nothing")
    done = apps.change("switch", "night")
    assert any("own" in note and "freed nothing" in note and "stopped instead" in note for note in done.json["notes"])
    assert apps.states() == {"other": "running"}
    assert (apps.held(), ram(apps)) == ({"other": OTHER_MB}, {})


def pid_of(machine: Machine) -> int:
    return int(next(row["pid"] for row in machine.status()["services"] if row["id"] == "own"))


def test_a_wake_that_fails_is_named_and_undone(apps: Machine) -> None:
    apps.change("switch", "night")
    held = apps.held()
    apps.fault("own", "wake-oom")
    failed = apps.change("switch", "day", code=6)
    assert failed.error["code"] in ("out-of-memory", "wake-failed"), failed
    assert "own" in failed.error["message"]
    apps.clear()
    apps.whole("night")
    assert (apps.held(), ram(apps)) == (held, {"own": RAM_MB})
    apps.change("switch", "day")
    assert (apps.held(), ram(apps)) == (BOTH, {})


def test_a_server_that_loads_by_use_gives_its_memory_and_takes_it_again(machine: Machine) -> None:
    """As ComfyUI does: it starts empty, and nothing but its memory tells whether it sleeps."""
    port = add(machine, "images", FULL_MB, *COMFY, sleeps=True)
    add(machine, "other", OTHER_MB)
    machine.ok("mode", "create", "draw", "--services", "images")
    machine.ok("mode", "create", "talk", "--services", "images,other", "--asleep", "images")
    watch = machine.watch()

    def draw(seconds: float = 0) -> None:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/echo?seconds={seconds}", b"x", timeout=20).read()

    machine.change("switch", "draw", watch=watch)
    machine.whole("draw")
    assert machine.held() == {"images": REST_MB}, "nobody has used it yet"
    draw()
    assert machine.held() == {"images": FULL_MB}
    machine.whole("draw")

    asking = threading.Thread(target=draw, args=(0.7,))
    asking.start()
    done = machine.change("switch", "talk", watch=watch)
    asking.join()
    machine.whole("talk")
    assert steps(done) == [("sleep", "images"), ("start", "other")]
    assert machine.states() == {"images": "sleeping", "other": "running"}
    assert machine.held() == {"images": REST_MB, "other": OTHER_MB}

    done = machine.change("switch", "draw", watch=watch)
    assert steps(done) == [("stop", "other"), ("wake", "images")]
    machine.whole("draw")
    assert machine.states() == {"images": "running"}, "its room is its own, though it holds nothing yet"
    draw()
    machine.change("service", "sleep", "images", watch=watch)
    assert machine.states() == {"images": "sleeping"}
    draw()  # behind gpumod's back
    assert machine.states() == {"images": "running"}
    machine.fault("images", "sleep-frees-nothing")
    done = machine.change("switch", "talk")
    assert any("freed nothing" in note for note in done.json["notes"])
    watch.check()


def test_what_the_simulated_app_frees_is_read_where_the_preset_says(machine: Machine) -> None:
    """The preset for ComfyUI asks for what the stand-in, and ComfyUI, tell."""
    import yaml

    import gpumod_fastapi

    preset = yaml.safe_load((Path(gpumod_fastapi.__file__).parent / "presets" / "comfyui" / "comfyui.yaml").read_text())
    options = preset["unit_vars"]
    known = {name: json.loads(value) if value[0] in "[{" or value in ("true", "0") else value
             for name, _, value in (option.partition("=") for option in COMFY)}  # fmt: skip
    for name in ("sleep_path", "sleep_body", "asleep_path", "asleep_field", "activity_path", "activity_fields"):
        assert options[name] == known[name]
    assert options["loads_by_use"]
