"""Asking a program something (its version, say) before it is started as a service."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from gpumod.adapters.foreign.programs import installed_version
from gpumod.adapters.launches import Resolved, resolved
from gpumod.adapters.service_user import variables_of
from gpumod.adapters.trusted import why_not_run
from gpumod.domain.errors import GpumodError
from gpumod.domain.settings import Settings
from gpumod.ports import Answer, Launch

TIMEOUT_S = 20.0
MOST_BYTES = 256 * 1024
NO_GPU = {"CUDA_VISIBLE_DEVICES": ""}
"""A question takes no GPU memory: while it is asked, services are using that."""

_IN_FOLDER = 'cd -- "$1" 2>/dev/null || cd /; shift; exec "$@"'
"""Another user enters the folder: root could come where that user may not, and let the program read there."""
_NOT_EXECUTED = (126, 127)
"""How a shell ends that could not execute a program."""

Stamp = tuple[str, float, int]
"""A program as it is now: its path, when it was changed, its size."""


class Asker:
    """Runs questions, each once per program as that is now. Nobody's shell reads them."""

    def __init__(self, settings: Settings, timeout_s: float = TIMEOUT_S) -> None:
        self._settings = settings
        self._timeout_s = timeout_s
        self._known: dict[tuple[Stamp, tuple[str, ...], frozenset[tuple[str, str]]], Answer] = {}

    async def ask(
        self,
        service: str,
        launch: Launch,
        question: Sequence[str],
        folder: Path,
        environ: Mapping[str, str] = os.environ,
        user: pwd.struct_passwd | None = None,
    ) -> Answer | None:
        """The answer, or None where there is no such program; `folder` is the service's own, and need not be there.

        It inherits of `environ` and runs as `user` (None: as whoever asks), both as the service would. What would run
        as root, and is not root's alone, gives none.
        """
        asked = launch.model_copy(update={"argv": tuple(question)})
        try:
            found = resolved(service, asked, NO_GPU, folder, self._settings, environ)
            stamp = _stamp(found.program)
        except (GpumodError, OSError):
            return None  # its start says what is wrong
        key = (stamp, found.argv, frozenset(launch.env.items()))
        if key not in self._known:
            answer = _by_its_files(found)
            if answer is None and (user is not None or not _is_anothers(found.program)):
                answer = await _run(found, self._timeout_s, user)
            if answer is None:
                return None
            self._known[key] = answer
        return self._known[key]


def _stamp(program: str) -> Stamp:
    path = os.path.realpath(program)
    found = os.stat(path)  # noqa: PTH116 - one call for both
    return path, found.st_mtime, found.st_size


def _is_anothers(program: str) -> bool:
    """True where root would run, only to ask it, what another user has a say in."""
    try:
        return os.geteuid() == 0 and why_not_run(Path(program)) != ""
    except OSError:
        return True


def _by_its_files(found: Resolved) -> Answer | None:
    """The version of a Python program as it was installed: to ask vLLM itself would import torch, for many seconds."""
    if found.argv[1:] != ("--version",):
        return None
    version = installed_version(PurePosixPath(found.program).name, Path(found.program))
    return Answer(exit_code=0, output=version) if version else None


async def _run(found: Resolved, timeout_s: float, user: pwd.struct_passwd | None) -> Answer | None:
    """Run it in a session of its own, and end all of that. None where it cannot be executed."""
    cwd = found.cwd if user is None and found.cwd.is_dir() else Path("/")
    words = (found.program, *found.argv[1:])
    try:
        process = await asyncio.create_subprocess_exec(
            *(("/bin/sh", "-c", _IN_FOLDER, "sh", str(found.cwd)) if user else ()),
            *words,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=_environment(found, user),
            cwd=cwd,
            start_new_session=True,
            user=user.pw_uid if user else None,
            group=user.pw_gid if user else None,
            extra_groups=os.getgrouplist(user.pw_name, user.pw_gid) if user else None,
        )
    except OSError:
        return None
    said = bytearray()
    code: int | None = None
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await _read(process, said)
                code = await process.wait()
    finally:
        if code is None:
            await _end(process)
    if user is not None and code in _NOT_EXECUTED:
        return None
    return Answer(exit_code=code, output=_plain(bytes(said)))


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kill it and what it began; what hangs in the kernel is left to that."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(1.0):
            await process.wait()


async def _read(process: asyncio.subprocess.Process, said: bytearray) -> None:
    """All that it writes, of which the beginning is kept; more than that would be no answer."""
    assert process.stdout is not None  # noqa: S101 - a pipe was asked for
    while block := await process.stdout.read(64 * 1024):
        said += block[: MOST_BYTES - len(said)]


def _environment(found: Resolved, user: pwd.struct_passwd | None) -> dict[str, str]:
    """As the service's, with what systemd tells it of `user`."""
    of_user = variables_of(user) if user else {}
    return {**of_user, **found.env, "NO_COLOR": "1", "COLUMNS": "200"}


def _plain(said: bytes) -> str:
    text = said.decode("utf-8", "replace")
    return "".join(sign for sign in text if sign in "\n\t" or sign.isprintable())
