"""What `gpumod doctor` asks of a computer, read from small files and from a stand-in of `systemctl`."""

from __future__ import annotations

import os
import resource
import shutil
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from gpumod.adapters.checkup import ThisComputer
from gpumod.adapters.foreign.programs import find
from gpumod.domain.errors import Failed, MachineLacks
from gpumod.domain.settings import Settings
from gpumod.testing.computer import Computer


@pytest.fixture
def files(tmp_path: Path) -> Computer:
    return Computer(tmp_path)


def look(files: Computer, **more: object) -> ThisComputer:
    return ThisComputer(files.root, files.environ, **more)  # type: ignore[arg-type]


def test_a_computer_without_anything(files: Computer) -> None:
    computer = look(files)
    assert computer.nvidia() is None
    assert computer.sleep_states() == ()
    assert computer.open_ports({80}) == {}
    assert not computer.lingers()
    assert computer.polkit().rules == computer.polkit().hidden == ()
    with pytest.raises(MachineLacks, match="no systemd"):
        computer.manager("system")
    with pytest.raises(MachineLacks, match="user manager"):
        ThisComputer(files.root, {"XDG_RUNTIME_DIR": "/nowhere"}).manager("user")
    assert computer.units("system", ()) == {}


def test_a_manager_and_its_units(files: Computer) -> None:
    files.boot(system="running", user="degraded")
    told = look(files).manager("user")
    assert (told.version, told.state, told.failed_units) == ("252.1", "degraded", 0)
    files.unit(
        "system", "chat.service", Type="notify", TimeoutStartUSec="1min 30s", TimeoutStopUSec="infinity",
        NeedDaemonReload="yes", MemoryMax="infinity", LimitMEMLOCK="8388608", UnitFileState="enabled",
    )  # fmt: skip
    files.unit("system", "asr.service", MemoryMax=str(2 << 30), LimitMEMLOCK="18446744073709551615")
    shown = look(files).units("system", {"chat.service", "asr.service", "gone.service"})
    chat, asr = shown["chat.service"], shown["asr.service"]
    assert (chat.loaded, chat.kind, chat.start_timeout_s, chat.stop_timeout_s) == (True, "notify", 90.0, None)
    assert (chat.changed, chat.memory_mb, chat.memlock_mb, chat.file_state) == (True, None, 8, "enabled")
    assert (asr.changed, asr.memory_mb, asr.memlock_mb) == (False, 2048, None)
    assert not shown["gone.service"].loaded


def test_a_manager_that_hangs_is_given_up(files: Computer) -> None:
    files.boot(system="running")
    files.write("system/hangs")
    with pytest.raises(Failed, match="did not end"):
        look(files, answer_s=0.2).manager("system")


def test_a_file_system_that_hangs_is_given_up(files: Computer) -> None:
    os.mkfifo(files.root / "fifo")
    computer = look(files, answer_s=0.1)
    gate = threading.Event()
    with pytest.raises(Failed, match="the share does not answer"):
        computer._answer("the share", gate.wait)
    gate.set()
    assert computer.place(files.root / "fifo").kind == "file"


def test_the_drivers_module(files: Computer) -> None:
    files.nvidia({"PreserveVideoMemoryAllocations": "1", "DeviceFileMode": "438"}, "nvidiactl nvidia0 nvidia-uvm")
    files.write("dev/nvidia-uvm-tools")
    told = look(files).nvidia()
    assert told is not None
    assert (told.version, told.params["PreserveVideoMemoryAllocations"]) == ("580.65.06", "1")
    assert [device.path for device in told.devices] == ["/dev/nvidia-uvm", "/dev/nvidia0", "/dev/nvidiactl"]
    assert all(device.usable for device in told.devices)
    opened = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  595.1.2  Release Build\n"
    files.write("proc/driver/nvidia/version", opened)
    told = look(files).nvidia()
    assert told is not None
    assert told.version == "595.1.2"


def test_memory_and_limits(files: Computer) -> None:
    files.memory(2048, 100)
    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    told = look(files).memory()
    assert (told.swap_total_mb, told.swap_free_mb) == (2048, 100)
    assert told.memlock_mb == (None if soft == resource.RLIM_INFINITY else soft >> 20)
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (4 << 20, hard))
    try:
        assert look(files).memory().memlock_mb == 4
    finally:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (soft, hard))


@pytest.mark.skipif(sys.byteorder != "little", reason="the addresses here are those of a little-endian machine")
def test_who_listens_for_the_network(files: Computer) -> None:
    files.listeners("0100007F:1F90", "00000000:1F91", "0200A8C0:1F92")
    files.listeners(
        "00000000000000000000000001000000:1F93",
        "00000000000000000000000000000000:1F94",
        "0000000000000000FFFF00000100007F:1F95",
        table="tcp6",
    )
    found = look(files).open_ports(range(8080, 8090))
    assert found == {8081: "0.0.0.0", 8082: "192.168.0.2", 8084: "::"}
    assert look(files).open_ports({8081}) == {8081: "0.0.0.0"}


