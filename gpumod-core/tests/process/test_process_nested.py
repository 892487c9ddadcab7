"""A gpumod that runs inside of a service: what it starts is another service, and no part of that one."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from gpumod.adapters.process.proc import start_ticks, trees
from gpumod.domain.run import Handle
from gpumod.ports import Launch
from gpumod.testing.supervisor_bench import SLEEPER, is_alive

STARTER = """
import asyncio, sys, time
from pathlib import Path
from gpumod.adapters.clock import SystemClock
from gpumod.adapters.process import ProcessSupervisor
from gpumod.domain.run import Handle
from gpumod.domain.settings import Settings
from gpumod.ports import Launch
home, handle, launch = Path(sys.argv[1]), Handle.model_validate_json(sys.argv[2]), sys.argv[3]
supervisor = ProcessSupervisor(home, 'x', Settings(), SystemClock())
asyncio.run(supervisor.start(handle, Launch.model_validate_json(launch), {}))
"""
OUTER = """
import os, subprocess, sys, time
subprocess.run([sys.executable, *sys.argv[1:]], check=True)
if os.fork() == 0:
    os.setsid()
    time.sleep(600)
print('up', flush=True)
time.sleep(600)
"""


async def nested(machine: Any, tmp_path: Path) -> tuple[Handle, Handle, Launch]:
    """A service whose program, through a gpumod of its own, has started another: both handles, the first's launch."""
    for name, text in (("starter.py", STARTER), ("outer.py", OUTER)):
        (tmp_path / name).write_text(text)
    inner, outer = machine.handle("inner"), machine.handle("outer")
    words = (str(machine.home), inner.model_dump_json(), machine.launch(SLEEPER).model_dump_json())
    argv = (sys.executable, str(tmp_path / "outer.py"), str(tmp_path / "starter.py"), *words)
    launch = Launch(argv=argv, stop_timeout_s=5.0)
    token = await machine.supervisor.start(outer, launch, {})
    await machine.lines(outer, 1)
    return outer.model_copy(update={"token": token}), inner, launch


async def shim_of(machine: Any, handle: Handle) -> int:
    token = (await machine.one(handle)).token
    return int(token["shim_pid"])


async def test_what_a_gpumod_inside_of_a_service_starts_is_no_part_of_it(machine: Any, tmp_path: Path) -> None:
    outer, inner, launch = await nested(machine, tmp_path)
    found = await machine.another().status([outer, inner])
    assert len(found["outer"].pids) == 2
    assert len(found["inner"].pids) == 1
    assert not set(found["outer"].pids) & set(found["inner"].pids)
    shim = await shim_of(machine, inner)
    assert shim not in trees([outer.token["shim_pid"]])[outer.token["shim_pid"]]
    async with asyncio.timeout(3):  # nobody waits for the other service either
        await machine.another().stop(outer, launch)
    assert machine.living(outer) == []
    assert not is_alive(outer.token["shim_pid"])
    assert (await machine.one(outer)).exit_code == -15
    assert (await machine.one(inner)).pid == found["inner"].pid
    await machine.another().stop(inner, launch)
    assert (await machine.one(inner)).exit_code == -15
    assert machine.living(inner) == []


@pytest.mark.parametrize("how", ["itself", "without its shim"])
async def test_an_end_of_the_outer_service_leaves_the_inner_one(machine: Any, tmp_path: Path, how: str) -> None:
    outer, inner, launch = await nested(machine, tmp_path)
    pid = await machine.pid(inner)
    if how == "itself":
        os.kill(outer.token["pid"], signal.SIGKILL)
    else:
        os.kill(outer.token["shim_pid"], signal.SIGKILL)
        await machine.another().stop(outer, launch)
    await machine.until(lambda: not machine.living(outer) and start_ticks(outer.token["shim_pid"]) is None)
    assert (await machine.one(inner)).pid == pid
    await machine.another().stop(inner, launch)


async def test_the_end_of_the_inner_service_leaves_no_zombie_below_the_outer_one(machine: Any, tmp_path: Path) -> None:
    outer, inner, launch = await nested(machine, tmp_path)
    shim = await shim_of(machine, inner)
    await machine.another().stop(inner, launch)
    await machine.until(lambda: not Path(f"/proc/{shim}").exists())
    assert (await machine.one(outer)).alive
    await machine.another().stop(outer, launch)
