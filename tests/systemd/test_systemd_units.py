"""Units on a real systemd: what is written and when it is read, whose they are, and what is in them."""

from __future__ import annotations

import asyncio
import os
import re
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from gpumod.domain.errors import Failed
from gpumod.testing.supervisor_bench import SLEEPER

pytestmark = pytest.mark.systemd


async def test_a_unit_is_written_and_read_only_when_its_text_changed(bench: Any) -> None:
    before = bench.reloads()
    handle = await bench.start(SLEEPER)
    assert f"Home={bench.home_id}\nService=svc\n" in bench.path().read_text()
    await bench.supervisor.stop(handle, bench.launch(SLEEPER))
    written = bench.path().stat().st_mtime_ns
    handle = await bench.start(SLEEPER)  # other nonce, same text
    await bench.supervisor.stop(handle, bench.launch(SLEEPER))
    assert bench.path().stat().st_mtime_ns == written
    handle = await bench.start(SLEEPER, stop_timeout_s=7.0)
    assert bench.shown("TimeoutStopUSec") == "7s"
    assert bench.reloads() == before  # systemd holds no unit that is down
    await bench.supervisor.install(handle, bench.launch(SLEEPER, stop_timeout_s=8.0))
    assert bench.shown("TimeoutStopUSec") == "8s"
    assert bench.reloads() == before + 1
    await bench.supervisor.install(handle, bench.launch(SLEEPER, stop_timeout_s=8.0))
    assert bench.reloads() == before + 1
    await bench.supervisor.stop(handle, bench.launch(SLEEPER))


async def test_a_whole_plan_reads_units_once(bench: Any) -> None:
    services = ["a", "b", "c", "d"]
    keeper = bench.path().with_name("keeper.target")
    keeper.parent.mkdir(parents=True, exist_ok=True)
    keeper.write_text("[Unit]\nAfter=" + " ".join(map(bench.name, services)))  # so systemd holds them all
    bench.systemctl("start", keeper.name)
    for timeout_s, reloads in ((5.0, 0), (6.0, 1)):  # what is new is found without
        launch = bench.launch(SLEEPER, stop_timeout_s=timeout_s)
        handles = [bench.handle(service) for service in services]
        before = bench.reloads()
        async with bench.supervisor.prepared([(handle, launch) for handle in handles]):
            await asyncio.gather(*(bench.supervisor.start(handle, launch, {}) for handle in handles))
        assert bench.reloads() == before + reloads
        statuses = await bench.supervisor.status(handles)
        assert all(status.alive for status in statuses.values())
        assert {bench.shown("TimeoutStopUSec", service) for service in services} == {f"{timeout_s:g}s"}
        await asyncio.gather(*(bench.supervisor.stop(handle, launch) for handle in handles))
    bench.systemctl("stop", keeper.name)
    keeper.unlink()


async def test_a_text_that_was_written_and_not_read_is_read_at_the_next_start(bench: Any) -> None:
    handle = await bench.start(SLEEPER)
    await bench.supervisor.stop(handle, bench.launch(SLEEPER))
    again = await bench.start(SLEEPER)  # keeps the unit loaded
    unit = bench.supervisor.unit(bench.handle(), bench.launch(SLEEPER, stop_timeout_s=9.0))
    bench.path().write_text(unit.text)  # gpumod was killed here
    os.utime(bench.path(), (1_900_000_000, 1_900_000_000))
    assert bench.shown("NeedDaemonReload") == "yes"
    await bench.supervisor.stop(again, bench.launch(SLEEPER))
    last = await bench.start(SLEEPER, stop_timeout_s=9.0)
    assert bench.shown("NeedDaemonReload") == "no"
    assert bench.shown("TimeoutStopUSec") == "9s"
    await bench.supervisor.stop(last, bench.launch(SLEEPER))


