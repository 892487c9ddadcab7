"""Starts that are cancelled, or wait for their turn, with a systemctl that stands in for systemd's."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from gpumod.adapters.clock import SystemClock
from gpumod.adapters.foreign.units import AdoptedUnits
from gpumod.adapters.systemd.manager import Manager
from gpumod.adapters.systemd.supervisor import SystemdSupervisor
from gpumod.domain.adopted import Adopted
from gpumod.domain.errors import MachineLacks
from gpumod.domain.run import Handle
from gpumod.domain.service import Service
from gpumod.domain.settings import Settings
from gpumod.ports import Launch

SYSTEMCTL = """#!/bin/sh
# Tells what it was asked; `start` takes its time, and its job is there when it is done.
echo "$*" >>"$HOME/asked"
case "$*" in
*' show '*) printf 'Id=%s\\nActiveState=inactive\\nJob=%s\\n' "${*##* }" "$(cat "$HOME/job" 2>/dev/null)" ;;
*' start '*) while [ ! -e "$HOME/go" ]; do sleep 0.01; done; echo 77 >"$HOME/job" ;;
*' stop '*) rm "$HOME/job" ;;
esac
"""
LAUNCH = Launch(argv=("x",), stop_timeout_s=1.0)


class Stand:
    """A user's manager, of which `folder` is all there is."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.job, self.go = folder, folder / "job", folder / "go"

    def asked(self, verb: str) -> bool:
        asked = self.folder / "asked"
        return asked.exists() and f" {verb} " in asked.read_text()


@pytest.fixture
def stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stand:
    (tmp_path / "systemd").mkdir()
    (tmp_path / "systemctl").write_text(SYSTEMCTL)
    (tmp_path / "systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return Stand(tmp_path)


async def cancelled(starting: asyncio.Task[object], stand: Stand) -> None:
    """Cancel a start while systemctl is at it, and let that go on a moment later."""
    while not stand.asked("start"):
        await asyncio.sleep(0.01)
    starting.cancel()
    await asyncio.sleep(0.05)
    assert not starting.done(), "systemctl may still have it started"
    stand.go.touch()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert stand.job.exists()


async def test_a_start_that_is_cancelled_ends_with_systemctl(stand: Stand) -> None:
    await cancelled(asyncio.create_task(Manager("user").start("--", "x.service")), stand)


async def test_so_does_that_of_an_adopted_unit(stand: Stand) -> None:
    service = Service(id="svc", driver="fastapi", adopted=Adopted(unit="x.service", manager="user"))
    handle = Handle(service="svc", supervisor="adopted-user", nonce="n", launched=service, started_at=0.0)
    keeper = AdoptedUnits(stand.folder, SystemClock(), scope="user")
    await cancelled(asyncio.create_task(keeper.start(handle, LAUNCH, {})), stand)
    await keeper.stop(handle, LAUNCH)
    assert not stand.job.exists()


async def test_a_unit_whose_start_waits_for_its_turn_is_stopped(stand: Stand) -> None:
    home = stand.folder / "home"
    home.mkdir()
    supervisor = SystemdSupervisor(home, "0123456789ab", Settings(), SystemClock(), scope="user")
    service = Service(id="svc", driver="fastapi")
    handle = Handle(service="svc", supervisor=supervisor.name, nonce="n", launched=service, started_at=time.time())
    await supervisor.stop(handle, LAUNCH)
    assert not stand.asked("stop"), "there is nothing to stop"
    stand.job.write_text("77")
    await supervisor.stop(handle, LAUNCH)
    assert not stand.job.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to have another user's home")
@pytest.mark.parametrize("adopted", [True, False])
async def test_root_leaves_its_units_alone_whatever_another_users_home_names(stand: Stand, adopted: bool) -> None:
    """That user's database can name any unit, and the user's home could have root's id."""
    home = stand.folder / "home"
    home.mkdir()
    os.chown(home, 12345, 12345)
    theirs = Adopted(unit="ssh.service", manager="user") if adopted else None
    service = Service(id="svc", driver="fastapi", adopted=theirs)
    keeper = (
        AdoptedUnits(home, SystemClock(), scope="user")
        if adopted
        else SystemdSupervisor(home, "0123456789ab", Settings(), SystemClock(), scope="user")
    )
    handle = Handle(service="svc", supervisor=keeper.name, nonce="n", launched=service, started_at=0.0)
    stand.job.write_text("77")
    stand.go.touch()
    for act in (keeper.may([handle]), keeper.start(handle, LAUNCH, {}), keeper.stop(handle, LAUNCH)):
        with pytest.raises(MachineLacks) as caught:
            await act
        assert caught.value.code == "anothers-home"
    with pytest.raises(MachineLacks):
        keeper.check(handle, LAUNCH)
    await keeper.status([handle])
    assert keeper.logs("svc", 10) == ()
    assert not stand.asked("start")
    assert not stand.asked("stop")
