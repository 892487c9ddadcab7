"""Processes as /proc tells them. A pid is believed only together with its start time."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from gpumod.ports import Clock

NONCE_VARIABLE = "GPUMOD_NONCE"
SHIM_VARIABLE = "GPUMOD_SHIM"
SHIM_NAMES = (b"gpumod-shim", b"gpumod-nursery")
_POLL_S = 0.02
_LOOKS = 5
"""How often a tree is looked at that goes on changing."""
_PROC = Path("/proc")


class Proc(NamedTuple):
    """A process: its pid and its start time in kernel clock ticks since boot, which no later process shares."""

    pid: int
    started: int

    @property
    def alive(self) -> bool:
        return start_ticks(self.pid) == self.started


class _Stat(NamedTuple):
    state: str
    parent: int
    started: int


def _stat(pid: int) -> _Stat | None:
    """What /proc/PID/stat says, or None when there is no such process. The name in it may hold anything."""
    try:
        text = _read(f"/proc/{pid}/stat")
    except OSError:
        return None
    fields = text[text.rfind(b")") + 2 :].split()
    return _Stat(fields[0].decode(), int(fields[1]), int(fields[19]))


def _read(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        pieces = []
        while piece := os.read(descriptor, 65536):
            pieces.append(piece)
        return b"".join(pieces)
    finally:
        os.close(descriptor)


def start_ticks(pid: int) -> int | None:
    """Start time of a living process in clock ticks since boot; None for one that is gone or a zombie."""
    stat = _stat(pid)
    return stat.started if stat is not None and stat.state not in ("Z", "X", "x") else None


@functools.cache
def boot_id() -> str:
    """The id of this boot: a token of an earlier one finds nothing."""
    return (_PROC / "sys/kernel/random/boot_id").read_text().strip()


def all_pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208 - a hot path


def _children(pid: int) -> tuple[list[int], int]:
    """The children of a process and how many threads were asked (children belong to the thread that forked them).

    Raises FileNotFoundError where the kernel was built without the list.
    """
    found: list[int] = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")  # noqa: PTH208 - a hot path
    except OSError:
        return found, 0
    for thread in threads:
        try:
            found += map(int, _read(f"/proc/{pid}/task/{thread}/children").split())
        except OSError:
            if start_ticks(pid) is not None and not _lists_children():
                raise
    return found, len(threads)


def _lists_children() -> bool:
    return Path(f"/proc/self/task/{os.getpid()}/children").exists()


def trees(roots: Collection[int]) -> dict[int, tuple[int, ...]]:
    """For each root the pids of its descendants, at any depth, without the root, and without what another run's shim
    keeps: where a gpumod ran inside of a service, its shims end up below that service's.

    Asks only the processes concerned, thread by thread, unless that costs more than looking at every process once.
    What ends meanwhile hands its children to a process that may have been asked before: then all are asked again.
    """
    ended_before: set[int] = set()
    for _ in range(_LOOKS):
        found = _trees(roots)
        over = {pid for pids in found.values() for pid in pids if start_ticks(pid) is None}
        if over <= ended_before:
            break
        ended_before |= over
    return found


def _trees(roots: Collection[int]) -> dict[int, tuple[int, ...]]:
    budget = 64 + 2 * len(os.listdir("/proc"))  # noqa: PTH208 - a hot path
    found: dict[int, tuple[int, ...]] = {}
    try:
        for root in roots:
            found[root], budget = _walk(root, budget)
    except (_TooDear, FileNotFoundError):
        return _trees_by_scan(roots)
    return found


class _TooDear(Exception):
    """Walking costs more than a scan."""


def _walk(root: int, budget: int) -> tuple[tuple[int, ...], int]:
    known: dict[int, None] = {}
    waiting = [root]
    counted = -1
    while waiting:
        children, asked = _children(waiting.pop())
        budget -= asked
        if budget < 0:
            raise _TooDear
        fresh = [child for child in children if child not in known and not is_shim(child)]
        known.update(dict.fromkeys(fresh))
        waiting += fresh
        # what ended meanwhile, before it was seen, has left its children to the root
        if not waiting and counted != len(known):
            waiting, counted = [root], len(known)
    return tuple(known), budget


def _trees_by_scan(roots: Collection[int]) -> dict[int, tuple[int, ...]]:
    below: dict[int, list[int]] = {}
    for pid in all_pids():
        if (stat := _stat(pid)) is not None:
            below.setdefault(stat.parent, []).append(pid)
    found = {}
    for root in roots:
        known: list[int] = []
        waiting = [root]
        while waiting:
            children = [child for child in below.get(waiting.pop(), ()) if not is_shim(child)]
            known += children
            waiting += children
        found[root] = tuple(known)
    return found


def parent(pid: int) -> int | None:
    stat = _stat(pid)
    return stat.parent if stat is not None else None


def group(pid: int) -> int | None:
    """The process group of a process."""
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


def is_shim(pid: int) -> bool:
    """True for a shim of any run, or the nursery that forks them.

    By its name first: the environment of a process that hangs in a driver may never be told.
    """
    try:
        if not _read(f"/proc/{pid}/comm").startswith(SHIM_NAMES):
            return False
        return f"{SHIM_VARIABLE}=1".encode() in _read(f"/proc/{pid}/environ").split(b"\0")
    except PermissionError:
        return True  # one of another user's, whose environment is not ours to read
    except OSError:
        return False


def by_nonce(nonces: Collection[str]) -> dict[str, list[Proc]]:
    """The living processes of this user that carry one of `nonces` in their environment. Looks at every process."""
    wanted = {f"{NONCE_VARIABLE}={nonce}".encode(): nonce for nonce in nonces}
    found: dict[str, list[Proc]] = {nonce: [] for nonce in nonces}
    for pid, environment in _own_environments():
        for entry in environment.split(b"\0"):
            if (nonce := wanted.get(entry)) is not None and (started := start_ticks(pid)) is not None:
                found[nonce].append(Proc(pid, started))
                break
    return found


def _own_environments() -> Iterator[tuple[int, bytes]]:
    me = os.geteuid()
    for pid in all_pids():
        with contextlib.suppress(OSError):
            if os.stat(f"/proc/{pid}").st_uid == me:  # noqa: PTH116 - a hot path
                yield pid, _read(f"/proc/{pid}/environ")


def send(process: Proc, number: int) -> bool:
    """Send a signal to just this process, and say whether it was there. Raises PermissionError."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return False
    except OSError:  # a kernel or a sandbox without pidfds: check, then send
        if not process.alive:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)
        return True
    try:
        if not process.alive:
            return False
        signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)
    return True


async def ended(process: Proc, timeout_s: float | None, clock: Clock) -> bool:
    """Wait until the process has ended, noticed at once. False: it lives after `timeout_s` (None: for ever)."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return True
    except OSError:
        return await _ended_by_polling(process, timeout_s, clock)
    loop = asyncio.get_running_loop()
    over: asyncio.Future[None] = loop.create_future()

    def readable() -> None:
        loop.remove_reader(descriptor)
        if not over.done():
            over.set_result(None)

    try:
        if not process.alive:
            return True
        loop.add_reader(descriptor, readable)
        done, _ = await asyncio.wait([over], timeout=timeout_s)
        return bool(done)
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


async def _ended_by_polling(process: Proc, timeout_s: float | None, clock: Clock) -> bool:
    deadline = None if timeout_s is None else clock.monotonic() + timeout_s
    while process.alive:
        if deadline is not None and clock.monotonic() >= deadline:
            return False
        await clock.sleep(_POLL_S)
    return True
