"""What is not as `watch` has left it, and how the mode wants that. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from gpumod.domain.machine import HostSnapshot
from gpumod.domain.plan import Target, TargetMember
from gpumod.domain.service import Service
from gpumod.domain.states import State
from gpumod.operations.watch_results import Held

LEAST_LOST_MB = 256
"""What held at least this much GPU memory, and holds nothing now in the same process, has lost its GPU."""


def wrong_in(snapshot: HostSnapshot, held: Mapping[str, Held], launched: Mapping[str, Service]) -> Mapping[str, str]:
    """Services that are not as they were left, and why. What was stopped by hand has no handle, so it is not here."""
    found: dict[str, str] = {}
    now = held_by(snapshot)
    telling = {gpu.index for gpu in snapshot.gpus if gpu.per_process and not gpu.fault}
    for service in launched:
        reading = snapshot.reading(service)
        before = held.get(service)
        if reading.state is State.FAILED:
            found[service] = reading.detail or "it ended by itself"
        elif (
            reading.state is State.RUNNING
            and before is not None
            and before.pid == reading.pid
            and before.vram_mb >= LEAST_LOST_MB
            and service not in now
            and telling.issuperset(reading.gpus)
        ):
            found[service] = f"it answers, but lost its {before.vram_mb} MiB of GPU memory (a reset, or the CPU)"
    return found


def held_by(snapshot: HostSnapshot) -> Mapping[str, Held]:
    """GPU memory of what runs, by service."""
    return {
        s: Held(pid=r.pid, vram_mb=sum(r.vram_mb.values()))
        for s, r in snapshot.services.items()
        if r.state is State.RUNNING and r.pid and sum(r.vram_mb.values())
    }


def still_held(snapshot: HostSnapshot, before: Mapping[str, Held]) -> Mapping[str, Held]:
    """What processes held that are there yet, and not asleep: who has lost it is to be restarted, now or later."""
    now = {s: snapshot.reading(s) for s in before}
    return {s: one for s, one in before.items() if now[s].pid == one.pid and now[s].state is not State.SLEEPING}


def members_of(mode: Target, due: Collection[str]) -> tuple[TargetMember, ...]:
    """`due` as the mode wants them; a host that is no member itself is wanted awake."""
    members = tuple(member for member in mode.members if member.service in due)
    named = {member.service for member in members}
    return (*members, *(TargetMember(service=s) for s in due if s not in named))
