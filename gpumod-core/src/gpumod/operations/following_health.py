"""What `watch` does between two looks: it follows the health of services, and keeps the budget of their restarts."""

from __future__ import annotations

import random
from collections.abc import Mapping

from gpumod.domain.health import Budget, Health, Pulse, Transition, restart_at
from gpumod.domain.machine import HostSnapshot
from gpumod.domain.run import Event
from gpumod.domain.states import GONE
from gpumod.engine.interrupts import listening
from gpumod.engine.monitor import Monitor, limits_of, unhealthy
from gpumod.operations.base import Base

OWN = "watch: "
"""Begins the commands of runs that are watch's own."""
GIVEN_UP = "restart-given-up"
LOOK_BACK = 50
"""So many of the last runs are looked at for somebody who has touched a service."""


class FollowingHealth(Base):
    async def _follow(
        self, pulses: Mapping[str, Pulse], seconds: float
    ) -> tuple[Mapping[str, Pulse], tuple[Transition, ...], bool]:
        """Follow the health of services for so long, or until one has ended: what is known then, what is news, and
        whether a signal came. Nothing is locked meanwhile."""
        monitor = Monitor(self._machine, limits_of(self._machine), random.random, dict(pulses))
        with listening() as interrupts:
            heard = not await interrupts.spare(monitor.follow(self._machine.clock.now() + seconds))
        for news in monitor.transitions:
            data = {"before": news.before.value, "now": news.now.value, "why": news.why}
            self._machine.store.add_event(self._event("health", news.service, **data))
        return monitor.pulses, tuple(news for news in monitor.transitions if not _first(news)), heard

    def _still_down(self, since: float, snapshot: HostSnapshot) -> Mapping[str, str]:
        """Services that a restart after `since` did not bring up, so that its way back took them away, and that nobody
        else has touched since: why it failed."""
        store = self._machine.store
        last: dict[str, Event] = {}
        for event in store.events_of("watch-restart", 200):
            last.setdefault(event.subject, event)
        tried = {s: e for s, e in last.items() if e.data.get("failed") and e.at > since}
        if not tried:
            return {}
        theirs = [run for run in store.runs(LOOK_BACK, of_use=False) if not run.command.startswith(OWN)]
        touched = {(step.service, run.started_at) for run in theirs for step in run.plan.steps}
        return {
            s: f"it did not come up again: {e.data['failed']}"
            for s, e in tried.items()
            if snapshot.reading(s).state in GONE and not any(name == s and at > e.at for name, at in touched)
        }

    def _may_restart(self, service: str, why: str, notes: list[str]) -> bool:
        """True when it may be restarted now. Once its budget is spent that is noted, with the reason."""
        settings, store, now = self._machine.settings, self._machine.store, self._machine.clock.now()
        budget = Budget(restarts=settings.restart_budget, window_s=settings.restart_window_s)
        tries = [e.at for e in store.events_of("watch-restart", 200) if e.subject == service]
        at = restart_at(tries, budget, now)
        if at is not None:
            return at <= now
        window = "an hour" if budget.window_s == 3600 else f"{budget.window_s:g} s"
        done = sum(at > now - budget.window_s for at in tries)
        notes.append(
            f"{service} is left alone, it was restarted {done} times within {window} ({why}): "
            f"gpumod service logs {service}, then gpumod service start {service}"
        )
        told = [e.at for e in store.events_of(GIVEN_UP, 200) if e.subject == service]
        if not told or (tries and told[0] < max(tries)):
            store.add_event(self._event(GIVEN_UP, service, why=why, restarts=done))
        return False


def _first(news: Transition) -> bool:
    """True for what turns out to be well when it is looked at first: nobody had doubted it."""
    return news.before is Health.UNKNOWN and news.now is Health.HEALTHY


def not_well(pulses: Mapping[str, Pulse]) -> tuple[str, ...]:
    """What to say of those that live and do not answer as they should: nobody knows what they are at work on."""
    told = "{0} is not healthy: {1}; gpumod service logs {0}, then gpumod service restart {0}"
    return tuple(told.format(p.service, p.detail or p.sign) for p in unhealthy(pulses) if p.sign != "dead")
