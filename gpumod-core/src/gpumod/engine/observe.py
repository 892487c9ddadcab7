"""Observe: one snapshot of the machine, from the driver, the supervisors and the services' own HTTP surfaces."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gpumod.domain.machine import GpuProcess, HostSnapshot, ServiceReading
from gpumod.domain.run import Handle
from gpumod.domain.states import State
from gpumod.engine.asking import ask, ask_members, ask_supervisors
from gpumod.engine.device import marked, shares, with_silent
from gpumod.engine.machine import HOSTED, Machine
from gpumod.ports import MemberReading, ProbeResult, ProcessStatus

STATE_OF = {
    "starting": State.STARTING,
    "ready": State.RUNNING,
    "sleeping": State.SLEEPING,
    "unhealthy": State.UNHEALTHY,
    "failed": State.UNHEALTHY,
}

AGAIN_S = 1.0
USED_MB = 256
"""By so much more than it kept asleep holds a service that was used since."""


@dataclass(frozen=True)
class Seen:
    """What was seen of one handle: its process, its answer, and the pids whose memory is its own."""

    status: ProcessStatus
    probe: ProbeResult | None = None
    member: MemberReading | None = None
    pids: tuple[int, ...] = ()


async def observe(machine: Machine) -> HostSnapshot:
    """What is, now. Dead services are not probed; a service that hangs costs a bounded time, beside the others."""
    handles = machine.store.handles()
    gpus_read = asyncio.create_task(machine.read_gpus())
    seen = await look_at(machine, handles) if handles else {}
    gpus, processes = await gpus_read
    ram = await asyncio.to_thread(machine.probe.ram)
    owner = {pid: service for service, one in seen.items() for pid in one.pids}
    named = tuple(p.model_copy(update={"service": owner.get(p.pid)}) for p in processes)
    now = machine.clock.now()
    told = {service: state_of(handles[service], one) for service, one in seen.items()}
    states = {service: state for service, (state, _) in told.items()}
    up = {service: states[service] for service, one in seen.items() if one.pids}
    holding = with_silent(handles, states)
    gpus = marked(holding, up, gpus, named)
    by_device = shares(holding, up, gpus, named)
    return HostSnapshot(
        at=now,
        gpus=gpus,
        processes=named,
        services={s: _reading(handles[s], seen[s], told[s], named, by_device.get(s, {}), now) for s in handles},
        ram_total_mb=ram.total_mb,
        ram_available_mb=ram.available_mb,
    )


async def observe_twice(machine: Machine) -> HostSnapshot:
    """As :func:`observe`, before something is done or told: only what seems unhealthy in two looks is.

    A service that works hard, or a busy computer, may miss one probe; for that nothing is restarted, nobody alarmed.
    """
    first = await observe(machine)
    unwell = {s for s, reading in first.services.items() if reading.state is State.UNHEALTHY}
    if not unwell:
        return first
    await machine.clock.sleep(AGAIN_S)
    second = await observe(machine)
    well = {s: reading for s, reading in first.services.items() if s not in unwell}
    missed = {
        s: well[s]
        for s, reading in second.services.items()
        if reading.state is State.UNHEALTHY and s in well and well[s].pid == reading.pid
    }
    return second.model_copy(update={"services": {**second.services, **missed}})


async def look_at(machine: Machine, handles: Mapping[str, Handle]) -> Mapping[str, Seen]:
    """Ask every supervisor once for all its handles, then every living service, side by side."""
    statuses = await ask_supervisors(machine, handles.values())
    own = [h for h in handles.values() if h.supervisor != HOSTED]
    results = await asyncio.gather(*(_ask(machine, h, statuses[h.service], handles) for h in own))
    seen: dict[str, Seen] = {}
    for answer in results:
        seen |= answer
    for service, handle in handles.items():
        if service not in seen:
            why = f"its host {handle.launched.host} is not up"
            seen[service] = Seen(ProcessStatus(alive=False), member=MemberReading(configured=False, detail=why))
    return seen


async def _ask(
    machine: Machine, handle: Handle, status: ProcessStatus, handles: Mapping[str, Handle]
) -> Mapping[str, Seen]:
    if not status.alive or not status.pids:  # what is about to be restarted has no process either
        return {handle.service: Seen(status)}
    answer = await ask(machine, handle.launched, handle.launched.port)
    seen = {handle.service: Seen(status, answer, pids=status.pids)}
    members = [h for h in handles.values() if h.launched.host == handle.service]
    if members:
        told = await ask_members(machine, handle, status.pids)
        if told is None:  # whatever they hold counts for the host
            return seen | {member.service: Seen(status) for member in members}
        theirs = {m.pid for m in told.values() if m.pid}
        seen[handle.service] = Seen(status, answer, pids=tuple(p for p in status.pids if p not in theirs))
        found = await asyncio.gather(*(_ask_member(machine, handle, member, told, status) for member in members))
        seen |= {member.service: one for member, one in zip(members, found, strict=True)}
    return seen


async def _ask_member(
    machine: Machine, host: Handle, member: Handle, told: Mapping[str, MemberReading], status: ProcessStatus
) -> Seen:
    """A member as its host tells it; one that is said to be loaded is asked itself."""
    reading = told.get(member.service, MemberReading(configured=False))
    answer = await ask(machine, member.launched, host.launched.port) if reading.loaded else None
    return Seen(status, answer, member=reading, pids=(reading.pid,) if reading.pid else ())


def state_of(handle: Handle, seen: Seen) -> tuple[State, str]:
    """The state of a service, and in words why it is not well."""
    if handle.launched.adopted and not seen.status.alive:  # whoever set it up may stop it, too
        return State.STOPPED, seen.status.detail
    return member_state(seen.member, seen.probe) if seen.member else process_state(seen)


def _reading(
    handle: Handle,
    seen: Seen,
    told: tuple[State, str],
    processes: Sequence[GpuProcess],
    by_device: Mapping[int, int],
    now: float,
) -> ServiceReading:
    mine = [p for p in processes if p.service == handle.service]
    vram = dict(by_device)
    for process in mine:
        vram[process.gpu] = vram.get(process.gpu, 0) + (process.vram_mb or 0)
    state, detail = _by_memory(handle, told, mine)
    up = state not in (State.STOPPED, State.FAILED)
    started_at = seen.status.started_at or handle.started_at
    level = handle.launched.sleep_level
    return ServiceReading(
        service=handle.service,
        state=state,
        sleep_level=level if state is State.SLEEPING else None,
        health_ok=None if not up else state in (State.RUNNING, State.SLEEPING),
        pid=_pid(handle, seen) if up else None,
        uptime_s=max(0.0, now - (handle.started_at if seen.member else started_at)) if up else None,
        vram_mb=vram,
        device_mb=by_device,
        gpus=handle.gpus,
        launched=handle.launched,
        altered=handle.altered,
        adopted=handle.launched.adopted is not None,
        detail=detail,
    )


def _by_memory(handle: Handle, told: tuple[State, str], mine: Sequence[GpuProcess]) -> tuple[State, str]:
    """The state of a service; `mine` are its processes, where nothing but their memory tells that it sleeps."""
    if handle.slept_mb is None or told[0] is not State.RUNNING:
        return told
    held_mb = sum(process.vram_mb or 0 for process in mine)
    return (State.SLEEPING, "its next request loads it") if held_mb <= handle.slept_mb + USED_MB else told


def _pid(handle: Handle, seen: Seen) -> int | None:
    if handle.supervisor == HOSTED:
        return seen.member.pid if seen.member else None
    return seen.status.pid


def process_state(seen: Seen) -> tuple[State, str]:
    """The state of a service with a process of its own. One that ended without being asked has failed, also with 0."""
    if not seen.status.alive:
        code, detail = seen.status.exit_code, seen.status.detail
        if code is None:
            return State.FAILED, detail or "it is gone; how it ended is not known"
        told = f"it was killed by signal {-code}" if code < 0 else f"it exited with code {code}"
        return State.FAILED, f"{told}: {detail}" if detail else told
    if seen.probe is None:
        return State.UNKNOWN, seen.status.detail or "what keeps it cannot be asked"
    return STATE_OF[seen.probe.state], seen.probe.detail


def member_state(member: MemberReading, probe: ProbeResult | None = None) -> tuple[State, str]:
    """The state of a member of a host: configured but not loaded is asleep. `probe` is its own word, when loaded."""
    if member.failed:
        return State.FAILED, member.detail or "its host could not load it"
    if member.loading:
        return State.STARTING, member.detail
    if member.loaded and probe is not None and probe.state in ("unhealthy", "failed", "starting"):
        return STATE_OF[probe.state], probe.detail
    if member.loaded:
        return State.RUNNING, member.detail
    if member.configured:
        return State.SLEEPING, member.detail
    return State.FAILED, member.detail or "its host does not know it"
