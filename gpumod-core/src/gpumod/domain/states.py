"""The states of a service, as one table: which action leads from where to where."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class State(StrEnum):
    """What a service is, as observed; never as remembered."""

    UNKNOWN = "unknown"
    STOPPED = "stopped"
    STARTING = "starting"
    RUNNING = "running"
    SLEEPING = "sleeping"
    UNHEALTHY = "unhealthy"
    STOPPING = "stopping"
    FAILED = "failed"


class Action(StrEnum):
    """What a step of a plan does to its service; `verify` looks and changes nothing."""

    STOP = "stop"
    SLEEP = "sleep"
    WAKE = "wake"
    START = "start"
    VERIFY = "verify"


class Rule(NamedTuple):
    """One row of the table: from these states, through `via`, to `to`."""

    sources: frozenset[State]
    via: State
    to: State


TABLE: dict[Action, Rule] = {
    Action.START: Rule(frozenset({State.STOPPED, State.FAILED}), State.STARTING, State.RUNNING),
    Action.SLEEP: Rule(frozenset({State.RUNNING}), State.RUNNING, State.SLEEPING),
    Action.WAKE: Rule(frozenset({State.SLEEPING}), State.SLEEPING, State.RUNNING),
    Action.STOP: Rule(frozenset(State) - {State.STOPPED}, State.STOPPING, State.STOPPED),
    Action.VERIFY: Rule(frozenset(State), State.UNKNOWN, State.UNKNOWN),
}

GONE = frozenset({State.STOPPED, State.FAILED})
"""Nothing of the service is alive."""

ALIVE = frozenset(State) - GONE
"""A process of the service may be alive and hold memory."""

SERVING = frozenset({State.RUNNING, State.SLEEPING})
"""Healthy: can be kept, slept or woken as it is."""


def allowed(action: Action, state: State) -> bool:
    """True when `action` may begin in `state`."""
    return state in TABLE[action].sources


def route(state: State, wanted: State) -> tuple[Action, ...]:
    """The shortest list of actions from `state` to `wanted` (running, sleeping or stopped).

    What is neither gone nor serving (unhealthy, starting, crash-looping) is stopped first. A failed service that
    is wanted stopped is stopped too, which clears what is left of it.
    """
    if wanted not in (State.RUNNING, State.SLEEPING, State.STOPPED):
        raise ValueError(f"a service cannot be wanted {wanted}")
    if state == wanted:
        return ()
    if wanted is State.STOPPED:
        return (Action.STOP,)
    end = () if wanted is State.RUNNING else (Action.SLEEP,)
    if state is State.SLEEPING:
        return (Action.WAKE,)
    if state is State.RUNNING:
        return end
    if state in GONE:
        return (Action.START, *end)
    return (Action.STOP, Action.START, *end)
