"""The target that leads back to what was there."""

from __future__ import annotations

from collections.abc import Mapping

from gpumod.domain.machine import ServiceReading
from gpumod.domain.mode import Want
from gpumod.domain.plan import Target, TargetMember
from gpumod.domain.service import Service
from gpumod.domain.states import State


def target_of(before: Mapping[str, ServiceReading], definitions: Mapping[str, Service]) -> Target:
    """What has to be wanted so that the machine is as it was `before`.

    Running services are wanted awake, sleeping ones asleep, on the GPUs that they were on. One that was unhealthy or
    still starting is wanted awake if it held memory (it served, or was about to), and so is one that could not be
    asked. Whatever else was there (failed, stopping) is not wanted back. `definitions` must hold what the services
    were launched with; those it does not hold cannot be started again and are left out. Everything else is stopped.
    """
    members = []
    for service, reading in sorted(before.items()):
        held = any(reading.vram_mb.values())
        lost = reading.state is State.UNKNOWN or (reading.state in (State.UNHEALTHY, State.STARTING) and held)
        awake = reading.state is State.RUNNING or lost
        if service in definitions and (awake or reading.state is State.SLEEPING):
            want = Want.AWAKE if awake else Want.ASLEEP
            members.append(TargetMember(service=service, want=want, gpus=reading.gpus or None))
    return Target(members=tuple(members), stop_others=True)
