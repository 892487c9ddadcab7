"""Adopted processes: known by their start time, stopped whole, never started."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpumod.adapters.clock import SystemClock
from gpumod.adapters.foreign import reading
from gpumod.adapters.foreign.processes import AdoptedProcesses, identity_of
from gpumod.domain.adopted import Adopted
from gpumod.domain.errors import Failed, MachineLacks, UsageError
from gpumod.domain.run import Handle
from gpumod.domain.service import Service
from gpumod.ports import Launch

DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
PARENT = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {DEAF!r}]); import time; time.sleep(600)"


@pytest.fixture
def theirs() -> Iterator[subprocess.Popen[str]]:
    """A process with a child that does not hear SIGTERM."""
    argv = [sys.executable, "-c", PARENT]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        with contextlib.suppress(ProcessLookupError):  # both are gone where the test stopped them
            os.killpg(process.pid, signal.SIGKILL)


def handle_of(pid: int, identity: str) -> Handle:
    service = Service(id="svc", driver="fastapi", adopted=Adopted(pid=pid, identity=identity))
    return Handle(service="svc", supervisor="adopted-process", nonce="adopted", launched=service, started_at=0)


def launch(stop_timeout_s: float = 5.0) -> Launch:
    return Launch(argv=("x",), stop_timeout_s=stop_timeout_s)


async def test_its_tree_is_seen_and_stopped(theirs: subprocess.Popen[str], tmp_path: Path) -> None:
    keeper = AdoptedProcesses(tmp_path, SystemClock())
    handle = handle_of(theirs.pid, identity_of(theirs.pid) or "")
    status = (await keeper.status([handle]))["svc"]
    assert (status.alive, status.pid, len(status.pids)) == (True, theirs.pid, 2)
    assert status.started_at == pytest.approx(SystemClock().now(), abs=60)
    waiting = asyncio.create_task(keeper.exited(handle))
    reaping = asyncio.create_task(asyncio.to_thread(theirs.wait))
    await keeper.stop(handle, launch())
    assert not (await waiting).alive
    await reaping
    assert [pid for pid in status.pids if identity_of(pid)] == []
    await keeper.stop(handle, launch())  # it is gone: nothing to do
    assert keeper.logs("svc", 10) == ()


async def test_another_process_of_its_number_is_not_it(theirs: subprocess.Popen[str], tmp_path: Path) -> None:
    keeper = AdoptedProcesses(tmp_path, SystemClock())
    boot, ticks = (identity_of(theirs.pid) or "").split()
    for identity in (f"{boot} {int(ticks) + 1}", f"another-boot {ticks}", "nonsense"):
        handle = handle_of(theirs.pid, identity)
        assert not (await keeper.status([handle]))["svc"].alive
        await keeper.stop(handle, launch())
    assert theirs.poll() is None


async def test_it_is_never_started_nor_written(theirs: subprocess.Popen[str], tmp_path: Path) -> None:
    keeper = AdoptedProcesses(tmp_path, SystemClock())
    handle = handle_of(theirs.pid, identity_of(theirs.pid) or "")
    with pytest.raises(Failed, match="not start it"):
        await keeper.start(handle, launch(), {})
    with pytest.raises(Failed, match="adopted"):
        keeper.write_files("svc", ())
    own = handle.model_copy(update={"launched": Service(id="svc", driver="fastapi")})
    with pytest.raises(UsageError, match="was not adopted"):
        await keeper.status([own])


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to have another user's home")
async def test_root_ends_no_process_that_another_user_has_adopted(
    theirs: subprocess.Popen[str], tmp_path: Path
) -> None:
    """That user's database could name any process of this machine."""
    keeper = AdoptedProcesses(tmp_path, SystemClock())
    handle = handle_of(theirs.pid, identity_of(theirs.pid) or "")
    await keeper.may([handle])
    os.chown(tmp_path, 12345, 12345)
    for act in (keeper.may([handle]), keeper.stop(handle, launch())):
        with pytest.raises(MachineLacks, match="not stopped by root"):
            await act
    assert (await keeper.status([handle]))["svc"].alive


def test_what_proc_tells(theirs: subprocess.Popen[str]) -> None:
    facts = reading.process(theirs.pid)
    assert facts is not None
    assert facts.command.argv[1] == "-c"
    assert "PATH" in facts.command.env
    assert facts.command.cwd.startswith("/")
    child = next(pid for pid in facts.pids if pid != theirs.pid)
    assert theirs.pid in [found.pid for found in reading.chain(child)]
    assert reading.process(2**22 - 1) is None


def test_only_one_of_the_two_is_adopted() -> None:
    for fields in ({}, {"unit": "x.service"}, {"pid": 7}, {"unit": "x.service", "manager": "user", "pid": 7}):
        with pytest.raises(ValueError, match="must be a unit and its manager, a container and its name, or a pid"):
            Adopted.model_validate(fields)
    for name in ("x.socket", "-x.service", "x/../y.service", "x\n.service", ".service"):
        with pytest.raises(ValueError, match="pattern"):
            Adopted(unit=name, manager="user")
