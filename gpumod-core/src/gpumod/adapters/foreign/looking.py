"""Implements :class:`gpumod.ports.foreign.Surroundings` over systemd, /proc and the file system."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from gpumod.adapters.foreign import programs, reading, unit_facts
from gpumod.adapters.launches import anothers
from gpumod.adapters.systemd.manager import Manager
from gpumod.domain import adopted
from gpumod.domain.errors import MachineLacks
from gpumod.domain.settings import Settings
from gpumod.ports.commands import CommandLine
from gpumod.ports.foreign import FolderFound, ProcessFacts, ProgramFound, UnitFacts


class ThisMachine:
    """The surroundings of whoever runs this, for the home `home`."""

    def __init__(self, home: Path) -> None:
        self._home = home

    def managers(self) -> tuple[adopted.Manager, ...]:
        found: list[adopted.Manager] = []
        for scope in ("user", "system"):
            try:
                Manager(scope).reach()
                found.append(scope)
            except MachineLacks:
                continue
        return tuple(found)

    def unit(self, name: str, manager: adopted.Manager) -> UnitFacts | None:
        return next(iter(unit_facts.facts(Manager(manager), [name])), None)

    def units(self, manager: adopted.Manager) -> tuple[UnitFacts, ...]:
        asked = Manager(manager)
        return unit_facts.facts(asked, unit_facts.names(asked))

    def process(self, pid: int) -> ProcessFacts | None:
        return reading.process(pid)

    def chain(self, pid: int) -> tuple[ProcessFacts, ...]:
        return reading.chain(pid)

    def unit_of(self, pid: int) -> tuple[adopted.Manager, str] | None:
        return reading.unit_of(pid)

    def listening(self, pids: Collection[int]) -> Mapping[int, Sequence[int]]:
        return reading.listening(pids)

    def programs(self, names: Sequence[str], settings: Settings) -> tuple[ProgramFound, ...]:
        return programs.find(names, settings, ask=anothers(self._home) is None)

    def model_folders(self, settings: Settings) -> tuple[FolderFound, ...]:
        return programs.model_folders(settings)

    def llama_swap_files(self, commands: Sequence[CommandLine]) -> tuple[Path, ...]:
        return programs.llama_swap_files(commands)

    def config(self, path: Path) -> Mapping[str, Any]:
        return programs.read_config(path)

    def size_mb(self, path: Path) -> int | None:
        return programs.size_mb(path)
