"""gpumod doctor over a world: each thing that can be wrong is found, said, and comes with what mends it."""

from __future__ import annotations

import os
import resource
from typing import Any

import pytest

from gpumod.domain.service import Service
from gpumod.operations.gpumod import Gpumod
from gpumod.operations.watch_results import WatchParams
from gpumod.plugins.offers import SleepStrategyOffer
from gpumod.ports import Holder
from gpumod.testing.tools import bare_tools
from gpumod.testing.world_drivers import Nap, world_mode, world_service
from gpumod.testing.world_odd import Oddity, odd_offers

WEB = world_service("web", 3000, 9001)
Patient = Any
"""Of conftest."""


def test_a_machine_on_which_nothing_is_wrong(patient: Patient) -> None:
    patient.box.switch("both")
    found = patient.doctor()
    assert found.ok, found
    said = {check.name: check.message for check in found.checks}
    assert said["running"] == "as defined, and on the GPU: code, web"
    assert said["network"] == "services listen on this computer's loopback alone"
    assert said["suspend"] == "this machine knows no sleep state"
    assert said["ports"] == "2 wanted by services, none taken by others"


# --- what runs --------------------------------------------------------------------------------------------------------


def test_what_answers_from_the_cpu_is_named(patient: Patient) -> None:
    patient.box.switch("both")
    patient.box.world.alive()["web"].mb = {}
    assert list(patient.wrong()) == ["service web"]
    said = patient.said("service web")
    assert (said.level, said.message.partition(":")[0]) == (
        "problem",
        "it answers, but holds 0 of 3000 MiB on the GPU",
    )
    assert "gpumod service restart web" in said.hint
    patient.box.world.alive()["code"].state = "asleep"  # it holds little, and that is right
    patient.box.world.alive()["code"].mb = {0: 300}
    assert list(patient.wrong()) == ["service web"]
    patient.box.world.holder = Holder(pid=7, user="ann", command="switch both", home="/h", since=0)
    assert patient.wrong()["running"].startswith("unknown: where services run is not looked at")
    patient.box.world.holder = None
    patient.box.world.names_processes = False  # then nobody can tell
    assert patient.wrong() == {}


def test_a_definition_that_is_not_what_runs(patient: Patient) -> None:
    patient.box.switch("web")
    patient.box.define(world_service("web", 3000, 9001, residue_mb=200))
    assert "runs with another unit_vars than is defined now" in patient.wrong()["service web"]


def test_services_on_a_card_that_is_lost(patient: Patient) -> None:
    patient.box.switch("web")
    patient.box.world.lost.add(0)
    wrong = patient.wrong()
    assert wrong["gpu 0"].startswith("problem: GPU 0 (world card) is lost")
    assert "it is on GPU 0, which cannot be used" in wrong["service web"]
    assert "running" not in {check.name for check in patient.doctor().checks}


# --- ports and times --------------------------------------------------------------------------------------------------


def test_ports_that_are_taken_and_doubles(patient: Patient) -> None:
    stranger = patient.box.world.foreign(name="nginx", port=9001)
    told = patient.wrong()["service web"]
    assert f"port 9001 is taken by nginx (pid {stranger.pid})" in told
    assert told.endswith("gpumod service edit web --port N")
    patient.box.world.strangers.clear()
    patient.box.define(world_service("again", 10, 9001), world_service("more", 10, 9002))
    assert patient.said("ports").level == "ok"
    assert "web and again" in str(patient.doctor()) or "again and web" in str(patient.doctor())
    patient.box.define(world_mode("twice", "web", "again"))
    assert patient.wrong()["ports"].startswith("problem: again and web want port 9001, and mode twice names more")
    patient.box.switch("web")  # it has the port itself
    assert "service again" not in patient.wrong()


