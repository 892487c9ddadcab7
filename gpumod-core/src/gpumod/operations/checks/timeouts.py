"""Times that cannot work: shorter than what was measured, or than what somebody else takes."""

from __future__ import annotations

from collections.abc import Iterator

from gpumod.operations.checks.case import Case, fine, problem, warning
from gpumod.operations.results import Check

WAITS_FOR_READY = frozenset({"notify", "notify-reload", "dbus", "forking", "oneshot"})
"""Types of units whose start systemd takes for done only when they say so, or have forked or ended."""
NARROW = 1.2
"""A start that took this much longer than the last one would be given up: that is said."""


def check_timeouts(case: Case) -> Iterator[Check]:
    found = [*_of_services(case), *_of_units(case)]
    yield from found
    if case.services and not found:
        yield fine("times", "no time-out is shorter than what was measured")


def _of_services(case: Case) -> Iterator[Check]:
    given_up_s = case.machine.settings.driver_timeout_s
    for service in case.services.values():
        took = case.footprints[service.id]
        name, hint = f"service {service.id}", f"gpumod service edit {service.id} --startup-timeout S"
        if took.start_s is not None and not service.adopted:
            told = f"its start took {took.start_s:.0f} s, and startup_timeout is {service.startup_timeout:g}"
            if service.startup_timeout <= took.start_s:
                yield problem(name, f"{told}: no start can succeed", hint)
            elif service.startup_timeout < NARROW * took.start_s:
                yield warning(name, f"{told}: a slower disk is enough to fail it", hint)
        for what, time_s in (("sleep", took.sleep_s), ("wake", took.wake_s)):
            if time_s is not None and given_up_s <= time_s:
                yield problem(
                    name,
                    f"its {what} took {time_s:.0f} s, and the setting driver_timeout_s is {given_up_s:g}",
                    f"gpumod settings set driver_timeout_s {2 * time_s:.0f}",
                )


def _of_units(case: Case) -> Iterator[Check]:
    for service, kept, unit in case.loaded():
        name, took_s = f"service {service}", case.footprints[service].start_s if service in case.footprints else None
        edit = f"systemctl {'--user ' if kept.manager == 'user' else ''}edit {kept.name}"
        limit_s = unit.start_timeout_s
        if unit.kind in WAITS_FOR_READY and limit_s is not None and took_s is not None and limit_s <= took_s:
            yield problem(
                name,
                f"its unit (Type={unit.kind}) is ended after {limit_s:g} s of starting, and a start took {took_s:.0f}",
                f"{edit}: TimeoutStartSec=infinity, or Type=exec",
            )
        wanted_s = case.launches[service].stop_timeout_s if service in case.launches else None
        if wanted_s is not None and unit.stop_timeout_s is not None and unit.stop_timeout_s < wanted_s:
            yield warning(
                name,
                f"systemd kills it {unit.stop_timeout_s:g} s after it was asked to stop, and it may take {wanted_s:g}:"
                " what is killed while it stops can leave memory behind for a while",
                f"{edit}: TimeoutStopSec={wanted_s:g}",
            )
