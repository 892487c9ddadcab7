"""What a health answer tells about sleep."""

from __future__ import annotations

from gpumod.api import Http, HttpReply, Service

ASLEEP_WORDS = frozenset({"sleeping", "asleep", "sleep"})
FLAGS = ("sleeping", "asleep", "is_sleeping")
PROBE_TIMEOUT_S = 2.0


async def ask_health(service: Service, port: int, http: Http) -> HttpReply:
    """Raises HttpFailure."""
    return await http.request("GET", port, service.health_endpoint, timeout_s=PROBE_TIMEOUT_S)


def tells_asleep(reply: HttpReply) -> bool | None:
    """True or False where the JSON tells: `sleeping: true`, or `status: "sleeping"`. None where it does not."""
    if not isinstance(reply.json_body, dict):
        return None
    for name in FLAGS:
        if isinstance(value := reply.json_body.get(name), bool):
            return value
    for name in ("status", "state"):
        if isinstance(value := reply.json_body.get(name), str):
            return value.lower() in ASLEEP_WORDS
    return None