def test_times_that_cannot_work(patient: Patient) -> None:
    patient.measured("web", settled_mb=3000, start_s=25.0)
    assert "its start took 25 s, and startup_timeout is 10: no start can succeed" in patient.wrong()["service web"]
    patient.box.define(world_service("web", 3000, 9001, startup_timeout=28.0))
    assert patient.wrong()["service web"].startswith("warning: its start took 25 s")
    patient.box.define(world_service("web", 3000, 9001, startup_timeout=60.0))
    assert patient.said("times").message == "no time-out is shorter than what was measured"
    patient.measured("code", settled_mb=5000, wake_s=1000.0)
    assert "driver_timeout_s is 900" in patient.wrong()["service code"]


def test_times_of_units(patient: Patient) -> None:
    patient.files.boot(system="running")
    patient.adopt()
    patient.measured("theirs", settled_mb=2000, start_s=120.0)
    patient.files.unit("system", "theirs.service", Type="notify", TimeoutStartUSec="1min 30s", TimeoutStopUSec="2s")
    messages = [check for check in patient.doctor().checks if "(Type=notify)" in check.message]
    assert [check.message for check in messages] == [
        "its unit (Type=notify) is ended after 90 s of starting, and a start took 120"
    ]
    assert any(
        "kills it 2 s after it was asked to stop, and it may take 5" in c.message for c in patient.doctor().checks
    )
    patient.files.unit("system", "theirs.service", Type="exec", TimeoutStartUSec="1min 30s", TimeoutStopUSec="1min")
    assert patient.said("times").level == "ok"


# --- who may reach it -------------------------------------------------------------------------------------------------


def test_services_that_listen_for_the_network(patient: Patient) -> None:
    patient.box.switch("web")
    patient.files.listeners("00000000:2329", "00000000:2328")  # 9001, and 9000, which is nobody's
    assert "it listens on 0.0.0.0, port 9001" in patient.wrong()["service web"]
    patient.box.settings["bind_host"] = "0.0.0.0"
    assert list(patient.wrong()) == ["network"]
    assert "opens every service to the network" in patient.wrong()["network"]


def test_what_may_put_its_model_away_by_itself_is_not_called_wrong(patient: Patient) -> None:
    patient.box.define(WEB.model_copy(update={"unit_vars": {**WEB.unit_vars, "unloads": True}}))
    patient.box.switch("both")
    patient.box.world.alive()["web"].mb = {}
    assert patient.said("service web").level == "unknown"
    assert "put its model away itself" in patient.said("service web").message


# --- systemd ----------------------------------------------------------------------------------------------------------


def test_a_manager_that_is_not_there_or_not_well(patient: Patient) -> None:
    assert patient.said("systemd").message == "it keeps no service here (supervisor world)"
    patient.adopt("user")
    assert patient.wrong()["systemd user"].startswith("problem: your systemd user manager does not run")
    patient.files.boot(user="stopping")
    assert "systemd 252.1 is stopping" in patient.wrong()["systemd user"]
    patient.files.boot(user="degraded")
    assert patient.said("systemd user").level == "ok"
    assert "does not begin at boot -> loginctl enable-linger" in patient.wrong()["linger"]


def test_polkit(patient: Patient) -> None:
    patient.adopt()
    patient.files.boot(system="running")
    patient.files.unit("system", "theirs.service")
    patient.uid = 0
    assert "polkit" not in patient.wrong()
    patient.uid = 1000
    assert patient.wrong()["polkit"].startswith("warning: no rule lets you start and stop units")
    action = "org.freedesktop.systemd1.manage-units"
    patient.files.write("etc/polkit-1/rules.d/50-gpumod.rules", f'{action} action.lookup("unit")')
    assert "polkit" not in patient.wrong()
    patient.files.write("etc/polkit-1/rules.d/90-all.rules", action)
    assert "root's rights for everything" in patient.wrong()["polkit"]


