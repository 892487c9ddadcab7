"""The container supervisor keeps what every supervisor promises, on a real Docker Engine.

Where a container differs (its program is in an image, which `check` does not look into), the test says what holds
instead.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from gpumod.domain.errors import Failed, GpumodError, MachineLacks, UsageError
from gpumod.domain.service import Service
from gpumod.domain.settings import Settings
from gpumod.ports import Allocation, Launch, NoticesEnd
from gpumod.testing.supervisor_bench import SLEEPER
from gpumod.testing.supervisor_suite import SupervisorSuite
from gpumod_fastapi.driver import FastApiDriver
from tests.docker.conftest import ContainerBench
from tests.docker.dockerd import PYTHON

pytestmark = pytest.mark.docker


class TestDockerSupervisor(SupervisorSuite):
    """`bench` runs its snippets in containers of this interpreter's own files."""

    async def test_the_program_is_searched_in_bin_path_first(self, bench: ContainerBench) -> None:  # type: ignore[override]
        """Settings say where programs are on this machine; in an image the option `program` says it."""
        container = {"image": PYTHON, "program": "/bin/busybox"}
        service = Service(
            id="svc", driver="fastapi", port=7800, unit_vars={"command": "uvicorn echo {port}", "container": container}
        )
        bench.settings = Settings(bin_path="/nowhere")
        launch = bench.supervisor.launch(FastApiDriver(), service, Allocation(), bench.settings)
        assert launch.argv == ("/bin/busybox", "echo", "7800")

    @pytest.mark.parametrize(
        ("change", "code"),
        [({"argv": ()}, "bad-launch"), ({"argv": ("a\0b",)}, "bad-launch"), ({"env": {"A=B": "1"}}, "bad-launch"),
         ({"env": {"A": "\0"}}, "bad-launch")],
    )  # fmt: skip
    async def test_what_cannot_be_started_is_told_by_check_too(  # type: ignore[override]
        self, bench: ContainerBench, change: dict[str, Any], code: str
    ) -> None:
        launch = bench.launch(SLEEPER).model_copy(update=change)
        with pytest.raises(UsageError) as checked:
            bench.supervisor.check(bench.handle(), launch)
        with pytest.raises(UsageError) as caught:
            await bench.supervisor.start(bench.handle(), launch, {})
        assert checked.value.code == caught.value.code == code
        assert not (bench.home / "services").exists()

    @pytest.mark.parametrize("program", ["no-such-program-here", "/nowhere/program"])
    async def test_a_program_that_is_not_in_the_image_is_told_by_start(
        self, bench: ContainerBench, program: str
    ) -> None:
        handle = bench.handle()
        with pytest.raises(MachineLacks) as caught:
            await bench.supervisor.start(handle, Launch(argv=(program,)), {})
        assert caught.value.code == "missing-binary"
        assert program in caught.value.info.why
        assert (await bench.one(handle)).alive is False
        assert bench.engine.said("ps", "-aq") == ""

    @pytest.mark.parametrize(
        ("content", "mode", "kind", "code"),
        [
            ("#!/no/such/interpreter\n", 0o755, MachineLacks, "missing-binary"),
            ("x", 0o644, Failed, "cannot-execute"),
        ],
    )
    async def test_what_cannot_be_executed_is_told_by_start(  # type: ignore[override]
        self, bench: ContainerBench, tmp_path: Path, content: str, mode: int, kind: type[GpumodError], code: str
    ) -> None:
        program = tmp_path / "mounted" / "program"
        program.parent.mkdir()
        program.write_text(content)
        program.chmod(mode)
        bench.container = {"image": PYTHON, "volumes": [f"{program.parent}:/mounted"]}
        handle = bench.handle()
        with pytest.raises(kind) as caught:
            await bench.supervisor.start(handle, Launch(argv=("/mounted/program",)), {})
        assert caught.value.code == code
        assert caught.value.info.why
        await bench.until(lambda: bench.living(handle) == [])
        again = await bench.start(SLEEPER)
        assert (await bench.one(again)).alive

    async def test_it_is_the_same_container_until_its_definition_differs(self, bench: ContainerBench) -> None:
        code = "open('/kept', 'a').write('x'); print(len(open('/kept').read()), flush=True)"
        assert isinstance(bench.supervisor, NoticesEnd)
        seen = []
        for env in ({}, {}, {"NEW": "1"}):
            handle = await bench.start(code, env=env)
            await bench.supervisor.exited(handle)
            seen.append((bench.inspect(), bench.supervisor.logs("svc", 9)))
        assert seen[0][0] == seen[1][0] != seen[2][0]
        assert [told for _, told in seen] == [("1",), ("2",), ("1",)]

    async def test_its_log_is_followed_from_the_last_run_on(self, bench: ContainerBench) -> None:
        assert isinstance(bench.supervisor, NoticesEnd)
        await bench.supervisor.exited(await bench.start("print('one')"))
        await bench.supervisor.exited(await bench.start("print('two')"))
        third = await bench.start("import time; print('three', flush=True); time.sleep(1); print('four')")
        told = subprocess.check_output(bench.supervisor.follow_command("svc", 10))
        assert told.split() == [b"three", b"four"]
        assert (await bench.one(third)).alive is False

    async def test_what_was_executed_into_it_is_its_own_and_ends_with_it(self, bench: ContainerBench) -> None:
        handle = await bench.start(SLEEPER)
        main = await bench.pid(handle)
        bench.engine.docker("exec", "-d", bench.name(), "/bin/sleep", "500")
        await bench.until(lambda: len(bench.living(handle)) == 3)
        status = await bench.one(handle)
        assert (status.pid, len(status.pids)) == (main, 2), "the engine's init is not counted"
        await bench.supervisor.stop(handle, bench.launch(SLEEPER))
        assert bench.living(handle) == []

    async def test_one_that_is_paused_is_told_and_stopped(self, bench: ContainerBench) -> None:
        handle = await bench.start(SLEEPER)
        bench.engine.docker("pause", bench.name())
        status = await bench.one(handle)
        assert (status.alive, "paused" in status.detail) == (True, True)
        await bench.supervisor.stop(handle, bench.launch(SLEEPER))
        assert bench.living(handle) == []

    async def test_a_volume_that_is_a_folder_in_disguise(self, bench: ContainerBench) -> None:
        words = ("--opt", "type=none", "--opt", "o=bind", "--opt", "device=/etc", "disguised")
        bench.engine.docker("volume", "create", "--driver", "local", *words)
        bench.container = {"image": PYTHON, "volumes": ["disguised:/x"]}
        with pytest.raises(Failed) as caught:
            await bench.start(SLEEPER)
        assert caught.value.code == "unsafe-volume"
        assert bench.engine.said("ps", "-aq") == ""
        bench.container = {"image": PYTHON, "volumes": ["plain:/x:rw"]}
        handle = await bench.start("open('/x/kept', 'w').write('1')")
        assert isinstance(bench.supervisor, NoticesEnd)
        assert (await bench.supervisor.exited(handle)).exit_code == 0

    async def test_a_folder_of_another_user_is_written_by_that_user_alone(
        self, bench: ContainerBench, tmp_path: Path
    ) -> None:
        """Root in there has no rights over others' files; a volume of the engine's is root's."""
        theirs = tmp_path / "theirs"
        theirs.mkdir(mode=0o755)
        os.chown(theirs, 1234, 1234)
        folder = {"image": PYTHON, "volumes": [f"{theirs}:/x:rw"]}
        named = {"image": PYTHON, "volumes": ["plain:/x:rw"]}
        assert isinstance(bench.supervisor, NoticesEnd)
        for container, code in ((folder, 1), ({**folder, "user": "1234:1234"}, 0), (named, 0)):
            bench.container = container
            handle = await bench.start("open('/x/kept', 'w').write('1')")
            assert (await bench.supervisor.exited(handle)).exit_code == code, container

    async def test_its_namespaces_are_its_own(self, bench: ContainerBench) -> None:
        handle = await bench.start(SLEEPER)
        ours, theirs = Path("/proc/self/ns"), Path(f"/proc/{await bench.pid(handle)}/ns")
        for kind in ("cgroup", "ipc", "mnt", "net", "pid", "uts"):
            assert (ours / kind).readlink() != (theirs / kind).readlink(), kind
        await bench.supervisor.stop(handle, bench.launch(SLEEPER))

    async def test_what_a_container_cannot_do(self, bench: ContainerBench) -> None:
        """Its walls hold from inside, as far as a program of root's can try."""
        code = """
            import os, socket
            def tried(what):
                try:
                    what()
                except OSError as error:
                    return type(error).__name__
                return 'done'
            print(tried(lambda: os.mknod('/disk', 0o60600, os.makedev(8, 0))))
            print(tried(lambda: os.chroot('/tmp')), tried(lambda: os.setuid(5)), tried(lambda: os.chown('/etc', 5, 5)))
            print(tried(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)))
            print(tried(lambda: socket.sethostname('x')))
            wanted = ('CapEff', 'CapBnd', 'NoNewPrivs', 'Seccomp:')
            print([line.split()[1] for line in open('/proc/self/status') if line.startswith(wanted)])
        """
        handle = await bench.start(code)
        assert isinstance(bench.supervisor, NoticesEnd)
        await bench.supervisor.exited(handle)
        told = bench.supervisor.logs("svc", 10)
        assert told[:4] == ("PermissionError", "PermissionError PermissionError PermissionError",
                            "PermissionError", "PermissionError"), told  # fmt: skip
        nothing = "0" * 16
        assert told[4] == str([nothing, nothing, "1", "2"]), told
