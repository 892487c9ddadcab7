"""What `watch` does between two looks: it follows the health of services, and keeps the budget of their restarts."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from itertools import takewhile

from gpumod.domain.health import Budget, Health, Pulse, Transition, restart_at, wait_after_s
from gpumod.domain.machine import HostSnapshot
from gpumod.domain.run import STOP_ASKED, Event, RunStatus
from gpumod.domain.states import GONE
from gpumod.engine.interrupts import listening
from gpumod.engine.monitor import Monitor, limits_of, unhealthy
from gpumod.operations.base import Base
from gpumod.operations.watch_results import Mended

OWN = "watch: "
"""Begins the commands of runs that are watch's own."""
RESTARTED, REFUSED, GIVEN_UP = "watch-restart", "restart-refused", "restart-given-up"
"""Events: it was restarted, perhaps in vain; that was refused before the first step; it is left alone."""
LOOK_BACK = 50
"""So many of the last runs are looked at for somebody who has touched a service."""
LATELY_S = 3600.0
"""What was refused longer ago is tried as if it were the first time."""


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

    def _still_down(self, snapshot: HostSnapshot) -> Mapping[str, str]:
        """Services that a restart in this boot did not bring up, so that its way back took them away, and that nobody
        else has touched since (in the journal's order, whatever the clock says): why it failed."""
        store, boot = self._machine.store, self._machine.boot()
        last: dict[str, Event] = {}
        for event in store.events_of(RESTARTED, STOP_ASKED, limit=400):
            last.setdefault(event.subject, event)
        tried = {s: e for s, e in last.items() if e.data.get("failed") and e.data.get("boot") == boot}
        if not tried:
            return {}
        newest = store.runs(LOOK_BACK, of_use=False)

        def touched(service: str, restart: Event) -> bool:
            since = takewhile(lambda run: run.id != restart.data.get("run"), newest)
            theirs = (run for run in since if not run.command.startswith(OWN))
            return any(step.service == service for run in theirs for step in run.plan.steps)

        return {
            s: f"it did not come up again: {e.data['failed']}"
            for s, e in tried.items()
            if snapshot.reading(s).state in GONE and not touched(s, e)
        }

    def _note_restart(self, service: str, why: str, failed: str) -> None:
        """Keep that `service` was restarted by watch's newest run, and how that `failed`; empty where it did not."""
        store = self._machine.store
        run = next((r.id for r in store.runs(LOOK_BACK, of_use=False) if r.command.startswith(OWN)), "")
        data = {"why": why, "failed": failed, "boot": self._machine.boot(), "run": run}
        store.add_event(self._event(RESTARTED, service, **data))

    def _may_restart(self, service: str, why: str, notes: list[str]) -> bool:
        """True when it may be restarted now: not too soon after it was, nor after that was refused. Once its budget is
        spent that is noted, with the reason."""
        settings, store, now = self._machine.settings, self._machine.store, self._machine.clock.now()
        budget = Budget(restarts=settings.restart_budget, window_s=settings.restart_window_s)
        tries = [e.at for e in store.events_of(RESTARTED, limit=200) if e.subject == service]
        at = restart_at(tries, budget, now)
        if at is not None:
            refusals = self._refusals(service)
            return at <= now and (not refusals or refusals[0].at + wait_after_s(len(refusals)) <= now)
        window = "an hour" if budget.window_s == 3600 else f"{budget.window_s:g} s"
        done = sum(now - budget.window_s < at <= now for at in tries)
        notes.append(
            f"{service} is left alone, it was restarted {done} times within {window} ({why}): "
            f"gpumod service logs {service}, then gpumod service start {service}"
        )
        told = [e.at for e in store.events_of(GIVEN_UP, limit=200) if e.subject == service]
        past = [at for at in tries if at <= now]
        if not told or (past and told[0] < max(past)):
            store.add_event(self._event(GIVEN_UP, service, why=why, restarts=done))
        return False

    def _refusals(self, service: str) -> list[Event]:
        """Refusals to restart it since it was last restarted, as far as they are not long ago, the newest first. What
        lies ahead was noted before the clock was set back."""
        store, now = self._machine.store, self._machine.clock.now()
        restarts = (e.at for e in store.events_of(RESTARTED, limit=200) if e.subject == service)
        since = max(next((at for at in restarts if at <= now), 0.0), now - LATELY_S)
        return [e for e in store.events_of(REFUSED, limit=200) if e.subject == service and since < e.at <= now]

    def _refused(self, services: Iterable[str]) -> Mapping[str, str]:
        """Which of `services` were not restarted lately, for that was refused: with what words."""
        found = {s: self._refusals(s) for s in services}
        return {s: str(refusals[0].data["refused"]) for s, refusals in found.items() if refusals}

    def _tried(self, done: Mended, found: Mapping[str, str], notes: list[str]) -> list[Mended]:
        """Keep how a restart of what was `found` went, and why it was due, and give what is news of it.

        What was refused before its first step (it does not fit, its port is taken) was no restart: it is told once.
        """
        store, error = self._machine.store, done.error
        if error is None or (done.change is not None and done.change.status is not RunStatus.REFUSED):
            for service, why in found.items():
                self._note_restart(service, why, error.message if error else "")
            return [done]
        told = {s: next((e.data["code"] for e in self._refusals(s)), "") for s in found}
        for service, why in found.items():
            data = {"why": why, "refused": error.message, "code": error.code}
            store.add_event(self._event(REFUSED, service, **data))
        if any(code != error.code for code in told.values()):
            return [done]
        notes += [not_yet(s, error.message) for s in found]
        return []


def _first(news: Transition) -> bool:
    """True for what turns out to be well when it is looked at first: nobody had doubted it."""
    return news.before is Health.UNKNOWN and news.now is Health.HEALTHY


def not_yet(service: str, why: str) -> str:
    """What to say of a restart that was refused before its first step: `watch` goes on trying."""
    return f"{service} is not restarted yet: {why}"


def not_well(pulses: Mapping[str, Pulse]) -> tuple[str, ...]:
    """What to say of those that live and do not answer as they should: nobody knows what they are at work on."""
    told = "{0} is not healthy: {1}; gpumod service logs {0}, then gpumod service restart {0}"
    return tuple(told.format(p.service, p.detail or p.sign) for p in unhealthy(pulses) if p.sign != "dead")
