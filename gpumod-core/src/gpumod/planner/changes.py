"""What an alternative changes, applied: to the target and definitions (by whoever takes it), and to footprints."""

from __future__ import annotations

import math
from collections.abc import Mapping

from gpumod.domain.errors import UnknownName, UsageError
from gpumod.domain.footprint import Footprint, Source
from gpumod.domain.mode import Want
from gpumod.domain.plan import Changes, Target, TargetMember
from gpumod.domain.service import Service


def apply_changes(
    target: Target, services: Mapping[str, Service], changes: Changes
) -> tuple[Target, dict[str, Service]]:
    """`target` and `services` with `changes` made. A wanted service whose definition changes restarts if it is up.

    Raises UnknownName `unknown-service` for a service that is not there, and UsageError `bad-changes` for a context
    size of a service that declares none.
    """
    changed = dict(services)
    edited = edited_by(changes)
    for service in sorted(edited | set(changes.replace.values())):
        if service not in services:
            raise UnknownName("unknown-service", f"there is no service {service!r}")
    for service, tokens in changes.context_size.items():
        try:
            changed[service] = changed[service].with_context(tokens)
        except ValueError as error:
            raise UsageError("bad-changes", str(error)) from None
    for service, unit_vars in changes.unit_vars.items():
        merged = {**changed[service].unit_vars, **unit_vars}
        changed[service] = changed[service].model_copy(update={"unit_vars": merged})
    for service, vram_mb in changes.vram_mb.items():
        old = changed[service]
        saved_mb = old.vram_mb - vram_mb
        peak = None if old.start_peak_mb is None else max(vram_mb, old.start_peak_mb - saved_mb)
        asleep = None if old.asleep_mb is None else min(old.asleep_mb, vram_mb)
        update = {"vram_mb": vram_mb, "start_peak_mb": peak, "asleep_mb": asleep}
        changed[service] = old.model_copy(update=update)
    members = tuple(_member(member, changes) for member in target.members if member.service not in changes.leave_out)
    gone = {*changes.leave_out, *changes.replace}
    concerned = edited & with_needs(changed, [member.service for member in members])
    restart = tuple(dict.fromkeys([*(s for s in target.restart if s not in gone), *sorted(concerned)]))
    return target.model_copy(update={"members": members, "restart": restart}), changed


def edited_by(changes: Changes) -> set[str]:
    """The services whose definitions `changes` touches."""
    return {*changes.context_size, *changes.unit_vars, *changes.vram_mb}


def with_needs(services: Mapping[str, Service], wanted: list[str]) -> set[str]:
    """`wanted` and all that it needs, as far as it exists."""
    out: set[str] = set()
    waiting = list(wanted)
    while waiting:
        here = waiting.pop()
        if here not in out and here in services:
            out.add(here)
            waiting.extend(services[here].needs)
    return out


def _member(member: TargetMember, changes: Changes) -> TargetMember:
    if member.service in changes.replace:
        member = member.model_copy(update={"service": changes.replace[member.service], "gpus": None})
    if member.service in changes.time_share:
        member = member.model_copy(update={"want": Want.TIME_SHARED})
    return member


def context_delta_mb(service: Service, tokens: int) -> int:
    """MiB that `service` takes more with `tokens` of context; negative where it takes less."""
    if service.context_size is None or not service.kv_cache_per_1k:
        return 0
    return math.ceil((tokens - service.context_size) / 1000 * service.kv_cache_per_1k)


def apply_to_footprints(
    footprints: Mapping[str, Footprint], services: Mapping[str, Service], changes: Changes
) -> dict[str, Footprint]:
    """`footprints` as predicted with `changes` made, where nobody can tell what the changed definitions take.

    `services` are the definitions before them.
    """
    out = dict(footprints)
    for service in {*changes.context_size, *changes.vram_mb} & set(out):
        foot = out[service]
        if service in changes.vram_mb:
            vram_mb = changes.vram_mb[service]
        else:
            vram_mb = max(0, foot.vram_mb + context_delta_mb(services[service], changes.context_size[service]))
        update = {
            "vram_mb": vram_mb,
            "start_peak_mb": max(vram_mb, foot.start_peak_mb - foot.vram_mb + vram_mb),
            "asleep_mb": min(foot.asleep_mb, vram_mb),
            "sources": {**foot.sources, "vram_mb": Source.ESTIMATED},
        }
        out[service] = foot.model_copy(update=update)
    return out