def test_an_adopted_unit_that_is_no_longer_what_was_adopted(patient: Patient) -> None:
    patient.adopt()
    patient.files.boot(system="running")
    patient.files.unit("system", "theirs.service", NeedDaemonReload="yes")
    told = [check.message for check in patient.doctor().checks if check.name == "service theirs"]
    assert "the file of its unit theirs.service was changed since systemd read it" in told


class Deep(Nap):
    """A sleep level that keeps everything in host RAM."""

    def ram_mb(self, service: Service, vram_mb: int) -> int | None:
        return vram_mb


def test_what_sleep_takes_of_host_memory(patient: Patient) -> None:
    offer = SleepStrategyOffer(name="deep", summary="keeps all in host RAM", drivers=("world",), factory=Deep)
    patient.box.offers = (offer,)
    limits = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (1 << 20, limits[1]))
    try:
        assert patient.said("pinned memory").message.startswith("1 MiB may be locked")
        patient.box.define(world_service("code", 5000, 9002, sleep_mode="deep"))
        assert "pinned memory" in patient.wrong()
        said = patient.said("pinned memory")
        assert said.level == "unknown"  # whether the driver counts it is not known
        assert said.message.startswith("code may lock 1 MiB (RLIMIT_MEMLOCK), and asleep it keeps 5000 MiB")
        patient.box.world.ram_mb = 5500
        assert (
            "asleep at deep it takes 5000 MiB of host RAM, of which there are 5500" in patient.wrong()["service code"]
        )
    finally:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, limits)


def test_a_unit_that_would_be_ended_for_its_memory(patient: Patient) -> None:
    patient.box.offers = (SleepStrategyOffer(name="deep", summary="deep", drivers=("world",), factory=Deep),)
    patient.adopt(sleep_mode="deep")
    patient.files.boot(system="running")
    for limit_mb, dies in ((1, True), (2000, False)):
        patient.files.unit("system", "theirs.service", MemoryMax=str(limit_mb << 20), LimitMEMLOCK="infinity")
        told = [check.message for check in patient.doctor().checks if "(MemoryMax=)" in check.message]
        assert len(told) == dies
    assert patient.said("pinned memory").level == "ok"  # the unit says that there is no limit


# --- the computer -----------------------------------------------------------------------------------------------------


def test_swap(patient: Patient) -> None:
    patient.files.memory(2048, 1024)
    assert patient.said("swap").message == "1024 of 2048 MiB free"
    patient.files.memory(2048, 20)
    assert patient.said("swap").level == "warning"


def test_device_files(patient: Patient) -> None:
    patient.files.nvidia()
    assert patient.said("devices").message == "module 580.65.06; 3 device files, all usable"
    (patient.files.root / "dev/nvidia-uvm").unlink()
    assert "/dev/nvidia-uvm is not there" in patient.wrong()["devices"]
    patient.box.settings["sim_machine"] = "/sim"  # which has no devices
    assert "devices" not in patient.wrong()


def test_suspend(patient: Patient) -> None:
    targets = ("suspend", "hibernate", "hybrid-sleep", "suspend-then-hibernate", "sleep")
    patient.files.write("sys/power/state", "freeze mem disk\n")
    assert patient.wrong()["suspend"].startswith("unknown: whether this machine may suspend cannot be looked at")
    patient.files.boot(system="running", user="running")
    for target in targets:
        patient.files.unit("system", f"{target}.target")
    assert patient.said("suspend").level == "ok"
    patient.box.settings["boot_mode"] = "web"
    assert "is to serve from boot on, and may go to sleep" in patient.wrong()["suspend"]
    del patient.box.settings["boot_mode"]
    patient.files.write("system-watch.service")  # `gpumod watch` is installed
    assert "watch" not in patient.wrong()
    assert "suspend" in patient.wrong()
    patient.files.unit("system", "sleep.target", LoadState="masked")
    assert "suspend" not in patient.wrong()
    patient.files.write("user-watch.service")
    assert patient.wrong()["watch"].endswith("-> one is enough; gpumod watch --uninstall --manager user")


