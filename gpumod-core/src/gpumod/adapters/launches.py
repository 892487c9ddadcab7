"""From a launch to what a process is really given: the program, its words, its variables and its working folder."""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gpumod.adapters import environment
from gpumod.adapters.folders import owner_of
from gpumod.domain.errors import Failed, MachineLacks, UsageError
from gpumod.domain.settings import Settings
from gpumod.ports import Launch


@dataclass(frozen=True)
class Resolved:
    """`program` is absolute; `own` are the launch's variables, `inherited` those of whoever starts it, which yield."""

    program: str
    argv: tuple[str, ...]
    own: Mapping[str, str]
    inherited: Mapping[str, str]
    cwd: Path

    @property
    def env(self) -> dict[str, str]:
        return {**self.inherited, **self.own}


def resolved(
    service: str,
    launch: Launch,
    env: Mapping[str, str],
    folder: Path,
    settings: Settings,
    environ: Mapping[str, str] = os.environ,
) -> Resolved:
    """What `launch` means on this machine, with `env` over its own variables; `folder` is the service's. It inherits
    of `environ`.

    Raises MachineLacks `missing-binary`, Failed `missing-folder` or `cannot-execute`, UsageError `bad-launch`.
    """
    cwd = Path(filled(str(launch.cwd), folder)).absolute() if launch.cwd else folder
    if cwd != folder and not os.path.isdir(cwd):  # noqa: PTH112 - what cannot be looked at is none
        raise Failed(
            "missing-folder",
            f"service {service} cannot start in {cwd}",
            why="there is no such folder",
            hint=f"make it, or change the working folder: gpumod service edit {service}",
        )
    own = {name: filled(value, folder) for name, value in {**launch.env, **env}.items()}
    inherited = environment.inherited(environ, settings.bin_path)
    argv = tuple(filled(word, folder) for word in launch.argv)
    _check_words(service, argv, {**inherited, **own})
    searched = environment.search_path({**inherited, **own}, settings.bin_path)
    return Resolved(_program(service, argv[0], cwd, searched), argv, own, inherited, cwd)


def anothers(home: Path) -> str | None:
    """The name of the user in whose home root is at work; None in root's own, and for everybody else."""
    if os.geteuid() != 0 or (owner := owner_of(home)) == 0:
        return None
    try:
        return pwd.getpwuid(owner).pw_name
    except KeyError:
        return f"#{owner}"


def refuse_anothers(home: Path, service: str, *, stop: bool = False) -> None:
    """Raise MachineLacks `anothers-home` where root would run, with its own rights, what another user's home says; or
    end (`stop`) the processes that it names."""
    if (name := anothers(home)) is None:
        return
    raise MachineLacks(
        "anothers-home",
        f"service {service} is not stopped by root: its home is of {name}"
        if stop
        else f"service {service} is not started: it would run as root, and its home is of {name}",
        why=f"{name} says in {home} which {'processes are its own' if stop else 'programs run'}",
        hint=f"as {name}: sudo -u {name} gpumod --home {shlex.quote(str(home))}; or set supervisor systemd-system: its"
        f" units run as {name}",
    )


def filled(text: str, folder: Path) -> str:
    """`text` with `{service_dir}` replaced by the service's folder."""
    return text.replace("{service_dir}", str(folder))


def cannot_execute(service: str, program: str, why: str) -> Failed:
    return Failed(
        "cannot-execute",
        f"service {service} cannot execute {program}",
        why=why,
        hint="make it executable, and see that it is a program for this machine or begins with #!",
    )


def already_running(service: str, pid: int | None) -> Failed:
    return Failed(
        "already-running",
        f"a process of service {service} is running already",
        why=f"its pid is {pid}" if pid else "what keeps it says so",
        hint=f"stop it first: gpumod service stop {service}; `gpumod doctor` tells how where that does not find it",
    )


def cannot_kill(service: str, pids: Sequence[int]) -> Failed:
    return Failed(
        "cannot-kill",
        f"{len(pids)} processes of service {service} do not end: {', '.join(map(str, sorted(pids)[:10]))}",
        why="they belong to another user, or hang in the kernel (a driver, a file system that does not answer)",
        hint="look at them with ps -o pid,stat,wchan,cmd; those in state D end when the kernel lets them",
        pids=sorted(pids)[:100],
    )


def _program(service: str, word: str, cwd: Path, searched: str) -> str:
    """The absolute path of the program that `word` names; with a slash in it, it is a path from `cwd`."""
    path = cwd / word if "/" in word else None
    found = shutil.which(str(path) if path else word, path=searched)
    if found:
        return found
    if path is not None and os.path.isfile(path):  # noqa: PTH113 - as above
        raise cannot_execute(service, str(path), "it is not executable")
    raise MachineLacks(
        "missing-binary",
        f"service {service} needs the program {word}, which is not there",
        why=f"there is no {path}" if path else f"it is in none of {searched}",
        hint="install it, or say where it is: gpumod settings set bin_path FOLDER",
        program=word,
    )


def _check_words(service: str, argv: Sequence[str], variables: Mapping[str, str]) -> None:
    """Refuse what no process can be given."""
    if not argv or not argv[0]:
        raise UsageError("bad-launch", f"service {service} names no program to start")
    words = [*argv, *variables.keys(), *variables.values()]
    if any("\0" in word for word in words) or any(not name or "=" in name for name in variables):
        raise UsageError(
            "bad-launch",
            f"service {service} cannot be started with these arguments or variables",
            why="there is a zero character in them, or a variable without a proper name",
        )
