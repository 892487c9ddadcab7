"""Speaks to a llama.cpp router about its members. Only GETs that wake nothing are sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

import psutil

from gpumod.api import Clock, Failed, Http, HttpFailure, HttpReply, MemberReading, ProbeResult, Service, poll
from gpumod_llamacpp.activity import read_activity
from gpumod_llamacpp.options import drain_s, llamacpp_options, member_stop_s

UNLOAD_MARGIN_S = 20.0
"""The router kills a child that has not ended within its stop-timeout; this long its end may take after that."""
RELOAD_TIMEOUT_S = 30.0
PROBE_TIMEOUT_S = 2.0

Entry = Mapping[str, Any]


async def entries(port: int, http: Http, *, reload: bool = False) -> dict[str, Entry]:
    """The `status` of every model that the router knows, by name. Raises HttpFailure, and Failed `router-error`.

    `reload` makes it read its file again; it also forgets which loads failed.
    """
    query = [("reload", "1")] if reload else []
    reply = await http.request("GET", port, "/models", query=query, timeout_s=RELOAD_TIMEOUT_S if reload else 2.0)
    data = reply.json_body.get("data") if isinstance(reply.json_body, dict) else None
    if not reply.ok or not isinstance(data, list):
        raise Failed("router-error", f"the router on port {port} does not list its models", why=_said(reply))
    known: dict[str, Entry] = {}
    for item in data:
        if isinstance(item, dict) and isinstance(item.get("id"), str):
            status = item.get("status")
            known[item["id"]] = status if isinstance(status, dict) else {}
    return known


def reading(entry: Entry | None, pid: int | None = None) -> MemberReading:
    """One model's status as a reading; None is a model that the router does not know."""
    if entry is None:
        return MemberReading(configured=False, detail="the router does not know it")
    value = entry.get("value")
    if value in ("loaded", "sleeping"):
        return MemberReading(configured=True, loaded=True, pid=pid)
    if value in ("loading", "downloading"):
        return MemberReading(configured=True, loading=True, pid=pid, detail=str(value))
    if entry.get("failed"):
        detail = f"the router could not load it (exit code {entry.get('exit_code')})"
        return MemberReading(configured=True, failed=True, pid=pid, detail=detail)
    return MemberReading(configured=True, pid=pid)


def child_pids(pids: Sequence[int]) -> dict[str, int]:
    """The router's children among `pids`, by the alias with which it starts each."""
    found: dict[str, int] = {}
    for pid in pids:
        try:
            words = psutil.Process(pid).cmdline()
        except psutil.Error:
            continue  # it ended meanwhile, or is not ours to look at
        for flag, value in pairwise(words):
            if flag in ("--alias", "-a"):
                found[value] = pid
                break
    return found


async def probe(member: Service, port: int, http: Http, timeout_s: float = PROBE_TIMEOUT_S) -> ProbeResult:
    """Ask a member itself, through its router: the router calls a model loaded whose process hangs or is half dead.

    `/props` loads and wakes nothing. Never raises for what is answered, or not.
    """
    query = [("model", member.id), ("autoload", "false")]
    try:
        reply = await http.request("GET", port, "/props", query=query, timeout_s=timeout_s)
    except HttpFailure as failure:
        if failure.kind == "refused":
            return ProbeResult(state="starting", detail="its router does not listen yet")
        return ProbeResult(state="unhealthy", detail=f"it does not answer: {failure}")
    if reply.ok:
        return ProbeResult(state="ready")
    said = reply.text.lower()
    if reply.status == 503 and "loading" in said:
        return ProbeResult(state="starting", detail="loading the model")
    if reply.status == 400 and "not loaded" in said:
        return ProbeResult(state="sleeping")
    if reply.status in (400, 404) and "not found" in said:
        return ProbeResult(state="failed", detail="the router does not know it")
    return ProbeResult(state="unhealthy", detail=_said(reply))


async def load(member: Service, port: int, http: Http, clock: Clock) -> None:
    """Load and wait until it is loaded and answers. Raises Failed `load-failed`, `load-timeout` or `unknown-member`."""
    asked: Literal["begun", "running"] | None = None
    detail = ""
    give_up = clock.monotonic() + member.startup_timeout

    async def ask() -> bool | None:
        nonlocal asked, detail
        try:
            asked = asked or await _ask_to_load(member, port, http, give_up - clock.monotonic())
            now = reading((await entries(port, http)).get(member.id))
        except HttpFailure as failure:
            if failure.kind == "refused":
                raise _load_failed(member, f"the router does not answer: {failure}") from failure
            return None
        if asked == "begun" and now.failed:
            raise _load_failed(member, now.detail)
        if not (now.loading or now.loaded):
            asked = None  # what ran was an instance that was just being stopped, which may count as a failure
        if not now.loaded:
            return None
        left_s = min(PROBE_TIMEOUT_S, max(0.1, give_up - clock.monotonic()))
        answer = await probe(member, port, http, left_s)
        detail = f"{member.host} says that it is loaded, but {answer.detail}"
        return True if answer.state == "ready" else None

    if not await poll(clock, ask, member.startup_timeout):
        raise Failed(
            "load-timeout",
            f"{member.id} was not loaded in {member.startup_timeout:g} s",
            why=detail,
            hint=f"see `gpumod service logs {member.host}`; a large model needs more startup_timeout",
            service=member.id,
        )


