"""The setting `user` on a real systemd: services of root's home that run as somebody with fewer rights."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gpumod.adapters.service_user import STATE
from gpumod.domain.errors import Failed, UsageError
from gpumod.domain.service import Service
from gpumod.ports import Allocation, LaunchFile
from gpumod_llamacpp.driver import LlamaCppDriver
from tests.systemd.conftest import UnitBench
from tests.systemd.users import User

pytestmark = pytest.mark.systemd

SECRET = "not in any unit"
APP = """
    import grp, json, os, sys
    told = {name: os.environ.get(name) for name in ("HOME", "USER", "TOKEN", "XDG_CONFIG_HOME")}
    try:
        os.listdir(sys.argv[1])
        told["reads_home"] = True
    except PermissionError:
        told["reads_home"] = False
    open("mine", "w").close()
    print(json.dumps({**told, "ids": [os.getuid(), os.geteuid(), os.getgid()], "cwd": os.getcwd()}), flush=True)
    import time
    time.sleep(600)
"""
ROUTER = """#!{python}
import signal, sys, time
file = sys.argv[sys.argv.index("--models-preset") + 1]
def read(*_):
    print("read", repr(open(file).read()), flush=True)
signal.signal(signal.SIGUSR1, read)
read()
while True:
    time.sleep(600)
"""


@pytest.fixture
def svc() -> Iterator[User]:
    svc = User("svc")
    yield svc
    svc.forget()


@pytest.fixture
def as_svc(system: UnitBench, svc: User) -> UnitBench:
    """Root's home, whose services run as `svc`."""
    system.settings = system.settings.model_copy(update={"user": svc.name})
    system.supervisor = system.another()
    return system


def own_folder(bench: UnitBench, user: str, service: str = "svc") -> Path:
    return STATE / bench.home_id / user / service


def whose(path: Path) -> tuple[int, int]:
    """Its owner, and what others than that may do with it."""
    status = path.stat()
    return status.st_uid, stat.S_IMODE(status.st_mode) & 0o077


async def test_a_service_runs_as_the_user_with_nothing_of_roots(as_svc: UnitBench, svc: User) -> None:
    handle = as_svc.handle()
    launch = as_svc.launch(APP, files=(LaunchFile(name="sub/a.conf", content="x"),))
    launch = launch.model_copy(update={"argv": (*launch.argv, str(as_svc.home))})
    token = await as_svc.supervisor.start(handle, launch, {"TOKEN": SECRET})
    handle = handle.model_copy(update={"token": token})
    told = json.loads((await as_svc.lines(handle, 1))[-1])
    folder = own_folder(as_svc, svc.name)
    uid, gid = svc.entry.pw_uid, svc.entry.pw_gid
    assert told == {
        "HOME": svc.entry.pw_dir,
        "USER": svc.name,
        "TOKEN": SECRET,
        "XDG_CONFIG_HOME": None,
        "reads_home": False,
        "ids": [uid, uid, gid],
        "cwd": str(folder),
    }
    assert Path(f"/proc/{await as_svc.pid(handle)}").stat().st_uid == uid
    assert {whose(path) for path in (folder, folder.parent, folder / "sub/a.conf", folder / "mine")} == {(uid, 0)}
    assert whose(folder.parents[1]) == (0, 0o055)
    unit = as_svc.path().read_text()
    assert f"\nUser={svc.name}\nGroup={svc.name}\n" in unit
    assert SECRET not in unit
    environment = as_svc.home / "services/svc/.run/environment"
    assert whose(environment) == (0, 0)

    await as_svc.supervisor.stop(handle, launch)
    assert not as_svc.living(handle)
    status = await as_svc.one(handle)
    assert (status.alive, status.exit_code) == (False, -15)  # root wrote down how it ended
    assert whose(as_svc.home / "services/svc/.run/ended") == (0, 0)


