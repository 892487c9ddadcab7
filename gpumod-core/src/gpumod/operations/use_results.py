"""What turns with services, and sleeping for idleness, take and give."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field, model_validator

from gpumod.domain.base import Frozen, Id, Text
from gpumod.operations.results import ChangeResult

Seconds = Annotated[float, Field(gt=0, le=31_536_000)]


class SleepIdleParams(Frozen):
    """Put to sleep what nobody has used for its time-out; with `dry_run` only tell."""

    dry_run: bool = False
    no_rollback: bool = False


class IdleRow(Frozen):
    """A running service that has a time-out. `idle_s` and `in_flight` are None where it does not tell; `why` says why
    it does not sleep, and is empty where it is time to."""

    service: str
    timeout_s: float
    idle_s: float | None = None
    in_flight: int | None = None
    why: str = ""


class SleepIdleResult(Frozen):
    """Every running service that has a time-out, and what was done (None: nothing was due, or it was used again)."""

    services: tuple[IdleRow, ...] = ()
    change: ChangeResult | None = None
    notes: tuple[str, ...] = ()


class TurnParams(Frozen):
    """A turn with `service` for `what`, held by the process `pid`; or with `end` the id of the turn that is over.

    `wait_s` bounds the time in the queue (None: as long as it takes), `timeout_s` each start.
    """

    service: Id | None = None
    end: Id | None = None
    pid: Annotated[int, Field(ge=1)] | None = None
    what: Text = ""
    wait_s: Seconds | None = None
    timeout_s: Annotated[float, Field(gt=0, le=86_400)] | None = None

    @model_validator(mode="after")
    def _one_way(self) -> TurnParams:
        if (self.service is None) is (self.end is None):
            raise ValueError("say which service, or which turn is over")
        return self


class TurnRow(Frozen):
    """A turn that has begun: with which service, at which port of 127.0.0.1, whose, and how long that took (s)."""

    id: str
    service: str
    port: int | None
    holder: str
    waited_s: float


class TurnResult(Frozen):
    """`turn` is what is held now; `change` what was done for it, and `back` after it (None: nothing was to be done).

    `env` is what a command needs to find the service, `command_exit` how it ended.
    """

    turn: TurnRow | None = None
    change: ChangeResult | None = None
    back: ChangeResult | None = None
    env: Mapping[str, str] = {}
    command_exit: int | None = None
    notes: tuple[str, ...] = ()
