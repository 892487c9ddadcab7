"""What a driver tells of the use that is made of a service, so that one that nobody uses can be put to sleep."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from gpumod.domain.activity import Activity
from gpumod.domain.service import Service
from gpumod.ports.web import Http


@runtime_checkable
class ReportsActivity(Protocol):
    """A driver that can tell whether a service is in use.

    `activity` is asked of services that run, with the service's effective port (its host's for a member). It must
    neither count as use itself nor load or wake anything. None: this server cannot tell (an endpoint is missing or
    switched off, the answer makes no sense); a service that cannot tell is never put to sleep for being idle.
    It may raise HttpFailure, which counts as None for that look.
    """

    async def activity(self, service: Service, port: int, http: Http) -> Activity | None: ...
