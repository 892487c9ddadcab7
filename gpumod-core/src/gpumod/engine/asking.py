"""Asking services and hosts, as data: a driver that is missing, breaks or hangs costs nobody but its service."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from gpumod.domain.errors import GpumodError
from gpumod.domain.run import Handle
from gpumod.domain.service import Service
from gpumod.engine.machine import Machine
from gpumod.plugins.isolation import reason
from gpumod.ports import HostsMembers, MemberReading, ProbeResult

PATIENCE_S = 5.0
"""No driver may take longer to say how a service is."""


async def ask(machine: Machine, service: Service, port: int | None) -> ProbeResult:
    """One probe of a service. Whatever goes wrong in its driver makes it unhealthy, with the reason."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            return await machine.driver(service).probe(service, port or 0, machine.http)
    except TimeoutError:
        return ProbeResult(state="unhealthy", detail=f"no answer in {PATIENCE_S:g} s")
    except GpumodError as error:
        return ProbeResult(state="unhealthy", detail=error.info.message)
    except Exception as error:  # noqa: BLE001 - a stranger's driver must not take the whole snapshot down
        return ProbeResult(state="unhealthy", detail=reason(error))


async def ask_members(machine: Machine, host: Handle, pids: Sequence[int]) -> Mapping[str, MemberReading] | None:
    """What a host tells of its members; None where it cannot be asked, which is not the same as having none."""
    try:
        driver = machine.driver(host.launched)
        if not isinstance(driver, HostsMembers):
            return None
        async with asyncio.timeout(PATIENCE_S):
            return await driver.members(host.launched, host.launched.port or 0, pids, machine.http)
    except Exception:  # noqa: BLE001 - refused, timed out, or a driver that breaks: all the same here
        return None
