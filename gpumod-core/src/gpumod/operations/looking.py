"""status, ps: what is, now."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from gpumod.domain.machine import HostSnapshot
from gpumod.domain.run import Handle
from gpumod.domain.service import Service
from gpumod.engine.debts import left_awake
from gpumod.engine.observe import observe, observe_twice
from gpumod.engine.open_runs import at_work, left_half_way
from gpumod.engine.turns import in_words, live_turns
from gpumod.operations.leases import lease_rows, to_put_back
from gpumod.operations.params import NoParams, ServiceRef
from gpumod.operations.results import ForeignProcess, GpuStatus, PsResult, PsRow, ServiceStatus, StatusResult
from gpumod.operations.units import Units


class Looking(Units):
    async def status(self, params: NoParams) -> StatusResult:
        """GPUs, services and foreign processes as observed, the recorded mode, and who is changing the machine."""
        machine, store = self._machine, self._machine.store
        services = dict(store.services())
        snapshot = await observe_twice(machine)
        handles = store.handles()
        services |= {s: h.launched for s, h in handles.items() if s not in services}
        mode = store.current_mode()
        modes = store.modes()
        members = set(modes[mode].services) if mode is not None and mode in modes else set()
        open_run, holder = await asyncio.to_thread(left_half_way, machine)
        errors = store.last_errors()
        drifts = {s: await self._drift(one, handles.get(s), snapshot) for s, one in services.items()}
        return StatusResult(
            mode=mode,
            previous_mode=store.previous_mode(),
            alternative=store.current_alternative(),
            gpus=tuple(
                GpuStatus(
                    index=gpu.index,
                    name=gpu.name,
                    total_mb=gpu.total_mb,
                    used_mb=gpu.used_mb,
                    free_mb=gpu.free_mb,
                    reserve_mb=machine.settings.reserve_mb,
                    foreign_mb=snapshot.foreign_mb(gpu.index),
                    uuid=gpu.uuid,
                    architecture=gpu.architecture,
                    compute_capability=gpu.compute_capability,
                    per_process=gpu.per_process,
                    fault=gpu.fault,
                )
                for gpu in snapshot.gpus
            ),
            services=tuple(
                _status(services[s], services, handles, snapshot, errors.get(s), s in members, drifts[s])
                for s in sorted(services)
            ),
            foreign=foreign(snapshot),
            ram_total_mb=snapshot.ram_total_mb,
            ram_available_mb=snapshot.ram_available_mb,
            open_run=open_run.id if open_run else None,
            busy=at_work(holder) if holder else None,
            leases=lease_rows(machine, snapshot),
            put_back=to_put_back(machine),
            turns=(
                *(in_words(ticket) for ticket in live_turns(machine)),
                *left_awake(machine, snapshot).values(),
            ),
            problems=(*(gpu.fault for gpu in snapshot.gpus if gpu.fault), *store.problems()),
        )

    async def service_status(self, params: ServiceRef) -> ServiceStatus:
        """One service's row of `status`."""
        self._service(params.service, {**self._machine.store.services(), **_handled(self._machine.store.handles())})
        result = await self.status(NoParams())
        row = next(row for row in result.services if row.id == params.service)
        return await asyncio.to_thread(self._with_its_ports, row)

    def _with_its_ports(self, row: ServiceStatus) -> ServiceStatus:
        """`row`; of an adopted process that does not answer, with where it listens instead: nobody here may tell it."""
        if not row.adopted or row.pid is None or row.health_ok:
            return row
        ports = self._tools.surroundings().listening({row.pid}).get(row.pid, ())
        if not ports or row.port in ports:
            return row
        port = ports[0] if len(ports) == 1 else "N"
        said = f"it listens on {', '.join(map(str, ports))}: gpumod service edit {row.id} --port {port}"
        return row.model_copy(update={"last_error": f"{row.last_error}; {said}" if row.last_error else said})

    async def ps(self, params: NoParams) -> PsResult:
        """Processes of services and on the GPUs, with what each holds."""
        snapshot = await observe(self._machine)
        rows = [
            PsRow(pid=p.pid, name=p.name, service=p.service, gpu=p.gpu, vram_mb=p.vram_mb) for p in snapshot.processes
        ]
        seen = {row.pid for row in rows}
        rows += [
            PsRow(pid=r.pid, name=r.launched.driver if r.launched else "", service=r.service, gpu=None, vram_mb=None)
            for r in snapshot.services.values()
            if r.pid and r.pid not in seen
        ]
        return PsResult(
            processes=tuple(sorted(rows, key=lambda row: (row.service is None, row.service or "", row.pid))),
            leases=lease_rows(self._machine, snapshot),
        )


def foreign(snapshot: HostSnapshot) -> tuple[ForeignProcess, ...]:
    """What gpumod does not manage: processes by name, and what no process is named for (pid None): what the driver
    keeps for itself, and memory that is nobody's."""
    found = [
        ForeignProcess(pid=p.pid, name=p.name, vram_mb=p.vram_mb, gpu=p.gpu)
        for p in snapshot.processes
        if p.service is None
    ]
    for gpu in snapshot.gpus:
        if gpu.reserved_mb:
            found.append(ForeignProcess(pid=None, name="driver", vram_mb=gpu.reserved_mb, gpu=gpu.index))
        rest = snapshot.unattributed_mb(gpu.index)
        if rest > 0:
            found.append(ForeignProcess(pid=None, name="unattributed", vram_mb=rest, gpu=gpu.index))
    return tuple(found)


def _handled(handles: Mapping[str, Handle]) -> Mapping[str, Service]:
    return {s: handle.launched for s, handle in handles.items()}


def _status(
    service: Service,
    services: Mapping[str, Service],
    handles: Mapping[str, Handle],
    snapshot: HostSnapshot,
    last_error: str | None,
    in_mode: bool,
    differs: tuple[str, ...],
) -> ServiceStatus:
    reading = snapshot.reading(service.id)
    shown = reading.launched or service
    host = services.get(shown.host or "")
    if shown.host is not None and shown.host in handles:
        host = handles[shown.host].launched
    return ServiceStatus(
        id=service.id,
        name=service.title,
        driver=service.driver,
        state=reading.state,
        vram_mb=sum(reading.vram_mb.values()),
        vram_by_gpu=reading.vram_mb,
        source="device" if any(reading.device_mb.values()) else "process",
        gpus=reading.gpus,
        declared_mb=service.vram_mb,
        sleep_level=reading.sleep_level,
        health_ok=reading.health_ok,
        uptime_seconds=None if reading.uptime_s is None else round(reading.uptime_s, 1),
        port=host.port if host else shown.port,
        pid=reading.pid,
        last_error=reading.detail or last_error if not reading.health_ok else None,
        drift=differs,
        altered=reading.altered if differs else "",
        in_mode=in_mode,
        adopted=str(service.adopted) if service.adopted else None,
    )
