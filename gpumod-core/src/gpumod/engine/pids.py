"""Which processes are whose: those of a service, without the members that it hosts, and those of all services."""

from __future__ import annotations

from collections.abc import Mapping

from gpumod.domain.run import Handle
from gpumod.engine.asking import ask_members, ask_supervisors
from gpumod.engine.machine import HOSTED, Machine


async def pids_of(machine: Machine, *services: str) -> Mapping[str, frozenset[int]]:
    """The processes whose memory is each service's own: its tree, without the members that it hosts."""
    handles = machine.store.handles()
    owners = {s: handles.get(_owner(handles[s])) for s in services if s in handles}
    up = {owner.service: owner for owner in owners.values() if owner}
    statuses = await ask_supervisors(machine, up.values())
    hosts = {h.launched.host for h in handles.values() if h.launched.host in up}
    told = {host: await ask_members(machine, up[host], statuses[host].pids) or {} for host in hosts if host}
    own: dict[str, frozenset[int]] = dict.fromkeys(services, frozenset())
    for service, owner in owners.items():
        if owner is None:
            continue
        members = told.get(owner.service, {})
        if owner.service == service:
            own[service] = frozenset(statuses[service].pids) - {m.pid for m in members.values()}
        elif service in members and (pid := members[service].pid):
            own[service] = frozenset({pid})
    return own


def _owner(handle: Handle) -> str:
    """The service whose process is that of `handle`: its own, or its host's."""
    return handle.launched.host or "" if handle.supervisor == HOSTED else handle.service


async def managed_pids(machine: Machine) -> frozenset[int]:
    """Every process of every service of this home."""
    statuses = await ask_supervisors(machine, machine.store.handles().values())
    return frozenset(pid for status in statuses.values() for pid in status.pids)
