"""Units of somebody's under a real systemd, as their keeper starts, watches and stops them."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gpumod.adapters.clock import SystemClock
from gpumod.adapters.foreign.unit_facts import facts
from gpumod.adapters.foreign.units import AdoptedUnits
from gpumod.adapters.systemd.manager import Manager
from gpumod.domain.adopted import Adopted
from gpumod.domain.run import Handle
from gpumod.domain.service import Service
from gpumod.ports import Launch

pytestmark = pytest.mark.systemd

FOLDER = Path("/etc/systemd/system")
LAUNCH = Launch(argv=("x",))
Write = Callable[..., Handle]


def systemctl(*words: str) -> str:
    return subprocess.run(["systemctl", *words], capture_output=True, text=True).stdout.strip()


@pytest.fixture
def write() -> Iterator[Write]:
    """`write(NAME, *LINES)` writes a unit of these lines and gives the handle of a service adopted from it."""
    if os.environ.get("GPUMOD_TEST_BOX") != "1":
        raise RuntimeError("this writes units: never outside of the box")
    made: list[str] = []

    def put(name: str, *lines: str, head: str = "") -> Handle:
        (FOLDER / name).write_text("\n".join(["[Unit]", head, "[Service]", "TimeoutStopSec=2", *lines, ""]))
        systemctl("daemon-reload")
        made.append(name)
        service = Service(id=name.removesuffix(".service"), driver="x", adopted=Adopted(unit=name, manager="system"))
        return Handle(service=service.id, supervisor="adopted-system", nonce="", launched=service, started_at=0)

    yield put
    for name in made:
        systemctl("stop", name)
        systemctl("reset-failed", name)
        (FOLDER / name).unlink()


@pytest.fixture
def keeper(tmp_path: Path) -> AdoptedUnits:
    return AdoptedUnits(tmp_path, SystemClock(), scope="system")


async def alive(keeper: AdoptedUnits, handle: Handle) -> bool:
    return (await keeper.status([handle]))[handle.service].alive


async def gone_within(keeper: AdoptedUnits, handle: Handle, seconds: float) -> None:
    await asyncio.wait_for(keeper.exited(handle), seconds)


async def test_a_start_does_not_wait_for_a_unit_that_never_says_it_is_ready(keeper: AdoptedUnits, write: Write) -> None:
    handle = write("quiet.service", "Type=notify", "TimeoutStartSec=infinity", "ExecStart=/bin/sleep 600")
    await asyncio.wait_for(keeper.start(handle, LAUNCH, {}), 10)
    assert systemctl("is-active", "quiet.service") == "activating"
    status = (await keeper.status([handle]))["quiet"]
    assert (status.alive, status.pid is not None) == (True, True)
    await keeper.stop(handle, LAUNCH)
    assert systemctl("is-active", "quiet.service") == "inactive"


async def test_a_start_that_waits_for_another_unit_is_alive_and_can_be_stopped(
    keeper: AdoptedUnits, write: Write
) -> None:
    write("slow.service", "Type=oneshot", "TimeoutStartSec=infinity", "ExecStart=/bin/sleep 600")
    handle = write("later.service", "ExecStart=/bin/sleep 600", head="Wants=slow.service\nAfter=slow.service")
    await asyncio.wait_for(keeper.start(handle, LAUNCH, {}), 10)
    assert systemctl("is-active", "later.service") == "inactive"
    status = (await keeper.status([handle]))["later"]
    assert (status.alive, status.detail) == (True, "systemd has yet to start it")
    await keeper.stop(handle, LAUNCH)
    assert not await alive(keeper, handle)
    systemctl("stop", "slow.service")
    assert systemctl("is-active", "later.service") == "inactive"


async def test_starts_that_fail_are_seen_by_the_status(keeper: AdoptedUnits, write: Write) -> None:
    write("broken.service", "Type=oneshot", "ExecStart=/bin/false")
    needs = write("needs.service", "ExecStart=/bin/sleep 600", head="Requires=broken.service\nAfter=broken.service")
    missing = write("missing.service", "ExecStart=/no/such/program")
    failing = write("failing.service", "ExecStart=/bin/sh -c 'exit 3'")
    for handle in (needs, missing, failing):
        await keeper.start(handle, LAUNCH, {})
        await gone_within(keeper, handle, 10)
    assert (await keeper.status([failing]))["failing"].exit_code == 3
    assert "failed" in (await keeper.status([missing]))["missing"].detail
    await keeper.start(failing, LAUNCH, {})  # it has failed before: that is not taken for its present state
    await gone_within(keeper, failing, 10)


async def test_a_unit_that_became_an_alias_is_the_one_that_it_stands_for(keeper: AdoptedUnits, write: Write) -> None:
    handle = write("old-name.service", "ExecStart=/bin/sleep 600")
    write("new-name.service", "ExecStart=/bin/sleep 600")
    (FOLDER / "old-name.service").unlink()
    (FOLDER / "old-name.service").symlink_to("new-name.service")
    systemctl("daemon-reload")
    assert not await alive(keeper, handle)
    await keeper.start(handle, LAUNCH, {})
    assert await alive(keeper, handle)
    assert systemctl("is-active", "new-name.service") == "active"
    await keeper.stop(handle, LAUNCH)
    assert systemctl("is-active", "new-name.service") == "inactive"


def test_the_command_of_a_unit_has_the_variables_that_the_unit_sets(write: Write) -> None:
    environment = """Environment=PORT=9000 "MORE=--alias 'my model'" EMPTY="""
    run = "ExecStart=/bin/x --port ${PORT} $MORE $EMPTY -m /m/${PORT}.gguf ${GONE} $GONE $${PORT}"
    write("words.service", environment, run)
    (told,) = facts(Manager("system", os.environ), ["words.service"])
    words = ("/bin/x", "--port", "9000", "--alias", "my model", "-m", "/m/9000.gguf", "${GONE}", "$GONE", "${PORT}")
    assert told.command.argv == words
    write("more-words.service", environment, "EnvironmentFile=-/etc/default/words", run)  # whose variables would win
    (told,) = facts(Manager("system", os.environ), ["more-words.service"])
    assert told.unseen_env
    assert told.command.argv[1:3] == ("--port", "${PORT}")


@pytest.mark.slow
async def test_a_unit_without_a_main_process_is_not_asked_after_all_the_time(
    keeper: AdoptedUnits, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = write("before.service", "ExecStartPre=/bin/sleep 60", "ExecStart=/bin/sleep 600")
    await asyncio.wait_for(keeper.start(handle, LAUNCH, {}), 10)
    calls = tmp_path / "calls"
    counting = tmp_path / "systemctl"
    counting.write_text(f'#!/bin/sh\necho >>{calls}\nexec {shutil.which("systemctl")} "$@"\n')
    counting.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(TimeoutError):
        await gone_within(keeper, handle, 2)
    assert 2 <= len(calls.read_text().splitlines()) <= 6
