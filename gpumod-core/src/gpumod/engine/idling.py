"""Looking at the use of services, and choosing those that may sleep because nobody uses them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gpumod.domain.activity import Activity
from gpumod.domain.idling import Use, awake_that_need, idle_s, may_not_sleep, member_of, seen, timeout_s
from gpumod.domain.machine import HostSnapshot
from gpumod.domain.mode import Mode
from gpumod.domain.service import Service
from gpumod.domain.states import State
from gpumod.engine.asking import ask_activity
from gpumod.engine.machine import Machine
from gpumod.engine.turns import begun_turns

LOOK_BACK = 200
"""So many of the last steps are looked at for the one that woke a service."""


@dataclass(frozen=True)
class Idle:
    """One running service that has a time-out (s), its use as far as it is known, and why it does not sleep; "" where
    it is time to."""

    service: str
    timeout_s: float
    use: Use | None = None
    in_flight: int | None = None
    why: str = ""


@dataclass(frozen=True)
class Idling:
    """The running services of one snapshot, and what decides whether they may sleep for being idle."""

    machine: Machine
    snapshot: HostSnapshot
    mode: Mode | None
    services: Mapping[str, Service]

    async def look(self) -> tuple[Idle, ...]:
        """Look at the use of every service that runs and has a time-out; what was seen is stored.

        One that is starting, that sleeps or is not healthy is not counted: its idle time begins anew afterwards.
        """
        store = self.machine.store
        limits_s = self._limits_s()
        told = dict(zip(limits_s, await asyncio.gather(*(self._ask(s) for s in limits_s)), strict=True))
        before, woken = store.uses(), self._woken()
        uses: dict[str, Use] = {}
        found = []
        for service, limit_s in limits_s.items():
            answer = told[service]
            if isinstance(answer, str):
                found.append(Idle(service, limit_s, why=answer))
                continue
            uses[service] = self._use(service, before.get(service), answer, woken.get(service, 0.0))
            found.append(self._idle(uses[service], answer, limit_s))
        if _told_of(before) != _told_of(uses):
            store.put_uses(uses)
        return tuple(found)

    async def unused_since(self, idle: Sequence[Idle]) -> bool:
        """One more question to each, right before it goes to sleep: False where something was asked of it meanwhile."""
        answers = await asyncio.gather(*(self._ask(one.service) for one in idle))
        return all(
            isinstance(now, Activity) and not now.in_flight and one.use is not None and now.served == one.use.served
            for one, now in zip(idle, answers, strict=True)
        )

    def _limits_s(self) -> dict[str, float]:
        """The time-out of each service that runs and has one. What hosts others is used through them."""
        found: dict[str, float] = {}
        for name, reading in self.snapshot.services.items():
            service = self.services.get(name) or reading.launched
            if service is None or reading.state is not State.RUNNING:
                continue
            if self.machine.capabilities(service).hosts_members:
                continue
            limit_s = timeout_s(service, member_of(self.mode, name), self.machine.settings.idle_timeout_s)
            if limit_s is not None:
                found[name] = limit_s
        return found

    async def _ask(self, service: str) -> Activity | str:
        launched = self.snapshot.reading(service).launched
        if launched is None:
            return "it is not known how it was started"
        port = self.machine.port(launched, self.services, self.machine.store.handles())
        return await ask_activity(self.machine, launched, port)

    def _use(self, service: str, before: Use | None, told: Activity, woken_at: float) -> Use:
        reading, now = self.snapshot.reading(service), self.machine.clock.now()
        started_at = self.snapshot.at - reading.uptime_s if reading.uptime_s else 0.0
        return seen(before, told, service=service, run=str(reading.pid), awake_since=max(started_at, woken_at), now=now)

    def _idle(self, use: Use, told: Activity, limit_s: float) -> Idle:
        passed_s = idle_s(use, self.machine.clock.now())
        why = self._why_not(use.service)
        if not why and told.in_flight:
            why = f"{told.in_flight} request{'s' if told.in_flight > 1 else ''} under way"
        elif not why and passed_s < limit_s:
            why = f"in {limit_s - passed_s:.0f} s"
        return Idle(use.service, limit_s, use, told.in_flight, why)

    def _why_not(self, service: str) -> str:
        definition = self.services.get(service) or self.snapshot.reading(service).launched
        if definition is None:
            return "it is not defined"
        needed_by = awake_that_need(service, self.snapshot)
        held_by = next((t.holder for t in begun_turns(self.machine) if t.service == service), "")
        return may_not_sleep(definition, member_of(self.mode, service), needed_by, held_by)

    def _woken(self) -> Mapping[str, float]:
        """When each service was last started or woken: that is no use, but idle time begins then.

        What lies ahead was noted before the clock was set back, and tells nothing.
        """
        found: dict[str, float] = {}
        for event in self.machine.store.events_of("step-done", limit=LOOK_BACK):
            if event.data.get("action") in ("start", "wake") and event.at <= self.machine.clock.now():
                found.setdefault(event.subject, event.at)
        return found


def _told_of(uses: Mapping[str, Use]) -> Mapping[str, Use]:
    """`uses` without the times of the looks: what is new in them."""
    return {service: use.model_copy(update={"seen_at": 0.0}) for service, use in uses.items()}
