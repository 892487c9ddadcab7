"""init: making a home."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from gpumod.domain.cards import kind_of
from gpumod.domain.errors import MachineLacks
from gpumod.domain.machine import GpuReading
from gpumod.domain.settings import Settings
from gpumod.operations.adoption_results import Found
from gpumod.operations.discovering import Discovering
from gpumod.operations.params import InitParams, PresetLoad
from gpumod.operations.presets import Presets
from gpumod.operations.results import InitResult


class Setup(Discovering, Presets):
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
            gpus=tuple(map(_said, gpus)),
            problems=(*(gpu.fault for gpu in gpus if gpu.fault), *loaded.problems, *found.problems),
            programs=found.programs,
            model_folders=found.model_folders,
            units=found.units,
            proposals=found.proposals,
            taken=found.taken,
            counted_as_nothing=found.counted_as_nothing,
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


def _said(gpu: GpuReading) -> str:
    known = kind_of(gpu)
    return f"{gpu.index}: {gpu.name}, {gpu.total_mb} MiB" + (f" ({known})" if known else "")
