"""What comes out of the operations on what somebody else set up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from gpumod.domain.base import Frozen
from gpumod.domain.errors import ErrorInfo
from gpumod.domain.footprint import Footprint
from gpumod.domain.service import Service


class AdoptResult(Frozen):
    """The service that it became; `pids` are its processes now, none where it is down."""

    service: Service
    footprint: Footprint
    pids: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()


class ReleaseResult(Frozen):
    """`what` goes on as it was, and is nothing to gpumod any more. `gone`: it is a process, and that has ended."""

    id: str
    what: str
    gone: bool = False


class ImportRow(Frozen):
    """`skipped` says in `why` what is in the way; `kept` is there already."""

    name: str
    id: str
    action: Literal["added", "updated", "unchanged", "kept", "skipped"]
    why: str = ""
    service: Service | None = None
    notes: tuple[str, ...] = ()


class ImportResult(Frozen):
    """What became, or with `dry_run` would become, of each entry of `source`."""

    source: str
    rows: tuple[ImportRow, ...]
    notes: tuple[str, ...] = ()
    dry_run: bool = False


class Proposal(Frozen):
    """Something found, that `command` makes services of. `service` is what it would become; `problem` says why it
    cannot. `held_mb` is what it holds on all GPUs now."""

    id: str
    kind: Literal["unit", "container", "process", "llama-swap"]
    what: str
    command: str
    running: bool = False
    held_mb: int = 0
    service: Service | None = None
    notes: tuple[str, ...] = ()
    problem: ErrorInfo | None = None


class ProgramRow(Frozen):
    name: str
    path: str
    version: str | None = None
    why: str = ""


class FolderRow(Frozen):
    path: str
    models: int
    more: bool = False


class Found(Frozen):
    """What `gpumod init` finds on a real machine. `units` counts those of each manager that could be asked;
    `counted_as_nothing` are those of `taken` of which nobody knows what they take."""

    programs: tuple[ProgramRow, ...] = ()
    model_folders: tuple[FolderRow, ...] = ()
    units: Mapping[str, int] = {}
    proposals: tuple[Proposal, ...] = ()
    taken: tuple[str, ...] = ()
    counted_as_nothing: tuple[str, ...] = ()
    problems: tuple[ErrorInfo, ...] = ()
