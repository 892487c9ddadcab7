"""A program is asked in the environment of its launch, with no GPU, within bounds, once, and leaves nothing behind."""

from __future__ import annotations

import os
import pwd
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpumod.adapters.asking import MOST_BYTES, Asker
from gpumod.adapters.process.supervisor import ProcessSupervisor
from gpumod.adapters.systemd.supervisor import SystemdSupervisor
from gpumod.domain.settings import Settings
from gpumod.ports import AsksPrograms, Launch
from gpumod.testing.virtual import VirtualClock


@pytest.fixture
def program(tmp_path):
    def write(text: str, name: str = "program") -> str:
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return str(path)

    return write


async def asked(program: str, *words: str, timeout_s: float = 5.0, asker: Asker | None = None, **env: str):
    asker = asker or Asker(Settings(), timeout_s)
    launch = Launch(argv=(program, "serve"), env=env)
    return await asker.ask("svc", launch, (program, *words), Path("/not/there/services/svc"))


async def test_it_answers_in_its_own_environment(program, monkeypatch):
    monkeypatch.setenv("SOMEBODYS", "x")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    text = 'echo "$1 [$MINE] [$SOMEBODYS] [$CUDA_VISIBLE_DEVICES]"; echo two >&2; exit 3'
    answer = await asked(program(text), "--version", MINE="m n")
    assert (answer.exit_code, answer.output) == (3, "--version [m n] [] []\ntwo\n")


async def test_nobodys_shell_reads_the_question(program, tmp_path):
    answer = await asked(program('printf "%s" "$*"'), f"$(touch {tmp_path}/made)", ";", "*")
    assert answer.output == f"$(touch {tmp_path}/made) ; *"
    assert not (tmp_path / "made").exists()


async def test_control_characters_are_left_out(program):
    answer = await asked(program(r"printf '\033[31mred\033[0m\000\n\377'"), "x")
    assert answer.output == "[31mred[0m\n\ufffd"


def living_in(session: int) -> list[str]:
    """What is alive of a session; who is dead and not yet buried does not count."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text(errors="replace")
        except OSError:
            continue
        state, _, _, of = text.rpartition(")")[2].split()[:4]
        if int(of) == session and state not in "ZX":
            found.append(text)
    return found


@pytest.mark.parametrize("words", ["sleep 60", "sleep 60 & exit 0", "trap '' TERM; while :; do sleep 1; done"])
async def test_one_that_hangs_is_ended_with_all_that_it_began(program, words, tmp_path):
    began = time.monotonic()
    answer = await asked(program(f"echo $$ > {tmp_path}/pid; echo here; {words}"), "x", timeout_s=0.3)
    assert time.monotonic() - began < 3
    assert (answer.exit_code, answer.output) == (None, "here\n")
    session, deadline = int((tmp_path / "pid").read_text()), time.monotonic() + 3
    while left := living_in(session):  # a signal is on its way for a moment
        assert time.monotonic() < deadline, left


async def test_of_one_that_talks_much_the_beginning_is_kept(program):
    answer = await asked(program("head -c 3000000 /dev/zero | tr '\\0' x"), "x")
    assert (answer.exit_code, len(answer.output)) == (0, MOST_BYTES)


async def test_the_same_is_asked_once_and_again_when_the_program_changed(program, tmp_path):
    counts = f"echo x >> {tmp_path}/asked; wc -l < {tmp_path}/asked"
    asker, path = Asker(Settings()), program(counts)
    assert [(await asked(path, "x", asker=asker)).output for _ in range(3)] == ["1\n"] * 3
    assert (await asked(path, "y", asker=asker)).output == "2\n"
    assert (await asked(path, "x", asker=asker, A="1")).output == "3\n"
    program(f"{counts}  # another")
    assert (await asked(path, "x", asker=asker)).output == "4\n"


async def test_what_cannot_be_run_gives_no_answer(program, tmp_path):
    assert await asked(str(tmp_path / "nothing"), "x") is None
    path = tmp_path / "no-program"
    path.write_text("text")
    assert await asked(str(path), "x") is None
    path.chmod(0o755)
    path.write_bytes(b"\x7fELF broken")
    assert await asked(str(path), "x") is None


async def test_the_version_of_a_python_program_is_read_where_it_was_installed(tmp_path):
    bin_dir = tmp_path / "venv" / "bin"
    bin_dir.mkdir(parents=True)
    (tmp_path / "venv/lib/python3.11/site-packages/vllm-0.33.0.dist-info").mkdir(parents=True)
    script = bin_dir / "vllm"
    script.write_text(f"#!{bin_dir}/python3\nimport torch\n")
    script.chmod(0o755)
    answer = await asked(str(script), "--version")
    assert (answer.exit_code, answer.output) == (0, "0.33.0")


@pytest.mark.parametrize("name", ["process", "systemd-user", "systemd-system"])
async def test_supervisors_of_this_machine_ask(program, tmp_path, name):
    """The service's folder need not be there yet, and neither must the manager."""
    home, settings, clock = tmp_path / "home", Settings(), VirtualClock()
    if name == "process":
        supervisor = ProcessSupervisor(home, "id", settings, clock)
    else:
        scope = "user" if name == "systemd-user" else "system"
        supervisor = SystemdSupervisor(home, "id", settings, clock, scope=scope)
    assert isinstance(supervisor, AsksPrograms)
    path = program("echo $MINE $1")
    launch = Launch(argv=(path,), env={"MINE": "{service_dir}"})
    answer = await supervisor.ask("svc", launch, (path, "--version"))
    assert answer is not None
    assert (answer.exit_code, answer.output) == (0, f"{home}/services/svc --version\n")
    assert await supervisor.ask("svc", launch, (str(tmp_path / "nothing"), "--version")) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root could run what another user's home names")
