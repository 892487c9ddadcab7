"""Faults that a person sets, by service (or router member) id. Light: the stand-ins read them when they matter."""

from __future__ import annotations

import time
from typing import Any

from gpumod_sim.machine import Machine, read_json, write_json

# kind -> (what it does, what its value is and means; None: it takes no value)
KINDS: dict[str, tuple[str, tuple[str, float | None] | None]] = {
    "never-ready": ("starts and never becomes ready", None),
    "die-after": ("dies by itself after a time", ("seconds", None)),
    "ignore-sigterm": ("does not stop on SIGTERM", None),
    "leak": ("leaves memory behind when it ends, which no process holds", ("MiB", None)),
    "sleep-frees-nothing": ("says that it sleeps, and keeps its memory", None),
    "sleep-500": ("answers a call to sleep with status 500", None),
    "sleep-hangs": ("never answers a call to sleep", None),
    "sleep-refused": ("(an app) answers a call to sleep with status 409", None),
    "sleep-dies": ("(an app) dies while it falls asleep", None),
    "wake-oom": ("runs out of memory when it is woken", None),
    "slow-start": ("takes longer to start", ("factor", None)),
    "cpu-fallback": ("becomes ready without taking memory on the GPU", None),
    "hang": ("accepts connections and answers nothing", None),
    "oom-at-start": ("runs out of memory while it starts", None),
    "short-context": ("its KV cache holds no longer context than this (vLLM)", ("tokens", None)),
    "setsid-worker": ("part of its memory is held by a worker in a session of its own", ("MiB", 500.0)),
}


def all_faults(machine: Machine) -> dict[str, dict[str, Any]]:
    """service -> kind -> {"value", "at"}; `at` is when it was set, in seconds since the epoch."""
    found: dict[str, dict[str, Any]] = read_json(machine.faults_path, {})
    return found


def value(machine: Machine, service: str, kind: str) -> float | None:
    """The value of a fault that is set (1.0 for a kind that takes none), or None."""
    fault = all_faults(machine).get(service, {}).get(kind)
    return None if fault is None else float(fault["value"])


def set_at(machine: Machine, service: str, kind: str) -> float:
    return float(all_faults(machine).get(service, {}).get(kind, {"at": 0.0})["at"])


def put(machine: Machine, service: str, kind: str, amount: float | None = None) -> None:
    """Set a fault. Raises ValueError for an unknown kind, or a value that is missing, not wanted or negative."""
    if kind not in KINDS:
        raise ValueError(f"unknown fault '{kind}'; there are {', '.join(KINDS)}")
    takes = KINDS[kind][1]
    if takes is None:
        if amount is not None:
            raise ValueError(f"the fault '{kind}' takes no value")
        amount = 1.0
    elif amount is None:
        amount = takes[1]
    if amount is None or not 0 <= amount < float("inf"):
        raise ValueError(f"the fault '{kind}' wants a value: {takes[0] if takes else ''}, 0 or more")
    with machine.lock():
        found = all_faults(machine)
        found.setdefault(service, {})[kind] = {"value": amount, "at": time.time()}
        write_json(machine.faults_path, found)


def clear(machine: Machine, service: str | None = None, kind: str | None = None) -> None:
    """Clear one fault, all of a service, or (without a service) all of the machine."""
    with machine.lock():
        found = all_faults(machine)
        for owner in [service] if service else list(found):
            kinds = found.get(owner, {})
            for one in [kind] if kind else list(kinds):
                kinds.pop(one, None)
            if not kinds:
                found.pop(owner, None)
        write_json(machine.faults_path, found)
