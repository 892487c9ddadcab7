"""What was asked of a service comes about also when nobody waits for it any more: see it through before looking."""

from __future__ import annotations

import asyncio
import contextlib

from gpumod.domain.errors import Failed
from gpumod.domain.run import CUT_OFF, Handle, Run, RunStep, StepStatus
from gpumod.domain.states import Action
from gpumod.engine.actions import launch_again
from gpumod.engine.machine import HOSTED, Machine
from gpumod.engine.memory import wait_settled
from gpumod.engine.patience import wake_patience_s, within
from gpumod.ports import HostsMembers

ASKED = (Action.STOP, Action.SLEEP, Action.WAKE)
MORE_S = 10.0
"""What takes so much longer than twice the expected time is not seen through."""


async def conclude(machine: Machine, run: Run) -> None:
    """Ask once more for the stops, sleeps and wakes of `run` that nobody waited for to the end, and wait for them.

    A service that is seen running could be gone, or asleep, a moment later, and a plan made from that would be wrong.
    Where it fails, what became of it is observed next. Memory of what has just died is waited for, too.
    """
    handles = machine.store.handles()
    begun = [
        step for step in machine.store.run(run.id).steps if step.status not in (StepStatus.PENDING, StepStatus.SKIPPED)
    ]
    last = {step.step.service: step for step in sorted(begun, key=lambda step: step.n) if step.step.service in handles}
    await asyncio.gather(*(_again(machine, s, handles[name]) for name, s in last.items() if _is_cut_off(s)))
    await wait_settled(machine)


def _is_cut_off(record: RunStep) -> bool:
    left = record.status is StepStatus.RUNNING or (record.error is not None and record.error.code in CUT_OFF)
    return (left and record.step.action in ASKED) or _is_late(record)


def _is_late(record: RunStep) -> bool:
    """A sleep or a wake that ran out of time may still come about at any moment."""
    late = record.error is not None and record.error.code.endswith("-timeout")
    return late and record.step.action in (Action.SLEEP, Action.WAKE)


async def _again(machine: Machine, record: RunStep, handle: Handle) -> None:
    step, service = record.step, handle.launched
    port = machine.port(service, {}, machine.store.handles())
    with contextlib.suppress(Exception):  # a driver that breaks here hinders nobody's way back
        strategy = machine.strategy(service)
        # what is late cannot be waited for again: it is ended, and started anew where it is wanted
        if _is_late(record) or step.action is Action.STOP or strategy is None or port is None:
            await _end(machine, handle, port)
            return
        act = strategy.wake if step.action is Action.WAKE else strategy.sleep
        patience_s = min(wake_patience_s(machine, service), 2 * (step.expected_s or 0.0) + MORE_S)
        try:
            async with within(patience_s, service, step.action):
                await act(service, port, machine.http, machine.clock)
        except Failed as error:
            if error.code.endswith("-timeout"):
                await _end(machine, handle, port)


async def _end(machine: Machine, handle: Handle, port: int | None) -> None:
    if handle.supervisor != HOSTED:
        gpus, _ = await machine.read_gpus()
        await machine.supervisor(handle.supervisor).stop(handle, launch_again(machine, handle, gpus))
        return
    service = handle.launched
    host = machine.driver(machine.store.handles()[service.host or ""].launched)
    if isinstance(host, HostsMembers) and port is not None:
        async with within(machine.settings.driver_timeout_s, service, "unload"):
            await host.unload(service, port, machine.http, machine.clock)