async def test_root_asks_nothing_that_anothers_home_names(program, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, 4321, 4321)
    path = program(f"touch {tmp_path}/ran")
    supervisor = ProcessSupervisor(home, "id", Settings(), VirtualClock())
    assert await supervisor.ask("svc", Launch(argv=(path,)), (path, "--version")) is None
    assert not (tmp_path / "ran").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root could run what another user owns")
async def test_root_asks_no_program_that_another_user_owns(program, tmp_path):
    path = program(f"touch {tmp_path}/ran")
    os.chown(path, 4321, 4321)
    assert await asked(path, "--version") is None
    assert not (tmp_path / "ran").exists()


@pytest.fixture
def passable() -> Iterator[Path]:
    """A folder that every user can enter, as pytest's own is not."""
    folder = Path(tempfile.mkdtemp(prefix="gpumod-asked-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: nobody else runs services as others")
async def test_it_is_asked_as_whom_its_unit_runs_in_that_units_environment(tmp_path, passable, monkeypatch):
    nobody, bin_dir = pwd.getpwnam("nobody"), passable / "bin"
    bin_dir.mkdir()
    program = bin_dir / "asked"
    program.write_text('#!/bin/sh\necho $(id -u) $(id -g) $(id -G) $HOME $USER $PATH "[$HF_HOME]" "[$TMPDIR]"\n')
    program.chmod(0o755)
    os.chown(bin_dir, nobody.pw_uid, nobody.pw_gid)
    for name, value in {"HOME": "/people/ann", "PATH": f"/people/ann/bin:{bin_dir}:/usr/bin:/bin"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HF_HOME", "/people/ann/hf")
    monkeypatch.setenv("TMPDIR", "/tmp/of-ann")
    clock, launch = VirtualClock(), Launch(argv=("asked",))
    supervisor = SystemdSupervisor(tmp_path, "0" * 12, Settings(user="nobody"), clock, scope="system")
    answer = await supervisor.ask("svc", launch, ("asked", "--version"))
    groups = " ".join(map(str, os.getgrouplist("nobody", nobody.pw_gid)))
    told = f"{nobody.pw_uid} {nobody.pw_gid} {groups} {nobody.pw_dir} nobody {bin_dir}:/usr/bin:/bin [] []\n"
    assert answer is not None
    assert answer.output == told
    program.chmod(0o700)  # of root's: it cannot be executed
    assert await supervisor.ask("svc", launch, ("asked", "--help")) is None
    program.chmod(0o755)
    for other in (
        ProcessSupervisor(tmp_path, "id", Settings(user="nobody"), clock),
        SystemdSupervisor(tmp_path, "id", Settings(user="nobody"), clock, scope="user"),
        SystemdSupervisor(tmp_path, "id", Settings(user="nobody-of-this-name"), clock, scope="system"),
        SystemdSupervisor(tmp_path, "id", Settings(), clock, scope="system"),
    ):
        assert await other.ask("svc", launch, ("asked", "--version")) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: nobody else runs services as others")
async def test_the_user_enters_the_working_folder_itself(tmp_path, passable, program):
    """A link of that user's may lead into what lies, open to all, in a folder that is closed."""
    roots, work = tmp_path / "roots", passable / "work"
    roots.mkdir()
    (roots / "text").write_text("of root")
    work.mkdir()
    (work / "text").write_text("of nobody")
    path = shutil.copy(program("pwd; cat text"), passable)
    settings = Settings(user="nobody")
    launch = Launch(argv=(path,), cwd=work)
    supervisor = SystemdSupervisor(tmp_path, "0" * 12, settings, VirtualClock(), scope="system")
    answer = await supervisor.ask("svc", launch, (path, "a"))
    assert answer.output == f"{work}\nof nobody"
    work.rename(passable / "away")
    work.symlink_to(roots)
    answer = await supervisor.ask("svc", launch, (path, "b"))
    assert answer.output.startswith("/\n")
    assert "of root" not in answer.output
