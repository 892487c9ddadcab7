"""What root runs only to ask it, and where root makes folders: nobody else may have a say in what lies there."""

from __future__ import annotations

import asyncio
import os
import pwd
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gpumod.adapters.asking import Asker
from gpumod.adapters.files import open_plain
from gpumod.adapters.foreign.looking import ThisMachine
from gpumod.adapters.foreign.programs import find
from gpumod.adapters.service_user import check_folders, make_folders
from gpumod.adapters.trusted import why_not_roots, why_not_run
from gpumod.domain.errors import Failed
from gpumod.domain.settings import Settings
from gpumod.ports import Launch

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be led astray")
ALICE = 12345
NOBODY = pwd.getpwnam("nobody")


class Programs:
    """A folder of root's with a program that tells a version, and leaves a trace when it is run."""

    def __init__(self, tmp_path: Path) -> None:
        self.folder, self.ran = tmp_path / "bin", tmp_path / "ran"
        self.folder.mkdir()
        self.program = self.write(self.folder / "llama-server")

    def write(self, path: Path, interpreter: str = "/bin/sh") -> Path:
        path.write_text(f"#!{interpreter}\ntouch {self.ran}\necho version 1\n")
        path.chmod(0o755)
        return path

    def alices(self, path: Path) -> Path:
        path.mkdir()
        os.chown(path, ALICE, ALICE)
        return path

    def asked(self, program: Path) -> tuple[str | None, str]:
        """What discovery and the start's preflight learn: the version, or why not."""
        (told,) = find([str(program)], Settings())
        launch = Launch(argv=(str(program),))
        answer = asyncio.run(Asker(Settings()).ask("svc", launch, (str(program), "--version"), self.folder))
        assert (answer is None) == (told.version is None)
        assert self.ran.exists() == (told.version is not None)
        return told.version, told.why


@pytest.fixture
def programs(tmp_path: Path) -> Programs:
    return Programs(tmp_path)


def alices_folder(at: Programs) -> Path:
    """A program of root's, which she can move away."""
    return at.write(at.alices(at.folder / "hers") / "llama-server")


def alices_link(at: Programs) -> Path:
    """It leads to a program of root's, and elsewhere at any moment."""
    link = at.alices(at.folder / "hers") / "llama-server"
    link.symlink_to(at.program)
    return link


def link_to_hers(at: Programs) -> Path:
    link = at.folder / "link"
    link.symlink_to(os.path.relpath(alices_folder(at), at.folder))
    return link


def alices_interpreter(at: Programs) -> Path:
    shell = at.alices(at.folder / "hers") / "sh"
    shell.symlink_to("/bin/sh")
    return at.write(at.folder / "script", str(shell))


def interpreter_of_interpreter(at: Programs) -> Path:
    return at.write(at.folder / "outer", str(alices_interpreter(at)))


def interpreter_from_anywhere(at: Programs) -> Path:
    return at.write(at.folder / "script", "sh")


def interpreter_along_path(at: Programs) -> Path:
    return at.write(at.folder / "script", "/usr/bin/env sh")


def writable_file(at: Programs) -> Path:
    at.program.chmod(0o775)
    return at.program


def writable_folder(at: Programs) -> Path:
    at.folder.chmod(0o777)
    return at.program


def where_anybody_puts_something(at: Programs) -> Path:
    at.folder.chmod(0o1777)
    return at.program


@as_root
@pytest.mark.parametrize(
    "case",
    [
        alices_folder, alices_link, link_to_hers, alices_interpreter, interpreter_of_interpreter,
        interpreter_from_anywhere, interpreter_along_path, writable_file, writable_folder, where_anybody_puts_something,
    ],
)  # fmt: skip
def test_root_asks_nothing_that_another_has_a_say_in(programs: Programs, case: Callable[[Programs], Path]) -> None:
    version, why = programs.asked(case(programs))
    assert version is None
    assert why.startswith("it is not asked: ")


@as_root
def test_what_is_roots_alone_is_asked_through_all_of_roots_links(programs: Programs) -> None:
    """A folder of root's in /tmp is root's: nobody else can move it."""
    shared = programs.folder / "tmp"
    (shared / "roots").mkdir(parents=True)
    shared.chmod(0o1777)
    (shared / "roots" / "up").symlink_to("../../llama-server")
    (programs.folder / "link").symlink_to(shared / "roots" / "up")
    assert programs.asked(programs.folder / "link") == ("version 1", "")


