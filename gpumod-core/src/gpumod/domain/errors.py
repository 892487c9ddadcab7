"""Errors as a product: what happened, why, what to try, a stable code and an exit status.

::

    GpumodError
    ├── UsageError       2  wrong input
    ├── DoesNotFit       3
    ├── UnknownName      4
    ├── Busy             5  somebody else changes this machine, or uses what is asked for
    ├── RolledBack       6
    ├── HalfWay          7  `gpumod recover` is offered
    ├── Stale            8  a plan made earlier no longer holds
    ├── MachineLacks     9  GPU, binary, systemd, disk
    ├── Interrupted    130  a signal came before the first step
    │   └── Terminated 143  which was SIGTERM
    └── Failed           1  nothing changed
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from gpumod.domain.base import Frozen


class ErrorInfo(Frozen):
    """An error as data, as it stands in `--json` and in the journal."""

    code: str
    message: str
    why: str = ""
    hint: str = ""
    details: Mapping[str, Any] = {}


class GpumodError(Exception):
    """Base of every error that a user is meant to see.

    `code` is stable and kebab-case; `message` says what happened, `why` the cause, `hint` what to try.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, code: str, message: str, *, why: str = "", hint: str = "", **details: Any) -> None:
        super().__init__(message)
        self.info = ErrorInfo(code=code, message=message, why=why, hint=hint, details=details)

    @property
    def code(self) -> str:
        return self.info.code


class Failed(GpumodError):
    """It failed, and nothing was changed."""

    exit_code = 1


class UsageError(GpumodError):
    """The input is wrong."""

    exit_code = 2


class DoesNotFit(GpumodError):
    """The plan needs more memory than the budget."""

    exit_code = 3


class UnknownName(GpumodError):
    """No such service, mode, preset, driver, setting, run; no such GPU, and nothing of this name to adopt."""

    exit_code = 4


class Busy(GpumodError):
    """Somebody else goes first: they are changing this machine now (`machine-busy`), have a turn with a service that
    would be taken away (`leased`), are before in the queue (`no-turn`), or still use room that was made for them
    (`lease-in-use`)."""

    exit_code = 5


class RolledBack(GpumodError):
    """A run failed and what was there before is back."""

    exit_code = 6


class HalfWay(GpumodError):
    """A run was left half-way; `gpumod recover` closes it."""

    exit_code = 7


class Stale(GpumodError):
    """The world moved since the plan was made."""

    exit_code = 8


class MachineLacks(GpumodError):
    """The machine lacks something: a GPU, a binary, disk space, systemd."""

    exit_code = 9


class Interrupted(GpumodError):
    """A signal came before the first step of a change: nothing was changed."""

    exit_code = 130


class Terminated(Interrupted):
    """That signal was SIGTERM."""

    exit_code = 143
