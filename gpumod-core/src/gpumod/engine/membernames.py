"""Members of hosts whose servers know them by other names than their ids."""

from __future__ import annotations

from collections.abc import Mapping

from gpumod.domain.run import Handle
from gpumod.engine.machine import Machine
from gpumod.ports import HostsMembers, MemberReading, NamesMembers


def by_id(
    machine: Machine, host: Handle, driver: HostsMembers, told: Mapping[str, MemberReading]
) -> Mapping[str, MemberReading]:
    """The readings by the ids of the services. What else the host serves is its own."""
    if not isinstance(driver, NamesMembers):
        return told
    members = (h.launched for h in machine.store.handles().values() if h.launched.host == host.service)
    return {m.id: told[name] for m in members if (name := driver.member_name(m)) in told}
