"""This computer outside its GPUs: files, ports, disk, and the changer's lock."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from gpumod.adapters.containers import container_of
from gpumod.adapters.files import free_disk_mb
from gpumod.adapters.loading import load_signs
from gpumod.adapters.lock import Holder as LockHolder
from gpumod.adapters.lock import MachineLock, user_name
from gpumod.adapters.ports_in_use import port_users, stranger_on
from gpumod.adapters.process.proc import boot_id, start_ticks, trees
from gpumod.domain.machine import LoadSigns, PortUser
from gpumod.ports import Holder

PRESSURE = Path("/proc/pressure/memory")


def memory_pressure(told: Path = PRESSURE) -> float | None:
    """`some avg10` of the kernel's pressure file: percent of the last ten seconds; None where there is none."""
    try:
        found = re.search(r"^some avg10=([0-9.]+)", told.read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        return None
    return float(found[1]) if found else None


class LocalComputer:
    """The `Local` port over the real thing. Ports are looked at where services bind (`bind_host`)."""

    def __init__(self, bind_host: str) -> None:
        self._bind_host = bind_host

    def port_users(self, ports: Collection[int]) -> Mapping[int, PortUser]:
        return port_users(ports, self._bind_host)

    def stranger_on(self, port: int, pids: Collection[int]) -> PortUser | None:
        return stranger_on(port, pids)

    def free_disk_mb(self, path: Path) -> int:
        return free_disk_mb(path)

    def memory_pressure(self) -> float | None:
        return memory_pressure()

    def load_signs(self, pids: Collection[int]) -> LoadSigns:
        return load_signs(pids)

    @contextmanager
    def lock(self, folder: Path, command: str, home: Path) -> Iterator[None]:
        with MachineLock(folder).acquire(LockHolder.current(command, home)):
            yield

    def holder(self, folder: Path) -> Holder | None:
        return MachineLock(folder).holder()

    def identity(self, pid: int | None) -> str | None:
        if pid is None:
            return boot_id()
        ticks = start_ticks(pid)
        return None if ticks is None else f"{boot_id()} {ticks}"

    def tree(self, pid: int) -> Sequence[int]:
        return (pid, *trees([pid])[pid])

    def contained(self, pid: int) -> bool:
        try:
            return container_of(pid) is not None
        except OSError:  # hidden from us: where containers are, another's is not to be seen everywhere
            return True

    def user(self) -> str:
        return user_name()
