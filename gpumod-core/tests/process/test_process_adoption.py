"""What is found again when gpumod or the shim was killed, and what must never be taken for ours."""

from __future__ import annotations

import asyncio
import contextlib
import marshal
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from gpumod.adapters.clock import SystemClock
from gpumod.adapters.process.forking import Nursery
from gpumod.adapters.process.launching import orders
from gpumod.adapters.process.proc import Proc, by_nonce, ended, send, start_ticks, trees
from gpumod.adapters.process.records import Records
from gpumod.domain.run import Handle
from gpumod.ports import Launch

SLEEPER = "import time; print('up', flush=True); time.sleep(600)"
ASKER = """
import pathlib, sys, time
from gpumod.adapters.process.forking import Nursery
nursery = Nursery(pathlib.Path(sys.argv[1]))
with nursery.held():
    nursery.open()
    print(nursery.pid, flush=True)
    time.sleep(600)
"""
FAMILY = """
    import os, time
    if os.fork() == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
    print('up', flush=True)
    time.sleep(600)
"""


async def one(machine: Any, handle: Handle) -> Any:
    return (await machine.another().status([handle]))[handle.service]


def bare(handle: Handle) -> Handle:
    """The handle as it was stored before the spawn."""
    return handle.model_copy(update={"token": {}})


async def test_a_killed_gpumod_leaves_services_that_the_next_one_knows(machine: Any, tmp_path: Path) -> None:
    program = tmp_path / "gpumod_like.py"
    program.write_text(
        "import asyncio, os, signal, sys\n"
        "from pathlib import Path\n"
        "from gpumod.adapters.clock import SystemClock\n"
        "from gpumod.adapters.process import ProcessSupervisor\n"
        "from gpumod.domain.run import Handle\n"
        "from gpumod.domain.settings import Settings\n"
        "from gpumod.ports import Launch\n"
        "home, handle, launch = Path(sys.argv[1]), Handle.model_validate_json(sys.argv[2]), sys.argv[3]\n"
        "supervisor = ProcessSupervisor(home, 'x', Settings(), SystemClock())\n"
        "asyncio.run(supervisor.start(handle, Launch.model_validate_json(launch), {}))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    handle = machine.handle()
    launch = machine.launch(SLEEPER)
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, str(program), str(machine.home), handle.model_dump_json(), launch.model_dump_json()],
        check=False,
    )
    assert done.returncode == -9
    status = await one(machine, handle)
    assert status.alive
    adopted = handle.model_copy(update={"token": status.token})
    assert (await one(machine, adopted)) == status
    await machine.another().stop(handle, launch)
    assert machine.living(handle) == []
    assert (await one(machine, adopted)).exit_code == -15


@pytest.mark.parametrize("records", [True, False])
async def test_a_crash_between_spawn_and_token(machine: Any, records: bool) -> None:
    handle = await machine.start(FAMILY)
    await machine.lines(handle, 2)
    if not records:
        shutil.rmtree(machine.home / "services")
    status = await one(machine, bare(handle))
    assert status.alive
    assert len(status.pids) == 2
    assert {k: v for k, v in handle.token.items() if k != "started_at"}.items() <= status.token.items()
    await machine.another().stop(bare(handle), machine.launch(FAMILY))
    assert machine.living(handle) == []
    assert not (await one(machine, bare(handle))).alive


@contextlib.contextmanager
def waiting_shim(machine: Any, handle: Any) -> Iterator[tuple[int, int]]:
    """A shim that waits for its orders: where to write them, and where it answers."""
    nursery = Nursery(machine.home)
    orders, tell = os.pipe()
    hear, answer = os.pipe()
    with nursery.held():
        nursery.fork(handle.nonce, orders, answer)
        os.close(orders)
        os.close(answer)
        yield tell, hear
    for number in (tell, hear):
        with contextlib.suppress(OSError):
            os.close(number)


