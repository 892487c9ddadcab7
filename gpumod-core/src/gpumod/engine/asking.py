"""Asking supervisors, services and hosts, as data: a plugin that is missing or bad costs nobody but its services."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence

from gpumod.domain.errors import GpumodError
from gpumod.domain.run import Handle
from gpumod.domain.service import Service
from gpumod.engine.machine import HOSTED, Machine
from gpumod.engine.membernames import by_id
from gpumod.plugins.isolation import reason
from gpumod.ports import (
    Activity,
    HostsMembers,
    HttpFailure,
    MemberReading,
    ProbeResult,
    ProcessStatus,
    ReportsActivity,
)

PATIENCE_S = 5.0
"""No driver may take longer to say how a service is."""


async def ask_supervisors(machine: Machine, handles: Collection[Handle]) -> Mapping[str, ProcessStatus]:
    """The processes of `handles`, members aside: every supervisor is asked once, for all that it keeps.

    Nothing is known of those that it does not speak of, which is not the same as stopped: they have no pids.
    """
    statuses: dict[str, ProcessStatus] = {}
    for name in sorted({h.supervisor for h in handles} - {HOSTED}):
        mine = [h for h in handles if h.supervisor == name]
        try:
            told = await machine.supervisor(name).status(mine)
        except GpumodError as error:
            told = {handle.service: ProcessStatus(alive=True, detail=error.info.message) for handle in mine}
        except Exception:  # noqa: BLE001 - its plugin is gone, or breaks
            told = {}
        statuses |= {handle.service: told.get(handle.service, ProcessStatus(alive=True)) for handle in mine}
    return statuses


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
            told = await driver.members(host.launched, host.launched.port or 0, pids, machine.http)
        return by_id(machine, host, driver, told)
    except Exception:  # noqa: BLE001 - refused, timed out, or a driver that breaks: all the same here
        return None


async def ask_activity(machine: Machine, service: Service, port: int | None) -> Activity | str:
    """The use of a service that runs, as its driver tells it; in words why it cannot tell."""
    try:
        driver = machine.driver(service)
        if not isinstance(driver, ReportsActivity):
            return f"its driver {service.driver} cannot tell whether it is in use"
        async with asyncio.timeout(PATIENCE_S):
            told = await driver.activity(service, port or 0, machine.http)
    except TimeoutError:
        return f"it did not tell within {PATIENCE_S:g} s whether it is in use"
    except HttpFailure as failure:
        return f"it does not tell whether it is in use: {failure}"
    except GpumodError as error:
        return error.info.message
    except Exception as error:  # noqa: BLE001 - as above
        return reason(error)
    return told if told is not None else "it does not tell whether it is in use"
