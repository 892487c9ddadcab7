"""What comes out of export, diff and apply."""

from __future__ import annotations

from typing import Any, Literal

from gpumod.domain.base import Frozen
from gpumod.domain.errors import ErrorInfo
from gpumod.operations.results import ChangeResult

APPLY_NOW = "apply --now"
"""The command of the run that brings what runs to a document before that is stored."""


class ExportResult(Frozen):
    """The box as YAML; `left_out` says what it does not hold, and why.

    `error` is there where the box is not whole: what is defined and cannot be read is missing in it.
    """

    yaml: str
    left_out: tuple[str, ...] = ()
    error: ErrorInfo | None = None


class FieldChange(Frozen):
    """One field, by its name in the document; an option of the driver is `unit_vars.NAME`. A secret is not shown."""

    field: str
    old: Any = None
    new: Any = None


class ObjectChange(Frozen):
    """What happens to one object. `fields` are those that differ; all that are said, where it is added."""

    kind: Literal["setting", "service", "mode"]
    id: str
    action: Literal["add", "change", "remove"]
    fields: tuple[FieldChange, ...] = ()


class DriftRow(Frozen):
    """A service that runs with another definition, in these fields; `command` brings it to the present one. `altered`
    is the alternative that made it so, where one did."""

    service: str
    fields: tuple[str, ...]
    command: str
    altered: str = ""


class DiffResult(Frozen):
    """What applying a box would change. `unnamed` are objects that the box does not name: they stay without --prune.
    `drift` are services that would run with another definition then."""

    source: str
    changes: tuple[ObjectChange, ...]
    unnamed: tuple[str, ...] = ()
    drift: tuple[DriftRow, ...] = ()
    notes: tuple[str, ...] = ()


class ApplyResult(DiffResult):
    """What applying a box changed. `applied` is False for a dry run, and where `change` (of `now`) was not reached."""

    applied: bool = False
    dry_run: bool = False
    change: ChangeResult | None = None
