"""The ledger: what is held, by whom, until when."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpumod.api import Failed, MachineLacks, Settings, UsageError
from gpumod_sim import faults, law, procs
from gpumod_sim.create import create_machine
from gpumod_sim.ledger import Ledger, OutOfMemoryError
from gpumod_sim.machine import Machine
from gpumod_sim.plugin import gpumod_gpu_probes


def test_memory_is_held_absolutely_and_all_or_nothing(box):
    box.ledger.hold("a", {0: 1000, 1: 2000})
    box.ledger.hold("a", {0: 1500})
    assert (box.used(0), box.used(1)) == (1500, 2000)
    with pytest.raises(OutOfMemoryError) as caught:
        box.ledger.hold("a", {0: 100, 1: 30000})
    assert (caught.value.gpu, caught.value.need_mb, caught.value.free_mb) == (1, 28000, 22576)
    assert (box.used(0), box.used(1)) == (1500, 2000)
    box.ledger.hold("a", {0: 0, 1: 0})
    assert box.ledger.public()["allocations"] == []


def test_the_dead_are_forgotten_after_the_lag(box, until):
    process = box.start("../libexec/game", "a", "0", "4000")
    until(box.held)
    box.machine.configure(lag_s=0.2)
    process.kill()
    while procs.start_time(process.pid) is not None:  # a zombie counts as dead
        time.sleep(0.001)
    assert box.used() == 4000
    assert box.held() == {}
    time.sleep(0.25)
    assert box.used() == 0
    process.wait()


def test_what_the_living_give_back_stays_in_use_for_a_while(box):
    box.machine.configure(living_lag_s=60)
    box.ledger.hold("a", {0: 4000}, ram_mb=10)
    box.ledger.hold("a", {0: 1000}, ram_mb=0)
    assert (box.used(), box.held()) == (4000, {"a": 4000}), "the counter is behind, and knows whose it was"
    assert box.held(None) == {}, "host RAM is given back at once"
    box.ledger.hold("a", {0: 24000})  # its own memory is no obstacle to itself
    box.ledger.hold("a", {0: 0})
    assert box.held() == {"a": 24000}
    box.machine.configure(living_lag_s=0)
    assert (box.used(), box.held()) == (0, {})
    last = json.loads(Path(box.machine.changes_path).read_text().splitlines()[-1])
    assert (last["event"], last["mb"], last["used_mb"]["0"]) == ("given-back", 0, 0)


def test_the_lag_of_the_living_passes(box, until):
    box.machine.configure(living_lag_s=0.05)
    box.ledger.hold("a", {0: 4000})
    box.ledger.hold("a", {0: 1000})
    begun = time.monotonic()
    until(lambda: box.used() == 1000)
    assert time.monotonic() - begun > 0.03
    box.ledger.hold("a", {0: 400}, at_once=True)
    assert box.used() == 400


def test_a_reused_pid_is_somebody_else(box):
    box.ledger.hold("a", {0: 1000})
    rows = json.loads(Path(box.machine.ledger_path).read_text())
    rows["rows"][0]["start"] -= 1
    Path(box.machine.ledger_path).write_text(json.dumps(rows))
    assert box.held() == {}


def test_a_leak_stays_until_it_is_cleared(box, until):
    faults.put(box.machine, "a", "leak", 700)
    process = box.start("../libexec/game", "a", "0", "4000")
    until(box.held)
    process.terminate()
    process.wait()
    until(lambda: box.used() == 700)
    assert box.ledger.public()["allocations"] == [{"pid": None, "service": "leaked by a", "gpu": 0, "mb": 700}]
    faults.clear(box.machine, "a")
    box.ledger.forget_leaks("a")
    assert box.used() == 0


def test_the_log_of_changes_is_bounded(box):
    path = box.folder / "changes.jsonl"
    with path.open("wb") as file:
        file.truncate(9_000_000)
    box.ledger.hold("a", {0: 1})
    assert path.stat().st_size < 1000
    assert (box.folder / "changes.jsonl.1").exists()


TAKE = """
import sys; sys.path.insert(0, sys.argv[1])
from gpumod_sim.ledger import Ledger
from gpumod_sim.machine import Machine
ledger = Ledger(Machine(sys.argv[2]))
for number in range(40):
    ledger.hold("w", {0: 100 + number % 2})