async def test_a_shim_that_was_told_only_half_starts_nothing(machine: Any) -> None:
    handle = machine.handle()
    with waiting_shim(machine, handle) as (tell, hear):
        await machine.until(lambda: machine.living(handle))
        status = await one(machine, handle)
        assert status.alive  # something of this run is there, though not the service itself
        assert status.pid is None
        os.write(tell, marshal.dumps({"nonce": handle.nonce})[:-4])
        os.close(tell)
        await machine.until(lambda: not machine.living(handle))
        with os.fdopen(hear, "rb", closefd=False) as said:
            assert b"Error" in said.read()
        assert not (await one(machine, handle)).alive


async def test_a_shim_whose_gpumod_is_gone_starts_nothing(machine: Any, tmp_path: Path) -> None:
    handle = machine.handle()
    mark = tmp_path / "started"
    told = orders(handle, Launch(argv=("touch", str(mark))), {}, Records(machine.home), machine.settings)
    Records(machine.home).prepare(handle.service)
    with waiting_shim(machine, handle) as (tell, hear):
        await machine.until(lambda: machine.living(handle))
        os.close(hear)
        os.write(tell, marshal.dumps(told))
        os.close(tell)
        await machine.until(lambda: not machine.living(handle))
    assert not mark.exists()


async def test_a_nursery_that_was_killed_is_begun_anew(machine: Any) -> None:
    nursery = Nursery(machine.home)
    with nursery.held():
        for nonce in ("a" * 32, "b" * 32):
            told = os.memfd_create("orders")
            hear, answer = os.pipe()
            nursery.fork(nonce, told, answer)
            os.close(told)
            os.close(answer)
            with os.fdopen(hear, "rb") as said:
                assert b"EOFError" in said.read()
            os.kill(nursery.pid, signal.SIGKILL)
            await machine.until(lambda: start_ticks(nursery.pid) is None)


async def test_a_nursery_ends_with_its_gpumod_and_its_last_run(machine: Any) -> None:
    handle = machine.handle()
    async with machine.supervisor.prepared([(handle, machine.launch(SLEEPER))]):
        await machine.supervisor.start(handle, machine.launch(SLEEPER), {})
        assert len([p for p in psutil.Process().children() if p.name() == "gpumod-nursery"]) == 1
    assert [p for p in psutil.Process().children() if p.name() == "gpumod-nursery"] == []
    asker = subprocess.Popen([sys.executable, "-c", ASKER, str(machine.home)], stdout=subprocess.PIPE, text=True)
    assert asker.stdout is not None
    pid = int(asker.stdout.readline())
    asker.kill()
    asker.communicate()
    await machine.until(lambda: start_ticks(pid) is None)


async def test_a_shim_that_still_starts_can_be_stopped(machine: Any) -> None:
    handle = machine.handle()
    with waiting_shim(machine, handle):
        await machine.until(lambda: machine.living(handle))
        await machine.supervisor.stop(handle, machine.launch(SLEEPER))
        assert machine.living(handle) == []


@pytest.mark.parametrize("known", [True, False])
async def test_a_killed_shim_leaves_the_service_findable_and_stoppable(machine: Any, known: bool) -> None:
    handle = await machine.start(FAMILY)
    await machine.lines(handle, 2)
    before = await one(machine, handle)
    os.kill(handle.token["shim_pid"], signal.SIGKILL)
    await machine.until(lambda: start_ticks(handle.token["shim_pid"]) is None)
    if not known:
        shutil.rmtree(machine.home / "services")
        handle = bare(handle)
    status = await one(machine, handle)
    assert status.alive
    assert status.pid == before.pid
    assert status.pids == before.pids
    adopted = handle.model_copy(update={"token": status.token})
    assert (await one(machine, adopted)).pid == before.pid
    await machine.another().stop(adopted, machine.launch(FAMILY))
    assert machine.living(handle) == []
    status = await one(machine, adopted)
    assert (status.alive, status.pids, status.exit_code) == (False, (), None)


async def test_a_deaf_service_without_shim_is_killed(machine: Any) -> None:
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
    handle = await machine.start(code)
    await machine.lines(handle, 1)
    os.kill(handle.token["shim_pid"], signal.SIGKILL)
    await machine.another().stop(handle, machine.launch(code, stop_timeout_s=0.1))
    assert machine.living(handle) == []


