"""doctor: what is wrong with this machine and home, and how to mend it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress

from gpumod.domain.errors import GpumodError, UsageError
from gpumod.domain.machine import HostSnapshot
from gpumod.domain.run import Handle
from gpumod.domain.service import Service
from gpumod.engine.observe import observe_twice
from gpumod.engine.open_runs import at_work
from gpumod.engine.preflight import prepared
from gpumod.operations.adopting import Adopting
from gpumod.operations.checks import checks
from gpumod.operations.checks.case import MANAGERS, Case, Kept
from gpumod.operations.params import NoParams
from gpumod.operations.results import DoctorResult
from gpumod.operations.watch_units import installed
from gpumod.ports import Launch
from gpumod.ports.units import FindsStrays, Stray, WritesUnits


class Diagnosing(Adopting):
    async def doctor(self, params: NoParams) -> DoctorResult:
        """Check this machine and home; every finding says how to mend it. Nothing is changed."""
        case = await self._case()
        async with prepared(self._machine, list(self._starts(case))):  # what all lack is told once
            found = tuple(await asyncio.to_thread(lambda: list(checks(case))))
        return DoctorResult(ok=all(check.level in ("ok", "unknown") for check in found), checks=found)

    async def _case(self) -> Case:
        machine, store = self._machine, self._machine.store
        snapshot: HostSnapshot | None = None
        busy = ""
        with suppress(GpumodError):  # the part that looks at GPUs tells why
            if (holder := machine.local.holder(machine.probe.machine_dir())) is not None:
                busy = at_work(holder)
            snapshot = await observe_twice(machine)
        services = store.services()
        hindered: dict[str, str] = {}
        launched = {s: how for s, one in services.items() if (how := await self._how(one, snapshot, hindered))}
        return Case(
            machine=machine,
            computer=self._tools.checkup(),
            around=self._around(),
            services=services,
            handles=store.handles(),
            snapshot=snapshot,
            launches={s: launch for s, (_, launch) in launched.items()},
            hindered=hindered,
            kept={s: kept for s, one in services.items() if (kept := await self._kept(one, launched.get(s), snapshot))},
            strays=await self._strays(),
            watches=installed(self._tools),
            busy=busy,
        )

    def _starts(self, case: Case) -> Iterator[tuple[Handle, Launch]]:
        """All that could be started, by supervisors that are there."""
        for service_id, launch in case.launches.items():
            service = case.services[service_id]
            name = self._machine.supervisor_name(service)
            with suppress(GpumodError):  # told with its definition
                self._machine.supervisor(name)
                yield Handle(service=service_id, supervisor=name, nonce="", launched=service, started_at=0), launch

    async def _strays(self) -> tuple[Stray, ...]:
        """What runs for this home, and no handle names."""
        found: list[Stray] = []
        for name in self._machine.plugins.supervisors.names():
            with suppress(GpumodError):  # one that is not here keeps nothing; a broken store is told elsewhere
                supervisor, handles = self._machine.supervisor(name), self._machine.store.handles()
                if isinstance(supervisor, FindsStrays):
                    found += await supervisor.strays(handles.values())
        return tuple(found)

    async def _how(
        self, service: Service, snapshot: HostSnapshot | None, hindered: dict[str, str]
    ) -> tuple[Handle, Launch] | None:
        """How a service would be started; None for a member of a host, and where that cannot be told. What its
        definition or its program has against it goes to `hindered`."""
        with suppress(Exception):  # what is wrong, be it a stranger's driver, is told with its definition
            try:
                if snapshot is not None and service.host is None:
                    return await self._launch(service, self._machine.supervisor_name(service), snapshot)
            except UsageError as error:
                hindered[service.id] = error.info.why
        return None

    async def _kept(
        self, service: Service, started: tuple[Handle, Launch] | None, snapshot: HostSnapshot | None
    ) -> Kept | None:
        """The unit that a service is, or would be; None where it is none, or nobody knows."""
        handle = self._machine.store.handles().get(service.id)
        name = handle.supervisor if handle else self._machine.supervisor_name(service)
        manager = MANAGERS.get(name)
        if manager is None:
            return None
        unit = service.adopted.unit if service.adopted else None
        with suppress(GpumodError):  # that it cannot be started is told with its definition
            supervisor = self._machine.supervisor(name)
            if started is not None and isinstance(supervisor, WritesUnits):
                unit = supervisor.unit(*started).name
        if unit is None:
            return None
        differs = snapshot is not None and await self._unit_differs(service, handle, snapshot)
        return Kept(manager=manager, name=unit, differs=differs)
