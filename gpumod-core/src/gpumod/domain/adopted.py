"""What somebody else set up, and a service was adopted from: a systemd unit, or a process."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from gpumod.domain.base import Frozen, Text

UNIT_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9:_.@\\-]{0,246}\.service$"

OWN = ("gpumod-", "gpumod.")
"""How units of gpumod's own begin: those of its services, and that of its watch."""

MANAGERS = "user@"
"""How the system's units that are a user's manager begin: with everything that this user runs."""

THEIRS = ("port", "model_id", "model_path")
"""Fields of an adopted service that whoever set it up decides: here they only say what is there."""

Manager = Literal["user", "system"]
UnitName = Annotated[str, StringConstraints(pattern=UNIT_PATTERN)]


class Adopted(Frozen):
    """Either a `unit` of a `manager`, or a process: its `pid`, and the `identity` that no other process shares.

    It is started (a unit), stopped and watched, and never written, removed, enabled or disabled.
    """

    unit: UnitName | None = None
    manager: Manager | None = None
    pid: Annotated[int, Field(ge=2)] | None = None
    identity: Text = ""

    @model_validator(mode="after")
    def _one(self) -> Adopted:
        unit, process = (self.unit, self.manager), (self.pid, self.identity)
        if not (all(unit) and not any(process)) and not (all(process) and not any(unit)):
            raise ValueError("must be a unit and its manager, or a pid and its identity")
        return self

    @property
    def keeper(self) -> str:
        """The supervisor that looks after it."""
        return f"adopted-{self.manager or 'process'}"

    def __str__(self) -> str:
        return f"{self.manager} unit {self.unit}" if self.unit else f"process {self.pid}"
