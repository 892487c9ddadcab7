"""Implements :class:`gpumod.ports.checkup.Checkup` over /proc, /sys, /dev, file systems and systemd."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from gpumod.adapters.bounded import Bounded
from gpumod.adapters.checkup import kernel, managers, places, polkit
from gpumod.adapters.systemd.manager import Manager, lingers
from gpumod.domain import adopted
from gpumod.domain.errors import Failed
from gpumod.ports.checkup import LoadedUnit, ManagerFacts, MemoryFacts, NvidiaFacts, PlaceFacts, PolkitFacts

T = TypeVar("T")

ANSWER_S = 5.0
"""So long a manager or a file system may take to answer."""


class ThisComputer:
    """The computer of whoever runs this. `root` is where its files begin, `environ` where managers are looked for."""

    def __init__(
        self,
        root: Path = Path("/"),
        environ: Mapping[str, str] | None = None,
        uid: int | None = None,
        answer_s: float = ANSWER_S,
    ) -> None:
        self.uid = os.geteuid() if uid is None else uid
        self._root = root
        self._environ = os.environ if environ is None else environ
        self._answer_s = answer_s

    def manager(self, manager: adopted.Manager) -> ManagerFacts:
        return managers.manager_facts(self._manager(manager), self._answer_s)

    def units(self, manager: adopted.Manager, names: Collection[str]) -> Mapping[str, LoadedUnit]:
        return managers.units(self._manager(manager), names, self._answer_s) if names else {}

    def lingers(self) -> bool:
        return lingers(self._root)

    def polkit(self) -> PolkitFacts:
        return polkit.facts(self._root)

    def nvidia(self) -> NvidiaFacts | None:
        return kernel.nvidia(self._root)

    def memory(self) -> MemoryFacts:
        return kernel.memory(self._root)

    def sleep_states(self) -> Sequence[str]:
        return kernel.sleep_states(self._root)

    def open_ports(self, ports: Collection[int]) -> Mapping[int, str]:
        return kernel.open_ports(self._root, ports)

    def place(self, path: Path) -> PlaceFacts:
        return self._answer(str(path), lambda: places.place(path))

    def unreadable(self, user: str, paths: Collection[Path], programs: Collection[Path] = ()) -> Collection[Path]:
        return self._answer(f"what {user} may read", lambda: places.unreadable(user, paths, programs))

    def inside(self, folder: Path) -> Mapping[str, PlaceFacts]:
        return self._answer(str(folder), lambda: places.inside(folder))

    def _manager(self, scope: adopted.Manager) -> Manager:
        return Manager(scope, self._environ, self._root / "run/systemd/system")

    def _answer(self, what: str, call: Callable[[], T]) -> T:
        """A file system may be one of another computer, which is away."""
        bounded: Bounded[T] = Bounded(
            self._answer_s,
            lambda told: Failed(
                "no-answer",
                f"{what} does not answer",
                why=told,
                hint="its disk, or the computer that it is mounted from, may be away: look at `mount` and `sudo dmesg`",
            ),
        )
        return bounded(call)
