"""The process supervisor on real processes: start, status, exit codes, stop, the whole tree."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from gpumod.adapters.process.proc import start_ticks
from gpumod.domain.errors import Failed, MachineLacks, UsageError
from gpumod.ports import Launch, LaunchFile, Supervisor

SLEEPER = "import time; print('up', flush=True); time.sleep(600)"


async def one(machine: Any, handle: Any) -> Any:
    return (await machine.supervisor.status([handle]))[handle.service]


async def test_it_is_a_supervisor(machine: Any) -> None:
    supervisor: Supervisor = machine.supervisor
    assert isinstance(supervisor, Supervisor)
    assert supervisor.name == "process"


async def test_start_status_stop(machine: Any) -> None:
    before = time.time()
    handle = await machine.start(SLEEPER)
    token = handle.token
    assert start_ticks(token["pid"]) == token["pid_started"]
    assert start_ticks(token["shim_pid"]) == token["shim_started"]
    status = await one(machine, handle)
    assert status.alive
    assert status.pid == token["pid"]
    assert status.pids == (token["pid"],)
    assert status.exit_code is None
    assert before - 1 <= status.started_at <= time.time() + 1
    assert status.token == token
    await machine.lines(handle, 1)
    await machine.supervisor.stop(handle, machine.launch(SLEEPER))
    assert machine.living(handle) == []
    status = await one(machine, handle)
    assert not status.alive
    assert status.pids == ()
    assert status.exit_code == -signal.SIGTERM
    await machine.supervisor.stop(handle, machine.launch(SLEEPER))  # again: nothing to do


async def test_the_service_has_its_own_session_group_and_no_terminal(machine: Any) -> None:
    inherited = os.open(os.devnull, os.O_RDONLY)
    os.set_inheritable(inherited, True)  # as by a shell: 3< file
    try:
        handle = await machine.start(SLEEPER)
    finally:
        os.close(inherited)
    pid = handle.token["pid"]
    assert os.getsid(pid) != os.getsid(0)
    assert os.getpgid(pid) == pid
    assert Path(f"/proc/{pid}/fd/0").readlink() == Path(os.devnull)
    # the loader of a program that has just begun holds a library open for a moment
    await machine.until(lambda: sorted(int(fd.name) for fd in Path(f"/proc/{pid}/fd").iterdir()) == [0, 1, 2])


async def test_no_signal_is_ignored_or_blocked_because_the_caller_did(machine: Any) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    try:
        handle = machine.handle()
        token = await machine.supervisor.start(handle, Launch(argv=("sleep", "600")), {})
    finally:
        signal.signal(signal.SIGINT, before)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR2})
    status = Path(f"/proc/{token['pid']}/status").read_text()
    masks = {
        line.split(":")[0]: int(line.split()[1], 16)
        for line in status.splitlines()
        if line.startswith(("SigBlk", "SigIgn"))
    }
    assert masks["SigBlk"] == 0
    assert masks["SigIgn"] & 0x7FFFFFFF == 0


async def test_nothing_secret_is_in_an_argument_or_left_in_a_file(machine: Any) -> None:
    handle = machine.handle()
    launch = machine.launch(SLEEPER, env={"API_KEY": "s3cr3t-value"})
    token = await machine.supervisor.start(handle, launch, {})
    for pid in (token["shim_pid"], token["pid"]):
        assert b"s3cr3t" not in Path(f"/proc/{pid}/cmdline").read_bytes()
    assert b"s3cr3t" not in Path(f"/proc/{token['shim_pid']}/environ").read_bytes()
    assert b"s3cr3t" in Path(f"/proc/{token['pid']}/environ").read_bytes()
    files = [path for path in machine.home.rglob("*") if path.is_file()]
    assert files
    for path in machine.home.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    assert not any(b"s3cr3t" in path.read_bytes() for path in files)


async def test_arguments_variables_and_files_arrive_as_they_are(machine: Any) -> None:
    code = """
        import json, os, sys
        print(json.dumps([sys.argv[1:], os.environ['WEIRD'], os.environ['CONFIG'], os.getcwd()]))
        print(open(os.environ['CONFIG']).read())
    """
    weird = "a b\n$HOME `id` \"'\\ ; % é \udc80"
    base = machine.launch(code)
    launch = base.model_copy(
        update={
            "argv": (*base.argv, weird, "{service_dir}/x"),
            "env": {"WEIRD": weird, "CONFIG": "overridden"},
            "files": (LaunchFile(name="sub/config.ini", content="dir={service_dir}"),),
        }
    )
    handle = machine.handle()
    await machine.supervisor.start(handle, launch, {"CONFIG": "{service_dir}/sub/config.ini"})
    folder = machine.service_dir("svc")
    first, second = await machine.lines(handle, 2)
    assert json.loads(first) == [[weird, f"{folder}/x"], weird, f"{folder}/sub/config.ini", str(folder)]
    assert second == f"dir={folder}"
    machine.supervisor.write_files("svc", [LaunchFile(name="sub/config.ini", content="new")])
    assert (folder / "sub/config.ini").read_text() == "new"


@pytest.mark.parametrize("name", ["/etc/x", "../x", "a/../../x", "", ".run/run.json"])
async def test_files_stay_in_the_folder(machine: Any, name: str) -> None:
    launch = machine.launch(SLEEPER, files=(LaunchFile(name=name, content=""),))
    with pytest.raises(UsageError) as caught:
        await machine.supervisor.start(machine.handle(), launch, {})
    assert caught.value.code == "bad-file-name"


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ("raise SystemExit(0)", 0),
        ("raise SystemExit(7)", 7),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -9),
        ("import os; os.abort()", -6),
    ],
)
async def test_exit_codes_are_kept(machine: Any, end: str, code: int) -> None:
    handle = await machine.start(end)
    status = await asyncio.wait_for(machine.supervisor.exited(handle), 10)
    assert (status.alive, status.exit_code, status.pids) == (False, code, ())
    again = (await machine.another().status([handle]))["svc"]
    assert again.exit_code == code


async def test_a_death_is_noticed_at_once(machine: Any) -> None:
    handle = await machine.start(SLEEPER)
    waiting = asyncio.create_task(machine.supervisor.exited(handle))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    begun = time.monotonic()
    os.kill(handle.token["pid"], signal.SIGKILL)
    status = await asyncio.wait_for(waiting, 5)
    assert time.monotonic() - begun < 0.5
    assert status.exit_code == -9


async def test_waiting_for_an_end_can_be_given_up(machine: Any) -> None:
    handle = await machine.start(SLEEPER)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(machine.supervisor.exited(handle), 0.05)
    assert (await one(machine, handle)).alive


FAMILY = """
    import os, signal, sys, time
    def worker(kind, depth):
        if os.fork() == 0:
            if kind == 'detached':
                os.setsid()
                if os.fork():
                    os._exit(0)
            if kind == 'deaf':
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            if depth:
                worker(kind, depth - 1)
            print('worker', os.getpid(), flush=True)
            time.sleep(600)
            os._exit(0)
    for kind in ('plain', 'detached', 'deaf'):
        worker(kind, 1)
    time.sleep(600)