# --- whose a unit is ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bare", "another-home", "another-service", "link", "dangling"])
async def test_what_is_not_ours_is_not_written_over_and_not_removed(bench: Any, tmp_path: Path, kind: str) -> None:
    path = bench.path()
    path.parent.mkdir(parents=True, exist_ok=True)
    bench.handle()  # swept
    ours = bench.supervisor.unit(bench.handle(), bench.launch(SLEEPER)).text
    texts = {
        "bare": "[Service]\nExecStart=/bin/true\n",
        "another-home": ours.replace("Home=0123456789ab", "Home=ba9876543210"),
        "another-service": ours.replace("Service=svc", "Service=other"),
    }
    if kind in texts:
        path.write_text(texts[kind])
    else:
        target = tmp_path / "target.service"
        if kind == "link":
            target.write_text(ours)
        path.symlink_to(target)
    before = path.lstat().st_mtime_ns, path.is_symlink()
    for attempt in (
        lambda: bench.supervisor.check(bench.handle(), bench.launch(SLEEPER)),
        lambda: bench.supervisor.unit(bench.handle(), bench.launch(SLEEPER)),
    ):
        with pytest.raises(Failed) as caught:
            attempt()
        assert caught.value.code == "foreign-unit"
    with pytest.raises(Failed) as caught:
        await bench.start(SLEEPER)
    assert caught.value.code == "foreign-unit"
    await bench.supervisor.forget("svc")
    assert (path.lstat().st_mtime_ns, path.is_symlink()) == before


async def test_a_unit_of_the_same_name_at_another_place_is_not_shadowed(system: Any) -> None:
    elsewhere = Path("/usr/lib/systemd/system") / system.name()
    elsewhere.write_text("[Service]\nExecStart=/bin/true\n")
    try:
        with pytest.raises(Failed) as caught:
            await system.start(SLEEPER)
        assert caught.value.code == "foreign-unit"
        assert f"/lib/systemd/system/{system.name()}" in caught.value.info.message
        assert not system.path().exists()
    finally:
        elsewhere.unlink()


async def test_units_of_services_that_are_gone_go_too(bench: Any) -> None:
    handle = await bench.start("raise SystemExit(3)")
    await bench.supervisor.exited(handle)
    assert bench.shown("ActiveState") == "failed"
    await bench.supervisor.forget("svc")
    assert not bench.path().exists()
    assert bench.shown("LoadState") == "not-found"
    assert not list(bench.home.rglob("environment"))
    await bench.supervisor.forget("svc")  # again: nothing to do


async def test_a_unit_edited_by_hand_is_told_from_one_of_an_older_template(bench: Any) -> None:
    handle, launch = bench.handle(), bench.launch(SLEEPER)
    await bench.supervisor.install(handle, launch)
    assert not bench.supervisor.unit(handle, launch).edited
    newer = bench.supervisor.unit(handle, bench.launch(SLEEPER, stop_timeout_s=1.0))
    assert newer.there != newer.text
    assert not newer.edited
    bench.path().write_text(bench.path().read_text().replace("RestartSec=10", "RestartSec=11"))
    assert bench.supervisor.unit(handle, launch).edited


async def test_a_drop_in_of_the_user_counts_and_stays(bench: Any) -> None:
    folder = bench.path().with_name(bench.name() + ".d")
    folder.mkdir(parents=True)
    (folder / "mine.conf").write_text("[Service]\nEnvironment=MINE=1\n")
    handle = await bench.start("import os; print(os.environ['MINE'], flush=True)")
    assert await bench.lines(handle, 1) == ("1",)
    await bench.supervisor.forget("svc")
    assert (folder / "mine.conf").exists()


# --- what is in one -------------------------------------------------------------------------------------------------


