"""The use of a service, as its server tells it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from gpumod.domain.base import Frozen, Text


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