"""


def test_many_writers_lose_nothing(box):
    argv = [sys.executable, "-IS", "-c", TAKE, str(Path(law.__file__).parent.parent), box.machine.folder]
    writers = [subprocess.Popen(argv) for _ in range(3)]
    while any(writer.poll() is None for writer in writers):
        json.loads(Path(box.machine.ledger_path).read_text())
        time.sleep(0.001)
    changes = [json.loads(line) for line in Path(box.machine.changes_path).read_text().splitlines()]
    held = [change for change in changes if change["event"] == "hold"]
    assert len(held) == 120
    assert max(change["used_mb"]["0"] for change in changes) <= 303
    assert [writer.returncode for writer in writers] == [0, 0, 0]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1200)), max_size=12))
def test_used_never_exceeds_the_card(tmp_path_factory, holds):
    folder = tmp_path_factory.mktemp("machine")
    create_machine(folder, [("A", 1000), ("B", 500)])
    machine = Machine(str(folder))
    machine.configure(living_lag_s=0)
    ledger = Ledger(machine)
    expected = {0: 0, 1: 0}
    for gpu, mb in holds:
        try:
            ledger.hold("a", {gpu: mb})
            expected[gpu] = mb
        except OutOfMemoryError:
            assert mb > (1000, 500)[gpu]
        assert {gpu: ledger.used_mb(gpu) for gpu in (0, 1)} == expected


def test_a_machine_is_made_once_and_keeps_its_cards(tmp_path):
    folder = tmp_path / "m"
    settings = create_machine(folder, [("A", 1000)])
    assert settings == {"sim_machine": str(folder), "bin_path": str(folder / "bin"), "gpu_probe": "sim"}
    Machine(str(folder)).configure(speed=7)
    assert create_machine(folder, [("A", 1000)]) == settings
    assert Machine(str(folder)).speed() == 7
    assert Ledger(Machine(str(folder))).total_mb(None) == 65_536, "whatever the host has"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "machine.json").stat().st_mode & 0o777 == 0o600
    with pytest.raises(UsageError, match="other cards"):
        create_machine(folder, [("A", 2000)])
    for gpus in ([], [("A", 0)]):
        with pytest.raises(UsageError):
            create_machine(tmp_path / "n", gpus)


def test_a_folder_of_others_is_no_place_for_a_machine(tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    (shared / "theirs").touch()
    for folder, code in ((shared, "not-empty"), (shared / "theirs", "bad-folder"), (Path("/proc/none"), "bad-folder")):
        with pytest.raises((Failed, UsageError)) as refused:
            create_machine(folder, [("A", 1000)])
        assert refused.value.code == code
    assert [path.name for path in shared.iterdir()] == ["theirs"]
    assert shared.stat().st_mode & 0o7777 == 0o1777


def test_programs_start_from_a_folder_with_odd_signs(tmp_path):
    folder = tmp_path / "a 'folder' {with} \"signs\""
    create_machine(folder, [("A", 1000)])
    done = subprocess.run([folder / "bin" / "vllm", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == "0.33.0\n"


def test_the_probe_reads_what_the_driver_would_say(box):
    (offer,) = gpumod_gpu_probes()
    assert offer.available(Settings()) == "this home has no simulated machine"
    configured = Settings(sim_machine=box.settings["sim_machine"])
    assert offer.available(configured) is None
    probe = offer.factory(configured)
    box.ledger.hold("a", {1: 3000})
    readings, processes = probe.read()
    assert [(r.index, r.name, r.total_mb, r.used_mb, r.free_mb) for r in readings] == [
        (0, "RTX 4090", 24564, 0, 24564),
        (1, "RTX 3090", 24576, 3000, 21576),
    ]
    assert [(p.pid, p.gpu, p.vram_mb, p.service) for p in processes] == [(os.getpid(), 1, 3000, None)]
    assert probe.child_env([0, 1])["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert probe.machine_dir() == box.folder
    assert probe.ram().total_mb > 0
    box.machine.configure(ram_mb=64000)
    box.ledger.hold("a", {}, ram_mb=4000)
    assert (probe.ram().total_mb, probe.ram().available_mb) == (64000, 60000)
    with pytest.raises(OutOfMemoryError):
        box.ledger.hold("a", {}, ram_mb=70000)
    with pytest.raises(MachineLacks) as caught:
        offer.factory(Settings(sim_machine=str(box.folder / "nowhere"))).read()
    assert caught.value.code == "no-simulated-machine"


def test_faults_are_checked(box):
    for kind, amount in (
        ("nonsense", None),
        ("leak", None),
        ("leak", -1.0),
        ("hang", 3.0),
        ("slow-start", float("nan")),
    ):
        with pytest.raises(ValueError, match="fault"):
            faults.put(box.machine, "a", kind, amount)
    faults.put(box.machine, "a", "hang")
    faults.put(box.machine, "a", "setsid-worker")
    faults.put(box.machine, "b", "leak", 5)
    assert faults.value(box.machine, "a", "setsid-worker") == 500
    faults.clear(box.machine, "a", "hang")
    assert faults.value(box.machine, "a", "hang") is None
    faults.clear(box.machine)
    assert faults.all_faults(box.machine) == {}


@given(st.integers(0, 200_000), st.integers(0, 200_000))
def test_the_law_keeps_the_order_of_things(small, large):
    small, large = sorted((small, large))
    for times in (law.wake_s, law.llama_load_s, law.vllm_load_s, law.reload_s):
        assert 0 < times(small) <= times(large)
    assert 0 < law.sleep_s(1, large) < law.wake_s(large)
    assert law.wake_s(large) < law.vllm_import_s() + law.vllm_load_s(large) + law.vllm_compile_s(eager=True)
    assert 0 <= law.vllm_residue_mb(small, large) <= min(1100, large)


@given(st.integers(), st.text())
def test_noise_is_small_and_repeats(seed, what):
    assert law.noise(seed, what) == law.noise(seed, what)
    assert 0.5 < law.noise(seed, what) < 2
    assert 1 <= law.tail(seed, what) <= 8


def test_the_stand_ins_import_nothing_heavy():
    code = (
        "import sys; sys.modules['ssl'] = None; import gpumod_sim.vllm, gpumod_sim.llama, gpumod_sim.app; "
        "print([n for n in ('pydantic', 'psutil', 'gpumod', 'argparse', 'click', 'pathlib') if n in sys.modules])"
    )
    src = str(Path(law.__file__).parent.parent)
    code = f"import sys; sys.path.insert(0, {src!r}); {code}"
    done = subprocess.run([sys.executable, "-IS", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


INSIDE = """
import os, sys, time
from gpumod_sim.ledger import Ledger
from gpumod_sim.machine import Machine
Ledger(Machine(sys.argv[1]), guest=True).hold("inside", {0: 700})
print(os.getpid(), flush=True)
time.sleep(60)
"""


def test_who_counts_pids_otherwise_is_found_and_judged_from_outside_alone(box, until):
    """A container's processes have other numbers in there; from in there nobody sees whether others live."""
    space = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if shutil.which("unshare") is None or subprocess.run([*space, "true"], capture_output=True).returncode:
        pytest.skip("no namespaces can be made here")
    command = [*space, sys.executable, "-c", INSIDE, box.machine.folder]
    guest = Ledger(box.machine, guest=True)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as outer:
        assert outer.stdout is not None
        assert outer.stdout.readline().strip() == "1", "its number in there"
        (row,) = box.ledger.public()["allocations"]
        assert (row["service"], row["mb"]) == ("inside", 700)
        assert psutil.Process(row["pid"]).ppid() == outer.pid
        guest.hold("outside", {0: 100})
        outer.kill()
    box.machine.configure(lag_s=0)
    assert {one["service"] for one in guest.rows()} == {"inside", "outside"}, "who could tell?"
    until(lambda: [one["service"] for one in box.ledger.rows()] == ["outside"])