async def test_systemd_finds_nothing_to_complain_of(bench: Any) -> None:
    await bench.supervisor.install(bench.handle(), bench.launch(SLEEPER))
    bench.supervisor.write_files("svc", [])
    user = ["--user"] if bench.scope == "user" else ["--system"]
    done = subprocess.run(["systemd-analyze", *user, "verify", str(bench.path())], capture_output=True, text=True)
    told = [line for line in done.stderr.splitlines() if "gpumod-" in line]
    assert (done.returncode, told) == (0, [])


async def test_start_limits_can_trip(bench: Any) -> None:
    """Were the interval shorter than all the restarts it counts, a service would be restarted for ever."""
    await bench.supervisor.install(bench.handle(), bench.launch(SLEEPER))
    seconds = {"s": 1, "min": 60, "ms": 0.001}

    def read(name: str) -> float:
        return sum(float(n) * seconds[unit] for n, unit in re.findall(r"([\d.]+)(ms|min|s)", bench.shown(name)))

    interval_s, restart_s, burst = (
        read("StartLimitIntervalUSec"),
        read("RestartUSec"),
        int(bench.shown("StartLimitBurst")),
    )
    assert interval_s > burst * restart_s > 0


async def test_nothing_secret_can_be_asked_of_systemd(bench: Any) -> None:
    handle = bench.handle()
    launch = bench.launch(SLEEPER, env={"API_KEY": "s3cr3t", "PLAIN": "shown", "URL": "http://me:s3cr3t@x"})
    await bench.supervisor.start(handle, launch, {"HF_TOKEN": "s3cr3t"})
    everything = bench.systemctl("show", bench.name()) + bench.path().read_text()
    assert "PLAIN=shown" in everything
    assert "s3cr3t" not in everything
    assert "HF_TOKEN" not in everything
    (file,) = [path for path in bench.home.rglob("*") if path.is_file() and "s3cr3t" in path.read_text()]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert Path(f"/proc/{await bench.pid(handle)}/environ").read_bytes().count(b"s3cr3t") == 3


async def test_a_service_that_systemd_restarts_is_seen_and_stopped(bench: Any) -> None:
    bench.supervisor = bench.another(unit_restart="on-failure")
    handle = await bench.start("raise SystemExit(3)")
    async with asyncio.timeout(10):
        while (status := await bench.one(handle)).pids or not status.detail:
            await asyncio.sleep(0.02)
    assert status.alive
    assert "restart" in status.detail
    await bench.supervisor.stop(handle, bench.launch(SLEEPER))
    assert bench.shown("ActiveState") == "inactive"
    assert not (await bench.one(handle)).alive


async def test_a_unit_is_never_enabled(bench: Any) -> None:
    handle = await bench.start(SLEEPER)
    assert bench.shown("UnitFileState") == "static"
    await bench.supervisor.stop(handle, bench.launch(SLEEPER))


async def test_both_managers_keep_services_of_one_home(tmp_path: Path, system: Any) -> None:
    user = type(system)(tmp_path / "home", "user")
    try:
        ours, theirs = await system.start(SLEEPER, service="a"), await user.start(SLEEPER, service="b")
        assert (await system.one(ours)).alive
        assert (await user.one(theirs)).alive
        assert system.path("a").exists()
        assert user.path("b").exists()
        await system.supervisor.stop(ours, system.launch(SLEEPER))
        await user.supervisor.stop(theirs, user.launch(SLEEPER))
    finally:
        user.sweep()


async def test_last_words_are_not_lost(bench: Any) -> None:
    """Of a process that is gone before the journal looks at it, the journal may not know the run."""
    for number in range(25):
        handle = bench.handle()
        echo = bench.launch("").model_copy(update={"argv": ("/bin/echo", f"words {number}")})
        await bench.supervisor.start(handle, echo, {})
        await bench.supervisor.exited(handle)
        await bench.until(lambda told=(f"words {number}",): bench.supervisor.logs("svc", 10) == told)
        await bench.supervisor.stop(handle, echo)
    assert bench.supervisor.logs("svc", 1) == ("words 24",)
