"""This computer outside its GPUs: files, ports, disk, programs, and the changer's lock."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from gpumod.adapters.files import free_disk_mb, write_atomic
from gpumod.adapters.lock import Holder as LockHolder
from gpumod.adapters.lock import MachineLock
from gpumod.adapters.ports_in_use import port_user
from gpumod.adapters.process.environment import search_path
from gpumod.domain.settings import Settings
from gpumod.ports import Holder, PortUser


class LocalComputer:
    """The `Local` port over the real thing. Programs are looked for where the process supervisor finds them."""

    def __init__(self, settings: Settings, environ: Mapping[str, str]) -> None:
        self._path = search_path(environ, settings.bin_path)

    def write_atomic(self, path: Path, text: str, mode: int) -> None:
        write_atomic(path, text, mode)

    def port_user(self, port: int) -> PortUser | None:
        return port_user(port)

    def free_disk_mb(self, path: Path) -> int:
        return free_disk_mb(path)

    def find_program(self, name: str) -> str | None:
        return shutil.which(name, path=self._path)

    def is_folder(self, path: Path) -> bool:
        return path.is_dir()

    @contextmanager
    def lock(self, folder: Path, command: str, home: Path) -> Iterator[None]:
        with MachineLock(folder).acquire(LockHolder.current(command, home)):
            yield

    def holder(self, folder: Path) -> Holder | None:
        return MachineLock(folder).holder()
