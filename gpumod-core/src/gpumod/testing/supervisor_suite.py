"""What every supervisor promises, as tests on real processes: subclass `SupervisorSuite` and give it a `bench`.

::

    class TestMine(SupervisorSuite):
        @pytest.fixture
        async def bench(self, tmp_path):
            bench = Bench(tmp_path / "home", lambda home, settings: MySupervisor(home, settings))
            yield bench
            bench.sweep()

The tests are coroutines: pytest-asyncio in its automatic mode runs them.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from gpumod.domain.errors import Failed, GpumodError, MachineLacks, UsageError
from gpumod.ports import Launch, LaunchFile, NoticesEnd, Supervisor
from gpumod.ports.units import FindsStrays
from gpumod.testing.supervisor_bench import DEAF, FAMILY, SLEEPER, Bench, is_alive

ODD = "a b $HOME ${HOME} `id` \"'\\ ; % %n é \\"
"""Text that shells, unit files and templates would change."""


class SupervisorSuite:
    """Tests that hold for every supervisor."""

    # --- start, status, stop ----------------------------------------------------------------------------------------

    async def test_it_is_a_supervisor(self, bench: Bench) -> None:
        assert isinstance(bench.supervisor, Supervisor)
        assert bench.supervisor.name == bench.handle().supervisor

    async def test_start_status_stop(self, bench: Bench) -> None:
        before = time.time()
        handle = await bench.start(SLEEPER)
        status = await bench.one(handle)
        assert status.alive
        assert status.pid is not None
        assert status.pids == (status.pid,)
        assert status.exit_code is None
        assert status.started_at is not None
        assert before - 1 <= status.started_at <= time.time() + 1
        assert dict(status.token) == dict(handle.token)
        await bench.lines(handle, 1)
        await bench.supervisor.stop(handle, bench.launch(SLEEPER))
        assert bench.living(handle) == []
        status = await bench.one(handle)
        assert (status.alive, status.pids, status.exit_code) == (False, (), -signal.SIGTERM)
        await bench.supervisor.stop(handle, bench.launch(SLEEPER))  # again: nothing to do

    async def test_a_service_that_was_never_started(self, bench: Bench) -> None:
        handle = bench.handle("never")
        status = await bench.one(handle)
        assert (status.alive, status.pid, status.pids, status.exit_code) == (False, None, (), None)
        await bench.supervisor.stop(handle, bench.launch(SLEEPER))
        assert bench.supervisor.logs("never", 10) == ()

    async def test_starting_twice_is_refused(self, bench: Bench) -> None:
        handle = await bench.start(SLEEPER)
        with pytest.raises(Failed) as caught:
            await bench.start(SLEEPER)
        assert caught.value.code == "already-running"
        assert (await bench.one(handle)).alive
        await bench.supervisor.stop(handle, bench.launch(SLEEPER))
        again = await bench.start(SLEEPER)
        assert (await bench.one(again)).alive
        await bench.supervisor.stop(again, bench.launch(SLEEPER))

    async def test_a_start_that_is_cancelled_leaves_nothing_that_a_stop_does_not_find(self, bench: Bench) -> None:
        """As by Ctrl-C, or where a start beside it fails: whatever comes of it has come when it returns."""
        for after_s in (0.0, 0.01, 0.03):
            handle = bench.handle()
            starting = asyncio.create_task(bench.supervisor.start(handle, bench.launch(SLEEPER), {}))
            await asyncio.sleep(after_s)
            starting.cancel()
            await asyncio.wait([starting])
            await bench.supervisor.stop(handle, bench.launch(SLEEPER))
            await asyncio.sleep(0.1)
            assert bench.living(handle) == []
            assert not (await bench.one(handle)).alive

    async def test_it_can_be_started_again_and_again(self, bench: Bench) -> None:
        for _ in range(7):
            handle = await bench.start("raise SystemExit(1)")
            assert isinstance(bench.supervisor, NoticesEnd)
            assert (await bench.supervisor.exited(handle)).exit_code == 1

    async def test_status_of_many(self, bench: Bench) -> None:
        handles = await asyncio.gather(*(bench.start(SLEEPER, service=f"svc{n}") for n in range(8)))
        statuses = await bench.another().status(handles)
        assert sorted(statuses) == sorted(handle.service for handle in handles)
        assert all(status.alive for status in statuses.values())
        assert len({status.pid for status in statuses.values()}) == len(handles)
        await asyncio.gather(*(bench.supervisor.stop(handle, bench.launch(SLEEPER)) for handle in handles))
        assert not any(bench.living(handle) for handle in handles)

    # --- what a service is given ------------------------------------------------------------------------------------

    async def test_a_session_of_its_own_and_no_terminal(self, bench: Bench) -> None:
        inherited = os.open(os.devnull, os.O_RDONLY)
        os.set_inheritable(inherited, True)  # as by a shell: 3< file
        try:
            handle = await bench.start(SLEEPER)
        finally:
            os.close(inherited)
        pid = await bench.pid(handle)
        assert os.getsid(pid) != os.getsid(0)
        assert os.getpgid(pid) == pid
        assert Path(f"/proc/{pid}/fd/0").readlink() == Path(os.devnull)
        # the loader of a program that has just begun holds a library open for a moment
        await bench.until(lambda: sorted(int(fd.name) for fd in Path(f"/proc/{pid}/fd").iterdir()) == [0, 1, 2])

    async def test_no_signal_is_ignored_or_blocked(self, bench: Bench) -> None:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
        try:
            handle = bench.handle()
            await bench.supervisor.start(handle, Launch(argv=("sleep", "600")), {})
        finally:
            signal.signal(signal.SIGINT, before)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR2})
        status = Path(f"/proc/{await bench.pid(handle)}/status").read_text()
        masks = {line.split(":")[0]: line.split()[1] for line in status.splitlines() if line.startswith("Sig")}
        assert int(masks["SigBlk"], 16) == 0
        assert int(masks["SigIgn"], 16) & 0x7FFFFFFF == 0

    async def test_a_secret_is_nowhere_that_others_can_read(self, bench: Bench) -> None:
        launch = bench.launch(SLEEPER, env={"API_KEY": "s3cr3t-value"})
        handle = bench.handle()
        await bench.supervisor.start(handle, launch, {"HF_TOKEN": "s3cr3t-too"})
        environment = Path(f"/proc/{await bench.pid(handle)}/environ").read_bytes()
        assert environment.count(b"s3cr3t") == 2
        for pid in bench.living(handle):
            assert b"s3cr3t" not in Path(f"/proc/{pid}/cmdline").read_bytes()
        for path in bench.home.rglob("*"):
            assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path

    async def test_arguments_variables_and_files_arrive_as_they_are(self, bench: Bench) -> None:
        code = """
            import json, os, sys
            print(json.dumps([sys.argv[1:], os.environ['ODD'], os.environ['LINES'], os.environ['CONFIG'], os.getcwd()]))
            print(open(os.environ['CONFIG']).read())
        """
        base = bench.launch(code)
        launch = base.model_copy(
            update={
                "argv": (*base.argv, ODD, "", "{service_dir}/x"),
                "env": {"ODD": ODD, "LINES": f'{ODD}\n\tb="c"\n', "CONFIG": "overridden"},
                "files": (LaunchFile(name="sub/config.ini", content="dir={service_dir}"),),
            }
        )
        handle = bench.handle()
        await bench.supervisor.start(handle, launch, {"CONFIG": "{service_dir}/sub/config.ini"})
        first, second = await bench.lines(handle, 2)
        folder = second.removeprefix("dir=")
        lines = f'{ODD}\n\tb="c"\n'
        assert json.loads(first) == [[ODD, "", f"{folder}/x"], ODD, lines, f"{folder}/sub/config.ini", folder]
        bench.supervisor.write_files("svc", [LaunchFile(name="sub/config.ini", content="new")])
        assert (Path(folder) / "sub/config.ini").read_text() == "new"

    @pytest.mark.parametrize("name", ["/etc/x", "../x", "a/../../x", "", ".run/run.json"])
    async def test_files_stay_in_the_folder(self, bench: Bench, name: str) -> None:
        launch = bench.launch(SLEEPER, files=(LaunchFile(name=name, content=""),))
        with pytest.raises(UsageError) as caught:
            await bench.supervisor.start(bench.handle(), launch, {})
        assert caught.value.code == "bad-file-name"

    async def test_the_program_is_searched_in_bin_path_first(self, bench: Bench, tmp_path: Path) -> None:
        folder = tmp_path / "bin"
        folder.mkdir()
        program = folder / "true"
        program.write_text(f"#!{sys.executable}\nimport os, sys\nprint('ours', os.environ['PATH'].split(':')[0])\n")
        program.chmod(0o755)
        bench.settings = bench.settings.model_copy(update={"bin_path": str(folder)})
        bench.supervisor = bench.another()
        handle = bench.handle()
        await bench.supervisor.start(handle, bench.launch("").model_copy(update={"argv": ("true",)}), {})
        assert await bench.lines(handle, 1) == (f"ours {folder}",)

    # --- what cannot be started -------------------------------------------------------------------------------------

    @pytest.mark.parametrize(
        ("change", "kind", "code"),
        [
            ({"argv": ("no-such-program-here",)}, MachineLacks, "missing-binary"),
            ({"argv": ("/nowhere/program",)}, MachineLacks, "missing-binary"),
            ({"argv": ()}, UsageError, "bad-launch"),
            ({"argv": ("a\0b",)}, UsageError, "bad-launch"),
            ({"env": {"A=B": "1"}}, UsageError, "bad-launch"),
            ({"env": {"A": "\0"}}, UsageError, "bad-launch"),
            ({"cwd": Path("/nowhere/at/all")}, Failed, "missing-folder"),
        ],
    )
    async def test_what_cannot_be_started_is_told_by_check_too(
        self, bench: Bench, change: dict[str, Any], kind: type[GpumodError], code: str
    ) -> None:
        launch = bench.launch(SLEEPER).model_copy(update=change)
        with pytest.raises(kind) as checked:
            bench.supervisor.check(bench.handle(), launch)
        with pytest.raises(kind) as caught:
            await bench.supervisor.start(bench.handle(), launch, {})
        assert checked.value.code == caught.value.code == code
        assert not (bench.home / "services").exists()

    @pytest.mark.parametrize(
        ("content", "mode"), [("no shebang, no binary", 0o755), ("#!/no/such/interpreter\n", 0o755), ("x", 0o644)]
    )
    async def test_what_cannot_be_executed_is_told_by_start(
        self, bench: Bench, tmp_path: Path, content: str, mode: int
    ) -> None:
        program = tmp_path / "program"
        program.write_text(content)
        program.chmod(mode)
        handle = bench.handle()
        launch = bench.launch(SLEEPER).model_copy(update={"argv": (str(program),)})
        with pytest.raises(Failed) as caught:
            await bench.supervisor.start(handle, launch, {})
        assert caught.value.code == "cannot-execute"
        assert caught.value.info.why
        await bench.until(lambda: bench.living(handle) == [])
        assert not (await bench.one(handle)).alive
        again = await bench.start(SLEEPER)
        assert (await bench.one(again)).alive

    @pytest.mark.parametrize("service", ["../x", "", "a/b", "a\nb", "."])
    async def test_an_id_that_would_leave_the_home_is_refused(self, bench: Bench, service: str) -> None:
        with pytest.raises(UsageError) as caught:
            bench.supervisor.write_files(service, [])
        assert caught.value.code == "bad-id"

    # --- how it ends ------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize(
        ("end", "code"),
        [
            ("raise SystemExit(0)", 0),
            ("raise SystemExit(7)", 7),
            ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -9),
            ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", -15),
            ("import os; os.abort()", -6),
        ],
    )
    async def test_exit_codes_are_kept(self, bench: Bench, end: str, code: int) -> None:
        handle = await bench.start(end)
        assert isinstance(bench.supervisor, NoticesEnd)
        status = await asyncio.wait_for(bench.supervisor.exited(handle), 10)
        assert (status.alive, status.exit_code, status.pids) == (False, code, ())
        again = (await bench.another().status([handle]))["svc"]
        assert again.exit_code == code

    async def test_a_death_is_noticed_at_once(self, bench: Bench) -> None:
        handle = await bench.start(SLEEPER)
        assert isinstance(bench.supervisor, NoticesEnd)
        waiting = asyncio.create_task(bench.supervisor.exited(handle))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        pid = await bench.pid(handle)
        begun = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        status = await asyncio.wait_for(waiting, 5)
        assert time.monotonic() - begun < 0.5
        assert status.exit_code == -9

    async def test_waiting_for_an_end_can_be_given_up(self, bench: Bench) -> None:
        handle = await bench.start(SLEEPER)
        assert isinstance(bench.supervisor, NoticesEnd)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(bench.supervisor.exited(handle), 0.1)
        assert (await bench.one(handle)).alive

    async def test_the_whole_tree_is_seen_and_stopped(self, bench: Bench) -> None:
        handle = await bench.start(FAMILY)
        workers = await bench.told_pids(handle, 6)
        status = await bench.one(handle)
        assert set(status.pids) == {status.pid, *workers}
        begun = time.monotonic()
        await bench.supervisor.stop(handle, bench.launch(FAMILY, stop_timeout_s=0.4))
        assert time.monotonic() - begun < 7
        assert bench.living(handle) == []
        assert not any(map(is_alive, workers))

    async def test_what_a_dead_main_process_left_is_ended_too(self, bench: Bench) -> None:
        handle = await bench.start(FAMILY)
        workers = await bench.told_pids(handle, 6)
        os.kill(await bench.pid(handle), signal.SIGKILL)
        assert isinstance(bench.supervisor, NoticesEnd)
        status = await bench.supervisor.exited(handle)
        assert (status.alive, status.exit_code) == (False, -9)
        again = await bench.start(SLEEPER)  # waits until what was left has ended
        assert not any(map(is_alive, workers))
        assert (await bench.one(again)).alive

    async def test_one_that_ignores_the_signal_is_killed_in_time(self, bench: Bench) -> None:
        handle = await bench.start(DEAF, stop_timeout_s=0.2)
        await bench.lines(handle, 1)
        begun = time.monotonic()
        await bench.supervisor.stop(handle, bench.launch(DEAF, stop_timeout_s=0.2))
        assert 0.15 < time.monotonic() - begun < 4
        assert (await bench.one(handle)).exit_code == -9
        again = await bench.start(SLEEPER)
        assert (await bench.one(again)).alive

    async def test_the_stop_signal_is_the_launchs_and_a_stopped_process_hears_it(self, bench: Bench) -> None:
        code = """
            import signal, sys, time
            signal.signal(signal.SIGINT, lambda *_: sys.exit(42))
            print('up', flush=True)
            time.sleep(600)
        """
        handle = await bench.start(code, stop_signal="SIGINT")
        await bench.lines(handle, 1)
        os.kill(await bench.pid(handle), signal.SIGSTOP)
        await bench.supervisor.stop(handle, bench.launch(code, stop_signal="SIGINT"))
        assert (await bench.one(handle)).exit_code == 42

    async def test_a_service_that_forks_without_end_is_stopped(self, bench: Bench) -> None:
        code = """
            import ctypes, os, signal, time
            for deaf in (signal.SIGTERM, signal.SIGCHLD): signal.signal(deaf, signal.SIG_IGN)
            ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: nobody else has to reap so many
            print("deaf", flush=True)
            deadline, left = time.monotonic() + 60, 8
            while time.monotonic() < deadline:  # of each of eight, every generation forks the next one and goes
                time.sleep(0.004)
                first, left = os.getpid() == os.getpgrp(), left - 1
                if (left >= 0 or not first) and os.fork() and not first: os._exit(0)
        """
        handle = await bench.start(code, stop_timeout_s=0.1)
        await bench.lines(handle, 1)
        await bench.supervisor.stop(handle, bench.launch(code, stop_timeout_s=0.1))
        assert bench.living(handle) == []
        status = await bench.one(handle)
        assert status.exit_code == -9, status  # it did not end by itself

    # --- gpumod comes and goes --------------------------------------------------------------------------------------

    async def test_a_crash_between_spawn_and_token(self, bench: Bench) -> None:
        handle = await bench.start(FAMILY)
        await bench.lines(handle, 6)
        bare = handle.model_copy(update={"token": {}})  # as it was stored before the spawn
        status = (await bench.another().status([bare]))["svc"]
        assert status.alive
        assert len(status.pids) == 7
        adopted = handle.model_copy(update={"token": status.token})
        assert (await bench.another().status([adopted]))["svc"] == status
        await bench.another().stop(bare, bench.launch(FAMILY, stop_timeout_s=0.3))
        assert bench.living(handle) == []
        assert (await bench.another().status([bare]))["svc"].exit_code in (-15, -9)

    async def test_a_service_outlives_its_starter(self, bench: Bench) -> None:
        handle = await bench.start(SLEEPER)
        pid = await bench.pid(handle)
        above = int(subprocess.check_output(["ps", "-o", "ppid=", "-p", str(pid)]))  # noqa: ASYNC221 - short
        assert above != os.getpid()
        assert (await bench.another().status([handle]))["svc"].pid == pid

    async def test_what_no_handle_names_is_found_and_can_be_ended(self, bench: Bench) -> None:
        if not isinstance(bench.supervisor, FindsStrays):
            pytest.skip("it does not find strays")
        handle, other = await bench.start(SLEEPER), await bench.start(SLEEPER, service="other")
        assert list(await bench.supervisor.strays([handle, other])) == []
        (found,) = await bench.another().strays([other])  # type: ignore[attr-defined]  # as asserted above
        assert (found.service, found.pid) == ("svc", await bench.pid(handle))
        subprocess.run(found.end.split(), check=True)  # noqa: ASYNC221 - short
        await bench.until(lambda: not bench.living(handle))
        async with asyncio.timeout(10):  # what kept it company goes a moment later
            while await bench.supervisor.strays([other]):
                await asyncio.sleep(0.01)
        await bench.supervisor.stop(other, bench.launch(SLEEPER))

    # --- logs -------------------------------------------------------------------------------------------------------

    async def test_only_the_last_run_is_shown(self, bench: Bench) -> None:
        assert isinstance(bench.supervisor, NoticesEnd)
        first = await bench.start("print('one'); print('two', end='')")
        await bench.supervisor.exited(first)
        await bench.until(lambda: bench.supervisor.logs("svc", 10) == ("one", "two"))
        second = await bench.start("import sys; print('three', file=sys.stderr); raise SystemExit(3)")
        await bench.supervisor.exited(second)
        await bench.until(lambda: bench.supervisor.logs("svc", 10) == ("three",))
        assert bench.supervisor.logs("svc", 0) == ()

    async def test_bytes_that_are_no_text_are_replaced(self, bench: Bench) -> None:
        handle = await bench.start("import os; os.write(1, b'a\\xffb\\r\\nloading 1%\\rloading 99%\\nend\\n')")
        assert await bench.lines(handle, 3) == ("a\ufffdb", "loading 99%", "end")
