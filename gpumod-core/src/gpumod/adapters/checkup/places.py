"""Files and folders: whether they are there, whose they are, and what may be done with them."""

from __future__ import annotations

import os
import pwd
import stat
import subprocess
from collections.abc import Collection, Mapping
from pathlib import Path

from gpumod.adapters.files import free_disk_mb
from gpumod.adapters.trusted import interpreter_of
from gpumod.ports.checkup import PlaceFacts

_ASK = """
for asked do
    path=${asked#?}
    case $asked in
        r*) [ -r "$path" ] && { [ ! -d "$path" ] || [ -x "$path" ]; } ;;
        x*) [ -x "$path" ] ;;
    esac && echo yes || echo no
done
"""


def place(path: Path) -> PlaceFacts:
    """Links are followed. `free_mb` is what its file system has."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return PlaceFacts(kind="missing")
    except OSError:
        return PlaceFacts(kind="hidden")
    folder = stat.S_ISDIR(status.st_mode)
    return PlaceFacts(
        kind="folder" if folder else "file",
        mode=stat.S_IMODE(status.st_mode),
        owner=status.st_uid,
        readable=os.access(path, os.R_OK | (os.X_OK if folder else 0)),
        writable=os.access(path, os.W_OK),
        free_mb=free_disk_mb(path),
    )


def unreadable(user: str, paths: Collection[Path], programs: Collection[Path] = ()) -> tuple[Path, ...]:
    """Those of `paths` that `user` may not read, and of `programs` that it may not execute, as the kernel tells a
    process of that user: groups and lists of rights count. Root alone can ask that."""
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        return ()
    if os.geteuid() != 0:
        return ()
    asked = [("r", path, path) for path in sorted(paths)]
    for program in sorted(programs):
        asked.append(("x", program, program))
        if (interpreter := _interpreter(program)) is not None:
            asked += [("r", program, program), ("x", interpreter, program)]
    try:
        told = subprocess.run(
            ["/bin/sh", "-c", _ASK, "sh", *(f"{how}{path}" for how, path, _ in asked)],
            user=entry.pw_uid,
            group=entry.pw_gid,
            extra_groups=os.getgrouplist(user, entry.pw_gid),
            cwd="/",
            env={},
            capture_output=True,
            check=True,
            text=True,
        )
    except (OSError, subprocess.SubprocessError):  # root of a container may be forbidden to become somebody else
        return ()
    answers = zip(asked, told.stdout.split(), strict=True)
    return tuple({of: None for (_, _, of), can in answers if can == "no"})


def _interpreter(program: Path) -> Path | None:
    try:
        return interpreter_of(program)
    except OSError:
        return None


def inside(folder: Path) -> Mapping[str, PlaceFacts]:
    """What is in `folder`, by name; nothing where it is not there, or may not be looked into."""
    try:
        names = sorted(entry.name for entry in folder.iterdir())
    except OSError:
        return {}
    return {name: place(folder / name) for name in names}
