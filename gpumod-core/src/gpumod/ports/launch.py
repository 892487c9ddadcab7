"""What a driver is given and gives for a start: where the service goes, and how it is started."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from gpumod.domain.base import Frozen


class GpuShare(Frozen):
    """One GPU that a service was placed on: what the card has for programs (without what its driver keeps for itself),
    what the budget is, and this service's share (MiB)."""

    index: int
    uuid: str = ""
    total_mb: int
    budget_mb: int
    vram_mb: int


class Allocation(Frozen):
    """Where a service goes and what it may take there.

    `visible` are the GPUs that its process sees, in the order in which it counts them: those of `gpus`, or for a host
    and its members every GPU of the machine (a member must then be told which of them to use).
    """

    gpus: tuple[GpuShare, ...] = ()
    visible: tuple[int, ...] = ()

    @property
    def vram_mb(self) -> int:
        return sum(share.vram_mb for share in self.gpus)


class LaunchFile(Frozen):
    """A file to be written (atomically) before the start. `name` is relative to the service's own folder."""

    name: str
    content: str
    mode: int = 0o600


class Launch(Frozen):
    """How to start a service. Nothing here is interpreted by a shell.

    `argv[0]` is a name to be found on the search path or an absolute path. In `argv`, `env` and `files` the text
    `{service_dir}` stands for the absolute path of the service's own folder. `stop_signal` goes first, SIGKILL
    after `stop_timeout_s`. `gpus_by_number`: its program takes no other names for GPUs than their numbers.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = {}
    cwd: Path | None = None
    files: tuple[LaunchFile, ...] = ()
    ports: tuple[int, ...] = ()
    stop_signal: Literal["SIGTERM", "SIGINT"] = "SIGTERM"
    stop_timeout_s: float = 30.0
    gpus_by_number: bool = False