def test_what_gpus_hold_over_a_suspend(patient: Patient) -> None:
    patient.files.write("sys/power/state", "mem\n")
    patient.files.boot(system="running")
    patient.files.unit("system", "suspend.target")
    name = "GPU memory over a suspend"
    assert name not in patient.wrong()
    patient.files.nvidia({"PreserveVideoMemoryAllocations": "0"})
    assert patient.wrong()[name].startswith("warning: it is lost: after a resume services fail")
    patient.files.nvidia({"PreserveVideoMemoryAllocations": "1"})
    assert "nvidia-suspend.service and nvidia-resume.service are not enabled" in patient.wrong()[name]
    patient.files.unit("system", "nvidia-suspend.service", UnitFileState="enabled")
    patient.files.unit("system", "nvidia-resume.service", UnitFileState="enabled")
    assert patient.said(name).level == "ok"


def test_models_and_their_folders(patient: Patient) -> None:
    folder = patient.files.root / "models"
    patient.box.settings["models_dir"] = str(folder)
    assert f"{folder} is not there" in patient.wrong()["models"]
    model = patient.files.write("models/x.gguf")
    patient.box.define(world_service("code", 5000, 9002, model_path=str(folder / "y.gguf")))
    assert "y.gguf is not there" in patient.wrong()["service code"]
    patient.box.define(world_service("code", 5000, 9002, model_path=str(model)))
    assert patient.wrong() == {}
    patient.box.settings["models_dir"] = str(model)
    assert f"{model} is a file" in patient.wrong()["models"]


def test_the_home(patient: Patient) -> None:
    patient.box.home.chmod(0o755)
    assert "is open to others" in patient.wrong()["home"]
    patient.box.home.chmod(0o700)
    patient.box.world.free_disk_mb = 10
    assert "10 MiB free" in patient.wrong()["disk"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_what_belongs_to_another_user_than_the_home(patient: Patient) -> None:
    stray = patient.box.home / "stray"
    stray.touch()
    os.chown(stray, 4321, 4321)
    assert "belongs to another user than the home: stray" in patient.wrong()["home"]


def test_a_program_that_services_need(patient: Patient) -> None:
    assert "vllm" not in {check.name for check in patient.doctor().checks}  # nobody asks for that driver
    patient.box.define(world_service("chat", 100, 9003, driver="vllm"))
    assert "vllm was not found, and services need it" in patient.wrong()["vllm"]


def test_a_strangers_driver_that_breaks_is_a_finding(patient: Patient) -> None:
    oddity = Oddity()
    patient.box.offers = odd_offers(oddity)
    patient.box.define(world_service("odd", 100, 9004, driver="odd"))
    assert patient.wrong() == {}
    oddity.raises["launch"] = TypeError("a stranger's bug")
    told = "the driver 'odd' of gpumod-core is broken: launch: TypeError: a stranger's bug"
    assert told in patient.wrong()["service odd"]


# --- others on the card -----------------------------------------------------------------------------------------------


def test_what_a_desktop_has_grown_by_since_the_boot_is_a_hint(patient: Patient) -> None:
    patient.box.world.foreign(300, name="Xorg")
    look = Gpumod(patient.box.machine(), bare_tools()).watch(WatchParams())
    patient.box.world.clock.run(look)
    assert not [check for check in patient.doctor().checks if "after the boot" in check.message]
    patient.box.world.foreign(900, name="firefox")
    grown = next(check for check in patient.doctor().checks if "after the boot" in check.message)
    assert (grown.name, grown.level) == ("gpu 0", "ok")
    assert "others hold 1200 MiB now, and held 300 after the boot" in grown.message
    assert "reserve_mb 900" in grown.hint
    patient.box.world.boot += 1
    assert not [check for check in patient.doctor().checks if "after the boot" in check.message]
