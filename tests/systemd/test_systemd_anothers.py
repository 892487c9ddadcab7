"""Root at work in the homes of two users, one of whom has given the home the other's id."""

from __future__ import annotations

import os
import pwd
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gpumod.adapters.clock import SystemClock
from gpumod.adapters.environment import DEFAULT_PATH
from gpumod.adapters.files import ensure_private_dir, write_atomic
from gpumod.adapters.foreign.units import AdoptedUnits
from gpumod.adapters.systemd import SystemdSupervisor
from gpumod.domain.adopted import Adopted
from gpumod.domain.errors import Failed, GpumodError, MachineLacks
from gpumod.domain.run import Handle
from gpumod.domain.service import Service
from gpumod.domain.settings import Settings
from gpumod.ports import Launch

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

pytestmark = pytest.mark.systemd

UNITS = Path("/etc/systemd/system")
LAUNCH = Launch(argv=("/bin/sh", "-c", "echo said; exec sleep 600"), stop_timeout_s=2.0)
ANN, BOB = pwd.getpwnam("daemon"), pwd.getpwnam("nobody")  # of nobody systemd tells no HOME


class Home:
    """A user's home, and root's supervisor of the system's units in it. All have the same id."""

    def __init__(self, folder: Path, owner: pwd.struct_passwd) -> None:
        self.folder = folder / owner.pw_name
        self.folder.mkdir()
        os.chown(self.folder, owner.pw_uid, owner.pw_gid)
        self.supervisor = SystemdSupervisor(self.folder, "0123456789ab", Settings(), SystemClock(), scope="system")
        service = Service(id="svc", driver="none")
        self.handle = Handle(
            service="svc", supervisor="systemd-system", nonce="n", launched=service, started_at=time.time()
        )

    async def start(self) -> None:
        self.handle = self.handle.model_copy(
            update={"token": await self.supervisor.start(self.handle, LAUNCH, {"OWN": "1"})}
        )

    async def pid(self) -> int | None:
        return (await self.supervisor.status([self.handle]))["svc"].pid


@pytest.fixture
def homes(tmp_path: Path) -> Iterator[tuple[Home, Home]]:
    """Ann's and bob's."""
    if os.environ.get("GPUMOD_TEST_BOX") != "1":
        raise RuntimeError("this writes units of root's: never outside of the box")
    for folder in (tmp_path, *tmp_path.parents):
        folder.chmod(folder.stat().st_mode | 0o055)
    ann, bob = (Home(tmp_path, owner) for owner in (ANN, BOB))
    yield ann, bob
    for unit in UNITS.glob("gpumod-svc.*"):
        subprocess.run(["systemctl", "stop", unit.name])
        unit.unlink()


@pytest.mark.parametrize("marked", [True, False])
async def test_the_unit_of_anothers_home_with_the_same_id_is_left_alone(homes: tuple[Home, Home], marked: bool) -> None:
    ann, bob = homes
    await ann.start()
    pid = await ann.pid()
    (unit,) = UNITS.glob("gpumod-svc.*")
    text = unit.read_text()
    assert f"\nUser={ANN.pw_name}\n" in text
    if not marked:  # as it was before units told whose home they are of
        unit.write_text(text := text.replace(f"Owner={ANN.pw_uid}\n", ""))
    acts: list[Callable[[], Awaitable[object]]] = [
        lambda: bob.supervisor.install(bob.handle, LAUNCH),
        lambda: bob.supervisor.may([bob.handle]),
        lambda: bob.supervisor.stop(bob.handle, LAUNCH),
    ]
    for act in acts:
        with pytest.raises(Failed) as caught:
            await act()
        assert caught.value.code == "foreign-unit"
    with pytest.raises(GpumodError):
        bob.supervisor.check(bob.handle, LAUNCH)
    assert (bob.supervisor.units(), list(await bob.supervisor.strays([]))) == ({}, [])
    while not ann.supervisor.logs("svc", 5):  # the journal takes its time
        time.sleep(0.02)
    assert bob.supervisor.logs("svc", 5) == ()
    assert await bob.supervisor.forget("svc")
    assert (unit.read_text(), await ann.pid()) == (text, pid)
    await ann.supervisor.may([ann.handle])
    await ann.supervisor.stop(ann.handle, LAUNCH)
    assert await ann.pid() is None
    with pytest.raises(Failed, match="not ours"):
        await bob.start()
    assert await ann.supervisor.forget("svc")
    assert not unit.exists()


async def test_what_root_starts_for_a_user_has_that_users_variables(
    homes: tuple[Home, Home], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Caches would else be looked for in root's folders, and libraries be those of root's shell."""
    ours = {"HOME": "/root", "USER": "root", "HF_HOME": "/roots/hf", "LD_LIBRARY_PATH": "/roots/lib", "TMPDIR": "/root"}
    for name, value in ours.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", f"/roots/bin:{os.environ['PATH']}")
    await homes[0].start()
    told = Path(f"/proc/{await homes[0].pid()}/environ").read_bytes().decode().split("\0")
    found = dict(entry.split("=", 1) for entry in told if entry)
    assert (found["HOME"], found["USER"], found["OWN"]) == (ANN.pw_dir, ANN.pw_name, "1")
    assert found["PATH"] == DEFAULT_PATH
    assert not ours.keys() - {"HOME", "USER"} & found.keys()


async def test_no_unit_that_a_user_has_adopted_is_started_stopped_or_read_by_root(
    homes: tuple[Home, Home], tmp_path: Path
) -> None:
    roots = UNITS / "gpumod-svc.roots.service"  # of which every user may say that it is adopted
    roots.write_text("[Service]\nExecStart=/bin/sh -c 'echo of root; exec sleep 600'\n")
    subprocess.run(["systemctl", "start", roots.name], check=True)
    keeper = AdoptedUnits(homes[0].folder, SystemClock(), scope="system")
    service = Service(id="svc", driver="none", adopted=Adopted(unit=roots.name, manager="system"))
    handle = Handle(service="svc", supervisor="adopted-system", nonce="", launched=service, started_at=0)
    assert (await keeper.status([handle]))["svc"].alive
    for act in (keeper.may([handle]), keeper.start(handle, LAUNCH, {}), keeper.stop(handle, LAUNCH)):
        with pytest.raises(MachineLacks) as caught:
            await act
        assert caught.value.code == "anothers-home"
    own = AdoptedUnits(tmp_path, SystemClock(), scope="system")
    own.meet(handle)
    while not own.logs("svc", 10):
        time.sleep(0.02)
    assert keeper.logs("svc", 10) == ()
    run = subprocess.check_output(["systemctl", "show", "-P", "InvocationID", roots.name], text=True).strip()
    ended = homes[0].folder / "services/svc/.run/ended"
    ensure_private_dir(ended.parent)
    write_atomic(ended, f"n {run} success exited 0")
    assert homes[0].supervisor.logs("svc", 10) == (), "the user says which run that was"
    assert (await keeper.status([handle]))["svc"].alive
