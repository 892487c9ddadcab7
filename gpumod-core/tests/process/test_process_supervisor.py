"""What the process supervisor promises beyond what every supervisor does: its token, its shim, any bytes at all."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from gpumod.adapters.process.proc import start_ticks
from gpumod.domain.errors import Failed, MachineLacks, UsageError
from gpumod.testing.supervisor_bench import FAMILY, SLEEPER


async def test_the_token_names_processes_by_their_start(machine: Any) -> None:
    handle = await machine.start(SLEEPER)
    token = handle.token
    assert start_ticks(token["pid"]) == token["pid_started"]
    assert start_ticks(token["shim_pid"]) == token["shim_started"]
    assert (await machine.one(handle)).token == token


async def test_a_stray_that_lost_its_shim_is_ended_with_all_its_workers(machine: Any) -> None:
    handle = await machine.start(FAMILY)
    await machine.lines(handle, 6)
    os.kill(handle.token["shim_pid"], signal.SIGKILL)
    await machine.until(lambda: start_ticks(handle.token["shim_pid"]) is None)
    (found,) = await machine.another().strays([])
    assert (found.service, found.pid) == ("svc", handle.token["pid"])
    kill, *pids = found.end.split()
    assert (kill, len(pids)) == ("kill", 7)
    for pid in pids:
        os.kill(int(pid), signal.SIGKILL)  # some of them do not hear the gentler one
    await machine.until(lambda: not machine.living(handle))
    assert list(await machine.another().strays([])) == []  # nothing is left to keep it company


async def test_workers_that_outlived_both_their_parents_are_ended_by_the_next_start(machine: Any) -> None:
    first = await machine.start(FAMILY)
    await machine.lines(first, 6)
    for pid in (first.token["shim_pid"], first.token["pid"]):
        os.kill(pid, signal.SIGKILL)
        await machine.until(lambda pid=pid: start_ticks(pid) is None)
    assert len(machine.living(first)) > 3
    second = await machine.start(SLEEPER)
    assert not machine.living(first)
    assert (await machine.one(second)).alive


async def test_what_runs_without_its_shim_is_not_started_twice(machine: Any) -> None:
    first = await machine.start(SLEEPER)
    os.kill(first.token["shim_pid"], signal.SIGKILL)
    await machine.until(lambda: start_ticks(first.token["shim_pid"]) is None)
    with pytest.raises(Failed, match="is running already"):
        await machine.start(SLEEPER)
    assert (await machine.one(first)).alive


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to have another user's home")
async def test_root_starts_nothing_of_another_users_home(machine: Any) -> None:
    """It would run with root's rights, and what it writes would be root's."""
    machine.home.mkdir(exist_ok=True)
    os.chown(machine.home, 12345, 12345)
    with pytest.raises(MachineLacks, match="would run as root") as caught:
        machine.supervisor.check(machine.handle(), machine.launch(SLEEPER))
    assert "systemd-system" in caught.value.info.hint
    with pytest.raises(MachineLacks, match="#12345"):
        await machine.start(SLEEPER)
    assert list(machine.home.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to have another user's home")
async def test_root_ends_nothing_that_another_users_home_names(machine: Any) -> None:
    """Its owner could name any process of this machine."""
    handle = await machine.start(SLEEPER)
    assert await machine.supervisor.may([handle]) is None
    os.chown(machine.home, 12345, 12345)
    with pytest.raises(MachineLacks, match="not stopped by root"):
        await machine.supervisor.may([handle])
    with pytest.raises(MachineLacks, match="#12345"):
        await machine.supervisor.stop(handle, machine.launch(SLEEPER))
    assert (await machine.one(handle)).alive
    os.chown(machine.home, 0, 0)
    await machine.supervisor.stop(handle, machine.launch(SLEEPER))
    assert machine.living(handle) == []


def nurseries() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "nursery.py" in " ".join(child.cmdline())]


async def test_a_start_that_is_cancelled_leaves_nothing_that_is_not_found(machine: Any) -> None:
    async with machine.supervisor.prepared([(machine.handle(), machine.launch(SLEEPER))]):
        await machine.until(nurseries)
        (nursery,) = nurseries()
        handle = machine.handle()
        nursery.suspend()  # a machine that stalls
        starting = asyncio.create_task(machine.supervisor.start(handle, machine.launch(SLEEPER), {}))
        await asyncio.sleep(0.1)
        starting.cancel()
        asyncio.get_running_loop().call_later(0.2, nursery.resume)
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert (await machine.one(handle)).alive
        await machine.supervisor.stop(handle, machine.launch(SLEEPER))
        assert machine.living(handle) == []


async def test_nothing_secret_is_left_in_a_file_or_in_the_shim(machine: Any) -> None:
    handle = machine.handle()
    launch = machine.launch(SLEEPER, env={"API_KEY": "s3cr3t-value"})
    token = await machine.supervisor.start(handle, launch, {})
    assert b"s3cr3t" not in Path(f"/proc/{token['shim_pid']}/environ").read_bytes()
    files = [path for path in machine.home.rglob("*") if path.is_file()]
    assert files
    assert not any(b"s3cr3t" in path.read_bytes() for path in files)


async def test_arguments_and_variables_may_be_any_bytes(machine: Any) -> None:
    code = "import json, os, sys; print(json.dumps([sys.argv[1], os.environ['WEIRD']]))"
    weird = "a b\n$HOME \udc80"
    base = machine.launch(code)
    launch = base.model_copy(update={"argv": (*base.argv, weird), "env": {"WEIRD": weird}})
    handle = machine.handle()
    await machine.supervisor.start(handle, launch, {})
    assert json.loads((await machine.lines(handle, 1))[0]) == [weird, weird]


async def test_a_program_that_is_missing_is_told_with_where_it_was_looked_for(machine: Any) -> None:
    launch = machine.launch(SLEEPER).model_copy(update={"argv": ("no-such-program-here",)})
    with pytest.raises(MachineLacks) as caught:
        await machine.supervisor.start(machine.handle(), launch, {})
    assert "/bin" in caught.value.info.why


@pytest.mark.parametrize("service", ["../x", "", "a/b", "a\nb", "."])
def test_an_id_that_would_leave_the_home_is_refused(machine: Any, service: str) -> None:
    for call in (machine.supervisor.log_path, lambda service: machine.supervisor.write_files(service, ())):
        with pytest.raises(UsageError) as caught:
            call(service)
        assert caught.value.code == "bad-id"
