"""The health of a service over time: when it is said to have changed, and when it is looked at again. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from enum import StrEnum
from typing import Literal

from gpumod.domain.base import Frozen, Id


class Health(StrEnum):
    UNKNOWN = "unknown"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"


Sign = Literal["good", "bad", "unclear", "dead"]
"""What one look saw: it serves or sleeps; it does not answer as it should; nobody can tell; its process has ended."""

JUDGED: dict[Sign, Health] = {
    "good": Health.HEALTHY,
    "bad": Health.UNHEALTHY,
    "unclear": Health.UNKNOWN,
    "dead": Health.UNHEALTHY,
}


class Limits(Frozen):
    """`failures` bad (or unclear) looks, or `successes` good ones, in a row change what is said of a service.

    It is looked at every `interval_s`; one that is not healthy ever more rarely, up to `most_s`. `jitter` is the part
    of a wait by which it may be longer or shorter, so that many services are not looked at in one instant.
    """

    interval_s: float = 10.0
    failures: int = 3
    successes: int = 2
    most_s: float = 300.0
    jitter: float = 0.1


class Pulse(Frozen):
    """What is known of one service: what is said of it (`health`, since when), and the last looks that agree.

    `run` tells its process from every other. `since` and `next_at` are seconds since the epoch.
    """

    service: Id
    run: str
    health: Health = Health.UNKNOWN
    since: float
    sign: Sign = "unclear"
    streak: int = 0
    next_at: float
    detail: str = ""


class Transition(Frozen):
    """What is said of a service has changed, and why."""

    service: Id
    at: float
    before: Health
    now: Health
    why: str = ""


def beat(pulse: Pulse, sign: Sign, detail: str, now: float, limits: Limits, chance: float) -> Pulse:
    """`pulse` after one more look. `chance`, from 0 up to 1, decides where in its jitter the next one comes."""
    streak = pulse.streak + 1 if sign == pulse.sign else 1
    health = JUDGED[sign] if streak >= _needed(pulse.health, sign, limits) else pulse.health
    since = now if health is not pulse.health else pulse.since
    wait_s = wait_for(streak, sign, limits) * (1 + limits.jitter * (2 * chance - 1))
    update = {"health": health, "since": since, "sign": sign, "streak": streak, "detail": detail}
    return pulse.model_copy(update={**update, "next_at": now + wait_s})


def _needed(health: Health, sign: Sign, limits: Limits) -> int:
    """So many looks in a row it takes. A process that has ended is no slip, and who was not judged yet is at once."""
    if sign == "dead" or (sign == "good" and health is Health.UNKNOWN):
        return 1
    return limits.successes if sign == "good" else limits.failures


def wait_for(streak: int, sign: Sign, limits: Limits) -> float:
    """Seconds until the next look, without jitter: the interval while all is well or not yet decided, then twice as
    long each time."""
    beyond = 0 if sign == "good" else max(0, streak - limits.failures)
    return max(limits.interval_s, min(limits.most_s, limits.interval_s * 2.0 ** min(beyond, 30)))


def due_in_s(pulse: Pulse, limits: Limits, now: float) -> float:
    """Seconds until the next look at a service; below 0 where it is overdue.

    Never more than the longest wait after such a look: where the clock was set back, `next_at` lies hours ahead.
    """
    return min(pulse.next_at - now, wait_for(pulse.streak, pulse.sign, limits) * (1 + limits.jitter))


def changed(before: Pulse, after: Pulse, now: float) -> Transition | None:
    """What is to be told of one look."""
    if before.health is after.health:
        return None
    return Transition(service=after.service, at=now, before=before.health, now=after.health, why=after.detail)


class Budget(Frozen):
    """At most `restarts` within `window_s`; each but the first waits `first_s`, then `factor` times as long, after the
    one before."""

    restarts: int = 3
    window_s: float = 3600.0
    first_s: float = 15.0
    factor: float = 4.0


def restart_at(tries: Sequence[float], budget: Budget, now: float) -> float | None:
    """When a service may be restarted again, after restarts at `tries` (seconds since the epoch, in any order).

    A time that is past means now; None: its budget is spent, and nothing is done before the window has moved on. Times
    ahead were noted before the clock was set back: they hinder nothing.
    """
    within = sorted(at for at in tries if now - budget.window_s < at <= now)
    if len(within) >= budget.restarts:
        return None
    if not within:
        return now
    return within[-1] + budget.first_s * budget.factor ** (len(within) - 1)


def wait_after_s(tries: int) -> float:
    """Seconds from the last of so many tries in vain to the next one: 5, 10, 20 ... 300."""
    return min(300.0, 5.0 * 2.0 ** min(tries - 1, 30))


def tried_now(due: Sequence[str], failed: Collection[str]) -> list[str]:
    """Of what is `due`, what is tried in one plan: all that has not `failed` before; else one of those alone, so that
    who fails takes nobody along twice."""
    return [service for service in due if service not in failed] or list(due[:1])
