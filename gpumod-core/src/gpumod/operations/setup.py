"""init, doctor: making a home, and what is wrong with this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from gpumod.domain.errors import GpumodError, MachineLacks
from gpumod.domain.run import Handle
from gpumod.domain.service import Service
from gpumod.domain.settings import Settings
from gpumod.engine.leftovers import leftovers
from gpumod.engine.machine import HOSTED
from gpumod.engine.observe import observe
from gpumod.engine.open_runs import left_half_way
from gpumod.operations.adoption_results import Found
from gpumod.operations.discovering import Discovering
from gpumod.operations.gpu_checks import check_gpus
from gpumod.operations.leases import BACK, to_put_back
from gpumod.operations.params import InitParams, NoParams, PresetLoad
from gpumod.operations.presets import Presets
from gpumod.operations.results import Check, DoctorResult, InitResult
from gpumod.operations.units import Units
from gpumod.ports.units import Advises


class Setup(Discovering, Presets, Units):
    async def init(self, params: InitParams) -> InitResult:
        """Make the home ready: its machine (simulated, if asked for) and the presets. Safe to repeat."""
        machine, store = self._machine, self._machine.store
        store.check_writable()
        written: dict[str, str] = {}
        created = [] if store.services() else [str(machine.home)]
        if params.sim or params.sim_dir:
            folder = Path(params.sim_dir).expanduser().absolute() if params.sim_dir else machine.home / "sim"
            if not folder.exists():
                created.append(str(folder))
            written = self._simulated(folder, list(params.sim))
            stored = store.settings()
            for key, value in written.items():
                checked = self._tools.check_setting(key, value)
                if stored.get(key) != checked:
                    store.put_setting(key, checked, event=self._event("setting-changed", key, value=checked))
        settings = Settings.model_validate({**machine.settings.model_dump(), **written})
        gpus, _ = await replace(machine, settings=settings).read_gpus()
        store.put_gpu_profiles(gpus)
        loaded = await self.preset_load(PresetLoad())
        found = Found()
        if not params.sim and not params.sim_dir:
            found = await self._discover(params.take, take_all=params.take_all)
        return InitResult(
            home=str(machine.home),
            created=tuple(created),
            settings=written,
            services=tuple(sorted(store.services())),
            modes=tuple(sorted(store.modes())),
            gpus=tuple(f"{gpu.index}: {gpu.name}, {gpu.total_mb} MiB" for gpu in gpus),
            problems=(*(gpu.fault for gpu in gpus if gpu.fault), *loaded.problems, *found.problems),
            programs=found.programs,
            model_folders=found.model_folders,
            units=found.units,
            proposals=found.proposals,
            taken=found.taken,
            next=("gpumod mode list", "gpumod simulate --mode code --visual", "gpumod switch code"),
        )

    def _simulated(self, folder: Path, gpus: list[tuple[str, int]]) -> dict[str, str]:
        create = self._machine.plugins.simulator().create_machine
        try:
            return create(folder, gpus) if create else {}
        except OSError as error:
            raise MachineLacks(
                "no-sim-dir",
                f"the simulated machine in {folder} cannot be written",
                why=error.strerror or str(error),
                hint="make room or make the folder writable, or name another one with --sim-dir",
            ) from error

    async def doctor(self, params: NoParams) -> DoctorResult:
        """Check this machine and home; every finding says how to mend it."""
        checks = (*self._checks(), *await self._check_units())
        return DoctorResult(ok=all(check.level == "ok" for check in checks), checks=checks)

    def _checks(self) -> Iterator[Check]:
        parts = (self._check_home, self._check_gpus, self._check_plugins, self._check_supervisors, self._check_services)
        for check in parts:
            try:
                yield from check()
            except GpumodError as error:  # what is broken is a finding, whatever it is
                yield Check(name="database", level="problem", message=error.info.message, hint=error.info.hint)

    def _check_home(self) -> Iterator[Check]:
        machine = self._machine
        mode = machine.home.stat().st_mode & 0o077
        if mode:
            yield Check(
                name="home",
                level="warning",
                message=f"{machine.home} is open to others",
                hint=f"chmod 700 {machine.home}",
            )
        elif not os.access(machine.home, os.W_OK):
            yield Check(
                name="home", level="problem", message=f"{machine.home} cannot be written", hint="check its owner"
            )
        else:
            yield Check(name="home", level="ok", message=str(machine.home))
        free_mb = machine.local.free_disk_mb(machine.home)
        enough = free_mb >= machine.settings.min_free_disk_mb
        yield Check(
            name="disk",
            level="ok" if enough else "problem",
            message=f"{free_mb} MiB free",
            hint="" if enough else "free some space: changes are refused",
        )
        for problem in machine.store.problems():
            yield Check(name="database", level="problem", message=problem.message, hint=problem.hint)
        run, _ = left_half_way(machine)
        if run is not None:
            yield Check(
                name="open run",
                level="problem",
                message=f"run {run.id} ({run.command}) was left half-way",
                hint="gpumod recover --resume, or --rollback",
            )

        due = to_put_back(machine)
        if due:
            yield Check(name="leases", level="warning", message=due, hint=BACK)

    def _check_gpus(self) -> Iterator[Check]:
        machine = self._machine
        try:
            yield from check_gpus(machine)
        except GpumodError as error:
            yield Check(name="gpu", level="problem", message=error.info.message, hint=error.info.hint)

    def _check_plugins(self) -> Iterator[Check]:
        for record in self._machine.plugins.records:
            for error in (record.error, *record.problems):
                if error is not None:
                    name = f"plugin {record.name or record.distribution}"
                    yield Check(name=name, level="problem", message=f"{error.message}: {error.why}", hint=error.hint)
        working = sum(1 for record in self._machine.plugins.records if record.error is None)
        yield Check(name="plugins", level="ok", message=f"{working} loaded")

    def _check_supervisors(self) -> Iterator[Check]:
        """What those supervisors that are in use have to say."""
        machine = self._machine
        names = {handle.supervisor for handle in machine.store.handles().values()}
        names |= {machine.supervisor_name(service) for service in machine.store.services().values()}
        for name in sorted(names - {HOSTED}):
            try:
                supervisor = machine.supervisor(name)
            except GpumodError:  # told with the service
                continue
            for message, hint in supervisor.advice() if isinstance(supervisor, Advises) else ():
                yield Check(name=f"supervisor {name}", level="warning", message=message, hint=hint)
        for left in leftovers(machine):
            yield Check(name=f"service {left.service}", level="warning", message=left.message, hint=left.hint)

    def _check_services(self) -> Iterator[Check]:
        machine = self._machine
        handles = machine.store.handles()
        services = machine.store.services()
        silent = {s.port for s in services.values() if s.port and s.id not in handles}
        users = machine.local.port_users(silent)
        for service in services.values():
            problem, hint = "", f"gpumod service edit {service.id}"
            try:
                machine.driver(service).check(service)
                if service.supports_sleep:
                    machine.strategy(service)
                self._check_program(service)
            except GpumodError as error:
                problem, hint = error.info.message, error.info.hint
            except ValueError as error:
                problem = str(error)
            user = users.get(service.port or 0)
            if not problem and user is not None and service.id not in handles:
                who = f"{user.name} (pid {user.pid})" if user.pid else user.name or "another process"
                problem, hint = f"port {service.port} is taken by {who}", "end it, or " + hint
            if problem:
                yield Check(name=f"service {service.id}", level="problem", message=problem, hint=hint)

    async def _check_units(self) -> tuple[Check, ...]:
        """Services that are up with another unit than would be written now: nothing is restarted for that."""
        try:
            snapshot = await observe(self._machine)
        except GpumodError:  # told above
            return ()
        message = "its unit is not the one that gpumod would write now"
        hint = "gpumod service unit {0} shows the difference, gpumod service restart {0} applies it"
        return tuple(
            Check(
                name=f"service {service.id}",
                level="warning",
                message=message,
                hint=hint.format(service.id),
            )
            for service in self._machine.store.services().values()
            if self._unit_differs(service, snapshot)
        )

    def _check_program(self, service: Service) -> None:
        """Raise what would keep a service from being started: its supervisor, its program, its folder."""
        machine = self._machine
        name = machine.supervisor_name(service)
        if name == HOSTED:
            return
        if service.adopted and service.adopted.pid:  # it runs, or somebody else starts it
            return
        supervisor = machine.supervisor(name)
        gpus, _ = machine.look_at_gpus()
        seat = [gpu.index for gpu in gpus][:1] if service.gpus == "any" else list(service.gpus)
        allocation = machine.allocation(service, seat, service.vram_mb, gpus, {})
        launch = machine.driver(service).launch(service, allocation, machine.settings)
        handle = Handle(service=service.id, supervisor=name, nonce="", launched=service, started_at=0)
        supervisor.check(handle, launch)
