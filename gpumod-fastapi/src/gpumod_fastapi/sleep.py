"""Sleep by the service's own endpoints."""

from __future__ import annotations

from typing import Literal, NamedTuple

from pydantic import JsonValue

from gpumod.api import Clock, Failed, Http, HttpFailure, Service, busy, poll
from gpumod_fastapi.health import ask_asleep, count_at, failure, tells_asleep
from gpumod_fastapi.options import fastapi_options

SETTLE_S = 5.0
TELL_HINT = 'let the health answer hold {"sleeping": true} or {"sleeping": false}, or set asleep_path and asleep_field'


class HttpSleep:
    """Calls `sleep_path` and `wake_path`; an answer of the service must tell whether it sleeps.

    One that does not tell could never be seen asleep, neither by a plan nor by a rollback, so it is refused before
    it is touched; but for one that loads by use, whose memory tells.
    """

    def residue_mb(self, service: Service, vram_mb: int) -> int | None:
        """Not known before it was measured, or declared as `asleep_mb`."""
        return None

    def ram_mb(self, service: Service, vram_mb: int) -> int | None:
        """What is declared: only the app knows whether it moves its model to the computer's own memory."""
        return fastapi_options(service).asleep_ram_mb

    async def sleep(self, service: Service, port: int, http: Http, clock: Clock) -> None:
        """Wait until no request is in flight, where it tells that, and send it to sleep.

        Raises Failed `sleep-not-told`, `sleep-not-enabled`, `activity-not-told`, `busy`, `sleep-failed` or
        `sleep-timeout`.
        """
        options = fastapi_options(service)
        call = _Call("sleep", options.sleep_method, options.sleep_path, options.sleep_body, options.sleep_timeout_s)
        if options.loads_by_use:
            await _drain(service, port, http, clock, call.timeout_s)
            await _send(service, port, http, call)
            if options.asleep_field is not None:
                await _confirm(service, port, http, clock, call.verb)
        else:
            await _turn(service, port, http, clock, call)

    async def wake(self, service: Service, port: int, http: Http, clock: Clock) -> None:
        """Raises Failed `sleep-not-told`, `sleep-not-enabled`, `wake-failed` or `wake-timeout`."""
        options = fastapi_options(service)
        call = _Call("wake", options.wake_method, options.wake_path, options.wake_body, options.wake_timeout_s)
        if not options.loads_by_use:
            await _turn(service, port, http, clock, call)
        elif options.wake_path is not None:
            await _send(service, port, http, call)


class _Call(NamedTuple):
    """One call to the service, which is to bring it to sleep or to wake it."""

    verb: Literal["sleep", "wake"]
    method: str
    path: str | None
    body: JsonValue
    timeout_s: float


async def _turn(service: Service, port: int, http: Http, clock: Clock, call: _Call) -> None:
    """Make the call unless it is so already, and wait until the service says that it is so."""
    if call.path is None:
        raise _not_enabled(service, call.verb)
    wanted = call.verb == "sleep"
    if await _asleep(service, port, http, call.verb) is wanted:
        return
    if wanted:
        await _drain(service, port, http, clock, call.timeout_s)
    await _send(service, port, http, call)
    await _confirm(service, port, http, clock, call.verb)


async def _send(service: Service, port: int, http: Http, call: _Call) -> None:
    """Raises Failed where it is refused, is not answered, or (409) the service says that it is busy."""
    verb, path = call.verb, call.path
    if path is None:
        raise _not_enabled(service, verb)
    try:
        reply = await http.request(call.method, port, path, json_body=call.body, timeout_s=call.timeout_s)
    except HttpFailure as failed:
        if failed.kind == "timeout":
            why = f"{path} did not answer in {call.timeout_s:g} s"
            raise _failed(service, f"{verb}-timeout", verb, why) from failed
        raise _failed(service, f"{verb}-failed", verb, f"{path}: {failed}") from failed
    if reply.status == 409 and verb == "sleep":
        raise busy(service, f"{path} answered 409: {reply.text[:200]}")
    if not reply.ok:
        raise _failed(service, f"{verb}-failed", verb, f"{path} answered {reply.status}: {reply.text[:200]}")


async def _confirm(service: Service, port: int, http: Http, clock: Clock, verb: Literal["sleep", "wake"]) -> None:
    """Wait until the service's own word is what was wanted. Raises Failed."""

    async def ask() -> bool | None:
        return True if await _asleep(service, port, http, verb) is (verb == "sleep") else None

    if not await poll(clock, ask, SETTLE_S):
        where = fastapi_options(service).asleep_path or "its health answer"
        why = f"{where} says otherwise {SETTLE_S:g} s after it agreed"
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
        many = f"{number} request{'s were' if number > 1 else ' was'}"
        raise busy(service, f"{many} still in flight after {timeout_s:g} s")


async def _in_flight(service: Service, port: int, http: Http, path: str) -> int:
    """Raises Failed where `path` does not tell it."""
    try:
        reply = await http.request("GET", port, path)
    except HttpFailure as failed:
        code = "sleep-timeout" if failed.kind == "timeout" else "sleep-failed"
        raise _failed(service, code, "sleep", f"{path}: {failed}") from failed
    number = count_at(reply, fastapi_options(service).activity_fields) if reply.ok else None
    if number is None:
        raise Failed(
            "activity-not-told",
            f"{service.id} does not tell how many requests are in flight",
            why=f"{path} answered {reply.status}: {reply.text[:200]}",
            hint='let activity_path answer {"in_flight": 0}, set activity_fields, or leave activity_path out',
            service=service.id,
        )
    return number


async def _asleep(service: Service, port: int, http: Http, verb: str) -> bool:
    """What the service's answer tells. Raises Failed where it tells nothing, or that it failed."""
    options = fastapi_options(service)
    path = options.asleep_path or service.health_endpoint
    try:
        reply = await ask_asleep(service, port, http)
    except HttpFailure as failed:
        code = f"{verb}-timeout" if failed.kind == "timeout" else f"{verb}-failed"
        raise _failed(service, code, verb, f"{path}: {failed}") from failed
    if why := failure(reply):
        raise _failed(service, f"{verb}-failed", verb, why)
    told = tells_asleep(options, reply)
    if told is None:
        raise Failed(
            "sleep-not-told",
            f"{service.id} does not tell whether it sleeps",
            why=f"the answer of {path} says nothing of it, so sleep could not be verified",
            hint=TELL_HINT,
            service=service.id,
        )
    return told


def _not_enabled(service: Service, verb: str) -> Failed:
    return Failed(
        "sleep-not-enabled",
        f"{service.id} cannot {verb}",
        why=f"it has no {verb}_path",
        hint="set the options sleep_path and wake_path",
    )


def _failed(service: Service, code: str, verb: str, why: str) -> Failed:
    done = "fall asleep" if verb == "sleep" else "wake"
    hint = f"see `gpumod service logs {service.id}`; {TELL_HINT}"
    return Failed(code, f"{service.id} did not {done}", why=why, hint=hint, service=service.id)
