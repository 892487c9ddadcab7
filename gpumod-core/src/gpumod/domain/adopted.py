"""What somebody else set up, and a service was adopted from: a systemd unit, a container, or a process."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from gpumod.domain.base import Frozen, Text, clean_text

UNIT_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9:_.@\\-]{0,246}\.service$"

CONTAINER_PATTERN = r"^[0-9a-f]{64}$"
"""How engines number their containers, in full: no two ever have the same."""

CONTAINER_NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,254}$"

SOCKET_PATTERN = r"^/[^\x00-\x1f\x7f]{1,106}$"
"""Where a container engine listens: no longer path can be a socket's."""

OWN = ("gpumod-", "gpumod.")
"""How units of gpumod's own begin: those of its services, and that of its watch."""

MANAGERS = "user@"
"""How the system's units that are a user's manager begin: with everything that this user runs."""

THEIRS = ("port", "model_id", "model_path")
"""Fields of an adopted service that whoever set it up decides: here they only say what is there."""

Manager = Literal["user", "system"]
UnitName = Annotated[str, StringConstraints(pattern=UNIT_PATTERN)]
ContainerId = Annotated[str, StringConstraints(pattern=CONTAINER_PATTERN)]
ContainerName = Annotated[str, StringConstraints(pattern=CONTAINER_NAME_PATTERN)]
EngineSocket = Annotated[str, StringConstraints(pattern=SOCKET_PATTERN), AfterValidator(clean_text)]


class Adopted(Frozen):
    """A `unit` of a `manager`; a `container`, by its full id, with the `name` that it had then, and the socket of the
    `engine` that has it (None: of whichever is in use); or a process: its `pid`, and the `identity` that no other
    process shares.

    It is started (a unit, a container), stopped and watched, and never written, removed, enabled or disabled.
    """

    unit: UnitName | None = None
    manager: Manager | None = None
    container: ContainerId | None = None
    name: ContainerName | None = None
    engine: EngineSocket | None = None
    pid: Annotated[int, Field(ge=2)] | None = None
    identity: Text = ""

    @model_validator(mode="after")
    def _one(self) -> Adopted:
        kinds = ((self.unit, self.manager), (self.container, self.name), (self.pid, self.identity))
        if [any(kind) for kind in kinds].count(True) != 1 or not any(all(kind) for kind in kinds):
            raise ValueError("must be a unit and its manager, a container and its name, or a pid and its identity")
        if self.engine and not self.container:
            raise ValueError("only a container has an engine")
        return self

    @property
    def thing(self) -> tuple[str | int | None, ...]:
        """What it is, whatever it is called now: the same for no other unit, container or process."""
        return (self.unit, self.manager, self.container, self.pid, self.identity)

    @property
    def kind(self) -> Literal["unit", "container", "process"]:
        return "unit" if self.unit else "container" if self.container else "process"

    @property
    def keeper(self) -> str:
        """The supervisor that looks after it."""
        return f"adopted-{self.manager or self.kind}"

    def __str__(self) -> str:
        if self.container:
            return f"container {self.name} ({self.container[:12]})"
        return f"{self.manager} unit {self.unit}" if self.unit else f"process {self.pid}"