def test_rules_of_polkit_and_folders_that_are_closed(files: Computer) -> None:
    action = 'action.id == "org.freedesktop.systemd1.manage-units"'
    good = files.write("etc/polkit-1/rules.d/50-gpumod.rules", f'{action} && action.lookup("unit")')
    bad = files.write("usr/share/polkit-1/rules.d/90-all.rules", action)
    files.write("usr/share/polkit-1/rules.d/10-other.rules", "org.freedesktop.login1.suspend")
    files.write("run/polkit-1/rules.d/README", action)
    told = look(files).polkit()
    assert [(rule.path, rule.of_units) for rule in told.rules] == [(str(good), True), (str(bad), False)]
    assert told.hidden == ()


def test_places(files: Computer) -> None:
    computer = look(files)
    file = files.write("home/one", "x", 0o640)
    told = computer.place(file)
    assert (told.kind, told.mode, told.owner, told.readable, told.writable) == ("file", 0o640, os.geteuid(), True, True)
    assert computer.place(files.root / "home").free_mb > 0
    assert computer.place(files.root / "none").kind == computer.place(file / "below").kind == "missing"
    assert {name: place.kind for name, place in computer.inside(files.root / "home").items()} == {"one": "file"}
    assert computer.inside(files.root / "none") == {}


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to ask as another user")
def test_what_another_user_may_read(tmp_path: Path) -> None:
    (tmp_path / "a b").mkdir()  # pytest's own folder is closed to others
    told = ThisComputer().unreadable(
        "nobody", [tmp_path / "a b", Path("/usr"), Path("/etc/shadow"), Path("/etc/passwd")]
    )
    assert set(told) == {tmp_path / "a b", Path("/etc/shadow")}
    assert ThisComputer().unreadable("nobody-of-this-name", [Path("/etc/shadow")]) == ()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to ask as another user")
def test_what_another_user_may_execute(tmp_path: Path) -> None:
    folder = Path(tempfile.mkdtemp(prefix="gpumod-execute-"))  # pytest's own is closed to others
    try:
        folder.chmod(0o755)

        def program(name: str, text: str, mode: int, where: Path = folder) -> Path:
            (where / name).write_text(text)
            (where / name).chmod(mode)
            return where / name

        shut = program("python", "#!/bin/sh\n", 0o755, tmp_path)
        good = [program("good", "#!/bin/sh -e\n", 0o755), program("binary", "\x7fELF", 0o711)]
        (folder / "link").symlink_to(shut)
        bad = [program("kept", "#!/bin/sh\n", 0o744), program("hidden", "#!/bin/sh\n", 0o711), folder / "link", shut]
        bad += [program("by", f"#!{shut}\n", 0o755), program("odd", "#!/no\0thing\n", 0o755)]
        assert set(ThisComputer().unreadable("nobody", [], [*good, *bad])) == set(bad)
        assert ThisComputer().unreadable("nobody", [folder / "kept"]) == ()
    finally:
        shutil.rmtree(folder)


def test_the_version_of_a_python_program_is_read_not_asked(tmp_path: Path) -> None:
    asked = tmp_path / "asked"
    python = tmp_path / "venv" / "bin" / "python3"
    program = python.with_name("vllm")
    program.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\ntouch {asked}\necho 0.1 by itself\n")
    program.write_text(f"#!{python}\nimport vllm\n")
    for path in (python, program):
        path.chmod(0o755)
    (told,) = find([str(program)], Settings())
    assert (told.version, told.failed, asked.exists()) == ("0.1 by itself", False, True)
    asked.unlink()
    (tmp_path / "venv/lib/python3.12/site-packages/vllm-0.33.0.dist-info").mkdir(parents=True)
    (told,) = find([str(program)], Settings())
    assert (told.name, told.path, told.version, asked.exists()) == ("vllm", str(program), "0.33.0", False)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to have another user's file")
def test_root_runs_no_program_of_another_user(tmp_path: Path) -> None:
    program, ran = tmp_path / "llama-server", tmp_path / "ran"
    program.write_text(f"#!/bin/sh\ntouch {ran}\necho version 1\n")
    program.chmod(0o755)
    os.chown(program, 12345, 12345)
    (told,) = find([str(program)], Settings())
    assert (told.version, told.failed, ran.exists()) == (None, False, False)
    assert "user 12345" in told.why


def test_a_program_that_cannot_run_tells_no_version(tmp_path: Path) -> None:
    program = tmp_path / "llama-server"
    program.write_text("#!/bin/sh\necho llama-server: libcudart.so.12: cannot open shared object file >&2\nexit 127\n")
    program.chmod(0o755)
    (told,) = find([str(program)], Settings())
    assert (told.version, told.failed) == (None, True)
    assert told.why == "it ended with status 127: llama-server: libcudart.so.12: cannot open shared object file"
