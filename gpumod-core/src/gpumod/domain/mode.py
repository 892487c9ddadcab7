"""A mode: a named set of services that run together."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field, model_validator

from gpumod.domain.base import Frozen, Id, Number, Text
from gpumod.domain.service import IdleSeconds

StartOrder = Annotated[int, Field(ge=-1_000_000, le=1_000_000), Number]


class Want(StrEnum):
    """The state that is wanted of a member.

    `time-shared` members (`sleep_on_idle`) sleep until needed, and at most one of them is awake.
    """

    AWAKE = "awake"
    ASLEEP = "asleep"
    TIME_SHARED = "time-shared"


class ModeMember(Frozen):
    """A service in a mode. Members of a lower `start_order` are ready before a higher one starts.

    `idle_timeout` is that of the service in this mode, in seconds.
    """

    service: Id
    want: Want = Want.AWAKE
    start_order: StartOrder = 0
    idle_timeout: IdleSeconds | None = None


class Mode(Frozen):
    """A named set of services, with a start order and the wanted state of each."""

    id: Id
    name: Text = ""
    description: Text = ""
    members: tuple[ModeMember, ...] = ()

    @model_validator(mode="after")
    def _distinct(self) -> Mode:
        ids = [member.service for member in self.members]
        twice = sorted({i for i in ids if ids.count(i) > 1})
        if twice:
            raise ValueError(f"mode {self.id!r} names {', '.join(twice)} twice")
        return self

    @property
    def services(self) -> tuple[str, ...]:
        return tuple(member.service for member in self.members)
