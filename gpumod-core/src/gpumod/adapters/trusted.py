"""What root may trust on a path: that nobody else says what lies there."""

from __future__ import annotations

import errno
import os
import re
import stat
import sys
from pathlib import Path

from gpumod.adapters.files import open_plain

_LINKS = 40
"""So many may lead from one to the next: as many as the kernel follows."""
_SCRIPTS = 5
"""So many may be run by one another: as many as the kernel takes."""
_FIRST_BYTES = 256
"""So much of a script the kernel reads to find what runs it."""


def why_not_roots(path: Path) -> str:
    """Why somebody else than root has a say in what is at `path`; empty where nobody has.

    It, each folder on the way and each link there must be root's, and written by root alone. A folder of root's may
    lie in a sticky one (/tmp): there nobody else can move it. Each step is looked at when nobody can exchange it any
    more: so what was looked at is what is found there later. Raises OSError.
    """
    here, links = Path("/"), 0
    ahead = [*reversed(path.absolute().parts)]
    while ahead:
        step = here / ahead.pop()  # a link's target may begin at the root again
        if step.name == "..":
            here = here.parent
            continue
        status = step.lstat()
        if status.st_uid != 0:
            return f"{step} is of user {status.st_uid}"
        is_folder = stat.S_ISDIR(status.st_mode)
        if not is_folder and _is_shared(here.lstat()):  # others can bring files and links of root's there
            return f"{here} may be written by others than root"
        if stat.S_ISLNK(status.st_mode):
            links += 1
            if links > _LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
            ahead += reversed(step.readlink().parts)
            continue
        if _is_shared(status) and not (is_folder and status.st_mode & stat.S_ISVTX):
            return f"{step} may be written by others than root"
        here = step
    return ""


def _is_shared(status: os.stat_result) -> bool:
    return bool(status.st_mode & (stat.S_IWGRP | stat.S_IWOTH))


def why_not_run(program: Path) -> str:
    """As :func:`why_not_roots`, for a program and what it is run by (`#!`), so that root may run it."""
    for _ in range(_SCRIPTS):
        if why := why_not_roots(program):
            return why
        interpreter = interpreter_of(program)
        if interpreter is None or interpreter == Path(sys.executable):  # which root runs already: this is it
            return ""
        if not interpreter.is_absolute() or interpreter.name == "env":  # which looks for it along PATH
            return f"{program} is run by {interpreter}, wherever that leads"
        program = interpreter
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(program))


def interpreter_of(program: Path) -> Path | None:
    """What the kernel runs `program` with, where that is a script. Raises OSError."""
    with open_plain(program) as file:
        head = re.split(rb"[\n\0]", file.read(_FIRST_BYTES))[0]
    words = head[2:].split(maxsplit=1) if head.startswith(b"#!") else []
    return Path(os.fsdecode(words[0])) if words else None
