"""What a driver tells of the use that is made of a service, so that one that nobody uses can be put to sleep."""

from __future__ import annotations

from typing import Annotated, Protocol, runtime_checkable

from pydantic import Field

from gpumod.domain.base import Frozen, Text
from gpumod.domain.service import Service
from gpumod.ports.web import Http


class Activity(Frozen):
    """The use of a service, as its server tells it.

    `in_flight` requests are under way or queued. `served` is any counter that grows as work is done (requests, tokens)
    and never by a probe, a scrape or a listing: that it changed since the last look (it starts anew with the server)
    means use in between; None: the server counts nothing. `last_use_at` is when it was used last (seconds since the
    epoch), where the server itself tells; a request under way is use now. `detail` is for people.
    """

    in_flight: Annotated[int, Field(ge=0)]
    served: float | None = None
    last_use_at: float | None = None
    detail: Text = ""


@runtime_checkable
class ReportsActivity(Protocol):
    """A driver that can tell whether a service is in use.

    `activity` is asked of services that run, with the service's effective port (its host's for a member). It must
    neither count as use itself nor load or wake anything. None: this server cannot tell (an endpoint is missing or
    switched off, the answer makes no sense); a service that cannot tell is never put to sleep for being idle.
    It may raise HttpFailure, which counts as None for that look.
    """

    async def activity(self, service: Service, port: int, http: Http) -> Activity | None: ...