async def test_a_router_reads_its_presets_whatever_the_setting_becomes(as_svc: UnitBench, svc: User) -> None:
    program = Path("/usr/local/bin/llama-server-of-svc")
    program.write_text(ROUTER.format(python=os.path.realpath(sys.executable)))
    program.chmod(0o755)
    service = Service.model_validate({"id": "svc", "driver": "llamacpp", "port": 9, "unit_vars": {"router": True}})
    settings = as_svc.settings.model_copy(update={"llama_server_bin": str(program)})
    made = LlamaCppDriver().launch(service, Allocation(), settings)
    (file,) = made.files
    handle = as_svc.handle()
    token = await as_svc.supervisor.start(handle, made, {})
    handle = handle.model_copy(update={"token": token})
    assert (await as_svc.lines(handle, 1))[-1] == f"read {file.content!r}"
    path = own_folder(as_svc, svc.name) / file.name
    assert whose(path) == (svc.entry.pw_uid, 0)

    later = as_svc.another(user=None)  # it is up, and runs as before until its next start
    changed = file.model_copy(update={"content": "[new]\n"})
    await asyncio.to_thread(later.write_files, "svc", [changed])
    as_svc.systemctl("kill", "--signal=USR1", as_svc.name())
    assert (await as_svc.lines(handle, 2))[-1] == f"read {'[new]' + chr(10)!r}"
    assert whose(path) == (svc.entry.pw_uid, 0)
    there = later.unit(handle, made)
    assert there.there is not None
    assert there.there != there.text  # drift, and nothing was restarted
    assert await as_svc.pid(handle) == token["pid"]
    await as_svc.supervisor.stop(handle, made)
    program.unlink()


async def test_where_nobody_changes_users_nothing_starts(tmp_path: Path, svc: User) -> None:
    bench = UnitBench(tmp_path / "home", "user")
    bench.settings = bench.settings.model_copy(update={"user": svc.name})
    bench.supervisor = bench.another()
    with pytest.raises(UsageError) as caught:
        await bench.start(APP)
    assert caught.value.code == "cannot-change-user"
    with pytest.raises(UsageError, match=svc.name):
        bench.supervisor.check(bench.handle(), bench.launch(APP))
    assert not bench.path().exists()
    bench.sweep()


async def test_folders_that_are_the_users_are_refused_before_anything_runs(as_svc: UnitBench, svc: User) -> None:
    """useradd --system --home-dir /var/lib/gpumod --create-home: what root makes there could lie anywhere."""
    STATE.mkdir(mode=0o755, exist_ok=True)
    os.chown(STATE, svc.entry.pw_uid, svc.entry.pw_gid)
    launch, before = as_svc.launch(APP), set(STATE.rglob("*"))
    try:
        with pytest.raises(Failed) as caught:
            as_svc.supervisor.check(as_svc.handle(), launch)
        assert (caught.value.code, str(STATE) in caught.value.info.hint) == ("bad-folder", True)
        with pytest.raises(Failed, match="root's alone"):
            await as_svc.supervisor.start(as_svc.handle(), launch, {})
        assert set(STATE.rglob("*")) == before
    finally:
        os.chown(STATE, 0, 0)
    as_svc.supervisor.check(as_svc.handle(), launch)


def test_the_setting_is_checked_and_doctor_names_what_the_user_may_not_read(svc: User, tmp_path: Path) -> None:
    def gpumod(*words: str, code: int | None = 0) -> Any:
        return root.gpumod("--home", str(home), *words, code=code, as_root=True)

    home, root = tmp_path / "home", svc
    gpumod("init", "--sim", "RTX 4090:24564", "--yes")
    assert gpumod("settings", "set", "user", "no-such-user", code=2)["error"]["code"] == "bad-setting"
    gpumod("settings", "set", "user", svc.name)
    error = gpumod("service", "start", "tts", code=2)["error"]
    assert error["code"] == "cannot-change-user"
    assert "systemd-system" in error["hint"]
    gpumod("settings", "set", "supervisor", "systemd-system")
    assert f"\nUser={svc.name}\nGroup={svc.name}\n" in gpumod("service", "unit", "tts")["text"]
    script = tmp_path / "closed" / "app.py"
    script.parent.mkdir(mode=0o700)
    gpumod("service", "edit", "tts", "--set", f"cwd={script.parent}")
    checks = gpumod("doctor", code=None)["checks"]
    (found,) = [check for check in checks if check["name"] == "service tts" and svc.name in check["message"]]
    assert str(script.parent) in found["message"]
    assert found["level"] == "problem"
    # the owner of another home is the only one who can be meant there
    root.gpumod("init", "--sim", "RTX 4090:24564", "--yes")
    assert root.gpumod("settings", "set", "user", "root", code=2)["error"]["code"] == "bad-setting"
    assert root.gpumod("settings", "set", "user", svc.name)["value"] == svc.name