"""


async def test_the_whole_tree_is_seen_and_stopped(machine: Any) -> None:
    handle = await machine.start(FAMILY)
    workers = {int(line.split()[1]) for line in await machine.lines(handle, 6)}
    status = await one(machine, handle)
    assert set(status.pids) == {handle.token["pid"], *workers}
    begun = time.monotonic()
    await machine.supervisor.stop(handle, machine.launch(FAMILY, stop_timeout_s=0.4))
    assert time.monotonic() - begun < 4
    assert machine.living(handle) == []
    assert all(start_ticks(pid) is None for pid in workers)


async def test_what_a_dead_main_process_left_is_ended_too(machine: Any) -> None:
    handle = await machine.start(FAMILY)
    await machine.lines(handle, 6)
    os.kill(handle.token["pid"], signal.SIGKILL)
    status = await machine.supervisor.exited(handle)
    assert not status.alive
    assert status.exit_code == -9
    again = await machine.start(SLEEPER)  # waits until what was left has ended
    assert machine.living(handle) == []
    assert (await one(machine, handle)).exit_code == -9
    assert (await one(machine, again)).alive


async def test_one_that_ignores_the_signal_is_killed_in_time(machine: Any) -> None:
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(600)"
    handle = await machine.start(code, stop_timeout_s=0.2)
    await machine.lines(handle, 1)
    begun = time.monotonic()
    await machine.supervisor.stop(handle, machine.launch(code, stop_timeout_s=0.2))
    assert 0.15 < time.monotonic() - begun < 4
    assert (await one(machine, handle)).exit_code == -9


async def test_the_stop_signal_is_the_launchs_and_a_stopped_process_hears_it(machine: Any) -> None:
    code = """
        import signal, sys, time
        signal.signal(signal.SIGINT, lambda *_: sys.exit(42))
        print('up', flush=True)
        time.sleep(600)
    """
    handle = await machine.start(code, stop_signal="SIGINT")
    await machine.lines(handle, 1)
    os.kill(handle.token["pid"], signal.SIGSTOP)
    await machine.supervisor.stop(handle, machine.launch(code, stop_signal="SIGINT"))
    assert (await one(machine, handle)).exit_code == 42


async def test_a_service_that_forks_without_end_is_stopped(machine: Any) -> None:
    code = """
        import os, time
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:  # each generation forks the next one and goes
            if os.fork():
                time.sleep(0.002)
                if os.getppid() != 1 and os.getpid() != os.getpgrp():
                    os._exit(0)
    """
    handle = await machine.start(code, stop_timeout_s=0.1)
    await asyncio.sleep(0.1)
    await machine.supervisor.stop(handle, machine.launch(code, stop_timeout_s=0.1))
    assert machine.living(handle) == []


async def test_missing_program(machine: Any) -> None:
    launch = machine.launch(SLEEPER).model_copy(update={"argv": ("no-such-program-here",)})
    with pytest.raises(MachineLacks) as caught:
        await machine.supervisor.start(machine.handle(), launch, {})
    assert caught.value.code == "missing-binary"
    assert "/bin" in caught.value.info.why
    launch = launch.model_copy(update={"argv": ("/nowhere/program",)})
    with pytest.raises(MachineLacks):
        await machine.supervisor.start(machine.handle(), launch, {})
    assert not (machine.home / "services").exists()


async def test_the_program_is_searched_in_bin_path_first(machine: Any, tmp_path: Path) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "true"
    program.write_text(f"#!{sys.executable}\nimport os, sys\nprint('ours', os.environ['PATH'].split(':')[0])\n")
    program.chmod(0o755)
    machine.settings = machine.settings.model_copy(update={"bin_path": str(folder)})
    machine.supervisor = machine.another()
    handle = machine.handle()
    await machine.supervisor.start(handle, machine.launch("").model_copy(update={"argv": ("true",)}), {})
    assert await machine.lines(handle, 1) == (f"ours {folder}",)


async def test_missing_folder(machine: Any, tmp_path: Path) -> None:
    with pytest.raises(Failed) as caught:
        await machine.supervisor.start(machine.handle(), machine.launch(SLEEPER, cwd=tmp_path / "gone"), {})
    assert caught.value.code == "missing-folder"


@pytest.mark.parametrize(
    ("content", "mode"), [("no shebang, no binary", 0o755), ("#!/no/such/interpreter\n", 0o755), ("x", 0o644)]
)
async def test_what_cannot_be_executed_is_told_by_start(machine: Any, tmp_path: Path, content: str, mode: int) -> None:
    program = tmp_path / "program"
    program.write_text(content)
    program.chmod(mode)
    handle = machine.handle()
    launch = machine.launch(SLEEPER).model_copy(update={"argv": (str(program),)})
    with pytest.raises(Failed) as caught:
        await machine.supervisor.start(handle, launch, {})
    assert caught.value.code == "cannot-execute"
    assert caught.value.info.why
    await machine.until(lambda: machine.living(handle) == [])
    assert not (await one(machine, handle)).alive


@pytest.mark.parametrize("change", [{"argv": ()}, {"argv": ("a\0b",)}, {"env": {"A=B": "1"}}, {"env": {"A": "\0"}}])
async def test_a_launch_that_no_process_can_have(machine: Any, change: dict[str, Any]) -> None:
    launch = machine.launch(SLEEPER).model_copy(update=change)
    with pytest.raises(UsageError) as caught:
        await machine.supervisor.start(machine.handle(), launch, {})
    assert caught.value.code == "bad-launch"


async def test_starting_twice_is_refused_and_removing_a_running_one_too(machine: Any) -> None:
    handle = await machine.start(SLEEPER)
    with pytest.raises(Failed) as caught:
        await machine.start(SLEEPER)
    assert caught.value.code == "already-running"
    await machine.supervisor.stop(handle, machine.launch(SLEEPER))
    again = await machine.start(SLEEPER)
    assert (await one(machine, again)).alive
    await machine.supervisor.stop(again, machine.launch(SLEEPER))


@pytest.mark.parametrize("service", ["../x", "", "a/b", "a\nb", "."])
def test_an_id_that_would_leave_the_home_is_refused(machine: Any, service: str) -> None:
    for call in (machine.supervisor.log_path, lambda service: machine.supervisor.write_files(service, ())):
        with pytest.raises(UsageError) as caught:
            call(service)
        assert caught.value.code == "bad-id"