async def test_a_pid_with_another_start_time_is_a_stranger(machine: Any) -> None:
    stranger = subprocess.Popen([sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)"])
    try:
        started = start_ticks(stranger.pid)
        assert started is not None
        handle = await machine.start("raise SystemExit(3)")
        await machine.supervisor.exited(handle)
        await machine.until(lambda: machine.living(handle) == [])
        wrong = {**handle.token, "pid": stranger.pid, "pid_started": started - 1}
        wrong |= {"shim_pid": stranger.pid, "shim_started": started - 1}
        recycled = handle.model_copy(update={"token": wrong})
        status = await one(machine, recycled)
        assert (status.alive, status.pid, status.pids) == (False, None, ())
        await machine.supervisor.stop(recycled, machine.launch(SLEEPER))
        assert not send(Proc(stranger.pid, started - 1), signal.SIGKILL)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


async def test_a_token_of_an_earlier_boot_finds_nothing(machine: Any) -> None:
    handle = await machine.start(SLEEPER)
    earlier = handle.model_copy(update={"token": {**handle.token, "boot": "another"}, "nonce": "0" * 16})
    status = await one(machine, earlier)
    assert (status.alive, status.pids) == (False, ())
    await machine.supervisor.stop(earlier, machine.launch(SLEEPER))
    assert (await one(machine, handle)).alive


@pytest.mark.parametrize(
    "token", [{"pid": "1"}, {"pid": 1, "pid_started": 1}, {"unit": "x.service"}, {"pid": None, "boot": 5}]
)
async def test_a_damaged_token_is_no_token(machine: Any, token: dict[str, Any]) -> None:
    handle = machine.handle().model_copy(update={"token": token})
    assert not (await one(machine, handle)).alive
    await machine.supervisor.stop(handle, machine.launch(SLEEPER))


async def test_damaged_records_are_no_records(machine: Any) -> None:
    handle = await machine.start(SLEEPER)
    for name in ("run.json", "exit.json"):
        (machine.service_dir("svc") / ".run" / name).write_bytes(b"[\xff")
    assert (await one(machine, bare(handle))).pid == handle.token["pid"]
    await machine.supervisor.stop(handle, machine.launch(SLEEPER))
    assert (await one(machine, handle)).exit_code == -15


async def test_a_stopped_shim_does_not_keep_its_service(machine: Any) -> None:
    handle = await machine.start(FAMILY)
    await machine.lines(handle, 2)
    os.kill(handle.token["shim_pid"], signal.SIGSTOP)
    await machine.another(kill_timeout_s=0.3).stop(handle, machine.launch(FAMILY, stop_timeout_s=0.1))
    assert machine.living(handle) == []


async def test_status_of_many_is_cheap(machine: Any, capsys: pytest.CaptureFixture[str]) -> None:
    handles = await asyncio.gather(*(machine.start(SLEEPER, service=f"svc{n}") for n in range(30)))
    supervisor = machine.another()
    assert all(status.alive for status in (await supervisor.status(handles)).values())
    times = []
    for _ in range(10):
        begun = time.perf_counter()
        await supervisor.status(handles)
        times.append(time.perf_counter() - begun)
    with capsys.disabled():
        print(f"\nstatus of 30 services: {min(times) * 1000:.1f} ms (best of 10)")
    await asyncio.gather(*(supervisor.stop(handle, machine.launch(SLEEPER)) for handle in handles))
    assert not any(machine.living(handle) for handle in handles)


async def test_proc_helpers(machine: Any) -> None:
    handle = await machine.start(FAMILY)
    await machine.lines(handle, 2)
    token = handle.token
    main = Proc(token["pid"], token["pid_started"])
    found = by_nonce([handle.nonce, "f" * 16])
    assert found["f" * 16] == []
    assert main in found[handle.nonce]
    assert trees([token["shim_pid"], 2**22 - 1])[2**22 - 1] == ()
    assert await ended(Proc(2**22 - 1, 5), None, SystemClock())
    assert await ended(Proc(main.pid, main.started + 1), 5, SystemClock())
    assert not await ended(main, 0.01, SystemClock())
    assert not send(Proc(2**22 - 1, 5), signal.SIGTERM)