async def _ask_to_load(member: Service, port: int, http: Http, left_s: float) -> Literal["begun", "running"] | None:
    """`begun` when the router begins to load it, `running` when it has it (and may be stopping it); None when it has no
    room for another load at this moment."""
    timeout_s = min(30.0, max(0.1, left_s))
    reply = await http.request("POST", port, "/models/load", json_body={"model": member.id}, timeout_s=timeout_s)
    said = reply.text.lower()
    if reply.ok:
        return "begun"
    if reply.status == 400 and "already" in said:
        return "running"
    if reply.status >= 500 and "limit reached" in said:
        return None
    if reply.status == 404 or "not found" in said:
        raise Failed(
            "unknown-member",
            f"the router does not know {member.id}",
            why=_said(reply),
            hint=f"see `gpumod service logs {member.host}`",
            service=member.id,
        )
    raise _load_failed(member, _said(reply))


async def unload(member: Service, port: int, http: Http, clock: Clock) -> None:
    """Let its requests finish, unload it, and wait until it is unloaded.

    Raises Failed `unload-failed`, and `unload-timeout` where it may still come about.

    A model that is not loaded, or not known, is unloaded already.
    """
    try:
        await _unload(member, port, http, clock)
    except HttpFailure as failure:
        why = f"the router does not answer: {failure}"
        raise _unload_failed(member, why, timed_out=failure.kind == "timeout") from failure


async def _unload(member: Service, port: int, http: Http, clock: Clock) -> None:
    now = reading((await entries(port, http)).get(member.id))
    if now.loaded:
        await _drain(member, port, http, clock)
    if now.loaded or now.loading:
        stop_s = member_stop_s(llamacpp_options(member))
        body = {"model": member.id}  # answered before it is done
        reply = await http.request("POST", port, "/models/unload", json_body=body, timeout_s=stop_s)
        said = reply.text.lower()
        if not reply.ok and not (reply.status in (400, 404) and ("not running" in said or "not found" in said)):
            raise _unload_failed(member, _said(reply))

        async def ask() -> MemberReading | None:
            state = reading((await entries(port, http)).get(member.id))
            return None if state.loaded or state.loading else state

        ended = await poll(clock, ask, stop_s + UNLOAD_MARGIN_S)
        if ended is None:
            why = f"it was still loaded after {stop_s + UNLOAD_MARGIN_S:g} s"
            raise _unload_failed(member, why, timed_out=True)
        now = ended
    if now.failed:
        # A child that had to be killed counts as failed. It was asked to end, so that is to be forgotten.
        await entries(port, http, reload=True)


async def _drain(member: Service, port: int, http: Http, clock: Clock) -> None:
    """Wait for requests in flight: the router does not, it kills the child and its clients with it.

    A child tells of its use between two batches, which may take long: one that does not, and answers else, is at work.
    """

    async def ask() -> bool | None:
        try:
            told = await read_activity(member, port, http)
        except HttpFailure as failure:
            at_work = failure.kind == "timeout" and (await probe(member, port, http)).state == "ready"
            return None if at_work else True
        return None if told is not None and told.in_flight else True

    await poll(clock, ask, drain_s(llamacpp_options(member)))


def _said(reply: HttpReply) -> str:
    error = reply.json_body.get("error") if isinstance(reply.json_body, dict) else None
    message = error.get("message") if isinstance(error, dict) else None
    return f"it answered {reply.status}: {message or reply.text[:200]}"


def _load_failed(member: Service, why: str) -> Failed:
    hint = f"see `gpumod service logs {member.host}`"
    return Failed("load-failed", f"{member.id} could not be loaded", why=why, hint=hint, service=member.id)


def _unload_failed(member: Service, why: str, *, timed_out: bool = False) -> Failed:
    hint = f"see `gpumod service logs {member.host}`; stopping {member.host} ends all its members"
    code = "unload-timeout" if timed_out else "unload-failed"
    return Failed(code, f"{member.id} could not be unloaded", why=why, hint=hint, service=member.id)
