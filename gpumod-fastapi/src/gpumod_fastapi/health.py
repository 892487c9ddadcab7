"""What a service's answers tell: whether it sleeps, and how many requests are in flight."""

from __future__ import annotations

import math
from typing import Any

from gpumod.api import Http, HttpReply, Service
from gpumod_fastapi.options import FastApiOptions, fastapi_options

ASLEEP_WORDS = frozenset({"sleeping", "asleep", "sleep"})
FLAGS = ("sleeping", "asleep", "is_sleeping")
PROBE_TIMEOUT_S = 2.0


async def ask_health(service: Service, port: int, http: Http) -> HttpReply:
    """Raises HttpFailure."""
    return await http.request("GET", port, service.health_endpoint, timeout_s=PROBE_TIMEOUT_S)


async def ask_asleep(service: Service, port: int, http: Http) -> HttpReply:
    """The answer that tells whether it sleeps: that of `asleep_path`, else its health. Raises HttpFailure."""
    path = fastapi_options(service).asleep_path or service.health_endpoint
    return await http.request("GET", port, path, timeout_s=PROBE_TIMEOUT_S)


def tells_asleep(options: FastApiOptions, reply: HttpReply) -> bool | None:
    """Whether it sleeps by its own word; None where the answer says nothing of it.

    Where no `asleep_field` is named, `sleeping: true` and `status: "sleeping"` are understood.
    """
    if options.asleep_field is not None:
        value = value_at(reply.json_body, options.asleep_field)
        if options.asleep_at_most is not None:
            return value <= options.asleep_at_most if _is_number(value) else None
        return None if value is None else value == options.asleep_value
    if not isinstance(reply.json_body, dict):
        return None
    for name in FLAGS:
        if isinstance(value := reply.json_body.get(name), bool):
            return value
    for name in ("status", "state"):
        if isinstance(value := reply.json_body.get(name), str):
            return value.lower() in ASLEEP_WORDS
    return None


def failure(reply: HttpReply) -> str | None:
    """Why the service cannot serve, where it says itself that it failed: `{"status": "failed", "detail": ...}`."""
    body = reply.json_body
    if reply.ok or not isinstance(body, dict) or body.get("status") != "failed":
        return None
    return f"it says that it failed: {str(body.get('detail') or 'without a reason')[:500]}"


def count_at(reply: HttpReply, places: tuple[str, ...]) -> int | None:
    """The sum of the numbers, or of the lengths of the lists, at `places`; None where one is neither."""
    total = 0
    for place in places:
        value = value_at(reply.json_body, place)
        number = len(value) if isinstance(value, list) else value
        if not isinstance(number, int) or isinstance(number, bool) or number < 0:
            return None
        total += number
    return total


def number_at(reply: HttpReply, place: str) -> float | None:
    """The number at `place`; None where there is none."""
    value = value_at(reply.json_body, place)
    return float(value) if _is_number(value) and math.isfinite(value) else None


def value_at(body: Any, place: str) -> Any:
    """What is in `body` at `place` (`devices.0.used`); None where there is nothing."""
    for part in place.split("."):
        if isinstance(body, dict):
            body = body.get(part)
        elif isinstance(body, list) and part.isdigit() and int(part) < len(body):
            body = body[int(part)]
        else:
            return None
    return body


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
