"""The processes of a container as this machine counts them, which is how a GPU's driver names its users too."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from gpumod.api import Clock, ProcessStatus

CGROUPS = Path("/sys/fs/cgroup")
_INIT_NAMES = ("docker-init", "tini", "catatonit", "podman-init", "init")
_LOOK_S = 0.1
_SEEN_S = 0.01
"""An engine says that a container ended a moment after its process has."""


class Tree(NamedTuple):
    """`main` is the service's own process, None while it is not there; `pids` are all but the engine's init."""

    main: int | None
    pids: tuple[int, ...]


def tree_of(top: int) -> Tree:
    """The processes of the container whose first one is `top` (its init, or the service itself)."""
    if top <= 0 or not is_alive(top):
        return Tree(None, ())
    found = set(_in_group(top)) | set(_below(top)) | {top}
    if _has_init(top):
        children = [pid for pid in _children(top) if is_alive(pid)]
        main = min(children, key=_started) if children else None
        found.discard(top)
    else:
        main = top
    return Tree(main, tuple(sorted(pid for pid in found if is_alive(pid))))


def _has_init(pid: int) -> bool:
    words = _command(pid)
    return bool(words) and Path(words[0]).name in _INIT_NAMES and "--" in words


def has_begun(top: int) -> bool:
    """True once the service's program runs: until then its process is still a copy of the init."""
    main = tree_of(top).main
    words = _command(main) if main is not None else []
    return bool(words) and (main == top or words != _command(top))


def _command(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    except OSError:
        return []


def _stat(pid: int) -> list[str]:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return []
    return text[text.rfind(")") + 2 :].split()


def is_alive(pid: int) -> bool:
    """True for a process that is neither gone nor a zombie."""
    return _stat(pid)[:1] not in ([], ["Z"], ["X"], ["x"])


def _started(pid: int) -> int:
    fields = _stat(pid)
    return int(fields[19]) if fields else 0


def _children(pid: int) -> Iterator[int]:
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            yield from map(int, tasks.read_text().split())


def _below(pid: int) -> Iterator[int]:
    waiting = [pid]
    while waiting:  # not by recursion: how deep it goes is the container's to say
        found = list(_children(waiting.pop()))
        yield from found
        waiting += found


def _in_group(pid: int) -> Iterator[int]:
    """Whatever is in the container's control group: what was put into it by `docker exec`, too."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
            _, kinds, path = line.split(":", 2)
            if (kinds and "pids" not in kinds.split(",")) or path in ("", "/"):
                continue
            for folder, _, _ in os.walk(f"{CGROUPS / kinds if kinds else CGROUPS}{path}"):
                with contextlib.suppress(OSError):
                    yield from (n for n in map(int, Path(folder, "cgroup.procs").read_text().split()) if n)


def proxies(ports: Collection[int]) -> dict[int, list[int]]:
    """By port of this machine the engine's processes that pass its connections on into a container."""
    found: dict[int, list[int]] = {port: [] for port in ports}
    if not ports:
        return found
    for name in os.listdir("/proc"):  # noqa: PTH208 - a hot path
        if name.isdigit():
            words = _command(int(name))
            if words and Path(words[0]).name == "docker-proxy" and "-host-port" in words:
                port = words[words.index("-host-port") + 1]
                if port.isdigit() and int(port) in found:
                    found[int(port)].append(int(name))
    return found


async def ended(pid: int, within_s: float | None = None) -> bool:
    """Wait until a process has ended, noticed at once. False where it lives after `within_s` (None: for ever)."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    except OSError:  # a kernel or a sandbox without pidfds
        return await _ended_by_looking(pid, within_s)
    loop = asyncio.get_running_loop()
    over: asyncio.Future[None] = loop.create_future()

    def readable() -> None:
        loop.remove_reader(descriptor)
        if not over.done():
            over.set_result(None)

    loop.add_reader(descriptor, readable)
    try:
        done, _ = await asyncio.wait([over], timeout=within_s)
        return bool(done)
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


async def until_over(look: Callable[[], Awaitable[ProcessStatus]], clock: Clock, ask_s: float) -> ProcessStatus:
    """The first status by `look` that is not alive, noticed at once; asked every `ask_s` while no process is known."""
    while (status := await look()).alive:
        if status.pid is not None:
            await ended(status.pid)
        await clock.sleep(ask_s if status.pid is None else _SEEN_S)
    return status


async def _ended_by_looking(pid: int, within_s: float | None) -> bool:
    waited_s = 0.0
    while is_alive(pid):
        if within_s is not None and waited_s >= within_s:
            return False
        await asyncio.sleep(_LOOK_S)
        waited_s += _LOOK_S
    return True
