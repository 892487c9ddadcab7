"""Sleep by the service's own endpoints."""

from __future__ import annotations

from typing import Literal

from gpumod.api import Clock, Failed, Http, HttpFailure, Service, poll
from gpumod_fastapi.health import ask_health, tells_asleep
from gpumod_fastapi.options import fastapi_options

SETTLE_S = 5.0
TELL_HINT = 'let the health answer hold {"sleeping": true} or {"sleeping": false}'


class HttpSleep:
    """POST to `sleep_path` and `wake_path`; the health answer must tell whether the service sleeps.

    One that does not tell could never be seen asleep, neither by a plan nor by a rollback, so it is refused before
    it is touched.
    """

    def residue_mb(self, service: Service, vram_mb: int) -> int | None:
        """Not known before it was measured, or declared as `asleep_mb`."""
        return None

    def ram_mb(self, service: Service, vram_mb: int) -> int | None:
        return None

    async def sleep(self, service: Service, port: int, http: Http, clock: Clock) -> None:
        """Wait until no request is in flight, where it tells that, and send it to sleep.

        Raises Failed `sleep-not-told`, `sleep-not-enabled`, `activity-not-told`, `busy`, `sleep-failed` or
        `sleep-timeout`.
        """
        options = fastapi_options(service)
        await _turn(
            service, port, http, clock, verb="sleep", path=options.sleep_path, timeout_s=options.sleep_timeout_s
        )

    async def wake(self, service: Service, port: int, http: Http, clock: Clock) -> None:
        """Raises Failed `sleep-not-told`, `sleep-not-enabled`, `wake-failed` or `wake-timeout`."""
        options = fastapi_options(service)
        path, timeout_s = options.wake_path, options.wake_timeout_s
        await _turn(service, port, http, clock, verb="wake", path=path, timeout_s=timeout_s)


async def _turn(
    service: Service,
    port: int,
    http: Http,
    clock: Clock,
    *,
    verb: Literal["sleep", "wake"],
    path: str | None,
    timeout_s: float,
) -> None:
    wanted = verb == "sleep"
    if path is None:
        raise Failed(
            "sleep-not-enabled",
            f"{service.id} cannot {verb}",
            why=f"it has no {verb}_path",
            hint="set the options sleep_path and wake_path",
        )
    if await _asleep(service, port, http, verb) is wanted:
        return
    if wanted:
        await _drain(service, port, http, clock, timeout_s)
    try:
        reply = await http.request("POST", port, path, timeout_s=timeout_s)
    except HttpFailure as failure:
        if failure.kind == "timeout":
            why = f"{path} did not answer in {timeout_s:g} s"
            raise _failed(service, f"{verb}-timeout", verb, why) from failure
        raise _failed(service, f"{verb}-failed", verb, f"{path}: {failure}") from failure
    if not reply.ok:
        raise _failed(service, f"{verb}-failed", verb, f"{path} answered {reply.status}: {reply.text[:200]}")

    async def ask() -> bool | None:
        return True if await _asleep(service, port, http, verb) is wanted else None

    if not await poll(clock, ask, SETTLE_S):
        why = f"its health answer says otherwise {SETTLE_S:g} s after it agreed"
        raise _failed(service, f"{verb}-failed", verb, why)


async def _drain(service: Service, port: int, http: Http, clock: Clock, timeout_s: float) -> None:
    """Wait for the requests in flight that `activity_path` tells. Raises Failed `busy` when they do not end."""
    path = fastapi_options(service).activity_path
    if path is None:
        return
    number = 0

    async def ask() -> bool | None:
        nonlocal number
        number = await _in_flight(service, port, http, path)
        return None if number else True

    if not await poll(clock, ask, timeout_s):
        raise Failed(
            "busy",
            f"{service.id} did not fall asleep",
            why=f"{number} request{'s were' if number > 1 else ' was'} still in flight after {timeout_s:g} s",
            hint="try again when it is idle, or set the option sleep_timeout_s to a longer time",
            service=service.id,
        )


async def _in_flight(service: Service, port: int, http: Http, path: str) -> int:
    """Raises Failed where `path` does not tell it."""
    try:
        reply = await http.request("GET", port, path)
    except HttpFailure as failure:
        code = "sleep-timeout" if failure.kind == "timeout" else "sleep-failed"
        raise _failed(service, code, "sleep", f"{path}: {failure}") from failure
    number = reply.json_body.get("in_flight") if reply.ok and isinstance(reply.json_body, dict) else None
    if not isinstance(number, int) or isinstance(number, bool) or number < 0:
        raise Failed(
            "activity-not-told",
            f"{service.id} does not tell how many requests are in flight",
            why=f"{path} answered {reply.status}: {reply.text[:200]}",
            hint='let activity_path answer {"in_flight": 0}, or leave that option out',
            service=service.id,
        )
    return number


async def _asleep(service: Service, port: int, http: Http, verb: str) -> bool:
    """What the health answer tells. Raises Failed where it tells nothing."""
    try:
        told = tells_asleep(await ask_health(service, port, http))
    except HttpFailure as failure:
        code = f"{verb}-timeout" if failure.kind == "timeout" else f"{verb}-failed"
        raise _failed(service, code, verb, f"{service.health_endpoint}: {failure}") from failure
    if told is None:
        raise Failed(
            "sleep-not-told",
            f"{service.id} does not tell whether it sleeps",
            why=f"the answer of {service.health_endpoint} says nothing of it, so sleep could not be verified",
            hint=TELL_HINT,
            service=service.id,
        )
    return told


def _failed(service: Service, code: str, verb: str, why: str) -> Failed:
    done = "fall asleep" if verb == "sleep" else "wake"
    hint = f"see `gpumod service logs {service.id}`; {TELL_HINT}"
    return Failed(code, f"{service.id} did not {done}", why=why, hint=hint, service=service.id)
