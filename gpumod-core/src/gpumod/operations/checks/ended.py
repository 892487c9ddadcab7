"""What ended by itself: members of the current mode, which then is not whole, and other services."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from gpumod.domain.machine import HostSnapshot, ServiceReading
from gpumod.domain.states import State
from gpumod.operations.checks.case import Case, fine, problem
from gpumod.operations.results import Check


def check_ended(case: Case) -> Iterator[Check]:
    """Nothing is said while somebody changes the machine, nor where a run is open: that is told as such."""
    if case.snapshot is None or case.busy or case.machine.store.open_run() is not None:
        return
    ended = _ended(case.snapshot)
    current = case.machine.store.current_mode()
    mode = case.machine.store.modes().get(current or "")
    members = set(mode.services) if mode else set()
    hosts = {case.services[s].host for s in members if s in case.services}
    mine = {s: why for s, why in ended.items() if s in members | hosts}
    if mode is not None and mine:
        told = ", ".join(f"{s} ({why})" for s, why in mine.items())
        yield problem("mode", f"mode {mode.id} is not whole: {told}", _mend(case, mine, f"gpumod switch {mode.id}"))
    elif mode is not None:
        yield fine("mode", f"{mode.id}: nothing of it has ended by itself")
    for service, why in ended.items():
        if service not in mine:
            yield problem(f"service {service}", why, _mend(case, [service], f"gpumod service start {service}"))


def _ended(snapshot: HostSnapshot) -> Mapping[str, str]:
    """Services that nobody stopped and that are down, or do not answer though they are up, and why."""
    found = ((s, _why(reading)) for s, reading in sorted(snapshot.services.items()))
    return {s: why for s, why in found if why}


def _why(reading: ServiceReading) -> str:
    if reading.state is State.STOPPED and reading.adopted:  # without a word it was stopped, by whomever
        return reading.detail
    if reading.state is State.UNHEALTHY:
        return f"it does not answer as it should: {reading.detail}" if reading.detail else "it does not answer"
    return (reading.detail or "it ended by itself") if reading.state is State.FAILED else ""


def _mend(case: Case, ended: Iterable[str], start: str) -> str:
    for service in ended:
        adopted = case.services[service].adopted if service in case.services else None
        if adopted is not None and adopted.pid is not None:  # no switch can start it
            release = f"gpumod service release {service}; gpumod service adopt PID"
            return f"start {service} by hand, then: {release}"
        if adopted is not None and adopted.container is not None:  # the start tells where it was made anew
            return f"{start} starts it again, or tells why it cannot be"
    first, *more = ended
    return f"{start} starts {'them' if more else 'it'} again; gpumod service logs {first} tells why it ended"
