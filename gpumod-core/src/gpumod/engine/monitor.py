"""The health of services, followed by one task each: who hangs holds nobody up. Nothing is changed or locked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from gpumod.domain.health import Health, Limits, Pulse, Sign, Transition, beat, changed, due_in_s
from gpumod.domain.run import Handle
from gpumod.domain.states import State
from gpumod.engine.machine import Machine
from gpumod.engine.observe import look_at, state_of

SIGNS: Mapping[State, Sign] = {
    State.RUNNING: "good",
    State.SLEEPING: "good",
    State.UNHEALTHY: "bad",
    State.UNKNOWN: "unclear",
    State.FAILED: "dead",
}
"""What a state is a sign of. One that starts or stops shows nothing yet."""

Chance = Callable[[], float]
"""A number from 0 up to 1, another each time."""


def limits_of(machine: Machine) -> Limits:
    """What the settings say."""
    settings = machine.settings
    return Limits(
        interval_s=settings.health_interval_s,
        failures=settings.health_failures,
        successes=settings.health_successes,
    )


@dataclass
class Monitor:
    """What is known of each service (`pulses`), and what has changed since it began."""

    machine: Machine
    limits: Limits
    chance: Chance
    pulses: dict[str, Pulse]
    transitions: list[Transition] = field(default_factory=list)

    async def follow(self, until: float) -> None:
        """Ask each service when its time comes, until then (seconds since the epoch), or until one has ended."""
        handles = self.machine.store.handles()
        self.pulses = {s: self._pulse(handle) for s, handle in handles.items()}
        ended = asyncio.Event()
        tasks = [asyncio.create_task(self._one(s, handles, until, ended)) for s in handles]
        over = asyncio.create_task(self.machine.clock.sleep(max(0.0, until - self.machine.clock.now())))
        waiting = asyncio.create_task(ended.wait())
        try:
            await asyncio.wait({over, waiting}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (*tasks, over, waiting):
                task.cancel()
            results = await asyncio.gather(*tasks, over, waiting, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result

    def _pulse(self, handle: Handle) -> Pulse:
        """What was known of it, if it is the same process still."""
        known = self.pulses.get(handle.service)
        if known is not None and known.run == handle.nonce:
            return known
        now = self.machine.clock.now()
        return Pulse(service=handle.service, run=handle.nonce, since=now, next_at=now)

    async def _one(self, service: str, handles: Mapping[str, Handle], until: float, ended: asyncio.Event) -> None:
        clock = self.machine.clock
        while (wait_s := due_in_s(self.pulses[service], self.limits, clock.now())) + clock.now() < until:
            await clock.sleep(max(0.0, wait_s))
            before = self.pulses[service]
            sign, detail = await self._look(service, handles)
            now = clock.now()
            if sign is None:
                self.pulses[service] = before.model_copy(update={"next_at": now + self.limits.interval_s})
                continue
            after = self.pulses[service] = beat(before, sign, detail, now, self.limits, self.chance())
            news = changed(before, after, now)
            if news is not None:
                self.transitions.append(news)
            if sign == "dead" and news is not None:
                ended.set()

    async def _look(self, service: str, handles: Mapping[str, Handle]) -> tuple[Sign | None, str]:
        """One look at one service; nothing while somebody changes the machine: what is stopped is not sick."""
        if self._somebody_is_at_work():
            return None, ""
        host = handles[service].launched.host
        asked = {name: handles[name] for name in (host, service) if name is not None and name in handles}
        state, detail = state_of(handles[service], (await look_at(self.machine, asked))[service])
        if self._somebody_is_at_work() or service not in self.machine.store.handles():
            return None, ""
        return SIGNS.get(state), detail

    def _somebody_is_at_work(self) -> bool:
        return self.machine.local.holder(self.machine.probe.machine_dir()) is not None


def unhealthy(pulses: Mapping[str, Pulse]) -> tuple[Pulse, ...]:
    """Those that are not well, by their own word."""
    return tuple(pulse for _, pulse in sorted(pulses.items()) if pulse.health is Health.UNHEALTHY)