@as_root
def test_whose_python_root_runs_gpumod_with_has_a_say_already(programs: Programs) -> None:
    python = programs.alices(programs.folder / "hers") / "python"
    python.symlink_to(os.path.realpath(sys.executable))
    script = programs.write(programs.folder / "script", str(python))
    assert "user 12345" in why_not_run(script)
    code = "import sys; from gpumod.adapters.trusted import *; sys.exit(why_not_run(Path(sys.argv[1])) != '')"
    there = {"PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([python, "-c", code, script], env=there).returncode == 0


@as_root
def test_links_and_scripts_that_never_end(programs: Programs) -> None:
    loop, script = programs.folder / "loop", programs.folder / "script"
    loop.symlink_to(loop)
    with pytest.raises(OSError, match="symbolic links"):
        why_not_roots(loop)
    with pytest.raises(OSError, match="symbolic links"):
        why_not_run(programs.write(script, str(script)))


@as_root
def test_root_runs_nothing_that_anothers_home_names(programs: Programs, tmp_path: Path) -> None:
    home = programs.alices(tmp_path / "home")
    (told,) = ThisMachine(home).programs([str(programs.program)], Settings())
    assert "another user's home" in told.why
    assert not programs.ran.exists()
    (told,) = ThisMachine(tmp_path).programs([str(programs.program)], Settings())
    assert told.version == "version 1"


@pytest.mark.parametrize("kind", ["pipe", "link to a pipe"])
def test_what_is_no_plain_file_is_not_opened(programs: Programs, kind: str) -> None:
    """A pipe that nobody writes would be waited for."""
    pipe = path = programs.folder / "vllm"
    os.mkfifo(pipe, 0o755)
    pipe.chmod(0o755)
    if kind != "pipe":
        path = programs.folder / "link"
        path.symlink_to(pipe)
    with pytest.raises(OSError, match="no plain file"):
        open_plain(path)
    (told,) = find([str(path)], Settings())
    assert told.version is None
    assert asyncio.run(Asker(Settings()).ask("svc", Launch(argv=(str(path),)), (str(path), "--version"), path)) is None


# --- the folders of services that run as another user ---------------------------------------------------------------


def the_users(state: Path, roots: Path) -> None:
    """useradd --system --home-dir /var/lib/gpumod --create-home"""
    state.mkdir()
    os.chown(state, NOBODY.pw_uid, NOBODY.pw_gid)
    (state / "0123").symlink_to(roots)


def open_to_all(state: Path, roots: Path) -> None:
    state.mkdir()
    state.chmod(0o777)


def her_folder(state: Path, roots: Path) -> None:
    (state / "0123").mkdir(parents=True)
    os.chown(state / "0123", ALICE, ALICE)


def her_link(state: Path, roots: Path) -> None:
    state.mkdir()
    (state / "0123").symlink_to(roots)
    os.lchown(state / "0123", ALICE, ALICE)


def no_folder(state: Path, roots: Path) -> None:
    state.touch()


@as_root
@pytest.mark.parametrize("case", [the_users, open_to_all, her_folder, her_link, no_folder])
def test_root_gives_nothing_away_in_folders_that_are_not_its_own(
    tmp_path: Path, case: Callable[[Path, Path], None]
) -> None:
    state, roots = tmp_path / "state", tmp_path / "roots"
    roots.mkdir()
    (roots / "nobody").mkdir()  # what is root's there would be given away
    case(state, roots)
    for act in (check_folders, make_folders):
        with pytest.raises(Failed) as caught:
            act("0123", NOBODY, state)
        assert caught.value.code == "bad-folder"
        assert "chown root: " in caught.value.info.hint
    assert {path.stat().st_uid for path in (roots, *roots.iterdir())} == {0}
    if case is the_users:
        with pytest.raises(Failed, match="root's alone") as caught:
            check_folders("0123", pwd.struct_passwd((*NOBODY[:5], str(state), NOBODY[6])), state)
        assert "usermod --move-home" in caught.value.info.hint


@as_root
@pytest.mark.parametrize("target", ["not-mounted", "state"])
def test_a_link_to_a_disk_that_is_not_there_is_refused_before_anything_stops(tmp_path: Path, target: str) -> None:
    (tmp_path / "state").symlink_to(target)
    with pytest.raises(Failed, match="leads nowhere") as caught:
        check_folders("0123", NOBODY, tmp_path / "state")
    assert caught.value.code == "bad-folder"


@as_root
def test_folders_of_services_are_made_whatever_the_umask(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "state").symlink_to("disk")  # root's own: models' caches may be large
    before = os.umask(0o077)
    try:
        for _ in range(2):
            make_folders("0123", NOBODY, tmp_path / "state")
    finally:
        os.umask(before)
    home = tmp_path / "disk" / "0123"
    assert (home.stat().st_uid, stat.S_IMODE(home.stat().st_mode)) == (0, 0o755)
    mine = (home / "nobody").stat()
    assert (mine.st_uid, mine.st_gid, stat.S_IMODE(mine.st_mode)) == (NOBODY.pw_uid, NOBODY.pw_gid, 0o700)
